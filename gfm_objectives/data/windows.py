"""Windows: what is larger, smaller or of another shape than what a model sees at once is cut, padded and stitched here.

The base of sources that hand out windows, for training, and whole tiles, to be scored; and `sliding`, which predicts a
whole tile by overlapping windows.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.batch import Batch, collate
from gfm_objectives.data.source import Source, normalise
from gfm_objectives.errors import InputWarning
from gfm_objectives.sensors import SENSORS, centre

TOGETHER = 8  # windows predicted at a time

At = tuple[int, int]  # top and left of a window


def positions(height: int, width: int, size: int, overlap: int = 0, inside: bool = True) -> list[At]:
    """Top and left of the `size` x `size` windows that show every pixel of a tile, row by row.

    They are size - overlap pixels apart. The last ones of a side end with the tile (inside: they overlap more), or lie
    as far apart as the others and reach beyond it. A side shorter than a window has one, which reaches beyond it.
    """
    assert 0 <= overlap < size, (overlap, size)

    def starts(side: int) -> list[int]:
        count = 1 + max(0, math.ceil((side - size) / (size - overlap)))
        every = [i * (size - overlap) for i in range(count)]
        return [min(start, max(0, side - size)) for start in every] if inside else every

    return [(top, left) for top in starts(height) for left in starts(width)]


def cut(batch: Batch, top: int, left: int, size: int) -> Batch:
    """The window at (top, left) of every place. What lies beyond them is invalid and without label."""

    def window(t: Tensor, nothing: float) -> Tensor:
        t = t[..., top : top + size, left : left + size]
        return F.pad(t, (0, size - t.shape[-1], 0, size - t.shape[-2]), value=nothing)

    return batch.map_grids(window)


def weights(size: int) -> Tensor:
    """(size, size): how much each pixel of a window counts where windows overlap; most in the middle, nowhere 0."""
    i = torch.arange(size) + 0.5
    bell = torch.sin(math.pi * torch.minimum(i, size - i) / size).square()
    return bell[:, None] * bell


def stitch(parts: Iterable[Tensor], at: Sequence[At], height: int, width: int) -> Tensor:
    """What was predicted of windows as one, (C, H, W) float: each pixel the weighted mean of the windows that show it.

    parts: some windows each, (n, C, size, size), in the order of `at`; they are added up one by one, not kept. A pixel
    of a single window is what that window says, bit for bit.
    """
    out = weight = total = torch.empty(0)
    place = iter(at)
    for window in (window for part in parts for window in part.float()):
        if not out.numel():
            weight = weights(window.shape[-1]).to(window.device)
            out, total = window.new_zeros(len(window), height, width), window.new_zeros(height, width)
            for top, left in at:
                _part(total, top, left, weight).add_(_part(weight, 0, 0, total[top:, left:]))
        top, left = next(place)
        inside = _part(out, top, left, weight)
        share = _part(weight, 0, 0, inside) / _part(total, top, left, weight)
        inside += _part(window, 0, 0, inside) * share
    assert next(place, None) is None, f"fewer windows than the {len(at)} places"
    return out


def _part(t: Tensor, top: int, left: int, like: Tensor) -> Tensor:
    """What of `t` (..., H, W) lies under `like`, moved to (top, left)."""
    return t[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def sliding(predict: Callable[[Batch], Tensor], tile: Batch, size: int, overlap: int = 0) -> Tensor:
    """`predict`, Batch of n windows -> (n, C, size, size), over a whole tile (a batch of one, any H x W): (C, H, W).

    Windows of a centred sensor (relative height) lose their own mean, as they did in training, not that of the tile.
    """
    height, width = tile.size
    at = positions(height, width, size, overlap)
    assert len(tile) == 1, len(tile)

    def parts() -> Iterable[Tensor]:
        for first in range(0, len(at), TOGETHER):
            windows = collate([cut(tile, *a, size) for a in at[first : first + TOGETHER]])
            yield predict(windows if len(at) == 1 else _centred(windows))

    return stitch(parts(), at, height, width)


def _centred(windows: Batch) -> Batch:
    sensors = {
        k: s.replace(x=centre(s.x, s.valid)) if k in SENSORS and SENSORS[k].centred else s
        for k, s in windows.sensors.items()
    }
    return windows.replace(sensors=sensors)


class Windows(Source):
    """Tiles, each handed out whole; places are `size` x `size` windows of them, row by row.

    areas: of each tile; shapes: (H, W) of each in pixels; keep: numbers of each tile's windows that are places, None =
    all; cache_mb: decoded tiles kept in memory, per process.

    In pretraining and training the last windows of a tile are shifted back to end with it, so that every pixel is seen
    and none is made up. In validation and test windows lie side by side and the last ones are padded, so that every
    pixel is in one of them. Tiles smaller than a window are padded; InputWarning where all are.

    A subclass decodes whole tiles and sets spec and fingerprint.
    """

    def __init__(
        self,
        split: str,
        areas: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        size: int,
        cache_mb: float,
        keep: Sequence[Collection[int]] | None = None,
    ) -> None:
        self._tile_areas, self._size = tuple(areas), size
        rows = [
            (number, top, left)
            for number, shape in enumerate(shapes)
            for k, (top, left) in enumerate(layout(shape, size, split))
            if keep is None or k in keep[number]
        ]
        self._windows = np.array(rows, dtype=np.int32).reshape(-1, 3)  # tile, top, left; small, as workers get it
        if all(min(shape) < size for shape in shapes):
            side = max(min(shape) for shape in shapes)
            line = f"data.size={size}: every {split} tile is smaller, {side} pixels at most; the rest is padding"
            warnings.warn(line, InputWarning, stacklevel=3)
        self._cache: dict[int, Batch] = {}
        self._room = cache_mb * 2**20  # bytes left
        self._last: tuple[int, Batch] | None = None

    @abstractmethod
    def decode(self, number: int) -> Batch:
        """Tile `number` as a batch of one with raw values, at its full extent."""

    def __len__(self) -> int:
        return len(self._windows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_last": None}  # a loader worker fills its own

    def raw(self, indices: Sequence[int]) -> Batch:
        rows = self._windows[list(indices)].tolist()
        return collate([self.place(number, top, left) for number, top, left in rows])

    def place(self, number: int, top: int, left: int) -> Batch:
        """A window of a tile, with raw values. By default the tile is decoded whole and cut."""
        return cut(self._decoded(number), top, left, self._size)

    def groups(self) -> list[str]:
        return [self._tile_areas[number] for number in self._windows[:, 0]]

    def tiles(self) -> int:
        return len(self._tile_areas)

    def tile(self, number: int) -> Batch:
        tile = normalise(self._decoded(number))  # new values; the rest is copied, so that the cache stays as it is
        sensors = {k: s.replace(valid=s.valid.clone(), day=s.day.clone()) for k, s in tile.sensors.items()}
        return tile.replace(sensors=sensors, targets={k: t.clone() for k, t in tile.targets.items()})

    def tile_groups(self) -> list[str]:
        return list(self._tile_areas)

    def _decoded(self, number: int) -> Batch:
        """A tile from the cache, or decoded.

        A full cache keeps what it has, and the tile read last: in an epoch's random order evicting would only make
        every read a miss.
        """
        if number in self._cache:
            return self._cache[number]
        if self._last and self._last[0] == number:
            return self._last[1]
        self._last = None  # before the next one is decoded, not after
        tile = self.decode(number)
        need = sum(s.x.nbytes + s.valid.nbytes for s in tile.sensors.values())
        need += sum(t.nbytes for t in tile.targets.values())
        if need <= self._room:
            self._room -= need
            self._cache[number] = tile
        else:
            self._last = number, tile
        return tile


def layout(shape: tuple[int, int], size: int, split: str) -> list[At]:
    """Where the windows of a tile lie in a split, see `Windows`."""
    return positions(*shape, size, inside=split in ("pretrain", "train"))
