"""MaskedTokens: what mae, latent and jepa share. See a share of the tokens, be asked about hidden ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.attention import Decoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.tokens import Tokens
from gfm_objectives.objectives.objective import Objective, Variant


@dataclass(frozen=True, slots=True)
class View:
    """A masked look at a batch: every token, those hidden (B, M), those seen, their features, the dense features."""

    every: Tokens
    hidden: Tensor
    seen: Tokens
    z: Tensor  # (B, N, D)
    dense: Tensor  # (B, width, H, W)


class MaskedTokens(Objective):
    """mask_ratio: share of tokens hidden; predict: share of a sensor's tokens to ask about, a random part of the hidden
    ones; decoder_width, of the encoder's, and decoder_depth; kinds of mask, of which each sample draws one."""

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        predict: float,
        decoder_width: float,
        decoder_depth: int,
        kinds: Sequence[str],
    ) -> None:
        super().__init__(encoder, spec)
        unknown = [k for k in kinds if k not in masking.KINDS]
        if unknown or not kinds:
            raise ValueError(f"objective.kinds={kinds}: choose from {', '.join(masking.KINDS)}")
        self.mask_ratio, self.predict, self.kinds = mask_ratio, predict, tuple(kinds)
        width = max(encoder.heads * 8, round(encoder.dim * decoder_width / encoder.heads / 8) * encoder.heads * 8)
        self.decoder = Decoder(encoder.dim, encoder.heads, decoder_depth, width)

    def look(self, batch: Batch) -> View:
        every = self.encoder.tokenize(batch)
        kept, hidden = masking.split(every, round((1 - self.mask_ratio) * every.x.shape[1]), self.kinds)
        seen = every.take(kept)
        z = self.encoder(seen)
        return View(every, hidden, seen, z, self.encoder.dense(batch, seen, z))

    def ask(self, view: View, sensor: str) -> tuple[Tensor, Tensor, Tensor]:
        """Some hidden tokens of a sensor: their positions (B, K), which of them are real and no fillers (B, K), 0 or 1,
        and what the decoder says of them (B, K, decoder width)."""
        count = max(1, round(self.predict * view.every.slots.count(sensor) * view.every.cells))
        where, real = masking.hidden_of(view.hidden, view.every, sensor, count)
        return where, real, self.decoder(view.every.take(where).where, view.z, view.seen.key_mask())

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        return round((1 - self.mask_ratio) * super().visible(batch))


def patches(view: View, sensor: str, series: Series, where: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (B, K, p p, C) of the tokens `where` (B, K) of a sensor, and which are valid (B, K, p p, 1), 0 or 1."""
    p = series.x.shape[-1] // view.every.grid[1]
    where = (where - view.every.slots.index(sensor) * view.every.cells)[..., None]
    x = rearrange(series.x, "b t c (h p) (w q) -> b (t h w) (p q c)", p=p, q=p)
    ok = rearrange(series.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=p, q=p)
    x = x.gather(1, where.expand(-1, -1, x.shape[-1])).unflatten(-1, (p * p, -1))
    weight = ok.gather(1, where.expand(-1, -1, p * p))[..., None].float()
    return x.masked_fill(weight == 0, 0).float(), weight


def band_means(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of each patch's valid pixels, per band: (B, K, 1, C), of what `patches` gives."""
    return (x * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)
