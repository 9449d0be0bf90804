"""MAE: see a quarter of the tokens, reconstruct the pixels of hidden ones (He et al. 2021, arXiv 2111.06377).

Differences from the paper: tokens are sensor x date x patch and masks are structured (random, block, date, sensor); the
decoder cross-attends from the hidden tokens it predicts, a subset, rather than self-attending over all; a second,
per-pixel way to the prediction goes through the dense path, so that what fine-tuning uses is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.objectives.masked_tokens import MaskedTokens, band_means, patches
from gfm_objectives.objectives.objective import Variant


class MAE(MaskedTokens):
    """normalise: targets per patch and band, over valid pixels; the other options are those of MaskedTokens.

    The loss is L1 on hidden, valid pixels.
    """

    def __init__(self, encoder: Encoder, spec: Spec, *, normalise: bool, **masks: Any) -> None:
        super().__init__(encoder, spec, **masks)
        self.normalise = normalise
        self.head = PatchHead(self.decoder.dim, encoder.width, encoder.patch, spec.bands)

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        view = self.look(batch)
        cells = by_cell(view.dense, self.encoder.patch)
        total, pixels, out = torch.zeros((), device=cells.device), torch.zeros((), device=cells.device), {}
        for sensor, series in batch.sensors.items():
            where, real, told = self.ask(view, sensor)
            prediction = self.head(sensor, told, cells, where % view.every.cells)  # (B, K, p p, C)
            target, weight = patches(view, sensor, series, where)
            if self.normalise:
                mean = band_means(target, weight)
                target = (target - mean) / (band_means((target - mean).square(), weight) + 1e-4).sqrt()
            weight = weight * real[..., None, None]
            error = ((prediction - target).abs() * weight).sum() / target.shape[-1]
            total, pixels = total + error, pixels + weight.sum()
            out[f"l1_{sensor}"] = (error / weight.sum().clamp(min=1)).detach()
        return {"loss": total / pixels.clamp(min=1), **out}
