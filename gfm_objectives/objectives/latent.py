"""Latent: say which of a place's hidden cells it is, not what its pixels are; targets are random and frozen.

    t = W x + b, W and b random, frozen
    loss = InfoNCE(W prediction + b, t) over hidden cells + instance x InfoNCE(their mean, mean of t) over the batch

"Latent MIM Lite", in-modality patch discrimination and the instance term of OlmoEarth (arXiv 2511.13655; the loss is
Galileo's, arXiv 2502.09356): a projection that never moves cannot collapse as a teacher does, and discrimination,
unlike L1, does not reward the mean of all that might be there. Its ladder on PASTIS: running-mean targets 7.9, frozen
random ones 35.2, structured masks 46.6, discrimination within a sensor 48.1, instance term 49.0, maps decoded 50.7
(that is objective=mix). Differences: masks, decoder and the dense way to the prediction are those of mae, which makes
the two differ in the loss alone (the prediction passes through the same W, and a linear head before it loses
nothing); b, or a cosine would not see brightness; invalid pixels take their patch's mean, so that no cloud's outline
gives the patch away; the instance term has one view, whose means must find those of its own targets.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.objectives.info_nce import float32, info_nce
from gfm_objectives.objectives.masked_tokens import MaskedTokens, band_means, shared
from gfm_objectives.objectives.objective import View

WITHIN = ("sensor", "place")


class Latent(MaskedTokens):
    """temperature of the InfoNCE; within: rivals are cells of the same sensor, or (place) of all; instance: weight of
    the instance term; the other options are those of MaskedTokens. Targets are as wide as the encoder."""

    def __init__(
        self, encoder: Encoder, spec: Spec, *, temperature: float, within: str, instance: float, **masks: Any
    ) -> None:
        super().__init__(encoder, spec, **masks)
        if within not in WITHIN:
            raise ValueError(f"objective.within={within}: choose from {', '.join(WITHIN)}")
        self.temperature, self.within, self.instance = temperature, within, instance
        self.heads = nn.ModuleDict()
        for p in encoder.patches:
            self.heads[str(p)] = PatchHead(self.decoder.dim, encoder.width, p, spec.bands)
            for sensor, bands in spec.bands.items():
                values = p * p * len(bands)
                self.register_buffer(f"weight_{p}_{sensor}", torch.randn(values, encoder.dim) / math.sqrt(values))
                self.register_buffer(f"bias_{p}_{sensor}", torch.randn(encoder.dim))

    def project(self, sensor: str, pixels: Tensor) -> Tensor:
        """Pixels (B, K, p p, C) -> (B, K, D), float32."""
        frozen = f"{self.encoder.patch}_{sensor}"
        with float32(pixels.device):
            return pixels.flatten(2) @ self.get_buffer(f"weight_{frozen}") + self.get_buffer(f"bias_{frozen}")

    def predict(self, view: View, rest: None) -> dict[str, Tensor]:
        head = self.heads[str(self.encoder.patch)]
        cells, found = by_cell(view.dense, self.encoder.patch), {}
        for sensor, asked in self.ask(view).items():
            prediction = self.project(sensor, head(sensor, asked.told, cells, asked.cell))
            filled = torch.where(asked.weight > 0, asked.pixels, band_means(asked.pixels, asked.weight))
            found[sensor] = prediction, self.project(sensor, filled), asked.real
        everything = tuple(torch.cat(parts, 1) for parts in zip(*found.values(), strict=True))
        groups = found if self.within == "sensor" else {"place": everything}
        parts = [(name, *self.discriminate(*group)) for name, group in groups.items()]
        loss, each = shared(parts)
        out = {f"nce_{s}": e for s, e in each.items()}
        if self.instance:
            instance = self.instances(*everything)
            loss, out["instance"] = loss + self.instance * instance, instance.detach()
        return {"loss": loss, **out}

    def discriminate(self, prediction: Tensor, target: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over real cells, and their number; predictions and targets (B, K, D)."""
        rivals = (real[:, None] > 0).expand(-1, real.shape[1], -1)  # fillers are nobody's
        return (info_nce(prediction, target, rivals, self.temperature) * real).sum(), real.sum()

    def instances(self, prediction: Tensor, target: Tensor, real: Tensor) -> Tensor:
        """Whose mean is it? Over the places of the batch."""
        weight = real[..., None] / real.sum(1).clamp(min=1)[:, None, None]
        query, key = (prediction * weight).sum(1), (target * weight).sum(1)  # (B, D)
        rivals = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device)
        return info_nce(query, key, rivals, self.temperature).mean()
