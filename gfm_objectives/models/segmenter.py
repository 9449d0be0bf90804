"""Segmenter: an encoder with a head on its dense features, for fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from gfm_objectives.batch import Batch
from gfm_objectives.models.encoder import Encoder

if TYPE_CHECKING:
    from gfm_objectives.models.continued import Continued
    from gfm_objectives.models.unet import UNet


class Segmenter(nn.Module):
    """Batch -> logits (B, classes, H, W), float32. kernel: of the head; 1 is a linear head, 3 that of the U-Net."""

    def __init__(self, encoder: Encoder | UNet | Continued, classes: int, kernel: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.width, classes, kernel, padding=kernel // 2)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.encoder.features(batch)).float()
