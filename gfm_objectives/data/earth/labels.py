"""Floods, and the target layers: the exact labels of the tasks and the noisy map for pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.layout import FIRST_CROP, Layout
from gfm_objectives.data.earth.regions import Regions
from gfm_objectives.data.earth.tables import CONFUSED_WITH, CROPS, MAP_OF, E, U

COARSE_ERROR = 0.215  # share of pixels that 30 m blocks everywhere get wrong, measured


@dataclass(slots=True)
class Flood:
    """water (B, T, H, W) bool: flooded at that date; canopy (B, H, W) 0..1: how far plants hide the water."""

    water: Tensor
    canopy: Tensor


def make_flood(draws: Draws, layout: Layout, dates: int) -> Flood:
    """Two places in three are flooded at the last date, some earlier instead (and dry again), the rest never."""
    size = layout.use.shape[-1]
    lot = draws.uniform(3)
    rough = 0.38 * draws.field(1, 7, size)[:, 0] + 0.16 * draws.field(1, 20, size)[:, 0]
    low = layout.level.flatten(1).min(1).values
    rise = 0.35 + 1.5 * lot[:, 1]
    under = (layout.level + rough < (low + rise)[:, None, None]) & (layout.use != U["water"])
    last = lot[:, 0] < 0.68
    when = torch.where(last, dates - 1, max(dates - 2, 0))
    never = (lot[:, 0] > 0.85) | (~last if dates == 1 else torch.zeros_like(last))
    at = torch.arange(dates) == when[:, None]
    at &= ~never[:, None]
    water = under[:, None] & at[..., None, None]
    element = layout.element
    trees = (element == E["conifer"]) | (element == E["broadleaf"])
    stems = (element == E["reed"]) | (element == E["shrub"])
    built = (element == E["roof"]) | (element == E["asphalt"])
    tall = ~(trees | stems | built) & (layout.vigour > 0.6)  # rank grass and crops stand out of shallow water
    canopy = 0.9 * trees + 0.75 * stems + 0.5 * built + 0.6 * tall
    return Flood(water, canopy)


def map_exact(layout: Layout) -> Tensor:
    """(B, H, W) map class of each pixel, without error. Orchards count as trees."""
    exact = MAP_OF[layout.element]
    return torch.where(layout.use == U["orchard"], 1, exact)


def noisy_map(draws: Draws, exact: Tensor, region: Regions, label_noise: float) -> Tensor:
    """The map as a 30 m product of another day: blocks of 3 x 3, shifted by a pixel, with classes confused in patches.

    `label_noise` is the expected share of wrong pixels over many places; single places and regions differ.
    """
    size = exact.shape[-1]
    blocks = -(-size // 3)
    lot = draws.uniform(3)
    patch = draws.field(1, 9, size)[:, 0]
    block = draws.uniform(3, blocks, blocks)
    if label_noise == 0:
        return exact.clone()
    # 30 m: the class of one pixel stands for its block, in as many blocks as make half of the errors.
    at = (torch.arange(size) // 3 * 3 + 1).clamp(max=size - 1)
    dx, dy = (lot[:, 0] * 3).long() - 1, (lot[:, 1] * 3).long() - 1
    x = (at + dx[:, None]).clamp(0, size - 1)
    y = (at + dy[:, None]).clamp(0, size - 1)
    coarse = exact.flatten(1).gather(1, (y[:, :, None] * size + x[:, None]).flatten(1)).view_as(exact)
    to_pixels = torch.arange(size) // 3
    u = block[:, :, to_pixels][..., to_pixels]  # (B, 3, H, W)
    blocky = min(0.5 * label_noise, COARSE_ERROR)
    out = torch.where(u[:, 0] < blocky / COARSE_ERROR, coarse, exact)
    # The other half: in patches of the landscape and block by block.
    rest = 1 - (1 - label_noise) / (1 - blocky)
    share = (rest * region.noise).clamp(max=0.95)[:, None, None]
    doubt = 0.5 * (torch.erf(patch * 0.7071) + 1)
    wrong = (doubt < 0.5 * share) | (u[:, 1] < 0.5 * share / (1 - 0.5 * share))
    other = CONFUSED_WITH[:, 0][out].where(u[:, 2] < 0.65, CONFUSED_WITH[:, 1][out])
    return torch.where(wrong, other, out)


def crop_label(layout: Layout) -> Tensor:
    """(B, H, W) crop; -1 where none grows (fallow included)."""
    crop = layout.element - FIRST_CROP
    return torch.where((crop >= 0) & (crop < len(CROPS)), crop, -1)


def flood_label(layout: Layout, flood: Flood) -> Tensor:
    """(B, H, W) 0 dry, 1 permanent water, 2 flood, at the last date."""
    permanent = (layout.use == U["water"]).long()
    return torch.where(flood.water[:, -1], 2, permanent)


def boundary_label(layout: Layout) -> Tensor:
    """(B, H, W) 0 no field, 1 inside a field, 2 on its boundary: the pixels of arable land beside another parcel or
    another use, and the hedges and roads that run through it. One pixel wide on each side.
    """
    arable = layout.use == U["arable land"]
    field = torch.where(arable, layout.parcel, -1)
    padded = F.pad(field[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].long()  # the place's edge is no limit
    sides = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    limit = torch.stack([side != field for side in sides]).any(0) | (layout.element < FIRST_CROP)
    return torch.where(arable, 1 + limit.long(), 0)


def builtup_label(layout: Layout) -> Tensor:
    """(B, H, W) 0 not built-up, 1 sparse, 2 dense, by the share of roofs within 50 x 50 m: from 7 % and from 38 %.

    No share of whole pixels lies at either limit, not even at the edge of a place, so that rounding decides nothing.
    """
    roof = (layout.element == E["roof"]).float()
    share = F.avg_pool2d(roof[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    return (share > 0.07).long() + (share > 0.38)
