"""Map-guided contrast: pixels of one class of the map must look alike to the encoder, those of another must not.

    loss = - mean over pixels i, and over pixels j of i's class, of log softmax_j(cosine(i, j) / temperature)

SupCon (Khosla et al. 2020, arXiv 2004.11362) over pixels drawn from the whole batch, with the map for labels, as the
map-guided contrast of THOR (arXiv 2601.16011). A term of objective=mix; alone it is a control of masked_seg that has no
classifier, and positions are hidden in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_objectives import ranks
from gfm_objectives.batch import Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.info_nce import cosines
from gfm_objectives.objectives.objective import Dense, View


class MapContrast(Dense):
    """mask_ratio: share of positions hidden; pixels: of each place that are compared with those of the whole batch;
    temperature. A place costs slightly more in a larger batch, as in contrastive."""

    targets = ("map",)

    def __init__(self, encoder: Encoder, spec: Spec, *, mask_ratio: float, pixels: int, temperature: float) -> None:
        super().__init__(encoder, spec, mask_ratio)
        self.pixels, self.temperature = pixels, temperature
        width = max(32, encoder.width)
        self.head = nn.Sequential(nn.Linear(encoder.width, width), nn.GELU(), nn.Linear(width, width))

    def predict(self, view: View, rest: None) -> dict[str, Tensor]:
        target = view.batch.targets["map"].flatten(1)  # (B, H W)
        known = target >= 0
        pick = (ranks.rand(*target.shape, device=target.device) + ~known).argsort(1)[:, : self.pixels]
        label, known = target.gather(1, pick).flatten(), known.gather(1, pick).flatten()  # (B k,)
        dense = view.dense.flatten(2).mT  # (B, H W, width)
        x = self.head(dense.gather(1, pick[..., None].expand(-1, -1, dense.shape[-1])).flatten(0, 1))
        other = ~torch.eye(len(label), dtype=torch.bool, device=label.device) & known
        same = other & (label[:, None] == label) & known[:, None]
        logits = cosines(x, x) / self.temperature
        log_share = logits - logits.masked_fill(~other, -1e4).logsumexp(1, keepdim=True)  # finite where there is none
        friends = same.sum(1)
        each = -(log_share * same).sum(1) / friends.clamp(min=1)
        return {"loss": each.sum() / (friends > 0).sum().clamp(min=1)}
