"""What is probed: features of held-out places, of an encoder or, without any training, of the bands' statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.device import autocast
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.sensors import SENSORS

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet

CELL = 16  # pixels; whatever the encoder's patch, so that cells of all encoders are the same
CHUNK = 16  # places at a time
ALL, PAST = "all", "past"


@dataclass(frozen=True, slots=True)
class Features:
    """Float64 on the CPU. pixels: view -> (B, P, width) at the pixels drawn; cells (B, cells, width), their means over
    CELL x CELL pixels; tokens (B, patches, D), of a ViT only."""

    pixels: dict[str, Tensor]
    cells: Tensor
    tokens: Tensor | None = None

    @property
    def finite(self) -> bool:
        every = [*self.pixels.values(), self.cells, *([] if self.tokens is None else [self.tokens])]
        return all(bool(t.isfinite().all()) for t in every)


def views(spec: Spec) -> dict[str, dict[str, int]]:
    """View -> sensor -> how many of its dates are seen: all; without one sensor, under its name; without the last date.

    Relative height (a centred sensor) is never withheld: it does not follow from what covers the ground.
    """
    out = {ALL: dict(spec.dates)}
    if len(spec.dates) > 1:
        out |= {s: {**spec.dates, s: 0} for s in spec.dates if not SENSORS[s].centred}
    if max(spec.dates.values()) > 1:
        out[PAST] = {s: max(1, t - 1) for s, t in spec.dates.items()}
    return out


def see(batch: Batch, dates: Mapping[str, int], blank: bool = False) -> Batch:
    """The first dates[s] dates of each sensor, 0 = none of it. blank: the rest stays, marked as missing, for a U-Net,
    whose channels are fixed."""
    sensors = {}
    for s, series in batch.sensors.items():
        n = dates[s]
        if blank:
            gone = torch.arange(series.x.shape[1], device=series.x.device) >= n
            x = series.x.masked_fill(gone[:, None, None, None], 0)
            sensors[s] = series.replace(x=x, valid=series.valid & ~gone[:, None, None])
        elif n:
            sensors[s] = series.map(lambda t, n=n: t[:, :n])  # type: ignore[misc]
    return batch.replace(sensors=sensors)


def of_encoder(
    encoder: Encoder | UNet, batch: Batch, seen: Mapping[str, Mapping[str, int]], pixel: Tensor, dtype: torch.dtype
) -> Features:
    """Features of the frozen encoder for every view of `seen`, at the pixels `pixel` (B, P), numbers of flat pixels.

    The encoder comes back as it was: batch norm runs on its statistics and does not update them, and the global chance
    is not drawn from.
    """
    device = next(encoder.parameters()).device
    blank = not isinstance(encoder, Encoder)
    chunks = []
    with frozen(encoder, device), autocast(device, dtype):
        for start in range(0, len(batch), CHUNK):
            part = _slice(batch, start).to(device)
            pixels: dict[str, Tensor] = {}
            tokens = None
            for name, dates in seen.items():
                shown = see(part, dates, blank)
                if isinstance(encoder, Encoder):
                    encoded = encoder(shown)
                    dense = encoded.dense
                    if name == ALL and encoder.depth:
                        tokens = encoded.tokens.double().cpu()
                else:
                    dense = encoder.features(shown)
                dense = dense.double().cpu()
                pixels[name] = at(dense, pixel[start : start + CHUNK])
                if name == ALL:
                    cells = pooled(dense)
            chunks.append(Features(pixels, cells, tokens))
    tokens_of = [c.tokens for c in chunks if c.tokens is not None]
    joined = torch.cat(tokens_of) if tokens_of else None
    pixels = {v: torch.cat([c.pixels[v] for c in chunks]) for v in seen}
    return Features(pixels, torch.cat([c.cells for c in chunks]), joined)


def of_bands(batch: Batch, seen: Mapping[str, Mapping[str, int]], pixel: Tensor) -> Features:
    """The same without an encoder, by `band_statistics`."""
    parts = [(_slice(batch, start), pixel[start : start + CHUNK]) for start in range(0, len(batch), CHUNK)]
    pixels = {v: torch.cat([at(band_statistics(see(b, d)), p) for b, p in parts]) for v, d in seen.items()}
    return Features(pixels, torch.cat([pooled(band_statistics(see(b, seen[ALL]))) for b, _ in parts]))


def band_statistics(batch: Batch) -> Tensor:
    """(B, 4 C, H, W) float64: for each band of every sensor mean and deviation over the valid dates of a pixel, then
    mean and deviation of that mean over 3 x 3 pixels. What a probe can do without any training."""
    out = []
    for s in batch.sensors.values():
        ok = s.valid[:, :, None].double()
        n = ok.sum(1).clamp(min=1)
        x = s.x.double() * ok
        mean = x.sum(1) / n
        std = ((s.x.double() - mean[:, None]).square() * ok).sum(1).div(n).sqrt()
        local, square = (F.avg_pool2d(t, 3, 1, 1, count_include_pad=False) for t in (mean, mean.square()))
        out += [mean, std, local, (square - local.square()).clamp(min=0).sqrt()]
    return torch.cat(out, 1)


def at(dense: Tensor, pixel: Tensor) -> Tensor:
    """(B, P, C): what `dense` (B, C, H, W) has at `pixel` (B, P)."""
    flat = dense.flatten(2)
    return flat.gather(2, pixel[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def pooled(dense: Tensor) -> Tensor:
    """(B, cells, C): means of (B, C, H, W) over cells of CELL x CELL pixels; a rest at the edge is left out."""
    return F.avg_pool2d(dense, CELL).flatten(2).transpose(1, 2)


@contextmanager
def frozen(encoder: nn.Module, device: torch.device) -> Iterator[None]:
    """Without gradients and in eval mode; the mode of every module and the state of the global chance come back."""
    modes = {m: m.training for m in encoder.modules()}
    encoder.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _slice(batch: Batch, start: int) -> Batch:
    return batch.map(lambda t: t[start : start + CHUNK])
