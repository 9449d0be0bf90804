"""Chips before a pixel is read: their sizes and places, the tiles that large ones are cut into, the side of windows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from gfm_objectives.data.decoding import Decoder
from gfm_objectives.data.folder import cache_file
from gfm_objectives.data.footprints import Outline
from gfm_objectives.data.rasters import FileFault, Window
from gfm_objectives.data.remote import stamp
from gfm_objectives.data.survey import Found, keep

WHOLE = 512  # pixels; chips with a longer side are cut into windows
SIDE = 128  # pixels; of the windows where nothing was chosen, or less where chips are smaller
FORMAT = 1  # of the notes


class Part(NamedTuple):
    """A chip, or the `window` of it that is a tile."""

    chip: str
    window: Window | None = None


class Heads:
    """What files say before a pixel is read. shapes: chip -> (H, W), without those that cannot be read, which a survey
    will tell of; parts: name -> the chip or tile of that name."""

    def __init__(self, decoder: Decoder, chips: Sequence[str]) -> None:
        reference = decoder.files[decoder.grid]
        paths = {c: next(iter(reference[c].values())) for c in chips if c in reference}
        stats = [(str(p), *stamp(p)) for p in paths.values()]
        memo = cache_file("heads", ".json", FORMAT, decoder.grid, stats)
        try:
            notes: dict[str, Any] = dict(json.loads(memo.read_text()))
        except (OSError, ValueError, TypeError):
            notes = {c: _look(decoder, c) for c in paths}
            keep(memo, notes)
        self.shapes = {c: (n[0], n[1]) for c, n in notes.items() if n}
        self._corners = {c: np.array(n[2]) for c, n in notes.items() if n and n[2]}
        self.parts: dict[str, Part] = {}

    def part(self, name: str) -> Part:
        return self.parts.setdefault(name, Part(name))

    def outline(self, name: str) -> Outline | None:
        """Footprint of a chip or tile, None where that is not known."""
        part = self.part(name)
        corners = self._corners.get(part.chip)
        if corners is None or part.window is None:
            return corners
        height, width = self.shapes[part.chip]
        top, left, h, w = part.window
        at = [(left, top), (left + w, top), (left + w, top + h), (left, top + h)]
        return np.stack([_between(corners, c / width, r / height) for c, r in at])

    def cut_note(self, found: Mapping[str, Found], side: int, trains: bool, why: str) -> list[str]:
        """How chips are cut and padded, in words."""
        shapes = [f.shape for f in found.values()]
        if {*shapes} == {(side, side)}:
            return []
        low, high = min(shapes), max(shapes)
        sizes = f"{low[0]} x {low[1]}" + ("" if low == high else f" to {high[0]} x {high[1]}")
        edges = "the last ones shifted back to end with the chip" if trains else "scored whole, by windows that overlap"
        small = sum(min(s) < side for s in shapes)
        padded = f"; {small} of {len(shapes)} are smaller in height or width and padded" if small else ""
        return [f"chips of {sizes} px are cut into windows of {side} px{why}, {edges}{padded}"]


def _look(decoder: Decoder, chip: str) -> list[Any] | None:
    try:
        grid = decoder.header(chip)
    except FileFault:
        return None
    corners = grid.corners()
    return [*grid.shape, None if corners is None else corners.tolist()]


def _between(corners: np.ndarray, x: float, y: float) -> np.ndarray:
    """Longitude and latitude at shares of the width and height of a footprint."""
    top = corners[0] + x * (corners[1] - corners[0])
    bottom = corners[3] + x * (corners[2] - corners[3])
    return top + y * (bottom - top)


def tiled(heads: Heads, tile: int) -> dict[str, list[str]]:
    """Chip -> its tiles, of those that are larger than one; each side in as many equal steps as it takes."""
    tiles: dict[str, list[str]] = {}
    for chip, (height, width) in heads.shapes.items():
        if max(height, width) <= tile:
            continue
        rows, columns = (
            [round(i * n / k) for i in range(k + 1)] for n in (height, width) for k in [math.ceil(n / tile)]
        )
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                name = f"{chip}@{top},{left}"
                heads.parts[name] = Part(chip, (top, left, bottom - top, right - left))
                tiles.setdefault(chip, []).append(name)
    return tiles


def sides(shapes: Mapping[str, tuple[int, int]]) -> tuple[int, str]:
    """The side of windows where none was asked for, and why: whole chips where all are one square of at most WHOLE
    pixels, else a power of two that most chips hold."""
    every = {*shapes.values()}
    if not every:
        return SIDE, ""
    if len(every) == 1 and (shape := next(iter(every)))[0] == shape[1] <= WHOLE:
        return shape[0], ""
    shorter = median(min(s) for s in shapes.values())
    side = min(SIDE, 2 ** math.floor(math.log2(max(1, 1.1 * shorter))))
    return side, ", a side chosen as data.size is not given"
