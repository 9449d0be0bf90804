"""What is read of a raster file, whatever its format: bands, what the file says of them, and what is wrong with it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError

Window = tuple[int, int, int, int]  # top, left, height and width in pixels of the file


# What Python and its libraries raise on files that are cut off or damaged.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    TokenError,
    MemoryError,
    OverflowError,
    zlib.error,
)


class FileFault(InputError):
    """Something is wrong with one file of one chip. `kind` is a word that `data.skip` takes."""

    def __init__(self, path: Path | str, what: str, kind: str) -> None:
        super().__init__(path, what, kind)  # so that it pickles: readers work in other processes
        self.path, self.what, self.kind = path, what, kind

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of the bands read. Of each date and band: the value that declares 'nothing here' (None = none
    does), and the scale and offset that bring what is stored to its unit (1 and 0 = none stated). Of each band: its
    description, unit and central wavelength in nm, as far as stated."""

    nodata: tuple[float | None, ...] = ()  # (T * C)
    scale: tuple[float, ...] = ()  # (T * C)
    offset: tuple[float, ...] = ()  # (T * C)
    names: tuple[str, ...] = ()  # (C)
    units: tuple[str, ...] = ()  # (C)
    waves: tuple[float | None, ...] = ()  # (C)


@dataclass(frozen=True, slots=True)
class Raster:
    """Bands of one file, or a window of them.

    values (T, C, h, w) as stored; shape: (H, W) of the whole file; valid (T, h, w) bool, False where a mask, an alpha
    band or transparency hides the pixel, None = nothing does; palette: the colours of a file that stores numbers of
    colours; count: bands of the file, but for alpha; place: (coordinate system, affine transform) of a georeferenced
    file; remarks: what should be known about how it was read.
    """

    values: np.ndarray
    shape: tuple[int, int]
    valid: np.ndarray | None = None
    said: Said = Said()
    palette: tuple[str, ...] | None = None
    count: int = 1
    place: tuple[Any, Any] | None = None
    remarks: tuple[str, ...] = ()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What libraries raise about a file, as a FileFault of one line."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        yield
    except InputError:
        raise
    except (RasterioError, CPLE_BaseError, *DAMAGE) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # GDAL's own words are at the bottom of rasterio's
            cause = cause.__cause__
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise FileFault(path, f"cannot be read, truncated or not an image? ({reason})", "unreadable") from error


def from_array(path: Path, values: Any, bands: Sequence[int], dates: int, window: Window | None) -> Raster:
    """Bands of anything that is sliced as an array."""
    shape = tuple(values.shape)
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise FileFault(path, f"has the shape {shape}; expected (rows, columns), with bands and dates before", "size")
    if len(shape) == 3 and shape[2] <= 16 < min(shape[:2]):
        raise FileFault(path, f"has the shape {shape}; save bands first: np.moveaxis(a, -1, 0)", "size")
    if len(shape) == 4 and shape[0] != dates:
        what = f"holds {shape[0]} dates, expected {dates}; `dates` of its sensor says how many"
        raise FileFault(path, what, "band")
    top, left, height, width = window or (0, 0, *shape[-2:])
    cut = (slice(top, top + height), slice(left, left + width))
    per_date = shape[-3] if len(shape) > 2 else 1
    count = per_date * (shape[0] if len(shape) == 4 else 1)
    pick = positions(path, bands, count, dates)
    with told(path):
        planes = [
            np.asarray(values[(*divmod(p, per_date), *cut) if len(shape) == 4 else (p, *cut)[3 - len(shape) :]])
            for p in pick
        ]
    stacked = np.stack(planes) if planes else np.empty((0, height, width), values.dtype)
    return Raster(stacked.reshape(dates, len(bands), height, width), (shape[-2], shape[-1]), count=count)


def positions(path: Path, bands: Sequence[int], count: int, dates: int) -> list[int]:
    """Where, from 0, the bands of all dates stand among the file's `count`."""
    if count % dates:
        raise FileFault(path, f"has {count} bands, which is no multiple of its {dates} dates", "band")
    per_date = count // dates
    for band in bands:
        if not 1 <= band <= per_date:
            of = f" for each of {dates} dates" if dates > 1 else ""
            raise FileFault(path, f"has no band {band}; it has {per_date}{of}, counted from 1", "band")
    return [d * per_date + b - 1 for d in range(dates) for b in bands]


def at(transform: Any, column: float, row: float) -> tuple[float, float]:
    """Where a transform takes a point."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * column + b * row + c, d * column + e * row + f
