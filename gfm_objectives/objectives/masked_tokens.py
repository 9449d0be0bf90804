"""MaskedTokens: what mae and latent share. See a share of what every date and sensor shows, be asked about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from gfm_objectives import ranks
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.attention import Decoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.masking import Mask, take
from gfm_objectives.models.positions import metres
from gfm_objectives.models.stem import images
from gfm_objectives.objectives.objective import Masked, Variant, View

ENCODE = ("all", "seen")


@dataclass(frozen=True, slots=True)
class Asked:
    """K hidden cells of a sensor's dates: cell (B, K) long, its position; real (B, K), 0 = filler, 1; pixels
    (B, K, p p, C), 0 where weight (B, K, p p, 1) is 0; told (B, K, decoder width): what the decoder says of them."""

    cell: Tensor
    real: Tensor
    pixels: Tensor
    weight: Tensor
    told: Tensor


class MaskedTokens(Masked):
    """mask_ratio: share of the cells of slots hidden; predict: share of a sensor's to ask about, a random part of the
    hidden ones; decoder_width, of the encoder's, and decoder_depth; kinds of mask, of which each sample draws one.

    encode: what the ViT reads where whole positions are hidden. all = hidden ones too, as mask tokens, so that the
    dense features there tell what the neighbours do, as in SimMIM (arXiv 2111.09886); seen = those that are seen, as in
    MAE, at less cost: a step is then of one sort, whole positions or others.
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
        kinds: Sequence[str],
        encode: str,
    ) -> None:
        super().__init__(encoder, spec)
        if encode not in ENCODE:
            raise ValueError(f"objective.encode={encode}: choose from {', '.join(ENCODE)}")
        if encode == "seen" and encoder.vit.mixer != "attention":
            raise ValueError("objective.encode=seen: convolutions need every cell; take encode=all")
        self.mask_ratio, self.asks, self.kinds, self.encode = mask_ratio, predict, masking.known_kinds(kinds), encode
        width = max(encoder.heads * 8, round(encoder.dim * decoder_width / encoder.heads / 8) * encoder.heads * 8)
        self.decoder = Decoder(encoder.dim, encoder.stem.dim, encoder.heads, decoder_depth, width)

    def variants(self) -> tuple[Variant, ...]:
        if self.encode == "all":
            return ((),)
        whole, rest = (tuple(k for k in self.kinds if (k in masking.WHOLE) == is_whole) for is_whole in (True, False))
        return tuple(kinds for kinds in (whole, rest) if kinds)

    def mask(self, batch: Batch, variant: Variant) -> Mask:
        kinds, share = variant or self.kinds, 1 - self.mask_ratio
        if self.encode == "seen" and set(kinds) <= set(masking.WHOLE):
            return masking.positions(batch, self.encoder.patch, share, kinds, "seen")
        return masking.scattered(batch, self.encoder.patch, share, kinds)

    def share(self, variant: Variant) -> float:
        return 1 - self.mask_ratio

    def ask(self, view: View) -> dict[str, Asked]:
        """About hidden cells of every sensor, at once."""
        batch, patch, mask = view.batch, self.encoder.patch, view.mask
        rows, columns = mask.seen.shape[2:]
        code = metres((rows, columns), patch, batch.gsd, self.encoder.dim)
        asked, place, slot = [], [], []
        for sensor, series in images(batch.sensors).items():
            count = max(1, round(self.asks * series.x.shape[1] * rows * columns))
            number, real = masking.hidden_of(mask, masking.slots(batch), sensor, count)
            date, cell = number // (rows * columns), number % (rows * columns)
            place.append(take(code, cell))
            slot.append(take(self.encoder.stem.told(sensor, series), date))
            asked.append((sensor, cell, real, patches(series, number, patch)))
        context = view.encoded.tokens if mask.keep is None else take(view.encoded.tokens, mask.keep)
        told = self.decoder(torch.cat(place, 1), torch.cat(slot, 1), context).split([p.shape[1] for p in place], 1)
        return {s: Asked(cell, real, *pixels, t) for (s, cell, real, pixels), t in zip(asked, told, strict=True)}


def patches(series: Series, number: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Pixels (B, K, p p, C) of the cells `number` (B, K), date * cells + cell, and which are valid (B, K, p p, 1), 0 or
    1."""
    x = rearrange(series.x, "b t c (h p) (w q) -> b t h w p q c", p=patch, q=patch)  # views: what is not asked is not
    ok = rearrange(series.valid, "b t (h p) (w q) -> b t h w p q 1", p=patch, q=patch)  # moved
    rows, columns = x.shape[2:4]  # torch.unravel_index sends lists, for which the host waits
    at = number // (rows * columns), number // columns % rows, number % columns
    place = torch.arange(len(x), device=x.device)[:, None], *at
    x, ok = x[place].flatten(2, 3), ok[place].flatten(2, 3)
    return x.masked_fill(~ok, 0).float(), ok.float()


def band_means(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of each patch's valid pixels, per band: (B, K, 1, C), of what `patches` gives."""
    return (x * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)


def shared(parts: list[tuple[str, Tensor, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Of (sensor, sum of errors, count): the mean error over all sensors, and each sensor's."""
    error, count = (torch.stack([p[i] for p in parts]).sum() for i in (1, 2))  # type: ignore[misc]
    count = ranks.mean(count)
    return error / count.clamp(min=1), {s: (e / n.clamp(min=1)).detach() for s, e, n in parts}
