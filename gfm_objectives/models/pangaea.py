"""The two networks of PANGAEA's protocol (Marsocci et al. 2024, arXiv 2412.04204): a frozen encoder under a UPerNet,
and its U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder

TOPOLOGY = (64, 128, 256, 512)
LEVELS = 4  # feature maps that a UPerNet reads
CHANNELS = 512
POOLS = (1, 2, 3, 6)


def _conv(inside: int, outside: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, padding=kernel // 2), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


# ---------------------------------------------------------------- UPerNet


class UPerNet(nn.Module):
    """Xiao et al. 2018, arXiv 1807.10221, on LEVELS maps of one size, as a ViT gives them: (B, dim, h, w) each ->
    logits (B, classes, 4 h, 4 w).

    The maps are brought to 4, 2, 1 and 1/2 times their size; the last is pooled at POOLS; all meet top down.
    """

    def __init__(self, dim: int, classes: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.neck = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, dim, 2, stride=2),
                    nn.BatchNorm2d(dim),
                    nn.GELU(),
                    nn.ConvTranspose2d(dim, dim, 2, stride=2),
                ),
                nn.ConvTranspose2d(dim, dim, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),  # of a map of one pixel, that pixel
            ]
        )
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), _conv(dim, channels, 1)) for n in POOLS)
        self.bottleneck = _conv(dim + len(POOLS) * channels, channels, 3)
        self.lateral = nn.ModuleList(_conv(dim, channels, 1) for _ in range(LEVELS - 1))
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in range(LEVELS - 1))
        self.join = _conv(LEVELS * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.logits = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [bring(x) for bring, x in zip(self.neck, maps, strict=True)]
        top = levels[-1]
        pooled = [_to(pool(top), top) for pool in self.pools]
        found = [side(x) for side, x in zip(self.lateral, levels[:-1], strict=True)]
        found.append(self.bottleneck(torch.cat([top, *pooled], 1)))
        for i in range(LEVELS - 1, 0, -1):
            found[i - 1] = found[i - 1] + _to(found[i], found[i - 1])
        out = [smooth(x) for smooth, x in zip(self.smooth, found[:-1], strict=True)] + [found[-1]]
        return self.logits(self.dropout(self.join(torch.cat([_to(x, out[0]) for x in out], 1))))


def _to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear")


class FrozenUPerNet(nn.Module):
    """Batch -> logits (B, classes, H, W), float32: an encoder that learns nothing more, read after four evenly spread
    blocks of its ViT, under a UPerNet. InputError for an encoder without blocks."""

    def __init__(self, encoder: Encoder, classes: int, channels: int = CHANNELS) -> None:
        super().__init__()
        if not encoder.depth:
            raise InputError("protocol=pangaea: reads an encoder's ViT, and this one has none (encoder.depth=0)")
        self.encoder = encoder.requires_grad_(False)
        self.after = [max(1, round((k + 1) * encoder.depth / LEVELS)) - 1 for k in range(LEVELS)]
        self.head = UPerNet(encoder.dim, classes, channels)

    def train(self, mode: bool = True) -> FrozenUPerNet:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        logits = self.head(self.maps(batch))
        return F.interpolate(logits, size=batch.size, mode="bilinear").float()

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """(B, dim, h, w) after each block of `after`."""
        whole = batch.pad_to(self.encoder.patch)
        seen: dict[int, Tensor] = {}
        grid = [n // self.encoder.patch for n in whole.size]

        def keep(k: int) -> object:
            return self.encoder.vit.blocks[k].register_forward_hook(lambda m, a, out: seen.__setitem__(k, out))

        hooks = [keep(k) for k in dict.fromkeys(self.after)]
        try:
            self.encoder.trunk(whole, None)
        finally:
            for hook in hooks:
                hook.remove()  # type: ignore[attr-defined]
        tokens = grid[0] * grid[1]  # registers follow them
        return [seen[k][:, :tokens].mT.unflatten(2, grid) for k in self.after]


# ---------------------------------------------------------------- U-Net


class PangaeaUNet(nn.Module):
    """Batch -> logits (B, classes, H, W), float32: four halvings from TOPOLOGY[0] channels, on all sensors and dates as
    one stack of planes."""

    def __init__(self, spec: Spec, classes: int, topology: Sequence[int] = TOPOLOGY) -> None:
        super().__init__()
        planes = sum(spec.dates[name] * len(bands) for name, bands in spec.bands.items())
        wide = [*topology, topology[-1]]
        back = [*reversed(topology), topology[0]]
        self.begin = _twice(planes, topology[0])
        self.down = nn.ModuleList(_twice(a, b) for a, b in pairwise(wide))
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c, 2, stride=2) for c in back[:-1])
        self.back = nn.ModuleList(_twice(2 * a, b) for a, b in pairwise(back))
        self.logits = nn.Conv2d(topology[0], classes, 1)

    def forward(self, batch: Batch) -> Tensor:
        height, width = batch.size
        whole = batch.pad_to(2 ** len(self.down))
        x = torch.cat([s.x.flatten(1, 2) for s in whole.sensors.values()], 1)
        held = [self.begin(x)]
        for block in self.down:
            held.append(block(F.max_pool2d(held[-1], 2)))
        x = held.pop()
        for up, back in zip(self.up, self.back, strict=True):
            x = back(torch.cat([held.pop(), up(x)], 1))
        return self.logits(x)[:, :, :height, :width].float()


def _twice(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(_conv(inside, outside, 3), _conv(outside, outside, 3))
