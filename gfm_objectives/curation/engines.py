"""Where curation works: in this process, or by Ray Data on all machines of a cluster, with the same result."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError

Arrays = dict[str, np.ndarray]
Found = tuple[np.ndarray, np.ndarray, np.ndarray]
# Vectors (M, D) in order of preference -> cosine (M,) with the most alike of those before, and its row (M,).
Within = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Engine(ABC):
    """The stages of which no part needs another."""

    @abstractmethod
    def parts(self, read: Callable[[int], Arrays], numbers: Sequence[int]) -> Iterator[tuple[int, Arrays]]:
        """What `read` says of each part, in any order."""

    @abstractmethod
    def clusters(self, within: Within, vectors: np.ndarray, cluster: np.ndarray, rank: np.ndarray) -> Iterator[Found]:
        """Places (M,), their cosine and the place that it is with, from vectors (N, D) compared inside of clusters
        (N,) in order of their rank (N,); clusters in any order."""


class Local(Engine):
    """This process."""

    def parts(self, read: Callable[[int], Arrays], numbers: Sequence[int]) -> Iterator[tuple[int, Arrays]]:
        return ((number, read(number)) for number in numbers)

    def clusters(self, within: Within, vectors: np.ndarray, cluster: np.ndarray, rank: np.ndarray) -> Iterator[Found]:
        order = np.lexsort((rank, cluster))
        bounds = np.flatnonzero(np.r_[True, cluster[order][1:] != cluster[order][:-1], True])
        for first, last in pairwise(bounds.tolist()):
            place = order[first:last]
            cosine, best = within(vectors[place])
            yield place, cosine, place[best]


class Ray(Engine):
    """The cluster that RAY_ADDRESS or `ray start` names, else the cores of this machine. Each worker receives the
    source once, and reads its files at the paths they have here."""

    def __init__(self) -> None:
        try:
            import ray
            import ray.data
        except ImportError:
            raise InputError("engine=ray: Ray is missing: pip install 'gfm-objectives[ray]', or engine=local") from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        self._data: Any = ray.data
        self._data.DataContext.get_current().enable_progress_bars = False
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def parts(self, read: Callable[[int], Arrays], numbers: Sequence[int]) -> Iterator[tuple[int, Arrays]]:
        if not numbers:
            return
        rows = self._data.from_items([{"part": n} for n in numbers], override_num_blocks=len(numbers))
        workers = min(self.workers, len(numbers))
        done = rows.map_batches(_Reader, fn_constructor_args=(read,), batch_size=1, concurrency=workers)
        for row in done.iter_rows():
            with np.load(io.BytesIO(row["arrays"])) as held:
                yield int(row["part"]), dict(held)

    def clusters(self, within: Within, vectors: np.ndarray, cluster: np.ndarray, rank: np.ndarray) -> Iterator[Found]:
        import pyarrow as pa

        n, d = vectors.shape
        columns = {"place": pa.array(np.arange(n)), "cluster": pa.array(cluster), "rank": pa.array(rank)}
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), d)

        def compared(group: Arrays) -> Arrays:
            order = np.argsort(group["rank"])
            place = group["place"][order]
            cosine, best = within(np.stack(group["vector"][order].tolist()).astype(np.float32))
            return {"place": place, "cosine": cosine, "twin": place[best]}

        parted = self._data.from_arrow(pa.table(columns)).groupby("cluster", num_partitions=self.workers)
        for batch in parted.map_groups(compared, batch_format="numpy").iter_batches(batch_format="numpy"):
            yield batch["place"], batch["cosine"], batch["twin"]


class _Reader:
    """A worker's hold of the source."""

    def __init__(self, read: Callable[[int], Arrays]) -> None:
        self._read = read

    def __call__(self, batch: Arrays) -> Arrays:
        (number,) = batch["part"].tolist()
        file = io.BytesIO()
        np.savez(file, **self._read(number))  # type: ignore[arg-type]
        return {"part": batch["part"], "arrays": np.array([file.getvalue()], object)}


ENGINES: dict[str, Callable[[], Engine]] = {"local": Local, "ray": Ray}


def open_engine(name: str) -> Engine:
    """One of ENGINES. InputError where Ray is asked for and missing."""
    return ENGINES[name]()
