"""Contrastive: two disjoint looks at a place must agree, cell by cell, and differ from those at other cells.

    loss = InfoNCE(cells of one look, the same cells of the other), both ways, over the cells of the whole batch

SimCLR (Chen et al. 2020, arXiv 2002.05709) without its jitter of colours, which here are what is to be learned: the
looks are the two halves of a structured mask instead, share no token, and differ in dates, sensors or areas. Cells are
compared rather than whole places, as in DenseCL (arXiv 2011.09157), from the dense features: mapping asks where, and
one vector per place need not know that. The second look is turned, or a cell would be found again by its position
code. Cells that look the same are no rivals, be they water and water or one place shown twice by the corpus:
telling them apart would be telling noise apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives import ranks
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.masking import Mask
from gfm_objectives.objectives.info_nce import info_nce
from gfm_objectives.objectives.objective import Objective, Variant


class Contrastive(Objective):
    """kinds of mask whose halves are the two looks; cells: how many of a place are compared; temperature of the
    InfoNCE; duplicate: cells are alike where their statistics differ by no more.

    Every cell of the batch is a rival, so a place costs slightly more in a larger batch: the cost is measured at the
    batch size of the run. A batch of one place still has its other cells.
    """

    def __init__(
        self, encoder: Encoder, spec: Spec, *, kinds: Sequence[str], cells: int, temperature: float, duplicate: float
    ) -> None:
        super().__init__(encoder, spec)
        self.kinds = masking.known_kinds(kinds)
        self.cells, self.temperature, self.duplicate = cells, temperature, duplicate
        self.head = nn.Sequential(nn.Linear(encoder.width, encoder.dim), nn.GELU(), nn.Linear(encoder.dim, encoder.dim))

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        mask = masking.scattered(batch, self.encoder.patch, 0.5, self.kinds)
        rest = ~mask.seen
        quarters = int(torch.randint(1, 4, ()))
        turned = Mask(rest.rot90(quarters, (2, 3)), mask.valid.rot90(quarters, (2, 3)))
        one = self.look(batch, mask)
        other = self.look(turn(batch, quarters), turned).rot90(-quarters, (2, 3))

        seen = [(mask.valid & part).flatten(1).any(1) for part in (mask.seen, rest)]  # (B,) by each look
        real = mask.valid.any(1).flatten(1) & (seen[0] & seen[1])[:, None]  # (B, cells)
        pick = (ranks.rand(*real.shape, device=real.device) + ~real).argsort(1)[:, : self.cells]  # (B, k)
        real = real.gather(1, pick).flatten()  # (B k,)
        a, b = (self.head(chosen(x.flatten(2).mT, pick)) for x in (one, other))  # (B k, D)
        statistics = chosen(cell_statistics(batch, self.encoder.patch), pick)
        alike = rms_distance(statistics) <= self.duplicate  # (B k, B k)
        rivals = real & ~alike
        loss = (info_nce(a, b, rivals, self.temperature) + info_nce(b, a, rivals, self.temperature)) / 2
        count = real.sum().clamp(min=1)
        return {"loss": (loss * real).sum() / count, "rivals": (rivals.sum(1) * real).sum() / count}

    def look(self, batch: Batch, mask: Mask) -> Tensor:
        """Mean dense features of every cell, (B, width, h, w), of the batch as the mask shows it."""
        return F.avg_pool2d(self.encoder(batch, mask).dense, self.encoder.patch)


def chosen(x: Tensor, pick: Tensor) -> Tensor:
    """The cells `pick` (B, k) of x (B, cells, C), as (B k, C)."""
    return x.gather(1, pick[..., None].expand(-1, -1, x.shape[-1])).flatten(0, 1)


def turn(batch: Batch, quarters: int) -> Batch:
    """All places turned by so many quarters."""
    sensors = {
        k: Series(s.x.rot90(quarters, (-2, -1)), s.valid.rot90(quarters, (-2, -1)), s.day, s.bands)
        for k, s in batch.sensors.items()
    }
    return batch.replace(sensors=sensors)


def cell_statistics(batch: Batch, patch: int) -> Tensor:
    """(B, cells, S): mean and deviation of every band over a cell's valid pixels of all dates; 0 where none is."""
    out = []
    for series in batch.sensors.values():
        ok = series.valid[:, :, None]
        x = series.x.masked_fill(~ok, 0).float()
        n = F.avg_pool2d(ok.sum(1).float(), patch).clamp(min=1e-6)
        mean, square = (F.avg_pool2d(t.sum(1), patch) / n for t in (x, x.square()))
        out += [mean, (square - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(out, 1).flatten(2).mT


def rms_distance(x: Tensor) -> Tensor:
    """Root mean square difference of all rows of x (N, S): (N, N). Not as a matrix product, which would cancel."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
