"""What optical and radar sensors and an elevation model see: mixtures of materials, season, sun, air, speckle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.batch import Series
from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.events import Event, echo, lay
from gfm_objectives.data.earth.layout import FIRST_CROP, PARCELS, Layout
from gfm_objectives.data.earth.regions import Regions
from gfm_objectives.data.earth.tables import CLOUD, CONSTANT, CROPS, ELEMENTS, HLS_FROM_S2, SEASONAL, E
from gfm_objectives.sensors import S2_TEN, SENSORS

GROUPS = len(ELEMENTS) + PARCELS  # what shares a season: each element, and each parcel of its own


def look_draws(size: int, dates: int) -> int:
    """Numbers enough for any one sensor."""
    return int((1000 + 560 * dates) * max(1.0, size / 64) ** 2)


@dataclass(slots=True)
class Calendar:
    """When a place is seen: day (B, T) since 2000-01-01 and season (B, T), days from the local midwinter."""

    day: Tensor
    season: Tensor


def make_calendar(draws: Draws, region: Regions, dates: int) -> Calendar:
    """`dates` looks spread over one local year, each up to a third of the spacing early or late."""
    year = 365.25
    lot = draws.uniform(dates + 1)
    step = year / dates
    season = (torch.arange(dates) + 0.5 + 0.66 * (lot[:, 1:] - 0.5)) * step
    start = 365.25 * (17 + (lot[:, :1] * 8).floor())  # a year of 2017..2024
    south = torch.where(region.lonlat[:, 1:] < 0, 182.0, 0.0)
    return Calendar((start + south + season).floor(), season)


def near(calendar: Calendar, draws: Draws, days: float) -> Calendar:
    """The same looks by another satellite, up to `days` apart."""
    lag = ((draws.uniform(calendar.day.shape[1]) - 0.5) * 2 * days).round()
    return Calendar(calendar.day + lag, calendar.season + lag)


def cover(layout: Layout, region: Regions, season: Tensor) -> tuple[Tensor, Tensor]:
    """Greenness and straw (B, T, GROUPS), each 0..1 of the open ground of every element and every parcel."""
    kind = layout.crop + FIRST_CROP  # (B, PARCELS)
    parcels = region.season.gather(1, kind[..., None].expand(-1, -1, region.season.shape[2]))
    parcels[..., 1] += layout.shift
    parcels[..., 4] += layout.shift + torch.where(kind == E["forage"], layout.cut, 0)
    parcels[..., 3] *= layout.strength
    base, centre, half, height, centre2, half2, height2, straw, _ = torch.cat([region.season, parcels], 1).unbind(2)

    def pulse(middle: Tensor, width: Tensor, soft: float) -> Tensor:
        away = (season[..., None] - middle[:, None] + 182.625).remainder(365.25) - 182.625  # (B, T, GROUPS)
        return torch.sigmoid((width[:, None] - away.abs()) / soft)

    green = base[:, None] + height[:, None] * pulse(centre, half, 11) + height2[:, None] * pulse(centre2, half2, 8)
    ripe = pulse(centre + half + 26, torch.full_like(half, 22.0), 8)  # straw stands for some weeks after the harvest
    return green.clamp_(0.02, 0.97), (straw[:, None] * (0.35 + 0.65 * ripe)).clamp_(0, 1)


def group_of(layout: Layout) -> Tensor:
    """(B, P) number of the season group of each pixel."""
    element = layout.element.flatten(1)
    crop = (element >= FIRST_CROP) & (element <= FIRST_CROP + len(CROPS))
    return torch.where(crop, layout.parcel.flatten(1) + len(ELEMENTS), element)


def abundances(layout: Layout, region: Regions, green: Tensor, straw: Tensor, group: Tensor) -> Tensor:
    """(B, constant + 3 T, H, W): what each pixel is made of. Seasonal materials have one channel per date."""
    b, dates = green.shape[:2]
    kind = torch.cat([torch.arange(len(ELEMENTS)).expand(b, -1), layout.crop + FIRST_CROP], 1)  # (B, GROUPS)
    constant = region.fractions.gather(1, kind[..., None].expand(-1, -1, len(CONSTANT))).transpose(1, 2)
    bright = region.season[:, :, -1].gather(1, kind)
    open_ground = (1 - constant.sum(1)).clamp(min=0)[:, None]  # (B, 1, GROUPS)
    leaf = green * open_ground
    stalk = (open_ground - leaf) * straw
    soil = open_ground - leaf - stalk
    table = torch.cat([constant, leaf, stalk, soil], 1) * bright[:, None]
    phi = table.gather(2, group[:, None].expand(-1, table.shape[1], -1))  # (B, J, P)
    # Patchy growth: leaves and soil trade places.
    leaves, rest = phi[:, len(CONSTANT) :][:, :dates], phi[:, len(CONSTANT) + 2 * dates :]
    trade = leaves * (0.16 * layout.vigour.flatten(1))[:, None]
    leaves += trade
    rest -= 0.7 * trade
    return phi.view(b, -1, *layout.use.shape[1:])


def blur(x: Tensor) -> Tensor:
    """A 3 x 3 binomial point spread over the last two axes; edges repeat."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[..., 2:] + x[..., :-2] + 2 * x[..., 1:-1]
    return (x[..., 2:, :] + x[..., :-2, :] + 2 * x[..., 1:-1, :]).mul_(1 / 16)


def blocks(x: Tensor, k: int) -> Tensor:
    """Means of k x k blocks, each repeated over its pixels: what a sensor of k times the pixel size tells apart."""
    size = x.shape[-1]
    small = F.avg_pool2d(x, k, ceil_mode=True, count_include_pad=False)
    return small.repeat_interleave(k, -1).repeat_interleave(k, -2)[..., :size, :size].contiguous()


# How far a pixel of each optical sensor gathers light.
FOOTPRINT: dict[str, Callable[[Tensor], Tensor]] = {"s2": blur, "hls": partial(blocks, k=3)}


def slopes(height: Tensor) -> tuple[Tensor, Tensor]:
    """Rise to the east and to the south, metres per metre, (B, H, W)."""
    h = F.pad(height[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (h[:, 1:-1, 2:] - h[:, 1:-1, :-2]) / 20, (h[:, 2:, 1:-1] - h[:, :-2, 1:-1]) / 20


@dataclass(slots=True)
class Sky:
    """Clouds over B places at T dates: opacity, shadow (B, T, H, W) 0..1 and what the cloud mask flags (bool)."""

    opacity: Tensor
    shadow: Tensor
    flagged: Tensor


def make_sky(draws: Draws, calendar: Calendar, clouds: float, worse: Tensor, size: int) -> Sky:
    """`clouds` is the mean cover; `worse` (B, T) in standard deviations adds to it on stormy dates."""
    dates = calendar.day.shape[1]
    wide = 1.3
    share = torch.tensor(max(0.72 * clouds, 1e-4))  # shadows and storms take the rest
    bias = torch.special.ndtri(share).item() * math.sqrt(1 + wide**2)
    state = bias + wide * draws.normal(dates) + worse  # (B, T)
    shape = 0.85 * draws.field(dates, 3, size) + 0.5 * draws.field(dates, 10, size)
    thick = shape + state[..., None, None]
    opacity = torch.sigmoid(5 * thick - 1.5)
    if clouds == 0:
        opacity = torch.zeros_like(opacity)
    shadow = torch.roll(opacity, (7 * size // 64, -5 * size // 64), (2, 3))
    # The mask is made by a classifier in life: it misses thin edges, now and then most of a scene.
    slack = 0.25 + 0.45 * draws.uniform(dates) ** 3
    slack = slack[..., None, None]
    error = 0.12 * draws.field(dates, 10, size)
    flagged = ((opacity + error) > slack) & (opacity > 0.02) | ((shadow + error) > slack + 0.25)
    return Sky(opacity, shadow, flagged)


def swath_edges(draws: Draws, dates: int, size: int, rate: float) -> Tensor:
    """(B, T, H, W) bool: False beyond the edge of an acquisition, which crosses a place at `rate` of the dates."""
    lot = draws.uniform(dates, 3)[..., None, None]
    grid = (torch.arange(size) + 0.5) / size - 0.5
    angle = lot[:, :, 0] * 6.2832
    side = grid * angle.cos() + grid[:, None] * angle.sin()
    return (side < lot[:, :, 1] * 0.9 - 0.35) | (lot[:, :, 2] > rate)


def optical(
    sensor: str,
    names: tuple[str, ...],
    layout: Layout,
    region: Regions,
    phi: Tensor,
    calendar: Calendar,
    sky: Sky,
    flood: Tensor,
    events: Sequence[Event],
    draws: Draws,
) -> Series:
    """Surface reflectance, scaled: materials times spectra, then events, flood, sun and shadow, cloud, noise.

    phi (B, J, H, W) from `abundances`; flood (B, T, H, W) share of each pixel under visible flood water.
    """
    b, dates, size = *calendar.day.shape, layout.use.shape[-1]
    bands, pixels = len(names), size * size
    pick = [S2_TEN.index(n) for n in names] if sensor == "s2" else [HLS_FROM_S2[n] for n in names]
    scale = [SENSORS[sensor].bands[i] for i in SENSORS[sensor].index(names)]
    mean, std = torch.tensor([s.mean for s in scale]), torch.tensor([s.std for s in scale])

    # All in units of the sensor's deviation, so that the affine of SENSORS[sensor].normalise costs no further pass.
    air = torch.exp(0.04 * draws.normal(dates, 1) + 0.02 * draws.normal(dates, bands))  # (B, T, bands)
    spectra = region.spectra[:, :, pick] / std  # (B, materials, bands)
    weights = by_date(spectra, dates) * air[..., None]
    x = torch.bmm(weights.view(b, dates * bands, -1), phi.flatten(2)).view(b, dates, bands, pixels)
    light = sunlight(layout, region, calendar) * (1 + 0.07 * draws.field(dates, 6, size))  # dew, wet ground, view angle
    light *= (1 - 0.6 * sky.shadow) * (1 - sky.opacity)
    lay(x, events, FOOTPRINT[sensor], pick, std)

    mud = 0.35 + 0.6 * region.fractions[:, E["water"], CONSTANT.index("sediment"), None]
    clear, sediment = (spectra[:, len(SEASONAL) + CONSTANT.index(m)] for m in ("water", "sediment"))
    brown = (mud * sediment + (1 - mud) * clear)[..., None]  # (B, bands, 1)
    for place, t in flood.flatten(2).any(2).nonzero().tolist():
        w = flood[place, t].flatten()
        x[place, t] *= 1 - w
        x[place, t] += brown[place] * w
    x *= light.flatten(2)[:, :, None]
    bright = (CLOUD[pick] / std) * torch.exp(0.15 * draws.normal(dates, 1))  # (B, T, bands)
    x += bright[..., None] * sky.opacity.flatten(2)[:, :, None]
    haze = 0.006 * draws.normal(dates, 1) * torch.linspace(1.5, 0.2, len(S2_TEN))[pick]  # left by the correction
    x += ((haze - mean) / std)[..., None]
    sigma = (0.0045 / std)[:, None]
    for place, noise in zip(x, draws.pixels("normal", dates * bands * pixels), strict=True):
        place.addcmul_(noise.view(dates, bands, pixels), sigma)
    valid = ~sky.flagged & swath_edges(draws, dates, size, 0.05)
    x *= valid.flatten(2)[:, :, None]
    return Series(x.view(b, dates, bands, size, size), valid, calendar.day, names)


def by_date(spectra: Tensor, dates: int) -> Tensor:
    """(B, T, bands, J) weights of `abundances` from spectra (B, materials, bands): each date reads its own season."""
    b, _, bands = spectra.shape
    weights = torch.zeros(b, dates, bands, len(CONSTANT) + len(SEASONAL) * dates)
    weights[..., : len(CONSTANT)] = spectra[:, None, len(SEASONAL) :].transpose(2, 3)
    for m in range(len(SEASONAL)):
        for t in range(dates):
            weights[:, t, :, len(CONSTANT) + m * dates + t] = spectra[:, m]
    return weights


def sunlight(layout: Layout, region: Regions, calendar: Calendar) -> Tensor:
    """(B, T, H, W) light on a slope against that on flat ground: sun from the equator's side in the late morning."""
    east, south = slopes(layout.height)
    year = (calendar.season - 172) * (2 * math.pi / 365.25)
    low = (0.75 - 0.35 * torch.cos(year))[..., None, None]  # cotangent of the sun's elevation, most in winter
    equator = torch.where(region.lonlat[:, 1] < 0, 1.0, -1.0)[:, None, None]
    tilt = (east * -0.6 + south * 0.8 * equator)[:, None] * low
    return (1 - tilt.clamp_(-0.55, 0.55)) * (1 + 0.05 * layout.vigour[:, None])


def radar(
    layout: Layout,
    region: Regions,
    green: Tensor,
    group: Tensor,
    calendar: Calendar,
    flood: Tensor,
    drowned: Tensor,
    events: Sequence[Event],
    draws: Draws,
) -> Series:
    """Backscatter VV, VH in dB, scaled. flood (B, T, H, W) bool is open flood water, drowned flood under plants."""
    b, dates = calendar.day.shape
    size = layout.use.shape[-1]
    kind = torch.cat([torch.arange(len(ELEMENTS)).expand(b, -1), layout.crop + FIRST_CROP], 1)
    table = region.radar.gather(1, kind[..., None].expand(-1, -1, 5))  # (B, GROUPS, 5)
    rough = torch.cat([layout.rough[:, -1:].expand(-1, len(ELEMENTS)), layout.rough[:, :-1]], 1)
    moist = 0.8 * draws.normal(dates)  # rain before the look
    open_ground = table[..., 4][:, None] * (1 - 0.7 * green)  # (B, T, GROUPS)
    change = open_ground * (3.6 * rough[:, None] + 1.5 * moist[..., None])
    db = torch.stack([table[..., c][:, None] + table[..., 2 + c][:, None] * green + change for c in (0, 1)], 2)
    at = group[:, None].expand(-1, dates * 2, -1)
    x = db.view(b, dates * 2, -1).gather(2, at).view(b, dates, 2, size, size)
    x += 0.5 * layout.vigour[:, None, None]

    # Water: dark when calm, up to the level of land in wind; gusts are patchy and the same for ponds and floods.
    wind = draws.normal(dates)[..., None, None] + 0.8 * draws.field(dates, 5, size)
    gust = torch.sigmoid(1.6 * wind - 0.4)
    surface = (
        torch.stack([-21.0 + 9.5 * gust, -27.5 + 6.0 * gust], 2)
        + region.radar[:, None, E["water"], :2, None, None]
        - torch.tensor([-20.0, -27.0]).view(2, 1, 1)
    )
    wet = (layout.element == E["water"])[:, None] | flood
    x = torch.where(wet[:, :, None], surface, x)
    x += 1.6 * drowned[:, :, None]  # stems and water surface make corners
    east, _ = slopes(layout.height)
    x += (9 * east.clamp(-0.5, 0.5))[:, None, None]  # slopes that face the antenna are brighter
    echo(x, events)
    for place, speckle in zip(x, draws.pixels("speckle", dates * 2 * size * size), strict=True):
        place += speckle.view(dates, 2, size, size)
    floor = torch.tensor([-26.0, -31.0]).view(2, 1, 1)  # thermal noise
    x = torch.maximum(x, floor)
    valid = swath_edges(draws, dates, size, 0.03)
    x = SENSORS["s1"].normalise(x, valid, ("VV", "VH"))
    return Series(x, valid, calendar.day, ("VV", "VH"))


def elevation(layout: Layout, draws: Draws) -> Series:
    """The elevation model: height as a 30 m product gives it, with errors of about a metre and the tops of forests."""
    b, size = layout.use.shape[0], layout.use.shape[-1]
    error = 0.8 * draws.field(1, 24, size)[:, 0] + 0.8 * draws.field(1, 5, size)[:, 0]
    trees = ((layout.element == E["conifer"]) | (layout.element == E["broadleaf"])).float()
    x = layout.height + error + 3.0 * blur(trees)
    valid = torch.ones(b, 1, size, size, dtype=torch.bool)
    x = SENSORS["dem"].normalise(x[:, None, None], valid, ("elevation",))
    return Series(x, valid, torch.zeros(b, 1), ("elevation",))
