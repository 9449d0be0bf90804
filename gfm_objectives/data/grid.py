"""One grid for all files of a chip: warped where both are georeferenced, resampled by their sizes where not."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

LARGEST = 10  # two sizes are the same ground where their ratio is p / q with p or q at most this: 10 m and 15, 20, 60 m


@dataclass(frozen=True, slots=True)
class Grid:
    """Height and width in pixels, and (coordinate system, affine transform) where the file is georeferenced."""

    height: int
    width: int
    place: tuple[Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def way(self, other: Grid) -> str | None:
        """How a raster on `other` comes to this grid: '' as it is, 'warp', 'ratio', or None if it cannot.

        Georeferenced grids of one shape that agree within half a pixel count as the same.
        """
        if self.place is not None and other.place is not None:
            return "" if self.shape == other.shape and self._close(other) else "warp"
        if self.shape == other.shape:
            return ""
        rows, columns = Fraction(self.height, other.height), Fraction(self.width, other.width)
        return "ratio" if rows == columns and min(rows.numerator, rows.denominator) <= LARGEST else None

    def _close(self, other: Grid) -> bool:
        assert self.place is not None and other.place is not None
        (crs, transform), (other_crs, other_transform) = self.place, other.place
        if crs != other_crs:
            return False
        mine, theirs = (np.array(t, float).reshape(3, 3) for t in (transform, other_transform))
        corners = np.array([(0, 0, 1), (self.width, 0, 1), (0, self.height, 1)]).T  # column, row, 1
        shift = np.linalg.solve(mine, theirs @ corners) - corners
        return bool(np.abs(shift).max() <= 0.5)


def resample_pixels(values: np.ndarray, grid: Grid, to: Grid) -> np.ndarray:
    """(T, C, h, w) float on `grid` -> (T, C, H, W) on `to`; bilinear over the pixels that are not NaN.

    Coming to larger pixels averages. NaN where more than half of what a pixel is made of is, and outside the file.
    """
    way = to.way(grid)
    if way == "":
        return values
    if way == "warp":
        return _warp(values, grid, to, "bilinear", np.nan)
    x = torch.from_numpy(values)
    ok = x.isfinite()

    def stretch(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, to.shape, mode="bilinear", antialias=True)

    weight = stretch(ok.float())
    x = stretch(torch.where(ok, x, 0)) / weight.clamp(min=0.5)
    return torch.where(weight >= 0.5, x, torch.nan).numpy()


def resample_codes(codes: np.ndarray, grid: Grid, to: Grid, outside: int) -> np.ndarray:
    """(..., h, w) whole numbers on `grid` -> (..., H, W) on `to`, each pixel the nearest; `outside` beyond the file."""
    way = to.way(grid)
    if way == "":
        return codes
    if way == "warp":
        flat = codes.reshape(1, -1, *codes.shape[-2:]).astype(np.int32)
        return _warp(flat, grid, to, "nearest", outside).reshape(*codes.shape[:-2], *to.shape).astype(codes.dtype)
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(to.shape, grid.shape, strict=True))
    return codes[..., rows[:, None], columns]


def _warp(values: np.ndarray, grid: Grid, to: Grid, how: str, empty: float) -> np.ndarray:
    """(T, C, h, w) -> (T, C, H, W); `empty` marks nothing on both sides."""
    from rasterio.warp import Resampling, reproject

    assert grid.place is not None and to.place is not None
    flat = np.ascontiguousarray(values.reshape(-1, *grid.shape))
    out = np.full((len(flat), *to.shape), empty, flat.dtype)
    reproject(
        flat,
        out,
        src_crs=grid.place[0],
        src_transform=grid.place[1],
        src_nodata=empty,
        dst_crs=to.place[0],
        dst_transform=to.place[1],
        dst_nodata=empty,
        resampling=Resampling[how],
    )
    return out.reshape(*values.shape[:2], *to.shape)
