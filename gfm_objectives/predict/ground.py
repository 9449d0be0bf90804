"""The ground of a map: its pixels, and windows of raster files read onto them, warped where they lie elsewhere."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.remote import gdal_name, is_remote
from gfm_objectives.errors import InputError

OPEN = 64  # files kept open at a time
METRES_PER_DEGREE = 111_320.0  # of latitude
CLOSE = 0.01  # pixels that a file may lie off the ground and still be read as it is


@dataclass(frozen=True, slots=True)
class Ground:
    """Height and width in pixels; crs and affine transform, both None where nothing says where it lies."""

    height: int
    width: int
    crs: Any = None
    transform: Any = None

    @classmethod
    def of(cls, file: Any) -> Ground:
        """That of an open rasterio file."""
        placed = file.crs is not None and not file.transform.is_identity
        return cls(file.height, file.width, *((file.crs, file.transform) if placed else (None, None)))

    @property
    def gsd(self) -> float | None:
        """Metres per pixel, the mean of both sides; of degrees, in the middle of the ground; None = not known."""
        if self.crs is None:
            return None
        t = self.transform
        across, down = math.hypot(t.a, t.d), math.hypot(t.b, t.e)
        if not self.crs.is_geographic:
            return math.sqrt(across * down) * self.crs.linear_units_factor[1]
        latitude = t.f + t.e * self.height / 2
        return METRES_PER_DEGREE * math.sqrt(across * down * max(math.cos(math.radians(latitude)), 1e-3))

    def finer(self, factor: float) -> Ground:
        """The same ground with pixels of 1 / factor the side."""
        assert self.crs is not None
        h, w = (max(1, round(n * factor)) for n in (self.height, self.width))
        return Ground(h, w, self.crs, moved(self.transform, scale=(self.width / w, self.height / h)))

    def part(self, top: int, left: int, height: int, width: int) -> Ground:
        """The window of these pixels; it may reach beyond."""
        transform = None if self.crs is None else moved(self.transform, left, top)
        return Ground(height, width, self.crs, transform)

    def offset(self, other: Ground) -> tuple[int, int] | None:
        """(row, column) of the top left pixel of `other`, where its pixels are those of this ground; else None."""
        if self.crs is None or other.crs is None:
            return (0, 0) if (self.height, self.width) == (other.height, other.width) else None
        if self.crs != other.crs:
            return None
        corners = [(0, 0), (other.width, 0), (0, other.height)]
        (c, r), *ends = (place(~self.transform, *place(other.transform, *corner)) for corner in corners)
        row, column = round(r), round(c)
        wanted = [(column + x, row + y) for x, y in corners]
        off = max(abs(a - b) for p, q in zip([(c, r), *ends], wanted, strict=True) for a, b in zip(p, q, strict=True))
        return (row, column) if off <= CLOSE else None

    def covers(self, other: Ground) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in this ground's pixels of a box that holds all of `other`."""
        from rasterio.transform import array_bounds
        from rasterio.warp import transform_bounds

        bounds = array_bounds(other.height, other.width, other.transform)
        if other.crs != self.crs:
            bounds = transform_bounds(other.crs, self.crs, *bounds)
        west, south, east, north = bounds
        corners = (west, north), (east, north), (west, south), (east, south)
        at = [place(~self.transform, *corner) for corner in corners]
        columns, rows = zip(*at, strict=True)
        return math.floor(min(rows)), math.floor(min(columns)), math.ceil(max(rows)), math.ceil(max(columns))


def place(transform: Any, column: float, row: float) -> tuple[float, float]:
    """Coordinates of a place in pixels. The product of affine transforms has two spellings, by the library's age."""
    t = transform
    return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f


def moved(transform: Any, column: float = 0, row: float = 0, scale: tuple[float, float] = (1, 1)) -> Any:
    """The transform of pixels that begin at (column, row) and are `scale` times as large across and down."""
    t, (x, y) = transform, place(transform, column, row)
    return type(t)(t.a * scale[0], t.b * scale[1], x, t.d * scale[0], t.e * scale[1], y)


def union(grounds: list[Ground], paths: list[Path]) -> Ground:
    """The ground of the first that holds all of them. InputError names a file that cannot be placed on it."""
    first = grounds[0]
    if len(grounds) == 1:
        return first
    for ground, path in zip(grounds, paths, strict=True):
        if ground.crs is None:
            raise InputError(f"{path}: has no coordinate system, so it cannot be joined with others; give one file")
    boxes = [first.covers(g) for g in grounds]
    top, left = min(b[0] for b in boxes), min(b[1] for b in boxes)
    bottom, right = max(b[2] for b in boxes), max(b[3] for b in boxes)
    return first.part(top, left, bottom - top, right - left)


class Files:
    """Raster files, opened when needed and a few kept open, read by windows of one ground. For one thread."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._open: OrderedDict[tuple[Path, str], tuple[Any, tuple[int, int] | None]] = OrderedDict()

    def read(
        self,
        path: Path,
        bands: list[int],
        box: tuple[int, int, int, int],
        how: str = "bilinear",
        nodata: float | None = None,
    ) -> np.ndarray | None:
        """(C, h, w) float32 of the window (top, left, height, width), NaN where the file has nothing; None where
        all of the window lies outside. nodata: what means nothing, None = as the file says; what a mask of the file
        hides is nothing too. InputError names the file."""
        from rasterio.enums import MaskFlags
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            file, offset = self._opened(path, how, nodata, bands)
            top, left, height, width = box
            if offset is not None:
                top, left = top - offset[0], left - offset[1]
            first, past = (max(0, top), max(0, left)), (min(file.height, top + height), min(file.width, left + width))
            if past[0] <= first[0] or past[1] <= first[1]:
                return None
            window = Window(first[1], first[0], past[1] - first[1], past[0] - first[0])  # type: ignore[call-arg]
            values = file.read(bands, window=window).astype(np.float32, copy=False)
            if file.mask_flag_enums[0] == [MaskFlags.per_dataset]:  # alpha may be a band that is only called so
                values[file.read_masks(bands, window=window) == 0] = np.nan
            nothing = file.nodata if nodata is None or offset is None else nodata
        except (RasterioError, OSError) as error:
            raise unreadable(path, error) from error
        if nothing is not None and not np.isnan(nothing):
            values[values == np.float32(nothing)] = np.nan
        if values.shape[1:] == (height, width):
            return values
        out = np.full((len(bands), height, width), np.nan, np.float32)
        out[:, first[0] - top : past[0] - top, first[1] - left : past[1] - left] = values
        return out

    def _opened(
        self, path: Path, how: str, nodata: float | None, bands: list[int]
    ) -> tuple[Any, tuple[int, int] | None]:
        """The file and its offset on the ground; a warped view of the ground, and None, where it lies elsewhere."""
        key = (path, how)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        file: Any = open_raster(path)
        own = Ground.of(file)
        offset = self.ground.offset(own)
        if offset is None:
            if own.crs is None or self.ground.crs is None:
                sizes = f"{own.height} x {own.width} pixels, the scene {self.ground.height} x {self.ground.width}"
                raise InputError(f"{path}: is {sizes}, and not both say where they lie; georeference both")
            if alpha := [b for b in bands if file.colorinterp[b - 1].name == "alpha"]:  # GDAL would warp by it
                told = f"gdal_edit.py -colorinterp_{alpha[0]} undefined {path}"
                raise InputError(f"{path}: calls band {alpha[0]} alpha, so it cannot be warped; unless it is: {told}")
            file = _warped(file, self.ground, how, nodata)
        self._open[key] = file, offset
        while len(self._open) > OPEN:
            self._open.popitem(last=False)[1][0].close()
        return self._open[key]

    def close(self) -> None:
        for file, _ in self._open.values():
            file.close()
        self._open.clear()


def open_raster(path: Path) -> Any:
    """rasterio.open, without its word on files that say no place. InputError where it is no raster."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if not is_remote(path) and not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(gdal_name(path))
    except (RasterioError, OSError) as error:
        raise unreadable(path, error) from error


def _warped(file: Any, ground: Ground, how: str, nodata: float | None) -> Any:
    """A view of the file on the ground's pixels: bilinear or nearest, the mean where its own are much smaller."""
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    own, here = Ground.of(file).gsd, ground.gsd
    if how == "bilinear" and own and here and here > 1.5 * own:
        how = "average"
    return WarpedVRT(
        file,
        crs=ground.crs,
        transform=ground.transform,
        height=ground.height,
        width=ground.width,
        resampling=Resampling[how],
        src_nodata=file.nodata if nodata is None else nodata,
        nodata=float("nan"),
        dtype="float32",
    )


def unreadable(path: Path, error: BaseException) -> InputError:
    """GDAL's own words are at the bottom of rasterio's."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return InputError(f"{path}: cannot be read ({reason}); is it whole?")
