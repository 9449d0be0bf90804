"""Raster files of a folder of chips: bands, or a window of them, with all that the file says of them."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError

Window = tuple[int, int, int, int]  # top, left, height and width in pixels of the file
OPAQUE = 128  # of 255: from which alpha on a pixel counts as shown
SOFT = 0.5  # share of values between nothing and full above which a band called alpha is none (near infrared, mostly)


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


def read_bands(
    path: Path, bands: Sequence[int], dates: int = 1, window: Window | None = None, variable: str = ""
) -> Raster:
    """The `bands` (counted from 1) of a file at each of its `dates`, inside `window` (None = all of it).

    A file of several dates holds them one after another, each with all its bands; an NPY file may have an axis for
    them: (dates, bands, rows, columns). No bands at all: the header alone, values being empty. Of a picture with a
    palette the bands 1, 2 and 3 are its colours, where more than the first is asked for. variable: of a file that
    holds several. FileFault for a band or date
    the file does not have and for a file that cannot be read, InputError for a format not in READERS.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(READERS)}")
    raster = reader(path, bands, dates, window, variable)
    if raster.values.dtype.kind not in "uifb":
        raise FileFault(path, f"holds {raster.values.dtype} values; store whole or real numbers", "unreadable")
    return raster


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What libraries raise about a file, as a FileFault of one line."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        yield
    except InputError:
        raise
    except (RasterioError, CPLE_BaseError, OSError, ValueError, EOFError, KeyError, MemoryError, zlib.error) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # GDAL's own words are at the bottom of rasterio's
            cause = cause.__cause__
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise FileFault(path, f"cannot be read, truncated or not an image? ({reason})", "unreadable") from error


# ---------------------------------------------------------------- what GDAL reads


def _read_gdal(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning
    from rasterio.windows import Window as Cut

    with warnings.catch_warnings(), told(path):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips need no place on Earth
        warnings.simplefilter("ignore", NodataShadowWarning)
        with rasterio.open(path) as file:
            palette = _palette(file)
            top, left, height, width = window or (0, 0, file.height, file.width)
            cut = Cut(left, top, width, height)
            painted = palette is not None and max(bands, default=1) > 1
            pick = positions(path, [1] if painted else bands, file.count, dates)
            valid, remarks = _masks(file, pick, dates, cut) if pick else (None, [])
            values = file.read([p + 1 for p in pick], window=cut) if pick else np.empty((0, height, width), np.uint8)
            place, more = _place(file)
            said = _said(file, pick, dates)
            if pick and (clear := _clear(file)):
                seen = ~np.isin(values, clear)
                valid = seen if valid is None else valid & seen
            if painted and palette is not None:
                positions(path, bands, 3, 1)
                values = np.array([_rgb(c) for c in palette], np.uint8).T[[b - 1 for b in bands]][:, values[0]]
                said, palette = Said(), None
            values = values.reshape(dates, len(values) // dates, height, width)
            shape = (file.height, file.width)
            count = file.count - sum(what == ColorInterp.alpha for what in file.colorinterp)
            return Raster(values, shape, valid, said, palette, count, place, (*remarks, *more))


def _palette(file: Any) -> tuple[str, ...] | None:
    """The colours of a file of one band that stores numbers of colours, as hex."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return None
    colors = file.colormap(1)
    return tuple("#{:02x}{:02x}{:02x}".format(*colors[i][:3]) for i in sorted(colors))


def _clear(file: Any) -> list[int]:
    """The numbers of a palette's colours that are transparent."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return []
    return [i for i, color in file.colormap(1).items() if color[3] < OPAQUE]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _masks(file: Any, pick: Sequence[int], dates: int, cut: Any) -> tuple[np.ndarray | None, list[str]]:
    """(T, h, w): what masks and an alpha band leave to be seen of the bands, None = all of it; and what to say.

    No data that is declared by a value is not among it: that is judged band by band.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    alpha = [i for i, what in enumerate(file.colorinterp) if what == ColorInterp.alpha]
    shown: list[np.ndarray | None] = [None] * dates
    remarks: list[str] = []
    step = max(1, len(pick) // dates)
    for date in range(dates):
        for position in pick[date * step : (date + 1) * step]:
            flags = file.mask_flag_enums[position]
            if MaskFlags.all_valid in flags or flags == [MaskFlags.nodata]:
                continue
            if MaskFlags.alpha in flags and {*alpha} & {*pick}:
                continue  # the band is described as one of the image
            mask = file.read_masks(position + 1, window=cut)
            if MaskFlags.alpha in flags and np.mean((mask > 0) & (mask < 255)) > SOFT:
                line = f"band {alpha[0] + 1} is called alpha but holds many values, and hides nothing"
                remarks += [] if line in remarks else [line]
                continue
            seen = mask >= OPAQUE
            before = shown[date]
            shown[date] = seen if before is None else before & seen
            if MaskFlags.per_dataset in flags:
                break  # the same for all bands
    if all(s is None for s in shown):
        return None, remarks
    every = np.ones((round(cut.height), round(cut.width)), bool)
    return np.stack([every if s is None else s for s in shown]), remarks


def _place(file: Any) -> tuple[tuple[Any, Any] | None, list[str]]:
    """Coordinate system and transform; of ground control points, the plane nearest to them."""
    from rasterio.transform import from_gcps

    if file.crs is not None and not file.transform.is_identity:
        return (file.crs, file.transform), []
    points, crs = file.gcps
    if len(points) < 3 or crs is None:
        return None, []
    transform = from_gcps(points)
    off = max(np.hypot(c - p.col, r - p.row) for p in points for c, r in [~transform * (p.x, p.y)])
    line = "is georeferenced by ground control points, taken as a plane"
    return (crs, transform), [line + (f" that is up to {off:.1f} pixels off" if off > 0.5 else "")]


def _said(file: Any, pick: Sequence[int], dates: int) -> Said:
    from rasterio.enums import MaskFlags

    first = pick[: len(pick) // dates]
    together = {MaskFlags.per_dataset, MaskFlags.nodata}  # values that are no data where all bands have theirs: a mask
    return Said(
        nodata=tuple(None if together <= {*file.mask_flag_enums[p]} else file.nodatavals[p] for p in pick),
        scale=tuple(file.scales[p] for p in pick),
        offset=tuple(file.offsets[p] for p in pick),
        names=tuple(file.descriptions[p] or "" for p in first),
        units=tuple(file.units[p] or "" for p in first),
        waves=tuple(_wavelength(file, p + 1) for p in first),
    )


def _wavelength(file: Any, band: int) -> float | None:
    """Central wavelength in nm, where tags of the band state one."""
    tags = {k.lower(): v for ns in (None, "IMAGERY") for k, v in file.tags(band, ns=ns).items()}
    for key, text in tags.items():
        number = re.match(r"\s*(\d+(?:\.\d+)?)", text)
        if "wavelength" in key and "unit" not in key and number:
            value = float(number[1])
            return value * 1000 if value < 100 else value  # micrometres
    return None


# ---------------------------------------------------------------- arrays


def _read_npy(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    """(H, W), (C, H, W) or (T, C, H, W). Mapped, so that only what is asked for is read."""
    with told(path):
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    return from_array(path, values, bands, dates, window)


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


def _read_cube(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    from gfm_objectives.data.cubes import read_cube

    return read_cube(path, bands, dates, window, variable)


# Lower-case ending -> reader. A new format is one function and one entry.
READERS: dict[str, Callable[[Path, Sequence[int], int, Window | None, str], Raster]] = {
    **dict.fromkeys((".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img"), _read_gdal),
    ".npy": _read_npy,
    **dict.fromkeys((".h5", ".hdf5", ".nc", ".zarr"), _read_cube),
}


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
