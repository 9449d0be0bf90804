"""What is kept; of other places, why and whose twin it is. Nothing is deleted: the list says what is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.curation.embeddings import Alike
from gfm_objectives.curation.examination import REASONS
from gfm_objectives.curation.neighbours import Pairs
from gfm_objectives.errors import InputError

FORMAT = 1
COPY, SEASON, ALIKE = "copy", "season", "alike"
KEPT = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """overlap: least share of the ground that a twin shows too; copy: least share of its points that a copy has,
    below it the pair is one place at another season; seasons: keep or drop those; epsilon: places whose cosine with
    another exceeds 1 - epsilon are left out too, None = none."""

    overlap: float = 0.5
    copy: float = 0.65
    seasons: str = "keep"
    epsilon: float | None = None


@dataclass(frozen=True, slots=True)
class KeepList:
    """One row for each place: keep bool; reason text, KEPT, one of REASONS or COPY, SEASON, ALIKE; twin int64, the
    place kept in its stead or -1; score float32: share of points or cosine in common with it; cluster int32."""

    keep: np.ndarray
    reason: np.ndarray
    twin: np.ndarray
    score: np.ndarray
    cluster: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many are left out, by reason, most first."""
        reasons, counts = np.unique(self.reason[~self.keep], return_counts=True)
        return {str(reasons[k]): int(counts[k]) for k in np.argsort(-counts)}


def relations(pairs: Pairs, size: int, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair: COPY, SEASON or '' where too little ground is shared; and its score, the share of the points on the
    common ground that agree: of dated pictures, or of all for another season."""
    overlap = pairs.overlap(size)
    repeated = np.minimum(1, pairs.repeated / np.maximum(overlap, 1e-6))
    share = np.minimum(1, pairs.share / np.maximum(overlap, 1e-6))
    relation = np.where(overlap < rules.overlap, "", np.where(repeated >= rules.copy, COPY, SEASON))
    return relation, np.where(relation == COPY, repeated, share).astype(np.float32)


def prefer(reason: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Places in order of preference: those that pass the tests, with the most valid pixels, the first in the source."""
    return np.lexsort((np.arange(len(quality)), -np.round(quality, 2), reason > 0))


def decide(reason: np.ndarray, quality: np.ndarray, pairs: Pairs, alike: Alike, size: int, rules: Rules) -> KeepList:
    """reason (N,): index of REASONS, 0 = passes; quality (N,): the better of two twins is kept."""
    n = len(reason)
    order = prefer(reason, quality)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    keep = reason == 0
    why = np.array(REASONS, dtype=object)[reason]
    twin, score = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    relation, scores = relations(pairs, size, rules)
    wanted = (relation == COPY) | ((relation == SEASON) & (rules.seasons == "drop"))
    wanted &= keep[pairs.a] & keep[pairs.b]
    whole = pairs.overlap(size) >= 0.9
    behind = np.where(rank[pairs.a] > rank[pairs.b], pairs.a, pairs.b)
    ahead = np.where(rank[pairs.a] > rank[pairs.b], pairs.b, pairs.a)
    rows = np.flatnonzero(wanted)
    rows = rows[np.lexsort((-scores[rows], rank[behind[rows]]))]
    for row in rows.tolist():  # the preferred first, so that whether a twin is kept is settled before it is asked for
        place, other = behind[row], ahead[row]
        if not keep[place]:
            continue
        if not keep[other]:  # a twin's twin is one where all of the ground is shared
            if not whole[row] or why[other] not in (COPY, SEASON):
                continue
            other = twin[other]
        keep[place], why[place], twin[place], score[place] = False, relation[row], other, scores[row]
    if rules.epsilon is not None:
        _thin(keep, why, twin, score, alike, order, rules.epsilon)
    return KeepList(keep, why.astype(str), twin, score, alike.cluster)


def _thin(
    keep: np.ndarray, why: np.ndarray, twin: np.ndarray, score: np.ndarray, alike: Alike, order: np.ndarray, eps: float
) -> None:
    """Leave out those whose cosine with one before them exceeds 1 - eps: SemDeDup's rule, where it is kept or not."""
    for place in order[(keep & (alike.cosine > 1 - eps))[order]].tolist():
        keep[place], why[place], twin[place], score[place] = False, ALIKE, alike.twin[place], alike.cosine[place]


def check_own(path: Path, about: Mapping[str, Any]) -> None:
    """InputError where a file is at `path` that is not the list of this very data (`about`, as in `write`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return
    remedy = "give another name, or delete it"
    try:
        held: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"gfm"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise InputError(f"out={path}: is there and no keep-list; {remedy}") from None
    if any(held.get(k) != about[k] for k in ("data", "split", "fingerprint")):
        same = all(held.get(k) == about[k] for k in ("data", "split"))
        whose = f"{held.get('data')}, split {held.get('split')}{', before that data changed' * same}"
        raise InputError(f"out={path}: is the list of {whose}; {remedy}")


def write(kept: KeepList, names: list[str], about: Mapping[str, Any], path: Path) -> None:
    """The list as parquet: id (the place's number in its split), name, keep, reason, twin, score, cluster; `about`
    (what it was made of) as its metadata `gfm`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": pa.array(np.arange(len(kept.keep)), pa.int64()),
            "name": pa.array(names, pa.string()),
            "keep": pa.array(kept.keep, pa.bool_()),
            "reason": pa.array(kept.reason.tolist(), pa.string()),
            "twin": pa.array(kept.twin, pa.int64()),
            "score": pa.array(kept.score, pa.float32()),
            "cluster": pa.array(kept.cluster, pa.int32()),
        }
    ).replace_schema_metadata({"gfm": json.dumps({"format": FORMAT, **about})})
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(path) as scratch:
        pq.write_table(table, scratch)
