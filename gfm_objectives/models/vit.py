"""The ViT on merged cells: some of them to a token, blocks of attention, one vector a token."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gfm_objectives.models.attention import attention_kernel
from gfm_objectives.models.positions import metres
from gfm_objectives.models.stem import CELL, Merged


class ViT(nn.Module):
    """Pre-norm ViT (timm's blocks). A token is a patch of merged cells, whatever the dates and sensors; no class token.

    cell_dim: of the cells; patches: sides in pixels that it can be asked for, each with a linear map of its own.
    """

    def __init__(self, cell_dim: int, dim: int, depth: int, heads: int, patches: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.merge = nn.ModuleDict({str(p): nn.Linear(cell_dim * (p // CELL) ** 2, dim) for p in patches})
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, merged: Merged, patch: int, gsd: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, tokens, dim), row by row. keep (B, k) long: the tokens that the blocks read, as in MAE; the others come
        out as 0."""
        h, w = merged.grid
        m = patch // CELL
        x = rearrange(merged.cells, "b (h p w q) c -> b (h w) (p q c)", h=h // m, w=w // m, p=m, q=m)
        x = self.merge[str(patch)](x) + metres((h // m, w // m), patch, gsd, self.dim)
        count = x.shape[1]
        if keep is not None:
            index = keep[..., None].expand(-1, -1, self.dim)
            x = x.gather(1, index)
        with attention_kernel(x):
            for block in self.blocks:
                x = block(x)
        x = self.norm(x)
        if keep is None:
            return x
        return x.new_zeros(len(x), count, self.dim).scatter(1, index, x)
