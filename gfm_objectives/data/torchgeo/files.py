"""What readers share: pixels of a GeoTIFF, dates, lists that ship with the package, splits of our own making."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.folder import days
from gfm_objectives.errors import InputError

Window = tuple[int, int, int, int]  # top, left, height, width


def read_tif(
    path: Path, bands: Sequence[int] | None = None, window: Window | None = None, raw: bool = False
) -> np.ndarray:
    """(C, H, W) as stored; bands from 1. raw: no conversion of colours, which GDAL makes of tiffs tagged as CMYK."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    from rasterio.windows import Window as RasterWindow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(f"GTIFF_RAW:{path}" if raw else path) as file:
                at = None if window is None else RasterWindow(window[1], window[0], window[3], window[2])
                return file.read(list(bands) if bands else None, window=at)
        except (RasterioIOError, IndexError) as error:
            raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch it again") from None


def read_square(path: Path, side: int) -> np.ndarray:
    """(side, side), the first band of a square file, each of whose pixels stands for a whole number of these."""
    x = read_tif(path)[0]
    if x.shape[0] != x.shape[1] or side % x.shape[0]:
        raise InputError(f"{path}: {x.shape[0]} x {x.shape[1]} pixels do not make {side} x {side}; fetch it again")
    return enlarged(x, side)


def shape_of(path: Path) -> tuple[int, int]:
    """(H, W) of a raster, from its header."""
    about = header(path)
    return about["height"], about["width"]


def header(path: Path) -> dict[str, Any]:
    """height, width, count, nodata and descriptions of a raster."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as file:
                return {k: getattr(file, k) for k in ("height", "width", "count", "nodata", "descriptions")}
        except RasterioIOError as error:
            raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch it again") from None


def day(text: str) -> float:
    """Days since 2000-01-01 of 2018-07-16, 2018/07/16 or 20180716; 0 = not known."""
    try:
        return float(days(str(text).replace("/", "-")))
    except ValueError:
        return 0.0


def lines_of(name: str) -> list[str]:
    """The lines of a list that ships with the package."""
    return (resources("gfm_objectives.data.torchgeo") / "lists" / name).read_text().split()


def table_of(name: str) -> list[dict[str, str]]:
    """The rows of a csv that ships with the package."""
    text = (resources("gfm_objectives.data.torchgeo") / "lists" / name).read_text()
    return list(csv.DictReader(text.splitlines()))


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a csv on disk."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def deal(units: Iterable[str], split: str, val: float = 0.1, test: float = 0.0) -> set[str]:
    """Units of one split, dealt by the hash of their names: whoever has all of them gets the same splits, and who has
    some gets those of all. pretrain sees what train does."""

    def where(unit: str) -> str:
        x = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64
        return "val" if x < val else "test" if x < val + test else "train"

    wanted = "train" if split == "pretrain" else split
    return {unit for unit in units if where(unit) == wanted}


def enlarged(x: np.ndarray, side: int) -> np.ndarray:
    """(..., h, w) -> (..., side, side): each pixel repeated, as the coarse bands of an instrument are."""
    h, w = x.shape[-2:]
    rows, columns = (np.arange(side) * h) // side, (np.arange(side) * w) // side
    return x[..., rows[:, None], columns]
