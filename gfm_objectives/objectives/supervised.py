"""Supervised: the map from everything that can be seen. The no-mask control of masked_seg.

It reads features alone, no tokens, so it also pretrains the U-Net (encoder=unet) and our network without its ViT
(encoder.depth=0): without those rivals a gain of masked_seg over one that never saw the map may only be the labels'
doing.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead, sampled_accuracy
from gfm_objectives.objectives.objective import Objective, Variant


class Supervised(Objective):
    """label_smoothing of the map's classes."""

    targets = ("map",)
    needs_mask: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, spec: Spec, *, label_smoothing: float) -> None:
        super().__init__(encoder, spec)
        self.head = MapHead(encoder.width, len(spec.legends["map"]), label_smoothing)

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        logits = self.head(self.encoder.features(batch))
        target = batch.targets["map"]
        accuracy = sampled_accuracy(logits, target)
        return {"loss": self.head.loss(logits, target), "accuracy": accuracy.detach()}
