"""The layout of a place: relief, rivers and lakes, parcels, land use, and which surface element covers each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.regions import Regions
from gfm_objectives.data.earth.tables import CROPS, E, U

SIDE = 16  # parcels are numbered in a SIDE x SIDE table that repeats
PARCELS = SIDE * SIDE
FIRST_CROP = E[CROPS[0]]


@dataclass(slots=True)
class Layout:
    """B places; everything that does not change with the date.

    height (B, H, W) metres; level (B, H, W) relief above drainage, about unit variance; use, element, parcel
    (B, H, W) long; canopy (B, H, W) stand texture, about unit variance; parcel tables (B, PARCELS) or wider.
    """

    height: Tensor
    level: Tensor
    use: Tensor
    element: Tensor
    parcel: Tensor
    vigour: Tensor
    crop: Tensor  # (B, PARCELS) 0..len(CROPS), the last is fallow
    shift: Tensor  # (B, PARCELS) days
    rough: Tensor  # (B, PARCELS + 1) roughness and moisture of open ground, -2.5..1.2; the last row is off the parcels
    cut: Tensor  # (B, PARCELS) days the second pulse is moved
    strength: Tensor  # (B, PARCELS) of the growth

    def rows(self, ids: Tensor) -> Layout:
        return Layout(*(getattr(self, f)[ids] for f in self.__slots__))


def layout_draws(size: int) -> int:
    return int(9800 * max(1.0, size / 64) ** 2)


def make_layout(draws: Draws, region: Regions, size: int, sea: Tensor) -> Layout:
    """sea (B,): how far open water rises above the level of ponds, in units of relief; 0 inland."""
    b = len(region.relief)
    grid = (torch.arange(size) + 0.5 - size / 2).expand(size, size)
    east, south = grid[None], grid.T[None]  # (1, H, W) pixels from the centre

    river, basin, relief = _terrain(draws, region, size, east, south, sea)
    parcel, centre, row_edge, street, rows = _parcels(draws, region, size, east, south)

    # Land use: the highest of the uses' odds, parcel by parcel where people drew the lines.
    odds = region.logits + 0.6 * draws.normal(10)  # (B, uses)
    patchy = 1.15 * draws.field(9, 5, size) + 0.75 * draws.field(9, 11, size)  # all but water
    score = patchy + odds[:, 1:, None, None]
    high = relief / relief.flatten(1).std(1).clamp(min=0.1)[:, None, None]
    score[:, U["wetland"] - 1] -= 0.7 * high
    score[:, U["bare ground"] - 1] += 0.5 * high
    score[:, U["arable land"] - 1] -= 0.3 * high
    score[:, U["coniferous forest"] - 1] += 0.3 * high
    managed = [U[n] - 1 for n in ("orchard", "arable land", "dense urban", "scattered settlement")]
    at = centre.flatten(1)[:, None].expand(-1, len(managed), -1)  # (B, managed, P)
    score[:, managed] = score[:, managed].flatten(2).gather(2, at).view(b, len(managed), size, size)
    use = argmax(score) + 1
    water = (river < 0) | (basin < 0)
    use.masked_fill_(water, U["water"])

    # Ground elements within each use.
    mid = draws.field(1, 24, size)[:, 0]
    coarse = draws.field(1, 9, size)[:, 0]
    grain = torch.stack(draws.pixels("normal", size * size)).view(b, size, size)
    lottery = draws.uniform(PARCELS)
    mine = lottery.gather(1, parcel.flatten(1)).view_as(parcel)
    crop = _crops(draws, region)
    element = _elements(use, mine, mid, coarse, grain, street, rows, draws)
    arable = use == U["arable land"]
    element = torch.where(arable, crop.gather(1, parcel.flatten(1)).view_as(parcel) + FIRST_CROP, element)

    # Hedges and roads along the rows of parcels.
    hedge = row_edge & (mine < 0.2) & (arable | (use == U["grassland and heath"]))
    element.masked_fill_(hedge, E["broadleaf"])
    road = row_edge & (mine > 0.82) & ~water
    element.masked_fill_(road, E["asphalt"])

    height = relief * region.relief[:, None, None]
    growth = draws.normal(PARCELS, 3)
    ground = draws.normal(PARCELS + 1).mul_(0.55).clamp_(-1.2, 1.2)
    ground -= 1.3 * (draws.uniform(PARCELS + 1) < 0.16)  # rolled, wet or sandy: as dark to a radar as water
    return Layout(
        height=height,
        level=relief,
        use=use,
        element=element,
        parcel=parcel,
        vigour=0.7 * mid + 0.7 * draws.field(1, 16, size)[:, 0],
        crop=crop,
        shift=9 * growth[..., 0],
        rough=ground,
        cut=35 * growth[..., 1],
        strength=torch.exp(0.16 * growth[..., 2]).clamp_(0.6, 1.25),
    )


def _terrain(
    draws: Draws, region: Regions, size: int, east: Tensor, south: Tensor, sea: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to a river's bank and to a lake's level (negative inside), and the relief they carve; all (B, H, W)."""
    relief = draws.field(1, 3, size) + 0.35 * draws.field(1, 8, size) + 0.13 * draws.field(1, 20, size)
    relief = relief[:, 0]
    lot = draws.uniform(6)[..., None, None]
    angle, offset = lot[:, 0] * 6.2832, (lot[:, 1] - 0.5) * size * 0.7
    bends = 5.5 * draws.field(1, 3, size)[:, 0] + 1.4 * draws.field(1, 8, size)[:, 0]
    line = east * angle.cos() + south * angle.sin() - offset + bends
    wet = region.wet[:, None, None]
    exists = lot[:, 2] < 0.35 + 0.25 * wet
    half_width = 0.8 + 4.5 * lot[:, 3] ** 2
    river = torch.where(exists, line.abs() - half_width, 1e3)
    valley = torch.exp(-((line / (7 + 3 * half_width)) ** 2)) * exists
    relief = relief * (1 - 0.6 * valley) - 0.9 * valley
    # Lakes and ponds fill what lies below a level; in most places the level lies below everything.
    brim = (
        -1.75 + 1.0 * (lot[:, 4] - 0.5) + 0.45 * (wet - 0.5) + 0.6 * (lot[:, 5] < 0.12 + 0.2 * wet) + sea[:, None, None]
    )
    basin = relief + 0.3 * valley - brim
    relief = torch.where(basin < 0, brim - 0.3 * valley, relief)
    return river, basin, relief


def _parcels(draws: Draws, region: Regions, size: int, east: Tensor, south: Tensor) -> tuple[Tensor, ...]:
    """Parcel number, pixel number of its centre, edges of rows of parcels, streets, planting rows; all (B, H, W)."""
    lot = draws.uniform(5)[..., None, None]
    angle = lot[:, 0] * 3.1416
    cos, sin = angle.cos(), angle.sin()
    long, short = region.parcel[:, 0, None, None], region.parcel[:, 1, None, None]
    scale = 0.8 + 0.5 * lot[:, 1]
    long, short = long * scale, short * scale
    warp = draws.field(2, 3, size)
    u = (east * cos + south * sin + 1.3 * warp[:, 0]) / long + 8 * lot[:, 2]
    v = (south * cos - east * sin + 1.3 * warp[:, 1]) / short + 8 * lot[:, 3]
    row = v.floor()
    stagger = draws.uniform(SIDE)
    row_id = row.long().remainder(SIDE)
    u = u + stagger.gather(1, row_id.flatten(1)).view_as(u)
    column = u.floor()
    parcel = column.long().remainder(SIDE) * SIDE + row_id

    # Back from the parcel's middle to the pixel that holds it, kept inside the place.
    du, dv = (column + 0.5 - u) * long, (row + 0.5 - v) * short
    x = (east + du * cos - dv * sin + size / 2).clamp(0, size - 1).long()
    y = (south + du * sin + dv * cos + size / 2).clamp(0, size - 1).long()
    row_edge = (v - row) * short < 1.1
    fu, fv = u * long, v * short  # pixels along the parcel grid
    street = (fu.remainder(6.0) < 1.0) | (fv.remainder(4.5) < 1.0)
    rows = fv.remainder(2.6 + 1.0 * lot[:, 4]) < 1.5
    return parcel, y * size + x, row_edge, street, rows


def _crops(draws: Draws, region: Regions) -> Tensor:
    """(B, PARCELS) crop of each parcel: Gumbel-max over the region's and the place's preferences."""
    kinds = len(CROPS) + 1
    taste = region.crops + 0.5 * draws.normal(kinds)
    u = draws.uniform(kinds, PARCELS).clamp_(min=1e-6)
    return argmax(taste[..., None] - torch.log(-torch.log(u)))


def argmax(score: Tensor) -> Tensor:
    """argmax over dimension 1, ten times as fast as torch's on a few classes."""
    best, which = score[:, 0], torch.zeros_like(score[:, 0], dtype=torch.uint8)
    for k in range(1, score.shape[1]):
        which = torch.where(score[:, k] > best, k, which)
        best = torch.maximum(score[:, k], best)
    return which.long()


def _elements(
    use: Tensor,
    mine: Tensor,
    mid: Tensor,
    coarse: Tensor,
    grain: Tensor,
    street: Tensor,
    rows: Tensor,
    draws: Draws,
) -> Tensor:
    """(B, H, W) element of each pixel that is not a crop, by nested thresholds on three scales of chance."""
    lot = draws.uniform(4)[..., None, None]

    def pick(name: str) -> Tensor:
        return torch.tensor(E[name], dtype=torch.uint8)  # an eighth of the memory of long

    mixed = mid + 0.7 * grain  # about 1.2 wide
    use = use.to(torch.uint8)
    element = torch.full_like(use, E["water"])

    def put(where: Tensor, what: Tensor) -> None:
        nonlocal element
        element = torch.where(where, what, element)

    reeds = torch.where(mixed > 1.3, pick("grass"), pick("reed"))
    put(use == U["wetland"], torch.where(mixed < -1.5, pick("water"), reeds))
    stray = mixed > 1.35 + 0.9 * lot[:, 0]  # trees of the other kind
    gap = mixed < -2.3
    put(use == U["coniferous forest"], torch.where(stray, pick("broadleaf"), pick("conifer")))
    put(use == U["broadleaved forest"], torch.where(stray, pick("conifer"), pick("broadleaf")))
    forest = (use == U["coniferous forest"]) | (use == U["broadleaved forest"])
    put(forest & gap, pick("grass"))
    between = torch.where(lot[:, 1] < 0.5, pick("grass"), pick("soil"))
    put(use == U["orchard"], torch.where(rows & (grain > -1.3), pick("broadleaf"), between))
    heath = torch.where(coarse + 0.5 * mid > 0.8 * lot[:, 2], pick("shrub"), pick("grass"))
    heath = torch.where(mixed > 2.2, pick("broadleaf"), heath)
    put(use == U["grassland and heath"], torch.where(mine < 0.45, pick("meadow"), heath))
    put(use == U["bare ground"], torch.where(coarse + 0.6 * mid > 0.2, pick("rock"), pick("soil")))

    garden = torch.where(grain > 0.35, pick("broadleaf"), pick("grass"))
    garden = torch.where((grain < -0.75) & (mid < 0.8), pick("roof"), garden)
    put(use == U["scattered settlement"], torch.where(street & (mid > -0.3), pick("asphalt"), garden))
    block = torch.where(grain > 1.2, pick("broadleaf"), pick("roof"))
    block = torch.where(grain < -0.7, pick("asphalt"), block)
    block = torch.where(street, pick("asphalt"), block)
    hall = torch.where(mid > 0.9, pick("asphalt"), pick("roof"))
    put(use == U["dense urban"], torch.where(mine > 0.75, hall, block))
    return element.long()
