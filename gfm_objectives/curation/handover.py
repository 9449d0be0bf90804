"""Past one machine: embeddings written as NeMo Curator reads them, and its answer read back.

Its SemanticDeduplicationWorkflow takes a folder of parquet files with the columns `id` (whole numbers) and `embeddings`
(lists of floats), and leaves `pairwise_results/*.parquet` with `id`, `max_id` and `cosine_sim_score`: of each place the
most alike of those its cluster ranks before it (github.com/NVIDIA-NeMo/Curator, stages/deduplication/semantic).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gfm_objectives import disk
from gfm_objectives.curation.embeddings import Alike
from gfm_objectives.errors import InputError

ROWS = 100_000  # of a file
ANSWER = ("id", "max_id", "cosine_sim_score")


def export(vectors: np.ndarray, folder: Path) -> None:
    """Write unit vectors (N, D), the place's number as its id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, len(vectors), ROWS)):
        part = vectors[first : first + ROWS]
        ids = pa.array(np.arange(first, first + len(part)), pa.int64())
        ends = pa.array(np.arange(len(part) + 1) * part.shape[1], pa.int32())
        lists = pa.ListArray.from_arrays(ends, pa.array(part.ravel(), pa.float32()))
        with disk.replacing(folder / f"embeddings-{number:05}.parquet") as scratch:
            pq.write_table(pa.table({"id": ids, "embeddings": lists}), scratch)


def read_answer(folder: Path, places: int) -> Alike:
    """Who is most alike, of `places` places, as NeMo Curator found it; each file is a cluster.

    InputError where a file lacks a column, or ids are of other data.
    """
    import pyarrow.parquet as pq

    files = sorted((folder / "pairwise_results").glob("*.parquet")) or sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(f"import={folder}: no parquet in it or its pairwise_results; give the workflow's output_path")
    alike, seen = Alike.nobody(places), np.zeros(places, bool)
    for number, path in enumerate(files):
        table = pq.read_table(path)
        if missing := [c for c in ANSWER if c not in table.column_names]:
            raise InputError(f"{path}: no column {missing[0]}; give the workflow's pairwise_results")
        ids, twins, cosines = (table[c].to_numpy() for c in ANSWER)
        if len(ids) and (min(ids.min(), twins.min()) < 0 or max(ids.max(), twins.max()) >= places):
            raise InputError(
                f"{path}: ids up to {max(ids.max(), twins.max())}, but there are {places} places; "
                "it is the answer to other data"
            )
        met = twins != ids
        alike.cluster[ids], seen[ids] = number, True
        alike.cosine[ids[met]], alike.twin[ids[met]] = cosines[met], twins[met]
    if not seen.all():
        raise InputError(f"import={folder}: says nothing of {int((~seen).sum())} of {places} places; other data?")
    return alike
