"""Supervised: the map from everything that can be seen. The no-mask control of masked_seg.

It reads features alone, no tokens, so it also pretrains the U-Net (encoder=unet) and our network without its ViT
(encoder.depth=0): without those rivals a gain of masked_seg over one that never saw the map may only be the labels'
doing.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead, ShareHead, sampled_accuracy
from gfm_objectives.objectives.objective import Objective, Variant


class Supervised(Objective):
    """label_smoothing of the map's classes; token_weight: as in masked_seg."""

    targets = ("map",)
    needs_mask: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, spec: Spec, *, label_smoothing: float, token_weight: float = 0.0) -> None:
        super().__init__(encoder, spec)
        self.head = MapHead(encoder.width, len(spec.legends["map"]), label_smoothing)
        self.token_weight = token_weight
        if token_weight and not isinstance(encoder, Encoder | Continued):
            raise ValueError("objective.token_weight: a U-Net has no tokens; set it to 0")
        self.shares = ShareHead(encoder.dim, len(spec.legends["map"])) if token_weight else None

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        target = batch.targets["map"]
        if self.shares is None:
            features, aside = self.encoder.features(batch), torch.zeros(())
        else:
            encoded = self.encoder(batch)
            features = encoded.dense
            aside = self.token_weight * self.shares.loss(encoded.tokens, target, self.encoder.patch)
        logits = self.head(features)
        accuracy = sampled_accuracy(logits, target)
        return {"loss": self.head.loss(logits, target) + aside, "accuracy": accuracy.detach()}
