"""MAE: see a quarter, reconstruct the pixels of what is hidden (He et al. 2021, arXiv 2111.06377).

Differences from the paper: what is hidden are cells of sensor x date x patch, by structured masks, before dates and
sensors are merged; the decoder cross-attends from the cells it predicts, a subset, rather than self-attending over
all; a second, per-pixel way to the prediction goes through the dense features, so that what fine-tuning uses is
trained.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gfm_objectives.batch import Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.objectives.masked_tokens import MaskedTokens, band_means, shared
from gfm_objectives.objectives.objective import View


class MAE(MaskedTokens):
    """normalise: targets per patch and band, over valid pixels; the other options are those of MaskedTokens.

    The loss is L1 on hidden, valid pixels.
    """

    def __init__(self, encoder: Encoder, spec: Spec, *, normalise: bool, **masks: Any) -> None:
        super().__init__(encoder, spec, **masks)
        self.normalise = normalise
        self.heads = nn.ModuleDict(
            {str(p): PatchHead(self.decoder.dim, encoder.width, p, spec.bands) for p in encoder.patches}
        )

    def predict(self, view: View, rest: None) -> dict[str, Tensor]:
        head = self.heads[str(self.encoder.patch)]
        cells, parts = by_cell(view.dense, self.encoder.patch), []
        for sensor, asked in self.ask(view).items():
            prediction = head(sensor, asked.told, cells, asked.cell)  # (B, K, p p, C)
            target, weight = asked.pixels, asked.weight
            if self.normalise:
                mean = band_means(target, weight)
                target = (target - mean) / (band_means((target - mean).square(), weight) + 1e-4).sqrt()
            weight = weight * asked.real[..., None, None]
            error = ((prediction - target).abs() * weight).sum() / target.shape[-1]
            parts.append((sensor, error, weight.sum()))
        loss, each = shared(parts)
        return {"loss": loss, **{f"l1_{s}": e for s, e in each.items()}}
