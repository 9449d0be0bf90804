"""The way back: tokens and merged cells -> features at full resolution, with a skip below the patch.

A skip at full resolution was the largest single effect in early trials (a ViT from scratch went from .46 to .61 mIoU),
so every objective trains it and every export carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives import ranks
from gfm_objectives.models.bands import BandTable
from gfm_objectives.models.stem import CELL, COMPOSITES, Merged


class WayBack(nn.Module):
    """Tokens by a linear map to cells, where the merged cells are added, one 3 x 3 block; by a linear map to pixels,
    where the composites of the raw bands are added, one more.

    cell_dim: of the merged cells; dim: of the tokens; width: of the features; patches: as of the ViT; pixel_dropout:
    probability in training that a place is seen by its tokens alone; skip_scale: of what is added to them, at first.
    """

    def __init__(
        self,
        bands: Mapping[str, Sequence[str]],
        cell_dim: int,
        dim: int,
        width: int,
        patches: Sequence[int],
        band_dropout: float,
        pixel_dropout: float = 0.0,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.up = nn.ModuleDict({str(p): nn.Linear(dim, cell_dim * (p // CELL) ** 2) for p in patches})
        self.skip = nn.Linear(cell_dim, cell_dim)
        self.coarse = ConvBlock(cell_dim, cell_dim)
        self.shuffle = nn.Linear(cell_dim, CELL * CELL * width)
        self.composite = BandTable(bands, COMPOSITES, width, band_dropout)
        self.validity = nn.Parameter(torch.zeros(COMPOSITES, width))
        self.fine = ConvBlock(width, width)
        self.pixel_dropout = pixel_dropout
        with torch.no_grad():
            for p in (self.skip.weight, *self.composite.parameters()):
                p *= skip_scale

    def forward(self, z: Tensor, merged: Merged, patch: int) -> Tensor:
        """z (B, tokens, dim), as the ViT gives it; returns (B, width, H, W)."""
        (h, w), m = merged.grid, patch // CELL
        skip, pixels = self.skip(merged.cells), self.pixels(merged)
        if self.training and self.pixel_dropout:
            stays = ranks.rand(len(z), 1, 1, device=z.device) >= self.pixel_dropout
            skip, pixels = skip * stays, pixels * stays[..., None]
        y = self.up[str(patch)](z)
        y = rearrange(y, "b (h w) (p q c) -> b (h p w q) c", h=h // m, w=w // m, p=m, q=m) + skip
        y = self.coarse(rearrange(y, "b (h w) c -> b c h w", h=h, w=w))
        y = self.shuffle(y.flatten(2).mT).unflatten(-1, (CELL * CELL, -1)).add_(pixels)
        y = rearrange(y, "b (h w) (p q) c -> b (h p) (w q) c", h=h, w=w, p=CELL, q=CELL)
        return self.fine(y.movedim(-1, 1))

    def pixels(self, merged: Merged) -> Tensor:
        """(B, n, p q, width): the composites of all sensors by a linear map of each pixel."""
        found, weights = [], []
        for name, x in merged.pixels.items():
            weight = self.composite[name](merged.bands[name]).movedim(1, 0)  # (COMPOSITES, C, width)
            weights.append(torch.cat([weight, self.validity[:, None]], 1).flatten(0, 1))
            found.append(x.flatten(2, 3))
        return torch.cat(found, 2).mT @ torch.cat(weights)


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, GELU. Group norm learned far slower in short fine-tuning (LOG.md, 2026-11-22)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU())
