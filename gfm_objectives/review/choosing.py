"""Where to look next: tiles of a map that the model is least sure of, chosen to differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.predict.ground import open_raster
from gfm_objectives.predict.raster import NOTHING, SHARE, beside
from gfm_objectives.review.maps import ReadMap

POOL = 20  # times as many of the least sure tiles as are asked for: among them those most unlike each other are chosen
SHOWN = 0.5  # share of a tile's pixels that must have data


@dataclass(frozen=True, slots=True)
class Tile:
    """A square of the map. doubt: mean entropy, 0..1; shares (K,): of its pixels, what each class has."""

    row: int
    column: int
    size: int
    doubt: float
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"r{self.row:06d}c{self.column:06d}"

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.row, self.column, self.size, self.size


def doubtful(m: ReadMap, size: int, k: int) -> list[Tile]:
    """At most k tiles of size x size pixels, the least sure first. InputError without the map's entropy."""
    entropy = beside(m.path, "entropy")
    if not entropy.is_file():
        raise InputError(f"{entropy}: not found; map again with extra=entropy, which says where the model is not sure")
    found = _measured(m, entropy, size)
    if not found:
        raise InputError(f"{m.path}: no whole tile of {size} x {size} pixels has data; give a smaller size=")
    found.sort(key=lambda t: (-t.doubt, t.row, t.column))
    pool = found[: POOL * k]
    return [pool[i] for i in sorted(unlike(np.array([[*t.shares, t.doubt] for t in pool]), k))]


def _measured(m: ReadMap, entropy: Path, size: int) -> list[Tile]:
    """Every whole tile with enough data."""
    from rasterio.windows import Window

    out, k = [], len(m.codes)
    with open_raster(entropy) as file:
        if (file.height, file.width) != (m.ground.height, m.ground.width):
            raise InputError(f"{entropy}: is not of {m.path}: {file.height} x {file.width} pixels; map again")
        for top, labels in m.strips(size):
            if len(labels) < size:
                break
            doubt = file.read(1, window=Window(0, top, labels.shape[1], size))  # type: ignore[call-arg]
            for left in range(0, labels.shape[1] - size + 1, size):
                part = slice(None), slice(left, left + size)
                said, unsure = labels[part], doubt[part]
                known = (said >= 0) & (unsure != NOTHING)
                if known.mean() < SHOWN:
                    continue
                shares = np.bincount(said[known], minlength=k) / known.sum()
                out.append(Tile(top, left, size, float(unsure[known].mean() / SHARE), tuple(shares.tolist())))
    return out


def unlike(x: np.ndarray, k: int) -> list[int]:
    """k rows of x (N, D), begun with the first: each next is the farthest from all chosen (Gonzalez 1985, k-center)."""
    spread = x.std(0)
    x = x / np.where(spread > 0, spread, 1)
    chosen, far = [0], np.linalg.norm(x - x[0], axis=1)
    while len(chosen) < min(k, len(x)):
        far[chosen] = -1
        chosen.append(int(far.argmax()))
        far = np.minimum(far, np.linalg.norm(x - x[chosen[-1]], axis=1))
    return chosen
