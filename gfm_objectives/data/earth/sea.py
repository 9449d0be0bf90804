"""Open water: floating debris in windrows, and what looks like it: foam, glint, ships, shoals, plumes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.events import Cover, Event, bent
from gfm_objectives.data.earth.layout import Layout
from gfm_objectives.data.earth.regions import Regions
from gfm_objectives.data.earth.tables import CONSTANT, SEASONAL, U

# Reflectance in S2_TEN of what floats, whole pixels of it: round figures after published spectra (MARIDA, Kikaki et
# al. 2022; Biermann et al. 2020 for plastic; sargassum and whitecaps from the ocean colour literature).
AFLOAT = torch.tensor(
    [
        [0.190, 0.200, 0.200, 0.205, 0.210, 0.215, 0.220, 0.220, 0.185, 0.150],  # plastic
        [0.030, 0.050, 0.055, 0.095, 0.170, 0.200, 0.220, 0.225, 0.130, 0.065],  # sargassum
        [0.070, 0.100, 0.130, 0.155, 0.190, 0.220, 0.245, 0.260, 0.270, 0.200],  # wood
        [0.430, 0.440, 0.440, 0.425, 0.400, 0.380, 0.360, 0.345, 0.130, 0.080],  # foam
        [0.300, 0.300, 0.300, 0.298, 0.296, 0.294, 0.292, 0.290, 0.270, 0.250],  # glint
        [0.105, 0.130, 0.090, 0.055, 0.032, 0.026, 0.021, 0.018, 0.006, 0.004],  # shoal: sand under water
        [0.190, 0.200, 0.215, 0.222, 0.230, 0.238, 0.245, 0.250, 0.240, 0.210],  # ship
    ]
)
LEAST = 0.2  # share of a pixel that must be debris for the label
SHIPS = 3  # at most, per look


def sea_draws(size: int, dates: int) -> int:
    return int((600 + 2300 * dates) * max(1.0, size / 64) ** 2)


def make_sea(place: Tensor, draws: Draws, home: Draws, layout: Layout, region: Regions, dates: int) -> Event:
    """Seven looks in ten at the N places have debris; it drifts, so that every date shows other windrows.

    Rows of draws, home (by region), layout and region are the places'. Label: 1 where debris covers at least LEAST of
    a pixel at the last date.
    """
    size = layout.use.shape[-1]
    sea = (layout.use == U["water"])[:, None].float()  # (N, 1, H, W)
    lot = draws.uniform(dates, 14)[..., None, None]  # (N, T, 14, 1, 1)
    mine = draws.uniform(4)[..., None, None, None]  # (N, 4, 1, 1, 1)
    grid = (torch.arange(size) + 0.5 - size / 2).expand(size, size)

    def have(column: int, odds: float) -> Tensor:
        return (lot[:, :, column] < odds).float()

    # Windrows run with the wind and meander; foam gathers in the same lines.
    wind = 6.2832 * mine[:, 0] + 0.6 * (lot[:, :, 0] - 0.5)
    across = grid * wind.cos() + grid.T * wind.sin() + 4 * draws.field(dates, 3, size) + draws.field(dates, 9, size)
    spacing = 10 + 22 * lot[:, :, 1]

    def rows(phase: Tensor, width: Tensor) -> Tensor:
        away = ((across / spacing + phase).remainder(1) - 0.5) * spacing
        return (1 - (away / (1.7 * width)).square()).clamp(min=0).square()

    patchy = draws.field(2 * dates, 6, size) + 0.5 * draws.field(2 * dates, 16, size)
    here, there = torch.sigmoid(4 * (patchy - 1.9)).chunk(2, 1)
    raft = torch.sigmoid(6 * (draws.field(dates, 18, size) - 3.1))
    debris = (0.5 + 0.5 * lot[:, :, 2]) * (rows(lot[:, :, 3], 0.7 + 0.7 * lot[:, :, 4]) * here).maximum(raft)
    debris = debris * have(5, 0.7) * sea
    foam = (0.08 + 0.3 * lot[:, :, 6]) * rows(lot[:, :, 7], 0.5 + 0.9 * lot[:, :, 4]) * there * have(8, 0.6)
    ship, wake = _ships(draws.uniform(dates, SHIPS, 5)[..., None, None], grid)

    # Near the shore sand shows and waves break.
    mean = (torch.arange(size)[:, None] - torch.arange(size)).abs() <= 6
    mean = (mean / mean.sum(1, keepdim=True)).expand(len(sea), -1, -1)  # of 13 pixels; fewer at the edge
    shore = torch.bmm(torch.bmm(mean, 1 - sea[:, 0]), mean.transpose(1, 2))[:, None]
    shoal = (1.6 * shore + 0.3 * draws.field(1, 5, size)).clamp(0, 0.9) * (mine[:, 1] < 0.6)
    surf = 0.5 * lot[:, :, 9] * (F.max_pool2d(1 - sea, 3, 1, 1) > 0) * (patchy[:, :dates] > 0.3)
    foam = torch.stack([foam, surf, wake]).amax(0) * sea
    plume = torch.sigmoid(2 * draws.field(1, 4, size)) * mine[:, 2]
    waves = torch.stack(draws.pixels("normal", dates * size * size)).view(-1, dates, size, size)
    bright = 0.3 * lot[:, :, 10] * torch.sigmoid(2 * draws.field(dates, 4, size))
    glint = (bright * (1 + 0.35 * waves)).clamp(0, 0.6) * have(11, 0.4) * sea

    kinds = bent(AFLOAT, home)  # (N, kinds, 10)
    mix = torch.softmax(1.2 * home.normal(3) + 1.2 * draws.normal(3), 1)
    litter = (mix[..., None] * kinds[:, :3]).sum(1)
    mud = region.spectra[:, len(SEASONAL) + CONSTANT.index("sediment")]
    paint = torch.exp(0.6 * draws.normal(1))
    every = torch.ones(dates, 1, 1)
    covers = [
        Cover(plume * sea * every, mud),
        Cover(shoal * sea * every, kinds[:, 5]),
        Cover(glint, kinds[:, 4]),
        Cover(debris, litter),
        Cover(foam, kinds[:, 3]),
        Cover(ship * sea, (kinds[:, 6] * paint).clamp(max=0.6), (16.0, 14.0)),
    ]
    seen = (debris[:, -1] >= LEAST) & (ship[:, -1] < 0.5)
    return Event(place, covers, seen.long())


def _ships(lot: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Share (N, T, H, W) of each pixel under hulls and under wakes; lot (N, T, SHIPS, 5, 1, 1) uniform."""
    size = len(grid)
    there, course, length = lot[:, :, :, 0] < 0.25, 6.2832 * lot[:, :, :, 1], 1.2 + 2.5 * lot[:, :, :, 2]
    east, south = grid - (lot[:, :, :, 3] - 0.5) * size, grid.T - (lot[:, :, :, 4] - 0.5) * size
    ahead = east * course.cos() + south * course.sin()  # (N, T, SHIPS, H, W) pixels
    aside = (south * course.cos() - east * course.sin()).abs()
    hull = (1.3 - torch.maximum(ahead.abs() / length, aside / 0.8)).clamp(0, 1)
    behind = (-ahead).clamp(min=0)
    wake = 0.5 * (1 - behind / 20).clamp(min=0) * (1 - aside / (0.9 + 0.06 * behind)).clamp(min=0) * (ahead < 0)
    return (hull * there).amax(2), (wake * there).amax(2)
