"""Latent: say which of a place's hidden patches it is, not what its pixels are; targets are random and frozen.

    t = W x + b, W and b random, frozen        loss = InfoNCE(W prediction + b, t) over hidden tokens, temperature 0.1

"Latent MIM Lite" and in-modality patch discrimination of OlmoEarth (arXiv 2511.13655; the loss is Galileo's, arXiv
2502.09356): a projection that never moves cannot collapse as a teacher does, and discrimination, unlike L1, does not
reward the mean of all that might be there. Rivals are patches of the same sensor and place: other sensors would be told
apart by their look alone. Differences: the masks, decoder and dense way to the prediction are those of mae, which makes
the two differ in the loss alone (the prediction passes through the same W, and a linear head before it loses
nothing); b, or a cosine would not see brightness; invalid pixels take their patch's mean, so that no cloud's outline
gives the patch away.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.objectives.info_nce import float32, info_nce
from gfm_objectives.objectives.masked_tokens import MaskedTokens, band_means, patches
from gfm_objectives.objectives.objective import Variant


class Latent(MaskedTokens):
    """temperature of the InfoNCE; the other options are those of MaskedTokens. Targets are as wide as the encoder."""

    def __init__(self, encoder: Encoder, spec: Spec, *, temperature: float, **masks: Any) -> None:
        super().__init__(encoder, spec, **masks)
        self.temperature = temperature
        self.head = PatchHead(self.decoder.dim, encoder.width, encoder.patch, spec.bands)
        for sensor, bands in spec.bands.items():
            values = encoder.patch**2 * len(bands)
            self.register_buffer(f"weight_{sensor}", torch.randn(values, encoder.dim) / math.sqrt(values))
            self.register_buffer(f"bias_{sensor}", torch.randn(encoder.dim))

    def project(self, sensor: str, pixels: Tensor) -> Tensor:
        """Pixels (B, K, p p, C) -> (B, K, D), float32."""
        with float32(pixels.device):
            return pixels.flatten(2) @ self.get_buffer(f"weight_{sensor}") + self.get_buffer(f"bias_{sensor}")

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        view = self.look(batch)
        cells = by_cell(view.dense, self.encoder.patch)
        total, tokens, out = torch.zeros((), device=cells.device), torch.zeros((), device=cells.device), {}
        for sensor, series in batch.sensors.items():
            where, real, told = self.ask(view, sensor)
            prediction = self.head(sensor, told, cells, where % view.every.cells)
            x, weight = patches(view, sensor, series, where)
            target = self.project(sensor, torch.where(weight > 0, x, band_means(x, weight)))
            rivals = (real[:, None] > 0).expand(-1, real.shape[1], -1)  # fillers are nobody's
            loss = info_nce(self.project(sensor, prediction), target, rivals, self.temperature)
            error = (loss * real).sum()
            total, tokens = total + error, tokens + real.sum()
            out[f"nce_{sensor}"] = (error / real.sum().clamp(min=1)).detach()
        return {"loss": total / tokens.clamp(min=1), **out}
