"""Masked segmentation: see a part of the places, name the class of every pixel, by a noisy map or by segments.

The map is never an input. A position is hidden at every date of every sensor: with one sensor left to look at, the
task would be plain segmentation. Hidden cells are filled in by the dense path's reader, which fine-tuning keeps, so
there is no decoder to throw away. Compare BEiT (arXiv 2106.08254), whose targets are learned codes, and OlmoEarth
(arXiv 2511.13655), whose largest late gain came from map targets that are decoded only. Without a map, the classes are
those of segments of images that the encoder never sees (data/segments.py); compare DeepCluster (arXiv 1807.05520).
"""

from __future__ import annotations

from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead, borders
from gfm_objectives.objectives.objective import DenseObjective


class MaskedSeg(DenseObjective):
    """mask_ratio: share of positions hidden; loss_on: all or hidden pixels; label_smoothing of the classes.

    target: the layer that names them; boundary: extra weight of pixels beside another class, 1 = twice the others'.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        loss_on: str,
        label_smoothing: float,
        target: str = "map",
        boundary: float = 0.0,
    ) -> None:
        self.targets = (target,)  # before it is checked
        super().__init__(encoder, spec, mask_ratio)
        if loss_on not in ("all", "hidden"):
            raise ValueError(f"objective.loss_on={loss_on}: choose all or hidden")
        self.loss_on, self.boundary = loss_on, boundary
        self.head = MapHead(encoder.width, len(spec.legends[target]), label_smoothing)

    def predict(self, dense: Tensor, seen: Batch, rest: None, hidden: Tensor) -> dict[str, Tensor]:
        logits = self.head(dense)
        patch = self.encoder.patch
        pixels = hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)  # (B, H, W)
        target = seen.targets[self.targets[0]]
        where = pixels if self.loss_on == "hidden" else None
        if self.boundary:
            weight = 1 + self.boundary * borders(target)
            where = weight if where is None else weight * where
        loss = self.head.loss(logits, target, where)
        right = (logits.argmax(1) == target) & (target >= 0)
        accuracy = (right & pixels).sum() / ((target >= 0) & pixels).sum().clamp(min=1)
        return {"loss": loss, "accuracy_hidden": accuracy.detach()}
