"""The stem: pixels of every sensor and date, hidden as asked, merged over dates and sensors in small cells.

Merging early and in cells of 4 x 4 pixels is what makes the encoder cheap: date-wise work at full resolution took half
of all time, at 3 FLOPs a byte, and a ViT over tokens of every date and sensor learned less per FLOP (LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series
from gfm_objectives.models.bands import BandTable
from gfm_objectives.models.positions import day_features
from gfm_objectives.sensors import SENSORS

CELL = 4  # pixels a side of a cell
COMPOSITES = 2  # of each sensor: weighted means over its dates, at full resolution
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Merged:
    """What the dates and sensors show, merged by cell: n cells of CELL x CELL pixels, row by row on `grid`.

    cells (B, n, D): content; pixels: sensor -> (B, n, COMPOSITES, C + 1, CELL * CELL), its composites of the C bands
    and of validity; bands: sensor -> the C bands.
    """

    cells: Tensor
    pixels: dict[str, Tensor]
    bands: dict[str, tuple[str, ...]]
    grid: tuple[int, int]


class Stem(nn.Module):
    """A linear map of each cell's pixels and their validity on every date, told the day and the sensor; attention over
    dates with several heads, each of which may pick another date (as L-TAE, arXiv 2007.00586) or none; sensors summed.

    Two further heads weigh the dates of the raw bands, so that full resolution comes with the merged cells at the price
    of a mean, as U-TAE re-uses its weights (arXiv 2107.07933). Where nothing may be seen the sum is 0, and what the
    norm makes of it is the mask token. A map, which has neither day nor brightness, is one vector per class and pixel.
    """

    def __init__(self, bands: Mapping[str, Sequence[str]], dim: int, band_dropout: float, heads: int = 8) -> None:
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        self.heads, self.dim = heads, dim
        self.embed = BandTable(bands, CELL * CELL, dim, band_dropout)
        self.validity = nn.Parameter(torch.zeros(CELL * CELL, dim))  # tells an invalid pixel from an average one
        self.sensor = nn.ParameterDict({s: nn.Parameter(torch.randn(dim) * 0.02) for s in images(bands)})
        self.day = nn.Linear(5, dim)
        self.score = nn.Linear(dim, heads + COMPOSITES)
        self.norm = nn.LayerNorm(dim)

    def forward(self, batch: Batch, seen: Tensor | None = None) -> Merged:
        """seen (B, slots, h, w) bool: what may be looked at, where a slot is one date of one sensor, in the order of
        the batch, and h x w is any grid that divides the image's; None = all. A map is always seen."""
        height, width = batch.size
        assert height % CELL == 0 and width % CELL == 0, f"{batch.size} pixels do not divide into cells of {CELL}"
        total, pixels, slot = torch.zeros((), device=batch.gsd.device), {}, 0
        for name, series in batch.sensors.items():
            ok = series.valid
            if not SENSORS[name].of_classes and seen is not None:
                t = series.x.shape[1]
                ok = ok & spread(seen[:, slot : slot + t], height // seen.shape[2])
                slot += t
            content, pixels[name] = self.merge(name, series, ok)
            total = total + content
        assert seen is None or slot == seen.shape[1], (slot, seen.shape)
        bands = {name: s.bands for name, s in batch.sensors.items()}
        return Merged(self.norm(total), pixels, bands, (height // CELL, width // CELL))

    def merge(self, name: str, series: Series, ok: Tensor) -> tuple[Tensor, Tensor]:
        """One sensor's cells (B, n, D), 0 where nothing is ok (B, T, H, W), and its composites as in Merged."""
        values, weight = in_cells(series.x, ok), self.embed[name](series.bands)  # (B, n, T, C + 1, P), (C, P, D)
        if SENSORS[name].of_classes:
            whole = values.new_ones(*values.shape[:2], COMPOSITES, 1)
            # its classes say where it is valid: the validity of images, once trained, would disturb at first
            values[..., -1, :] = 0
            return values[:, :, 0, :-1].flatten(2) @ weight.flatten(0, 1), composites(whole, values)
        y = values.flatten(3) @ torch.cat([weight, self.validity[None]]).flatten(0, 1)  # (B, n, T, D)
        y = F.gelu(y + self.told(name, series)[:, None].to(y.dtype))
        share = date_shares(self.score(y), values[..., -1, :].sum(-1) > 0).to(y.dtype)  # (B, n, T, heads + COMPOSITES)
        heads, weights = share.split([self.heads, COMPOSITES], -1)
        cells = (y.unflatten(-1, (self.heads, -1)) * heads[..., None]).sum(2).flatten(2)
        return cells, composites(weights.mT, values)

    def told(self, name: str, series: Series) -> Tensor:
        """(B, T, D): what is said of each date of a sensor, its day and whose it is."""
        return self.day(day_features(series)) + self.sensor[name]

    @torch.no_grad()
    def extend(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Read further bands and sensors; see BandTable.extend."""
        for name in [s for s in images(bands) if s not in self.sensor]:
            self.sensor[name] = nn.Parameter(torch.stack(list(self.sensor.values())).mean(0))
        self.embed.extend(bands)


def date_shares(score: Tensor, alive: Tensor) -> Tensor:
    """Softmax of score (B, n, T, heads) over dates that are alive (B, n, T) and a date that shows nothing, so that all
    may be hidden: the shares then sum to less than one, and to 0 where none is alive."""
    score = score.float().masked_fill(~alive[..., None], -torch.inf)
    nothing = torch.zeros_like(score[:, :, :1])
    return torch.cat([nothing, score], 2).softmax(2)[:, :, 1:]


def in_cells(x: Tensor, ok: Tensor) -> Tensor:
    """x (B, T, C, H, W) by cell: (B, n, T, C + 1, P), 0 where it is not ok (B, T, H, W), which is the last channel."""
    x = torch.where(ok[:, :, None], x, 0)
    parts = [
        rearrange(t, "b t c (h p) (w q) -> b (h w) t c (p q)", p=CELL, q=CELL) for t in (x, ok[:, :, None].to(x.dtype))
    ]
    return torch.cat(parts, 3)


def composites(weight: Tensor, values: Tensor) -> Tensor:
    """Weighted means over dates: weight (B, n, g, T), values (B, n, T, C + 1, P) -> (B, n, g, C + 1, P)."""
    return (weight @ values.flatten(3)).unflatten(-1, values.shape[3:])


def spread(grid: Tensor, times: int) -> Tensor:
    """(..., h, w) -> (..., h times, w times)."""
    return grid.repeat_interleave(times, -2).repeat_interleave(times, -1)


def images(sensors: Mapping[str, T]) -> dict[str, T]:
    """Those that can be hidden: all but a map, which has no date."""
    return {name: of for name, of in sensors.items() if not SENSORS[name].of_classes}
