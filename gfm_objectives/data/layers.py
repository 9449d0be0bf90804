"""Raster files of a folder of chips: finding the files of each chip, and reading bands of GeoTIFF, PNG and NPY."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError

CHIP, DATE = "{chip}", "{date}"
EPOCH = date(2000, 1, 1)  # of Series.day


class FileFault(InputError):
    """Something is wrong with one file of one chip. `kind` is a word that `data.skip` takes."""

    def __init__(self, path: Path | str, what: str, kind: str) -> None:
        super().__init__(path, what, kind)  # so that it pickles: readers work in other processes
        self.path, self.what, self.kind = path, what, kind

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def day_of(text: str) -> float:
    """Days since 2000-01-01 of 2019-04-12, 2019_04_12, 20190412 or 2019102 (day of the year); else ValueError(text)."""
    digits = re.sub("[-_]", "", str(text))
    form = {8: "%Y%m%d", 7: "%Y%j"}.get(len(digits), "")
    try:
        return float((datetime.strptime(digits, form).date() - EPOCH).days)
    except ValueError:
        raise ValueError(text) from None


def find_files(root: Path, pattern: str) -> dict[str, dict[float, Path]]:
    """Chip id -> its files by day, for every file under `root` that matches `pattern`, ids and days in order.

    `{chip}` stands for the id and may occur twice (`{chip}/{chip}_S2.tif`); `{date}` for a day, as `day_of` reads it;
    `*` is anything within one name, `**/` any folders. Without `{date}` a chip has one file, under day 0. InputError
    where two files claim one chip and day, or a date cannot be read.
    """
    if CHIP not in pattern or Path(pattern).is_absolute():
        raise InputError(f"file pattern {pattern!r}: write it relative to data.root, with {CHIP} where the id stands")
    regex = re.compile(_regex(pattern))
    found: dict[str, dict[float, Path]] = {}
    undated = None
    for path in sorted(root.glob(pattern.replace("[", "[[]").replace(CHIP, "*").replace(DATE, "*"))):
        match = regex.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            undated = undated or path
            continue
        chip, day = match["chip"], 0.0
        if DATE in pattern:
            try:
                day = day_of(match["date"])
            except ValueError:
                raise InputError(f"{path}: {match['date']} is no date") from None
        files = found.setdefault(chip, {})
        if day in files:
            raise InputError(
                f"file pattern {pattern!r}: {files[day].name} and {path.name} both match chip {chip}; narrow it, "
                f"or write {DATE} where their dates stand"
            )
        files[day] = path
    if not found and undated is not None and DATE in pattern:
        raise InputError(f"{undated}: no date where {DATE} stands; write 2019-04-12, 2019_04_12, 20190412 or 2019102")
    return {chip: dict(sorted(files.items())) for chip, files in sorted(found.items())}


def _regex(pattern: str) -> str:
    out, seen = "", set()
    for part in re.split(r"(\{chip\}|\{date\}|\*\*/|\*|\?)", pattern):
        if part in (CHIP, DATE):
            name, what = part[1:-1], "[^/]+" if part == CHIP else r"\d{4}[-_]?\d{2}[-_]?\d{2}|\d{7}"
            out += f"(?P={name})" if name in seen else f"(?P<{name}>{what})"
            seen.add(name)
        else:
            out += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return out


@dataclass(frozen=True, slots=True)
class Raster:
    """Bands of one file. values (T, C, H, W) as stored; nodata: the value the file declares for 'nothing here';
    place: (coordinate system, affine transform) of a georeferenced file."""

    values: np.ndarray
    nodata: float | None = None
    place: tuple[Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.values.shape[2], self.values.shape[3]


def read_bands(path: Path, bands: Sequence[int], dates: int = 1) -> Raster:
    """The `bands` (counted from 1) of a file at each of its `dates`.

    A file of several dates holds them one after another, each with all its bands; an NPY file may have an axis for
    them: (dates, bands, rows, columns). FileFault for a band or date the file does not have and for a file that cannot
    be read, InputError for a format not in READERS.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(READERS)}")
    raster = reader(path, bands, dates)
    if raster.values.dtype.kind not in "uifb":
        raise FileFault(path, f"holds {raster.values.dtype} values; store whole or real numbers", "unreadable")
    return raster


def _read_tiff(path: Path, bands: Sequence[int], dates: int) -> Raster:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips need no place on Earth
        try:
            with rasterio.open(path) as file:
                pick = _positions(path, bands, file.count, dates)
                values = file.read([p + 1 for p in pick])
                place = None if file.crs is None or file.transform.is_identity else (file.crs, file.transform)
                return Raster(values.reshape(dates, len(bands), *values.shape[1:]), file.nodata, place)
        except RasterioIOError as error:
            raise _unreadable(path, error) from error


def _read_png(path: Path, bands: Sequence[int], dates: int) -> Raster:
    from PIL import Image

    try:
        with Image.open(path) as file:
            values = np.atleast_3d(np.array(file))  # (H, W, C); of a palette image, the indices
    except (OSError, SyntaxError) as error:  # PIL reports some broken PNGs as SyntaxError
        raise _unreadable(path, error) from error
    pick = _positions(path, bands, values.shape[2], dates)
    return Raster(np.stack([values[..., p] for p in pick]).reshape(dates, len(bands), *values.shape[:2]))


def _read_npy(path: Path, bands: Sequence[int], dates: int) -> Raster:
    """(H, W), (C, H, W) or (T, C, H, W). Mapped, so that only the bands asked for are read."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    shape = tuple(values.shape)
    if values.ndim not in (2, 3, 4) or 0 in shape:
        raise FileFault(path, f"has the shape {shape}; expected (rows, columns), with bands and dates before", "size")
    if values.ndim == 3 and shape[2] <= 16 < min(shape[:2]):
        raise FileFault(path, f"has the shape {shape}; save bands first: np.moveaxis(a, -1, 0)", "size")
    if values.ndim == 4 and shape[0] != dates:
        what = f"holds {shape[0]} dates, expected {dates}; `dates` of its sensor says how many"
        raise FileFault(path, what, "band")
    values = values.reshape(-1, *shape[-2:])
    pick = _positions(path, bands, len(values), dates)
    return Raster(np.stack([values[p] for p in pick]).reshape(dates, len(bands), *shape[-2:]))


# Lower-case ending -> reader. A new format is one function and one entry.
READERS: dict[str, Callable[[Path, Sequence[int], int], Raster]] = {
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".png": _read_png,
    ".npy": _read_npy,
}


def _positions(path: Path, bands: Sequence[int], count: int, dates: int) -> list[int]:
    """Where, from 0, the bands of all dates stand among the file's `count`."""
    if count % dates:
        raise FileFault(path, f"has {count} bands, which is no multiple of its {dates} dates", "band")
    per_date = count // dates
    for band in bands:
        if not 1 <= band <= per_date:
            of = f" for each of {dates} dates" if dates > 1 else ""
            raise FileFault(path, f"has no band {band}; it has {per_date}{of}, counted from 1", "band")
    return [d * per_date + b - 1 for d in range(dates) for b in bands]


def _unreadable(path: Path, error: BaseException) -> FileFault:
    cause = error
    while cause.__cause__ is not None:  # GDAL's own words are at the bottom of rasterio's
        cause = cause.__cause__
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return FileFault(path, f"cannot be read, truncated or not an image? ({reason})", "unreadable")
