"""Where chips lie on Earth: which of them overlap, and the blocks they fall into; right across 180 degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

KM_PER_DEGREE = 111.2
TOUCHING = 0.02  # of a side: footprints that overlap by less only touch; positions are known to half a pixel or so

Outline = np.ndarray  # (4, 2) longitude and latitude of the corners in order, or (1, 2) of a point


def overlaps(outlines: Sequence[Outline | None]) -> list[tuple[int, int]]:
    """Pairs of footprints that share ground; None = not known where it lies, which overlaps nothing."""
    from scipy.spatial import cKDTree

    known = [i for i, o in enumerate(outlines) if o is not None and len(o) > 1]
    if len(known) < 2:
        return []
    centres = np.array([_sphere(outlines[i]).mean(0) for i in known])  # type: ignore[arg-type]
    reach = np.array([np.linalg.norm(_sphere(outlines[i]) - c, axis=1).max()  # type: ignore[arg-type]
                      for i, c in zip(known, centres, strict=True)])  # fmt: skip
    pairs = cKDTree(centres).query_pairs(2 * float(reach.max()), output_type="ndarray")
    near = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1) < reach[pairs].sum(1)
    return [(known[a], known[b]) for a, b in pairs[near] if _overlap(outlines[known[a]], outlines[known[b]])]  # type: ignore[arg-type]


def _sphere(outline: Outline) -> np.ndarray:
    """(n, 3) on the unit sphere."""
    lon, lat = np.radians(outline).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def _overlap(a: Outline, b: Outline) -> bool:
    """Whether two quadrilaterals overlap by more than TOUCHING: no side of either separates them, in the plane that
    touches the sphere between them."""
    middle = _sphere(np.concatenate([a, b])).mean(0)
    middle /= np.linalg.norm(middle)
    east = np.cross([0.0, 0.0, 1.0], middle)
    east = east / np.linalg.norm(east) if np.linalg.norm(east) > 1e-9 else np.array([1.0, 0.0, 0.0])
    plane = np.stack([east, np.cross(middle, east)], 1)
    quads = [_sphere(q) @ plane for q in (a, b)]
    quads = [q.mean(0) + (1 - TOUCHING) * (q - q.mean(0)) for q in quads]
    for quad in quads:
        for side in np.roll(quad, -1, 0) - quad:
            normal = np.array([-side[1], side[0]])
            one, other = (q @ normal for q in quads)
            if one.max() <= other.min() or other.max() <= one.min():
                return False
    return True


def blocks(outlines: Sequence[Outline], km: float) -> list[Any]:
    """The block of `km` kilometres a side that the middle of each footprint lies in."""
    lon, lat = np.array([o.mean(0) for o in outlines]).T
    lon = (lon + 180) % 360 - 180
    row = np.floor(lat * KM_PER_DEGREE / km)
    # Blocks of a row have the width that `km` has at its middle.
    shrink = np.maximum(np.cos(np.radians((row + 0.5) * km / KM_PER_DEGREE)), 0.01)
    return list(zip(row.tolist(), np.floor(lon * KM_PER_DEGREE * shrink / km).tolist(), strict=True))


def joined(names: Sequence[str], edges: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Name -> the first of those that edges join it with, itself among them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not names:
        return {}
    pairs = np.array(edges or [(0, 0)])
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(names), len(names)))
    _, label = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    return {name: first.setdefault(int(k), name) for name, k in zip(names, label, strict=True)}


def chains(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Edges that join the places of equal keys."""
    last: dict[Any, int] = {}
    edges = []
    for i, k in enumerate(keys):
        if k in last:
            edges.append((last[k], i))
        last[k] = i
    return edges
