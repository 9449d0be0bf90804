"""From one grid to another: values averaged as what they are, classes by majority."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from gfm_objectives.data.grid import Grid

NOWHERE = -(2**31)  # no code: what a warp leaves out of a majority must not be a code that is there
FINER = 1.5  # from so many source pixels across a target pixel on, classes are decided by majority, not by the nearest


def resample_pixels(values: np.ndarray, grid: Grid, to: Grid, unit: str = "", way: str | None = None) -> np.ndarray:
    """(T, C, h, w) float on `grid` -> (T, C, H, W) on `to`; bilinear over the pixels that are not NaN.

    Coming to larger pixels averages: decibels as the power they stand for, degrees of an angle as directions. NaN where
    more than half of what a pixel is made of is, and outside the file.
    """
    way = to.way(grid) if way is None else way
    if way == "":
        return values
    if unit == "decibel":
        power = _resample(10 ** (values / 10), grid, to, way)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (10 * np.log10(power)).astype(np.float32)
    if unit == "degree":
        x, y = (_resample(f(np.radians(values)).astype(np.float32), grid, to, way) for f in (np.cos, np.sin))
        return (np.degrees(np.arctan2(y, x)) % 360).astype(np.float32)
    return _resample(values, grid, to, way)


def _resample(values: np.ndarray, grid: Grid, to: Grid, way: str | None) -> np.ndarray:
    if way == "warp":
        return _warp(values, grid, to, "bilinear", np.nan)
    x = torch.from_numpy(np.ascontiguousarray(values))
    ok = x.isfinite()

    def stretch(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, to.shape, mode="bilinear", antialias=True)

    weight = stretch(ok.float())
    x = stretch(torch.where(ok, x, 0)) / weight.clamp(min=0.5)
    return torch.where(weight >= 0.5, x, torch.nan).numpy()


def resample_codes(codes: np.ndarray, grid: Grid, to: Grid, outside: int, way: str | None = None) -> np.ndarray:
    """(..., h, w) whole numbers on `grid` -> (..., H, W) on `to`; `outside` beyond the file.

    Each pixel has the code nearest to it or, coming to larger pixels, the one with most of its ground.
    """
    way = to.way(grid) if way is None else way
    if way == "":
        return codes
    if way == "warp":
        finer = (to.metres or 0) >= FINER * (grid.metres or np.inf)
        flat = codes.reshape(1, -1, *codes.shape[-2:]).astype(np.int32)
        out = _warp(flat, grid, to, "mode" if finer else "nearest", NOWHERE)
        out = np.where(out == NOWHERE, outside, out)
        return out.reshape(*codes.shape[:-2], *to.shape).astype(codes.dtype)
    if grid.height >= FINER * to.height:
        return _majority(codes, to)
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(to.shape, grid.shape, strict=True))
    return codes[..., rows[:, None], columns]


def _majority(codes: np.ndarray, to: Grid) -> np.ndarray:
    flat = torch.from_numpy(codes.astype(np.int64).reshape(1, -1, *codes.shape[-2:]))
    most = torch.full((1, flat.shape[1], *to.shape), -1.0)
    out = torch.zeros(most.shape, dtype=torch.long)
    for code in reversed(flat.unique().tolist()):  # of equals, a label rather than none, flagged rather than not
        share = F.adaptive_avg_pool2d((flat == code).float(), to.shape)
        out[share > most] = code
        most = torch.maximum(most, share)
    return out.numpy().reshape(*codes.shape[:-2], *to.shape).astype(codes.dtype)


def _warp(values: np.ndarray, grid: Grid, to: Grid, how: str, empty: float) -> np.ndarray:
    """(T, C, h, w) -> (T, C, H, W); `empty` marks nothing on both sides."""
    from rasterio.warp import Resampling, reproject

    assert grid.place is not None and to.place is not None
    flat = np.ascontiguousarray(values.reshape(-1, *grid.shape))
    out = np.full((len(flat), *to.shape), empty, flat.dtype)
    if flat.size:  # nothing of the file lies here
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
