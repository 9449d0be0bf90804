"""Where and when: the code of a cell's place in metres, and of the day of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gfm_objectives.batch import Series

SHORTEST, LONGEST = 4.0, 100_000.0  # metres: chips of drones and chips of 512 pixels of 100 m are both in range


def metres(grid: tuple[int, int], patch: int, gsd: Tensor, dim: int) -> Tensor:
    """Sine-cosine code of each cell's row and column in metres from the chip's centre: (B, cells, dim).

    grid: rows and columns of cells of `patch` pixels of gsd (B,) metres. Each wave is averaged over the cell's extent,
    sin(x) times sinc(cell / wavelength): waves too short for cells of this size fade out instead of aliasing.
    """
    wave = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), dim // 4, device=gsd.device)
    cell = patch * gsd[:, None]  # (B, 1) metres
    fade = torch.sinc(cell / wave)[:, None]  # (B, 1, dim / 4)
    axes = []
    for n in grid:
        at = (2 * torch.arange(n, device=gsd.device) - (n - 1)) / 2 * cell  # (B, n) metres
        angle = 2 * math.pi * at[..., None] / wave
        axes.append(torch.cat([angle.sin() * fade, angle.cos() * fade], -1))  # (B, n, dim / 2)
    row, column = axes
    shape = (-1, grid[0], grid[1], -1)
    code = torch.cat([row[:, :, None].expand(shape), column[:, None].expand(shape)], -1)
    return code.flatten(1, 2) * 0.5


def day_features(series: Series, shown: Series | None = None) -> Tensor:
    """(B, T, 5): day of year as two harmonics, and years since the first date of the series, or of the one `shown`."""
    year = 2 * math.pi * series.day / 365.25
    since = (series.day - (shown or series).day.amin(1, keepdim=True)) / 365.25
    return torch.stack([year.sin(), year.cos(), (2 * year).sin(), (2 * year).cos(), since], -1)
