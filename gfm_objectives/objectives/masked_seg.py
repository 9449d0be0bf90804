"""Masked segmentation: see a part of the places, name the class of every pixel, by a noisy map or by segments.

The map is never an input. A position is hidden at every date of every sensor: with one sensor left to look at, the
task would be plain segmentation. Hidden cells are mask tokens that the ViT fills in, so there is no decoder to throw
away. Compare BEiT (arXiv 2106.08254), whose targets are learned codes, and OlmoEarth
(arXiv 2511.13655), whose largest late gain came from map targets that are decoded only. Without a map, the classes are
those of segments of images that the encoder never sees (data/segments.py); compare DeepCluster (arXiv 1807.05520).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gfm_objectives.batch import Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead, ShareHead, borders, sampled_accuracy
from gfm_objectives.models.stem import spread
from gfm_objectives.objectives.objective import Dense, View


class MaskedSeg(Dense):
    """mask_ratio: share of positions hidden; seen_weight: of the loss at pixels that are seen, 0 = hidden ones alone,
    1 = all alike; label_smoothing of the classes.

    target: the layer that names them; boundary: extra weight of pixels beside another class, 1 = twice the others';
    token_weight: of the loss of tokens that tell the classes of their patch by themselves.
    """

    whole_positions: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        seen_weight: float,
        label_smoothing: float,
        target: str = "map",
        boundary: float = 0.0,
        token_weight: float = 0.0,
    ) -> None:
        self.targets = (target,)  # before it is checked
        super().__init__(encoder, spec, mask_ratio)
        self.seen_weight, self.boundary = seen_weight, boundary
        self.head = MapHead(encoder.width, len(spec.legends[target]), label_smoothing)
        self.token_weight = token_weight
        self.shares = ShareHead(encoder.dim, len(spec.legends[target])) if token_weight else None

    def predict(self, view: View, rest: None) -> dict[str, Tensor]:
        logits = self.head(view.dense)
        pixels = spread(view.mask.hidden, self.encoder.patch)  # (B, H, W)
        target = view.batch.targets[self.targets[0]]
        where = torch.where(pixels, 1.0, self.seen_weight)
        if self.boundary:
            where = where * (1 + self.boundary * borders(target))
        loss = self.head.loss(logits, target, where)
        if self.shares is not None:
            loss = loss + self.token_weight * self.shares.loss(view.encoded.tokens, target, self.encoder.patch)
        accuracy = sampled_accuracy(logits, target.masked_fill(~pixels, -1))
        return {"loss": loss, "accuracy_hidden": accuracy.detach()}
