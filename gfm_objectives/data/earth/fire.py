"""Fires: a scar of the year that was seen, one of earlier years, and dark ploughed fields that look like both."""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.events import Cover, Event, bent
from gfm_objectives.data.earth.layout import PARCELS, Layout
from gfm_objectives.data.earth.regions import Regions
from gfm_objectives.data.earth.tables import CROPS, ELEMENTS, SEASONAL, U

# Reflectance of burnt and of ploughed ground in S2_TEN: round figures after published spectra of charcoal, of ash and
# of moist dark soils (splib07 and burn severity studies such as Key and Benson 2006).
BURNT = torch.tensor(
    [
        [0.034, 0.041, 0.048, 0.054, 0.062, 0.069, 0.075, 0.080, 0.115, 0.120],  # char
        [0.150, 0.165, 0.180, 0.188, 0.196, 0.203, 0.210, 0.215, 0.240, 0.225],  # ash
        [0.040, 0.053, 0.066, 0.073, 0.081, 0.089, 0.097, 0.104, 0.155, 0.140],  # ploughed
    ]
)
# Per element: how easily it burns; share of the pixel that a whole fire blackens (crowns hide the ground); days in
# which the scar fades to a third. What is not listed does not burn.
_FUEL = {
    "conifer": (1.0, 0.90, 500),
    "broadleaf": (0.7, 0.75, 350),
    "shrub": (1.0, 0.95, 330),
    "grass": (0.9, 1.00, 200),
    "meadow": (0.45, 0.85, 150),
    "reed": (0.6, 0.80, 180),
    **{crop: (0.7, 0.90, 170) for crop in CROPS},
    "fallow": (0.8, 0.90, 190),
}
FUEL = torch.tensor([_FUEL.get(e, (0.0, 0.0, 100)) for e in ELEMENTS]).T.contiguous()  # (3, elements)


def fire_draws(size: int) -> int:
    return int(4000 * max(1.0, size / 64) ** 2)


def make_fire(place: Tensor, draws: Draws, home: Draws, layout: Layout, region: Regions, season: Tensor) -> Event:
    """Fire in N places: four in five burn between the first and the last look, two in five burnt in earlier years.

    Rows of draws, home (by region), layout, region and season (N, T; days from the local midwinter) are the places'.
    Label: 1 where the ground burnt between the first and the last look.
    """
    size = layout.use.shape[-1]
    lot = draws.uniform(10)
    parcel = draws.uniform(2, PARCELS)
    parcel = parcel.gather(2, layout.parcel.flatten(1)[:, None].expand(-1, 2, -1)).view(-1, 2, size, size)
    fuel, black, days = FUEL[:, layout.element]  # (N, H, W) each
    fields = layout.use == U["arable land"]
    town = (layout.use == U["dense urban"]) | (layout.use == U["scattered settlement"])
    burns = (fuel > 0) & ~town & (~fields | (parcel[:, 0] < 0.35))

    # Fires run uphill and along what burns easily, and leave islands.
    front = 0.85 * draws.field(2, 3, size) + 0.45 * draws.field(2, 9, size) + 0.2 * draws.field(2, 22, size)
    front += (0.2 * layout.level.clamp(-2, 2) + 0.5 * (fuel - 0.8))[:, None]
    island = draws.field(1, 14, size)[:, 0] > 1.5
    new = burns & ~island & (front[:, 0] > _cut(lot[:, 0], lot[:, 1] < 0.8))
    old = burns & (front[:, 1] > _cut(lot[:, 2], lot[:, 3] < 0.4))

    # How black: severity in patches, then rain and regrowth at the pace of the element and the patch.
    patch = draws.field(2, 10, size)
    severity = torch.sigmoid(1.3 * patch[:, 0] + 2 * (lot[:, 4, None, None] - 0.5))
    pace = (days * torch.exp(0.3 * patch[:, 1] + 0.5 * (lot[:, 5, None, None] - 0.5)))[:, None]
    first = season[:, :1] + 4 if season.shape[1] > 1 else season - 90
    day = first + (season[:, -1:] - 4 - first) * lot[:, 6:7] ** 0.4  # late in the year as a rule
    age = (season - day)[..., None, None]  # (N, T, 1, 1)
    since = age - age[:, :1] + (150 + 700 * lot[:, 7, None, None, None])
    ground = (0.65 + 0.35 * severity) * black
    fresh = (new * ground)[:, None] * torch.exp(-(age / pace).square()) * (age > 0)  # slow at first
    faded = (old * ground)[:, None] * torch.exp(-since / pace)
    scorched = (new * (1 - severity) * 0.7)[:, None] * torch.exp(-(age / 60).square()) * (age > 0)

    # One date in the year finds the field ploughed.
    dates = season.shape[1]
    turned = (parcel[:, 1] * 4 * dates).long()  # from `dates` on: not seen
    ploughed = (fields[:, None] & (turned[:, None] == torch.arange(dates)[:, None, None])) * 0.9

    char, ash, soil = bent(BURNT, home).unbind(1)  # (N, 10)
    white = 0.25 * lot[:, 8:9] ** 2
    black_now = (1 - white) * char + white * ash
    bare = region.spectra[:, SEASONAL.index("soil")]
    brown = 0.8 * region.spectra[:, SEASONAL.index("straw")]
    covers = [
        Cover(ploughed, soil * (0.75 + 0.5 * lot[:, 9:]), (1.5, 1.0)),
        Cover(faded, 0.7 * char + 0.3 * bare, (0.0, -1.5)),
        Cover(scorched, brown),
        Cover(fresh, black_now, (-0.5, -2.5)),
    ]
    return Event(place, covers, new.long())


def _cut(size: Tensor, exists: Tensor) -> Tensor:
    """(N, 1, 1) level above which `front` burns; nothing burns where the fire does not exist."""
    return torch.where(exists, -0.1 + 1.3 * size, 1e3)[:, None, None]
