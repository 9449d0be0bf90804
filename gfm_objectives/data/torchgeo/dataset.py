"""What an adapter is made of: a row of the table, a reader of one layout, and what a reader gives of one tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.sensors import Legend


class AbsentData(InputError):
    """A data set that is not on disk where it was looked for. A suite goes on without it; other commands stop."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a sensor lies in the files: stored * scale + offset is in the sensor's unit.

    bands: in the order the reader gives them; nodata: stored values that mean nothing is there, in whatever band; void:
    one that means it where all bands hold it (0: cirrus of a clear day is 0 too, and so are shadows); level: see
    sensors.calibration; looks: images of each date, 2 where both passes of a radar are handed out as two dates;
    optional: not read unless data.sensors asks.
    """

    bands: tuple[str, ...]
    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    void: float | None = None
    level: str = ""
    looks: int = 1
    optional: bool = False


class Image(NamedTuple):
    """One sensor of one tile. x (T, C, H, W) as stored; days (T,) since 2000-01-01, 0 = not known; valid (T, H, W)
    bool, None = all, what the reader knows beyond values of no data."""

    x: np.ndarray
    days: Sequence[float]
    valid: np.ndarray | None = None


class Sample(NamedTuple):
    """One tile. labels: layer -> (H, W) label or -1, (H, W) float or NaN, or of the whole tile () or (K,)."""

    images: dict[str, Image]
    labels: dict[str, np.ndarray]
    lonlat: tuple[float, float] | None = None


class Reader(Protocol):
    """The tiles of one split in one layout on disk.

    Made by `cls(root, split, dates, sensors, **its own options)`: dates = looks wanted of a sensor that has more;
    sensors = those to read. areas: of each tile, which are what intervals resample; names: of each, unique.
    """

    names: Sequence[str]
    areas: Sequence[str]
    shapes: Sequence[tuple[int, int]]

    def load(self, k: int) -> Sample: ...

    def files(self, k: int) -> Iterable[Path]:
        """The files tile k is read from."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A row of the table.

    name: key of `data=`; reader: module:class; gsd in metres; size: default side of windows, dates: default looks;
    layers: what can be learned, a legend of one class for numbers; marks: globs under root of which one must match
    something, else the data is absent. What a person is told: title, folder (what root holds), gigabytes (about),
    fetch (where it comes from), license, seen (what the reader was checked against: REAL, LIBRARY or WORDS), note.
    """

    name: str
    title: str
    reader: str
    sensors: Mapping[str, Stored]
    layers: Mapping[str, Legend]
    gsd: float
    size: int
    marks: tuple[str, ...]
    folder: str
    gigabytes: float
    fetch: str
    license: str
    seen: str
    dates: int = 1
    note: str = ""

    def absent(self, root: object) -> str:
        """The line for who has not got it."""
        return (
            f"data={self.name} is not in {root}; expected there: {self.folder}; about {self.gigabytes:g} GB; "
            f"to fetch: {self.fetch}"
        )


REAL = "real files"
LIBRARY = "a library's sample"
WORDS = "documentation"


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0 to count - 1, evenly spread, in order."""
    return list(range(count)) if count <= wanted else [int((i + 0.5) * count / wanted) for i in range(wanted)]
