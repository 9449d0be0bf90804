"""Maps whose faults are not chance: a weak classifier's errors, which follow the spectra, and another year's land."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from gfm_objectives.chance import seed_of
from gfm_objectives.data.earth.chance import Draws
from gfm_objectives.data.earth.labels import map_exact
from gfm_objectives.data.earth.layout import FIRST_CROP, PARCELS, Layout, argmax, layout_draws, make_layout
from gfm_objectives.data.earth.regions import Regions, make_regions
from gfm_objectives.data.earth.sensing import abundances, blur, by_date, cover, group_of
from gfm_objectives.data.earth.tables import LEGENDS, SPECTRA, E, U

ERRORS = ("random", "pixels")
YEARS = 20  # the oldest map

# -- the classifier of `map_errors: pixels`

SEASONS = (125.0, 205.0)  # days from local midwinter of the two composites it is shown: spring and summer
NOISE, HAZE = 0.015, 0.006  # reflectance: of each pixel, and of a whole composite
SAMPLE = 128  # places, of as many regions, that it is fitted on
EVERY = 5  # of their pixels
BANDS = SPECTRA.shape[1]
FEATURES = len(SEASONS) * BANDS
MAPPER_DRAWS = len(SEASONS) + 1  # haze, and where the noise begins


@dataclass(frozen=True, slots=True)
class Mapper:
    """A linear discriminant on two composites: scores (K) = weight (K, features) x + offset (K).

    margins (N,) ascending: by how much the true class beats the best of the others, over the pixels it was fitted on.
    """

    weight: Tensor
    offset: Tensor
    margins: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """x (B, features, P) -> (B, K, P)."""
        return torch.bmm(self.weight.expand(len(x), -1, -1), x) + self.offset[:, None]


def pixel_map(draws: Draws, mapper: Mapper, layout: Layout, region: Regions, exact: Tensor, share: float) -> Tensor:
    """(B, H, W): the class with the highest score. The true one (`exact`) has a head start, the same everywhere, with
    which `share` of the Earth's pixels go wrong: those most like another class, whose name they bear.
    """
    if share == 0:
        return exact.clone()
    lead = -mapper.margins[min(int(share * len(mapper.margins)), len(mapper.margins) - 1)]
    scores = mapper.scores(composites(draws, layout, region))
    true = exact.flatten(1)[:, None]
    return argmax(scores.scatter_add_(1, true, lead.expand(true.shape))).view_as(exact)


def composites(draws: Draws, layout: Layout, region: Regions) -> Tensor:
    """(B, features, P) reflectance in ten bands of a place in spring and in summer, cloudless, noisy and hazy."""
    b, pixels = len(region.relief), layout.use[0].numel()
    green, straw = cover(layout, region, torch.tensor(SEASONS).expand(b, -1))
    phi = blur(abundances(layout, region, green, straw, group_of(layout))).flatten(2)
    haze = HAZE * draws.normal(len(SEASONS), 1).expand(-1, -1, BANDS).reshape(b, FEATURES, 1)
    x = torch.bmm(by_date(region.spectra, len(SEASONS)).view(b, FEATURES, -1), phi) + haze
    for place, noise in zip(x, draws.pixels("normal", FEATURES * pixels), strict=True):
        place.add_(noise.view(FEATURES, pixels), alpha=NOISE)
    return x


@lru_cache(maxsize=4)
def fit_mapper(world: str, seed: int, temporal: float) -> Mapper:
    """The classifier of an Earth: class means and pooled covariance over pixels of places of its pretraining regions,
    each class as likely as another. It knows no regions, and places are none of those that are read.
    """
    regions = make_regions(world, "pretrain", seed, SAMPLE, temporal)
    seen: list[Tensor] = []
    true: list[Tensor] = []
    for some in torch.arange(SAMPLE).split(16):
        keys = [(world, "mapper", seed, i) for i in some.tolist()]
        ground = Draws([seed_of(*k, "layout") for k in keys], layout_draws(64), f"{world}:{seed}")
        draws = Draws([seed_of(*k, "map") for k in keys], MAPPER_DRAWS, f"{world}:{seed}")
        region = regions.rows(some)
        layout = make_layout(ground, region, 64, torch.zeros(len(some)))
        seen.append(composites(draws, layout, region)[..., ::EVERY].transpose(1, 2).flatten(0, 1))
        true.append(map_exact(layout).flatten(1)[:, ::EVERY].flatten())
    x, y = torch.cat(seen).double(), torch.cat(true)
    member = torch.nn.functional.one_hot(y, len(LEGENDS["map"])).double()  # (N, K)
    mean = member.T @ x / member.sum(0)[:, None]
    rest = x - mean[y]
    weight = torch.linalg.solve(rest.T @ rest / len(x), mean.T).T  # (K, features)
    mapper = Mapper(weight.float(), (-0.5 * (weight * mean).sum(1)).float(), torch.empty(0))
    scores = mapper.scores(x.float().T[None])[0]  # (K, N)
    margins = scores.gather(0, y[None])[0] - scores.masked_fill(member.T > 0, -torch.inf).amax(0)
    return replace(mapper, margins=margins.sort().values)


# -- the land of another year, of `map_year`

CHANGING = 0.5  # share of places whose towns grow and forests come and go; parcels change everywhere
# Share of what could change that did, per year: arable parcels and meadows that were the other, parcels of a town that
# were fields, forest that was open and open land that was forest. Round figures; the last two in changing places alone.
LEY, BUILT, FELLED = 0.03, 0.05, 0.025


def year_draws(size: int) -> int:
    return int((4 * PARCELS + 400) * max(1.0, size / 64) ** 2)


def other_year(draws: Draws, layout: Layout, years: int) -> Layout:
    """The layout `years` before: other crops, and what was ploughed up or sown down, built, planted or felled since.

    An older layout has all that a younger one has undone, crops aside. Rivers, lakes, relief and parcels stay.
    """
    size = layout.use.shape[-1]
    lot = draws.uniform(3, PARCELS)
    lot = lot.gather(2, layout.parcel.flatten(1)[:, None].expand(-1, 3, -1)).view(-1, 3, size, size)
    changing = draws.uniform(1)[..., None] < CHANGING
    patch = draws.field(1, 5, size)[:, 0]

    def since(rate: float) -> float:
        return 1 - (1 - rate) ** years

    crop = layout.crop.roll(37 * years, 1)  # of another parcel: the mixture of the place stays
    bears = crop.gather(1, layout.parcel.flatten(1)).view_as(layout.parcel) + FIRST_CROP
    use, element = layout.use, layout.element
    field = (use == U["arable land"]) & (element >= FIRST_CROP)
    meadow = element == E["meadow"]
    town = (use == U["dense urban"]) | (use == U["scattered settlement"])
    forest = (use == U["coniferous forest"]) | (use == U["broadleaved forest"])
    heath = (use == U["grassland and heath"]) & ~meadow

    turned = lot[:, 0] < since(LEY)
    built = town & changing & (lot[:, 1] < since(BUILT))
    reach = torch.special.ndtri(torch.tensor(1 - since(FELLED))).item()  # exceeded in that share of the land
    planted, felled = forest & changing & (patch > reach), heath & changing & (patch < -reach)
    arable = (field & ~turned) | (meadow & turned) | (built & (lot[:, 2] < 0.5))
    grass = (field & turned) | (built & (lot[:, 2] >= 0.5))
    needles = layout.vigour > 0
    for where, was, what in (
        (arable, U["arable land"], bears),
        (grass, U["grassland and heath"], E["meadow"]),
        (planted, U["grassland and heath"], E["grass"]),
        (felled & needles, U["coniferous forest"], E["conifer"]),
        (felled & ~needles, U["broadleaved forest"], E["broadleaf"]),
    ):
        use, element = torch.where(where, was, use), torch.where(where, what, element)
    return replace(layout, use=use, element=element, crop=crop)
