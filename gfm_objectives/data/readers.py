"""Raster files of a folder of chips: bands, or a window of them, by the ending of the file's name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.cubes import read_cube
from gfm_objectives.data.geotiff import read_gdal
from gfm_objectives.data.rasters import FileFault, Raster, Window, from_array, told
from gfm_objectives.errors import InputError


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


def _read_npy(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    """(H, W), (C, H, W) or (T, C, H, W). Mapped, so that only what is asked for is read."""
    with told(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged header
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    return from_array(path, values, bands, dates, window)


# Lower-case ending -> reader. A new format is one function and one entry.
READERS: dict[str, Callable[[Path, Sequence[int], int, Window | None, str], Raster]] = {
    **dict.fromkeys((".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img"), read_gdal),
    ".npy": _read_npy,
    **dict.fromkeys((".h5", ".hdf5", ".nc", ".zarr"), read_cube),
}
