"""Seams: whether neighbours differ more often across borders of windows and blocks than elsewhere. No labels needed."""

from __future__ import annotations

import numpy as np

from gfm_objectives.predict.tiling import Tiling

KINDS = ("across window borders", "across block borders", "elsewhere")


class Seams:
    """Counts pairs of neighbours and those that differ, by what lies between them; blocks come in order."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self.pairs = np.zeros((len(KINDS), 2), np.int64)  # all, different
        self.kinds = tuple(self._kinds(side) for side in (tiling.height, tiling.width))
        self.above = np.zeros((2, tiling.width), np.int64)  # values and whether there is data, of the last row before
        self.before: tuple[np.ndarray, np.ndarray] | None = None  # the same of the column before

    def add(self, number: int, values: np.ndarray, data: np.ndarray) -> None:
        """Block `number`, its values (h, w), and where there is data."""
        top, left, _, width = self.tiling.box(number)
        for axis, first in ((0, top), (1, left)):
            v, ok = values, data
            if first:  # the neighbours before, from the block there
                edge = self.above[:, left : left + width] if axis == 0 else np.stack(self.before)  # type: ignore[arg-type]
                v = np.concatenate([np.expand_dims(edge[0], axis).astype(values.dtype), values], axis)
                ok = np.concatenate([np.expand_dims(edge[1], axis).astype(bool), data], axis)
            n = v.shape[axis] - 1
            a, b = np.take(v, range(n), axis), np.take(v, range(1, n + 1), axis)
            both = np.take(ok, range(n), axis) & np.take(ok, range(1, n + 1), axis)
            lines = slice(first + (not first), first + values.shape[axis])  # the second of each pair
            kind = self.kinds[axis][lines]
            per_line = np.stack([both.sum(1 - axis), (both & (a != b)).sum(1 - axis)], 1)  # (n, 2)
            for k in range(len(KINDS)):
                self.pairs[k] += per_line[kind == k].sum(0)
        self.above[0, left : left + width], self.above[1, left : left + width] = values[-1], data[-1]
        self.before = values[:, -1].copy(), data[:, -1].copy()

    def shares(self) -> dict[str, float]:
        """Of the pairs of each kind, the share that differs; kinds without pairs are left out."""
        return {name: int(d) / int(n) for name, (n, d) in zip(KINDS, self.pairs, strict=True) if n}

    def _kinds(self, side: int) -> np.ndarray:
        """(side,): what lies before each row or column."""
        out = np.full(side, KINDS.index("elsewhere"))
        starts = np.array(self.tiling.starts(side))
        lines = np.concatenate([starts, starts + self.tiling.size])
        out[lines[lines < side]] = KINDS.index("across window borders")
        out[:: self.tiling.block] = KINDS.index("across block borders")
        return out
