"""The dense path: visible pixels of every sensor and date, joined with the tokens, to features at full resolution.

It was the largest single effect in early trials (a ViT from scratch went from .46 to .61 mIoU), so every objective
trains it and every export carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series
from gfm_objectives.models.attention import CrossBlock
from gfm_objectives.models.bands import BandTable
from gfm_objectives.models.tokens import Tokens, day_features
from gfm_objectives.sensors import SENSORS


class DensePath(nn.Module):
    """Tokens and pixels -> (B, width, H, W).

    Reader: every cell reads its own tokens, then all of them, so hidden cells are filled in from their neighbours.
    Stem: a linear map of every pixel on every date, told the day; its dates are pooled per pixel by attention with
    several heads, each of which may pick another date, as L-TAE does (arXiv 2007.00586), and the sensors are summed.
    What follows sees one image: pyramid down to half a patch and up again, where skips are added after a 1 x 1
    convolution of what is coarser, as in FPN (arXiv 1612.03144); joined to it, they cost 2.5 times as much. Tokens join
    with small weights, so that an untrained ViT does not disturb the pixels' path.

    tokens: False = there are none, so nothing is read or joined, and the way up begins at half a patch. A map, which
    has neither day nor brightness, is added as one vector per class.
    """

    def __init__(
        self,
        bands: Mapping[str, Sequence[str]],
        dim: int,
        heads: int,
        patch: int,
        width: int,
        band_dropout: float,
        tokens: bool = True,
        date_heads: int = 8,
    ) -> None:
        super().__init__()
        levels = patch.bit_length() - 1
        assert patch == 2**levels and 2 * width % date_heads == 0, (patch, width)
        self.width, self.date_heads, self.tokens = width, date_heads, tokens
        if tokens:
            self.query = nn.Parameter(torch.randn(dim) * 0.02)
            self.local, self.globally = CrossBlock(dim, heads), CrossBlock(dim, heads)
        self.stem = BandTable(bands, 1, 2 * width, band_dropout)
        self.when = nn.Linear(5, 2 * width)
        self.score = nn.Linear(2 * width, date_heads)
        self.mix = nn.Linear(2 * width, width)
        channels = [width * min(2**i, 4) for i in range(levels)]
        self.first = ConvBlock(width, width)
        self.down = nn.ModuleList(ConvBlock(a, b, stride=2) for a, b in pairwise(channels))
        if tokens:
            self.join = nn.Linear(dim, channels[-1])
            nn.init.normal_(self.join.weight, std=1e-3)
        wide = [*channels, channels[-1]] if tokens else channels
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(wide))
        self.up = nn.ModuleList(ConvBlock(c, c) for c in channels)

    def forward(self, batch: Batch, tokens: Tokens, z: Tensor, position: Tensor) -> Tensor:
        """z (B, N, D): the encoder's output for `tokens`; position (B, cells, D): the code of every cell."""
        cells = self.join(self.read(tokens, z, position)) if self.tokens else None
        skips = [self.first(self.pixels(batch, tokens))]
        for down in self.down:
            skips.append(down(skips[-1]))
        y = self.up[-1](skips[-1]) if cells is None else cells.transpose(1, 2).unflatten(2, tokens.grid)
        for i in reversed(range(len(self.lateral))):
            y = self.up[i](F.interpolate(self.lateral[i](y), scale_factor=2.0, mode="nearest") + skips[i])
        return y

    def read(self, tokens: Tokens, z: Tensor, position: Tensor) -> Tensor:
        """(B, cells, D): one vector per cell, hidden cells included."""
        ok = tokens.key_mask()[:, None]  # (B, 1, N)
        own = tokens.cell[:, None] == torch.arange(tokens.cells, device=z.device)[:, None]  # (B, cells, N)
        q = self.local(position + self.query, z, own & ok)
        return self.globally(q, z, ok)

    def pixels(self, batch: Batch, tokens: Tokens) -> Tensor:
        """Visible pixels, pooled over each sensor's dates and summed over sensors: (B, width, H, W)."""
        seen = tokens.visible()  # (B, slots, h, w)
        patch = batch.size[0] // tokens.grid[0]
        pooled, slot = [], 0
        for name, series in batch.sensors.items():
            if SENSORS[name].of_classes:
                pooled.append(self.classes(name, series))
                continue
            t = series.x.shape[1]
            mask = seen[:, slot : slot + t].repeat_interleave(patch, 2).repeat_interleave(patch, 3) & series.valid
            weight = self.stem[name](series.bands)[:, 0].T  # (2 width, bands)
            x = series.x.masked_fill(~mask[:, :, None], 0).flatten(0, 1)
            y = F.gelu(pointwise(x, weight, self.when(day_features(series)).flatten(0, 1)))
            pooled.append(self.pool(y.unflatten(0, (-1, t)), mask))
            slot += t
        return pointwise(torch.stack(pooled).sum(0), self.mix.weight, self.mix.bias)

    def classes(self, name: str, series: Series) -> Tensor:
        """A map of one date: the vector of each pixel's class, 0 where it is not valid: (B, 2 width, H, W)."""
        x = series.x.masked_fill(~series.valid[:, :, None], 0)[:, 0]
        weight = self.stem[name](series.bands)[:, 0].T
        return pointwise(x, weight, torch.zeros_like(weight[:, 0]))

    def pool(self, y: Tensor, alive: Tensor) -> Tensor:
        """Attention over dates at each pixel: y (B, T, C, H, W), alive (B, T, H, W) -> (B, C, H, W)."""
        score = pointwise(y.flatten(0, 1), self.score.weight, self.score.bias).unflatten(0, y.shape[:2])
        score = score.masked_fill(~alive[:, :, None], -1e4)
        empty = torch.zeros_like(score[:, :1])  # a date that shows nothing, so that all may be hidden
        weight = torch.cat([empty, score], 1).softmax(1)[:, 1:].to(y.dtype)
        grouped = y.unflatten(2, (self.date_heads, -1))  # (B, T, heads, C / heads, H, W)
        return (grouped * weight[:, :, :, None]).sum(1).flatten(1, 2)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1 x 1 convolution as a matrix product: x (N, C, H, W), weight (D, C), bias (D,) or (N, D) -> (N, D, H, W).

    Convolutions of that size at full resolution took a third of a step on a CPU.
    """
    y = torch.baddbmm(bias[..., None], weight.expand(len(x), -1, -1), x.flatten(2))
    return y.unflatten(2, x.shape[2:])


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, GELU. Group norm learned far slower in short fine-tuning (LOG.md, 2026-11-22)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU())
