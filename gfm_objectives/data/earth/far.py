"""Labels that need what lies hundreds of metres away: the laboratory in which attention can be asked what it pays.

No share of real maps is like this one: it never enters a headline. What a pixel is, here, no local look can tell, and
`oracle` says how much a look of any radius can, from the true layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.data.earth.labels import map_exact
from gfm_objectives.data.earth.layout import FIRST_CROP, Layout
from gfm_objectives.data.earth.tables import CROPS, E, U

TOWN = 0.12  # share of built-up ground in the window from which a settlement is a town
BUILT, CROP = 5, 4  # classes of the map, of which each becomes two
LEVELS = 64  # of a share that the oracle tells apart


def far_label(layout: Layout, reach: int) -> Tensor:
    """(B, H, W) 0 neither, 1 village, 2 town, 3 rain-fed field, 4 irrigated field.

    Built-up ground is town where built-up ground takes TOWN of the window of `reach` pixels on every side; a field is
    irrigated where there is open water in that window. What lies beyond the place's edge is not known to anybody.
    """
    built, crop, water = _ground(layout)
    town = share_within(built, reach) > TOWN
    watered = share_within(water, reach) > 0
    return built * (1 + town.long()) + crop * (3 + watered.long())


def oracle(layout: Layout, reach: int, radius: int) -> float:
    """Accuracy on built-up ground and fields of the best rule that knows the true layers within `radius` pixels: for
    every share of built-up ground, or of open water, it names the class that is commoner there."""
    radius = min(radius, reach)  # it need not look as far as it could
    label, (built, crop, water) = far_label(layout, reach), _ground(layout)
    right = 0.0
    for on, seen, first in ((built, built, 1), (crop, water, 3)):
        share = share_within(seen, radius)[on]
        level = torch.where(share > 0, 1 + (share * (LEVELS - 1)).long(), 0)  # nothing is a level of its own
        counts = torch.bincount(2 * level + label[on] - first, minlength=2 * (LEVELS + 1)).view(-1, 2)
        right += float(counts.max(1).values.sum())
    return right / float((built | crop).sum())


def _ground(layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Built-up ground, fields under crops and open water, (B, H, W) bool."""
    built = (layout.element == E["roof"]) | (layout.element == E["asphalt"])
    crop = (layout.element >= FIRST_CROP) & (layout.element < FIRST_CROP + len(CROPS))
    return built, crop, layout.use == U["water"]


def far_map(layout: Layout, noisy: Tensor, reach: int) -> Tensor:
    """The map `noisy` (B, H, W) in ten classes: built-up ground and crops come in two sorts, as in far_label, wherever
    the map has them: what it takes for a field is irrigated or not, be it one or none."""
    town = share_within(map_exact(layout) == BUILT, reach) > TOWN
    watered = share_within(layout.use == U["water"], reach) > 0
    out = torch.where((noisy == BUILT) & town, 8, noisy)
    return torch.where((noisy == CROP) & watered, 9, out)


def share_within(where: Tensor, radius: int) -> Tensor:
    """Share of the pixels within `radius` rows and columns that are `where` (B, H, W) bool, of those in the place."""
    x = F.pad(where.double(), (radius + 1, radius, radius + 1, radius)).cumsum(1).cumsum(2)
    inside = F.pad(torch.ones_like(where, dtype=torch.float64), (radius + 1, radius, radius + 1, radius))
    inside = inside.cumsum(1).cumsum(2)
    size = 2 * radius + 1

    def window(total: Tensor) -> Tensor:
        return total[:, size:, size:] - total[:, :-size, size:] - total[:, size:, :-size] + total[:, :-size, :-size]

    return window(x) / window(inside)
