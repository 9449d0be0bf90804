"""Blocks and windows of a scene: what is computed at a time, and what the model sees at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from gfm_objectives.data.windows import At, positions

MULTIPLE = 256  # pixels; sides of blocks are multiples of it
ROOM = 768 * 2**20  # bytes that one block may take while it is computed
LARGEST = 2048  # pixels a side


@dataclass(frozen=True, slots=True)
class Tiling:
    """A scene of height x width pixels in blocks of `block` pixels a side, row by row, and in windows of `size`, which
    overlap by `overlap` pixels.

    Windows lie where `data.windows.positions` puts those of the whole scene, whatever the blocks are: a block is
    computed from every window that reaches into it, so that no block border can be seen in the map, and a block depends
    on no other.
    """

    height: int
    width: int
    size: int
    overlap: int
    block: int

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.height // self.block), -(-self.width // self.block)

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    def box(self, number: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a block."""
        row, column = divmod(number, self.grid[1])
        top, left = row * self.block, column * self.block
        return top, left, min(self.block, self.height - top), min(self.block, self.width - left)

    def windows(self, number: int) -> tuple[tuple[int, int, int, int], list[At]]:
        """(top, left, height, width) of what all windows of a block cover, and top and left of each inside of it. It
        may reach beyond a scene smaller than a window."""
        top, left, height, width = self.box(number)
        rows = self._reaching(self.starts(self.height), top, height)
        columns = self._reaching(self.starts(self.width), left, width)
        cover = rows[0], columns[0], rows[-1] - rows[0] + self.size, columns[-1] - columns[0] + self.size
        return cover, [(r - rows[0], c - columns[0]) for r in rows for c in columns]

    def starts(self, side: int) -> list[int]:
        """Where windows begin along a side of the scene."""
        return [top for top, _ in positions(side, self.size, self.size, self.overlap)]

    def _reaching(self, starts: list[int], first: int, length: int) -> list[int]:
        return starts[bisect_right(starts, first - self.size) : bisect_left(starts, first + length)]


def block_side(bytes_per_pixel: float, size: int) -> int:
    """The side of blocks, such that one with its windows' margins stays within ROOM."""
    side = int((ROOM / bytes_per_pixel) ** 0.5) - 2 * size
    return max(MULTIPLE, min(LARGEST, side // MULTIPLE * MULTIPLE))
