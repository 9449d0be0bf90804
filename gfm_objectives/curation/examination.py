"""Free tests of a place, and the figures that describe it: nothing here looks at another place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.curation.fingerprints import Channel, holes, picture

# Why a place is left out, in the order in which it is said; the first is no reason.
REASONS = ("", "no data", "cloud", "constant band", "saturated", "low entropy")
LEVELS, STEP = 128, 0.125  # of the entropy: bins of an eighth of the sensor's usual deviation


@dataclass(frozen=True, slots=True)
class Limits:
    """data, clear: least share of valid pixels on the best date, of any sensor and of an optical one; saturated: most
    pixels at the brightest value; entropy: least bits per pixel, at steps of an eighth of a deviation; constant:
    whether one band that is the same everywhere is a fault."""

    data: float = 0.05
    clear: float = 0.3
    saturated: float = 0.3
    entropy: float = 0.5
    constant: bool = True


@dataclass(frozen=True, slots=True)
class Examined:
    """Of B places: reason (B,) uint8, an index of REASONS; quality (B,) share of valid pixels over sensors and dates;
    figures (B, D) float: means, deviations and texture of bands, for a first embedding."""

    reason: Tensor
    quality: Tensor
    figures: Tensor


def examine(batch: Batch, channels: Sequence[Channel], limits: Limits) -> Examined:
    """Test and describe every place of the batch (normalised values)."""
    flags = {reason: torch.zeros(len(batch), dtype=torch.bool) for reason in REASONS[1:]}
    shares, best, figures = [], [], []
    for name in dict.fromkeys(c.sensor for c in channels):
        s = batch.sensors[name]
        pixels = count(s.valid.flatten(0, 1)).view(s.valid.shape[:2])  # (B, T)
        share = pixels / (s.valid.shape[-1] * s.valid.shape[-2])
        shares.append(share.mean(1))
        best.append(share.amax(1))
        mean, deviation = moments(s.x, pixels)
        figures += spread(mean, deviation, share)
        moving = [k for k, c in enumerate(channels) if c.sensor == name and not c.static]
        if moving and limits.constant:
            dead = constant(s.x, s.valid, mean, deviation)
            flags["constant band"] |= (dead.any(2) & ~dead.all(2)).any(1)
        if moving and any(channels[k].group == "visible" for k in moving):
            flags["cloud"] |= best[-1] < limits.clear
    flags["no data"] = torch.stack(best, 1).amax(1) < limits.data
    dull, flat = [], []
    for channel in channels:
        image, valid = picture(batch, channel)
        texture, bits, top = looks(image, valid)
        dates = batch.sensors[channel.sensor].x.shape[1]
        figures.append(texture.view(-1, dates).mean(1, keepdim=True))
        if not channel.static:
            dull.append((bits < limits.entropy).view(-1, dates))
            flat.append(((top > limits.saturated) & (bits >= limits.entropy)).view(-1, dates))
    if dull:
        flags["low entropy"] = torch.cat(dull, 1).all(1)
        flags["saturated"] = torch.cat(flat, 1).all(1)
    reason = torch.zeros(len(batch), dtype=torch.uint8)
    for number in reversed(range(1, len(REASONS))):
        reason[flags[REASONS[number]]] = number
    return Examined(reason, torch.stack(shares, 1).mean(1), torch.cat(figures, 1))


def moments(x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, T, C) of bands x (B, T, C, H, W), which are 0 where invalid; pixels (B, T) are valid."""
    n = pixels[..., None].clamp(min=1)
    mean = x.sum((-2, -1)) / n
    square = torch.linalg.vector_norm(x, dim=(-2, -1)).square() / n
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def constant(x: Tensor, valid: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Bands (B, T, C) that have one value wherever valid. `moments` round away small deviations of large values, so
    those that may be 0 are taken again from the values themselves."""
    out = torch.zeros(mean.shape, dtype=torch.bool)
    for b, t, c in (deviation < 0.02 * (1 + mean.abs())).nonzero().tolist():
        values = x[b, t, c][valid[b, t]].double()
        out[b, t, c] = len(values) > 0 and bool(values.std(correction=0) < 1e-3 * (1 + mean[b, t, c].abs()))
    return out


def spread(mean: Tensor, deviation: Tensor, share: Tensor) -> list[Tensor]:
    """Over the dates, each weighted by the share of it that is valid: mean, deviation, and how far the mean varies."""
    weight = share[..., None] / share[..., None].sum(1, keepdim=True).clamp(min=1e-6)
    centre = (weight * mean).sum(1)
    out = [centre, (weight * deviation).sum(1)]
    if mean.shape[1] > 1:
        out.append((weight * (mean - centre[:, None]).square()).sum(1).sqrt())
    return out


def looks(image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of pictures (N, H, W): mean difference of neighbours; bits per valid pixel; share of the valid at the maximum."""
    n = image.shape[0]
    step = (image[..., 1:] - image[..., :-1]).abs_().mean((-2, -1))
    middle = image.sum((-2, -1)) / count(valid).clamp(min=1)  # where a bin is centred: an edge there cuts in two
    level = (image - middle[:, None, None]).div_(STEP).add_(LEVELS / 2).add_(0.5).clamp_(0, LEVELS - 1).to(torch.int32)
    whole = not len(holes(valid))
    if not whole:
        level = torch.where(valid, level, LEVELS)
    rows = level.flatten(1).add_(torch.arange(n, dtype=torch.int32)[:, None], alpha=LEVELS + 1)
    counts = torch.bincount(rows.flatten(), minlength=n * (LEVELS + 1)).view(n, -1)[:, :LEVELS].float()
    total = counts.sum(1).clamp(min=1)
    p = counts / total[:, None]
    bits = -(p * p.clamp(min=1e-9).log2()).sum(1)
    if whole:
        return step, bits, count(image == image.amax((-2, -1), keepdim=True)) / total
    top = image.masked_fill(~valid, -torch.inf).amax((-2, -1), keepdim=True)
    return step, bits, count((image == top) & valid) / total


def count(flags: Tensor) -> Tensor:
    """How many of each picture's flags (N, H, W) are set, (N,). By numpy: torch takes ten times as long."""
    return torch.from_numpy(flags.flatten(1).numpy().view(np.uint8).sum(1, dtype=np.uint32).astype(np.int64))
