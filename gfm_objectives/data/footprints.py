"""Where chips lie on Earth: which of them overlap, and the blocks they fall into; right across 180 degrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

KM_PER_DEGREE = 111.2
TOUCHING = 0.02  # of a side: footprints that overlap by less only touch; positions are known to half a pixel or so
CHUNK = 50_000  # pairs looked at together

Outline = np.ndarray  # (4, 2) longitude and latitude of the corners in order, or (1, 2) of a point


def overlaps(outlines: Sequence[Outline | None]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of footprints that share ground: enough of them to join all that do.

    Of equal footprints (other dates of one place) each is paired with the first alone. None = not known where it lies,
    and points: overlap nothing.
    """
    known = np.array([i for i, o in enumerate(outlines) if o is not None and len(o) > 1], np.int64)
    if len(known) < 2:
        return []
    quads = np.stack([outlines[i] for i in known])  # type: ignore[arg-type]  # (n, 4, 2)
    _, first, which = np.unique(quads.reshape(len(quads), -1), axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(quads)))
    found = [np.stack([first[which[again]], again], 1)]
    first = np.sort(first)
    corners = _sphere(quads[first])  # (m, 4, 3)
    for pairs in _near(corners):
        found += [first[part[_overlap(corners[part[:, 0]], corners[part[:, 1]])]]
                  for part in np.array_split(pairs, len(pairs) // CHUNK + 1)]  # fmt: skip
    every = known[np.sort(np.concatenate(found), axis=1)]
    return [(a, b) for a, b in every.tolist()]


def met(ours: Sequence[Outline | None], theirs: Sequence[Outline | None]) -> np.ndarray:
    """(N,) bool: of each of ours, whether it shares ground with one of theirs; False where it is not known."""
    every = [*ours, *theirs]
    first: dict[bytes, int] = {}
    kind = np.array([-1 if o is None else first.setdefault(np.asarray(o, float).tobytes(), i)
                     for i, o in enumerate(every)], np.int64)  # fmt: skip
    seen = np.zeros(len(every), bool)
    seen[kind[len(ours) :][kind[len(ours) :] >= 0]] = True  # the first of the footprints that theirs are equal to
    touched = seen.copy()
    alone = [o if kind[i] == i else None for i, o in enumerate(every)]
    for a, b in overlaps(alone):
        touched[a] |= seen[b]
        touched[b] |= seen[a]
    return np.where(kind[: len(ours)] < 0, False, touched[kind[: len(ours)]])


def _near(corners: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (P, 2) of footprints (m, 4, 3) whose circles meet; by size, so that one large scene does not make all of a
    hundred thousand small chips its size's neighbours."""
    from scipy.spatial import cKDTree

    centres = corners.mean(1)
    reach = np.linalg.norm(corners - centres[:, None], axis=2).max(1)
    size = np.ceil(np.log2(np.maximum(reach, 1e-12))).astype(int)
    groups = [np.flatnonzero(size == s) for s in np.unique(size)]
    trees = [cKDTree(centres[g]) for g in groups]
    for i, (mine, tree) in enumerate(zip(groups, trees, strict=True)):
        for theirs, other in zip(groups[i:], trees[i:], strict=True):
            far = float(reach[mine].max() + reach[theirs].max())
            met = tree.sparse_distance_matrix(other, far, output_type="ndarray")
            a, b = mine[met["i"]], theirs[met["j"]]
            close = met["v"] < reach[a] + reach[b]
            if theirs is mine:
                close &= a < b
            yield np.stack([a[close], b[close]], 1)


def _sphere(outline: np.ndarray) -> np.ndarray:
    """(..., 2) degrees -> (..., 3) on the unit sphere."""
    lon, lat = np.moveaxis(np.radians(outline), -1, 0)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each two quadrilaterals (P, 4, 3), whether they overlap by more than TOUCHING: no side of either separates
    them, in the plane that touches the sphere between them."""
    middle = np.concatenate([a, b], 1).mean(1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    east = np.cross([0.0, 0.0, 1.0], middle)
    length = np.linalg.norm(east, axis=1, keepdims=True)
    east = np.where(length > 1e-9, east / np.maximum(length, 1e-12), [1.0, 0.0, 0.0])
    plane = np.stack([east, np.cross(middle, east)], 2)  # (P, 3, 2)
    flat = np.stack([a @ plane, b @ plane], 1)  # (P, 2, 4, 2)
    centre = flat.mean(2, keepdims=True)
    flat = centre + (1 - TOUCHING) * (flat - centre)
    sides = np.roll(flat, -1, 2) - flat
    normals = np.stack([-sides[..., 1], sides[..., 0]], -1).reshape(len(a), 8, 2)
    along = np.einsum("pqcd,pnd->pnqc", flat, normals)  # (P, 8 normals, 2, 4)
    low, high = along.min(3), along.max(3)
    apart = (high[..., 0] <= low[..., 1]) | (high[..., 1] <= low[..., 0])
    return ~apart.any(1)


def square(middle: Outline, height: float, width: float) -> Outline:
    """The footprint, north up, of `height` x `width` metres around a point (1, 2)."""
    (lon, lat), metre = middle[0], 1e-3 / KM_PER_DEGREE
    y, x = height / 2 * metre, width / 2 * metre / max(np.cos(np.radians(lat)), 0.01)
    return np.array([(lon - x, lat + y), (lon + x, lat + y), (lon + x, lat - y), (lon - x, lat - y)])


def blocks(outlines: Sequence[Outline], km: float) -> list[Any]:
    """The block of `km` kilometres a side that the middle of each footprint lies in."""
    lon, lat = np.array([o.mean(0) for o in outlines]).T
    lon = (lon + 180) % 360 - 180
    row = np.floor(lat * KM_PER_DEGREE / km)
    # Blocks of a row have the width that `km` has at its middle.
    shrink = np.maximum(np.cos(np.radians((row + 0.5) * km / KM_PER_DEGREE)), 0.01)
    return list(zip(row.tolist(), np.floor(lon * KM_PER_DEGREE * shrink / km).tolist(), strict=True))


def joined(names: Sequence[str], edges: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Name -> the least of those that edges join it with, itself among them; whatever their order."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not names:
        return {}
    pairs = np.array(edges if len(edges) else [(0, 0)])
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(names), len(names)))
    _, label = connected_components(graph, directed=False)
    least: dict[int, str] = {}
    for name, k in zip(names, label.tolist(), strict=True):
        least[k] = min(name, least.get(k, name))
    return {name: least[k] for name, k in zip(names, label.tolist(), strict=True)}


def chains(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Edges that join the places of equal keys."""
    last: dict[Any, int] = {}
    edges = []
    for i, k in enumerate(keys):
        if k in last:
            edges.append((last[k], i))
        last[k] = i
    return edges
