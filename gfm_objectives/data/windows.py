"""Windows: the base of sources whose scenes are far larger than what a model sees at once."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.batch import Batch, Series, collate
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError


class Windows(Source):
    """Places are size x size windows of scenes, side by side, row by row; the windows of a scene are one group.

    scenes: their names, in order; shapes: (H, W) of each in pixels; edges: what does not fill a window is padded,
    marked invalid and without label (True), or dropped (False); cache_mb: decoded scenes kept in memory, per process.
    A subclass reads whole scenes and sets spec and fingerprint.
    """

    def __init__(
        self, scenes: Sequence[str], shapes: Sequence[tuple[int, int]], size: int, edges: bool, cache_mb: float
    ) -> None:
        self._scenes, self._size = tuple(scenes), size
        self._grids = [tuple(-(-n // size) if edges else n // size for n in shape) for shape in shapes]
        self._ends = list(accumulate(rows * columns for rows, columns in self._grids))
        if not self._ends or not self._ends[-1]:
            sides = min((min(s) for s in shapes), default=0)
            raise InputError(f"data.size={size}: no scene holds such a window; the smallest is {sides} pixels wide")
        self._cache: dict[int, Batch] = {}
        self._room = cache_mb * 2**20  # bytes left
        self._last: tuple[int, Batch] | None = None

    @abstractmethod
    def scene(self, number: int) -> Batch:
        """Scene `number` as a batch of one, at its full extent."""

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_last": None}  # a loader worker fills its own

    def groups(self) -> list[str]:
        return [s for s, (rows, columns) in zip(self._scenes, self._grids, strict=True) for _ in range(rows * columns)]

    def read(self, indices: Sequence[int]) -> Batch:
        return collate([self._window(i) for i in indices])

    def _window(self, index: int) -> Batch:
        number = bisect_right(self._ends, index)
        rows, columns = self._grids[number]
        row, column = divmod(index - self._ends[number] + rows * columns, columns)
        return cut(self._decoded(number), row * self._size, column * self._size, self._size)

    def _decoded(self, number: int) -> Batch:
        """A scene from the cache, or read. A full cache keeps what it has, and the scene read last."""
        if number in self._cache:
            return self._cache[number]
        if self._last and self._last[0] == number:
            return self._last[1]
        scene = self.scene(number)
        need = sum(s.x.nbytes + s.valid.nbytes for s in scene.sensors.values())
        need += sum(t.nbytes for t in scene.targets.values())
        if need <= self._room:
            self._room -= need
            self._cache[number] = scene
        else:
            self._last = number, scene
        return scene


def cut(scene: Batch, top: int, left: int, size: int) -> Batch:
    """The window at (top, left); what lies beyond the scene is 0, invalid, and has the label -1."""

    def grid(t: Tensor, fill: float) -> Tensor:
        t = t[..., top : top + size, left : left + size]
        return F.pad(t, (0, size - t.shape[-1], 0, size - t.shape[-2]), value=fill).clone()

    sensors = {k: Series(grid(s.x, 0), grid(s.valid, False), s.day, s.bands) for k, s in scene.sensors.items()}
    return scene.replace(sensors=sensors, targets={k: grid(t, -1) for k, t in scene.targets.items()})
