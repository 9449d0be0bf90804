"""The ViT on merged cells: some of them to a token, blocks of attention, one vector a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gfm_objectives.models.masking import take
from gfm_objectives.models.positions import metres
from gfm_objectives.models.stem import CELL, Merged

MIXERS = ("attention", "convolution")

# cuDNN's attention: its backward gives nan for 64 tokens, and every odd multiple, once their logits are far below 0
# (https://github.com/pytorch/pytorch/issues/196678): runs with blocks died of it on an H100.
torch.backends.cuda.enable_cudnn_sdp(False)


class ViT(nn.Module):
    """Pre-norm ViT (timm's blocks). A token is a patch of merged cells, whatever the dates and sensors; no class token.

    cell_dim: of the cells; patches: sides in pixels that it can be asked for, each with a linear map of its own; mixer:
    attention, or convolution, the rival of equal depth that reaches as far without it; registers: further tokens that
    stand for no place and go no further (arXiv 2309.16588).
    """

    def __init__(
        self,
        cell_dim: int,
        dim: int,
        depth: int,
        heads: int,
        patches: Sequence[int],
        mixer: str = "attention",
        registers: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.mixer = dim, mixer
        self.merge = nn.ModuleDict({str(p): nn.Linear(cell_dim * (p // CELL) ** 2, dim) for p in patches})
        attends = mixer == "attention"
        blocks = (Block(dim, heads, qkv_bias=True) if attends else Dilated(dim, 2 ** (k % 3)) for k in range(depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.registers = nn.Parameter(torch.randn(registers, dim) * 0.02) if registers else None

    def forward(self, merged: Merged, patch: int, gsd: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, tokens, dim), row by row. keep (B, k) long: the tokens that the blocks read, as in MAE; the others come
        out as 0."""
        h, w = merged.grid
        m = patch // CELL
        x = rearrange(merged.cells, "b (h p w q) c -> b (h w) (p q c)", h=h // m, w=w // m, p=m, q=m)
        place, count = metres((h // m, w // m), patch, gsd, self.dim), x.shape[1]
        if keep is not None:  # before they are merged: what is left out costs nothing
            x, place = take(x, keep), take(place, keep)
        x = self.merge[str(patch)](x) + place
        if self.registers is not None:
            x = torch.cat([x, self.registers.to(x.dtype).expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x, (h // m, w // m)) if self.mixer == "convolution" else block(x)
        x = self.norm(x)[:, : count if keep is None else keep.shape[1]]
        if keep is None:
            return x
        return x.new_zeros(len(x), count, self.dim).scatter(1, keep[..., None].expand_as(x), x)


class Dilated(nn.Module):
    """Block of a ConvNeXt (arXiv 2201.03545) whose 7 x 7 convolution of each channel looks at every `step`-th token."""

    def __init__(self, dim: int, step: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(dim, dim, 7, padding=3 * step, dilation=step, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (B, rows x columns, dim) on the grid (rows, columns)."""
        y = self.near(x.mT.unflatten(2, grid)).flatten(2).mT
        return x + self.mlp(self.norm(y))
