"""Segmenter: an encoder with a linear head on its dense features, for fine-tuning."""

from __future__ import annotations

from torch import Tensor, nn

from gfm_objectives.batch import Batch
from gfm_objectives.models.encoder import Encoder


class Segmenter(nn.Module):
    """Batch -> logits (B, classes, H, W), float32."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.width, classes, 1)

    def forward(self, batch: Batch) -> Tensor:
        tokens = self.encoder.tokenize(batch)
        return self.head(self.encoder.dense(batch, tokens, self.encoder(tokens))).float()
