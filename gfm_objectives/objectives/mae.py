"""MAE: see a quarter of the tokens, reconstruct the pixels of hidden ones (He et al. 2021, arXiv 2111.06377).

Differences from the paper: tokens are sensor x date x patch and masks are structured (random, block, date, sensor); the
decoder cross-attends from the hidden tokens it predicts, a subset, rather than self-attending over all; a second,
per-pixel way to the prediction goes through the dense path, so that what fine-tuning uses is trained.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.attention import Decoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.objective import Objective, Variant


class MAE(Objective):
    """mask_ratio: share of tokens hidden; predict: share of a sensor's tokens to reconstruct; kinds of mask.

    Targets are normalised per patch and band over valid pixels; the loss is L1 on hidden, valid pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        predict: float,
        decoder_width: float,
        decoder_depth: int,
        kinds: list[str],
        normalise: bool,
    ) -> None:
        super().__init__(encoder, spec)
        unknown = [k for k in kinds if k not in masking.KINDS]
        if unknown or not kinds:
            raise ValueError(f"objective.kinds={kinds}: choose from {', '.join(masking.KINDS)}")
        self.mask_ratio, self.predict, self.kinds, self.normalise = mask_ratio, predict, tuple(kinds), normalise
        width = max(encoder.heads * 8, round(encoder.dim * decoder_width / encoder.heads / 8) * encoder.heads * 8)
        self.decoder = Decoder(encoder.dim, encoder.heads, decoder_depth, width)
        p = encoder.patch
        self.patch_head = nn.ModuleDict({s: nn.Linear(width, p * p * len(b)) for s, b in spec.bands.items()})
        self.gate = nn.Linear(width, encoder.width)
        self.pixel_head = nn.ModuleDict({s: nn.Linear(encoder.width, len(b)) for s, b in spec.bands.items()})

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        p = self.encoder.patch
        every = self.encoder.tokenize(batch)
        kept, hidden = masking.split(every, round((1 - self.mask_ratio) * every.x.shape[1]), self.kinds)
        tokens = every.take(kept)
        z = self.encoder(tokens)
        dense = self.encoder.dense(batch, tokens, z)
        dense = rearrange(dense, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)  # one row per cell
        total, pixels, out = torch.zeros((), device=z.device), torch.zeros((), device=z.device), {}
        for sensor, series in batch.sensors.items():
            count = max(1, round(self.predict * series.x.shape[1] * every.cells))
            where, real = masking.hidden_of(hidden, every, sensor, count)  # (B, K) each
            query = every.take(where)
            told = self.decoder(query.where, z, tokens.key_mask())  # (B, K, width)
            fine = dense.gather(1, query.cell[..., None].expand(-1, -1, dense.shape[-1])).unflatten(-1, (p * p, -1))
            prediction = self.patch_head[sensor](told).unflatten(-1, (p * p, -1))  # (B, K, p p, C)
            prediction = prediction + self.pixel_head[sensor](fine * self.gate(told)[:, :, None])
            target, weight = self.pixels(series, where - every.slots.index(sensor) * every.cells)
            weight = weight * real[..., None, None]
            error = ((prediction.float() - target).abs() * weight).sum() / target.shape[-1]
            total, pixels = total + error, pixels + weight.sum()
            out[f"l1_{sensor}"] = (error / weight.sum().clamp(min=1)).detach()
        return {"loss": total / pixels.clamp(min=1), **out}

    def pixels(self, series: Series, where: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, K, p p, C) of this sensor's tokens `where` (B, K), and which pixels count (B, K, p p, 1)."""
        p = self.encoder.patch
        x = rearrange(series.x, "b t c (h p) (w q) -> b (t h w) (p q c)", p=p, q=p)
        ok = rearrange(series.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=p, q=p)
        x = x.gather(1, where[..., None].expand(-1, -1, x.shape[-1])).unflatten(-1, (p * p, -1))
        weight = ok.gather(1, where[..., None].expand(-1, -1, p * p))[..., None].float()
        x = x.masked_fill(weight == 0, 0).float()
        if self.normalise:
            n = weight.sum(2, keepdim=True).clamp(min=1)
            mean = (x * weight).sum(2, keepdim=True) / n
            var = ((x - mean).square() * weight).sum(2, keepdim=True) / n
            x = (x - mean) / (var + 1e-4).sqrt()
        return x, weight

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        return round((1 - self.mask_ratio) * super().visible(batch))
