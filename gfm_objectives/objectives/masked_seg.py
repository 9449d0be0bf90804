"""Masked segmentation: see a part of the places, name the class of every pixel, by a noisy map.

The map is never an input. A position is hidden at every date of every sensor: with one sensor left to look at, the
task would be plain segmentation. Hidden cells are filled in by the dense path's reader, which fine-tuning keeps, so
there is no decoder to throw away. Compare BEiT (arXiv 2106.08254), whose targets are learned codes, and OlmoEarth
(arXiv 2511.13655), whose largest late gain came from map targets that are decoded only.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead
from gfm_objectives.objectives.objective import DenseObjective


class MaskedSeg(DenseObjective):
    """mask_ratio: share of positions hidden; loss_on: all or hidden pixels; label_smoothing of the map."""

    targets: ClassVar[tuple[str, ...]] = ("map",)

    def __init__(
        self, encoder: Encoder, spec: Spec, *, mask_ratio: float, loss_on: str, label_smoothing: float
    ) -> None:
        super().__init__(encoder, spec, mask_ratio)
        if loss_on not in ("all", "hidden"):
            raise ValueError(f"objective.loss_on={loss_on}: choose all or hidden")
        self.loss_on = loss_on
        self.head = MapHead(encoder.width, len(spec.legends["map"]), label_smoothing)

    def predict(self, dense: Tensor, seen: Batch, rest: None, hidden: Tensor) -> dict[str, Tensor]:
        logits = self.head(dense)
        patch = self.encoder.patch
        pixels = hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)  # (B, H, W)
        target = seen.targets["map"]
        loss = self.head.loss(logits, target, pixels if self.loss_on == "hidden" else None)
        right = (logits.argmax(1) == target) & (target >= 0)
        accuracy = (right & pixels).sum() / ((target >= 0) & pixels).sum().clamp(min=1)
        return {"loss": loss, "accuracy_hidden": accuracy.detach()}
