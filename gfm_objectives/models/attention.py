"""Cross-attention block and decoder: queries read tokens. The one place attention is written by hand."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.models.slices import in_slices


class CrossBlock(nn.Module):
    """Pre-norm cross-attention and MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, context_dim: int | None = None) -> None:
        super().__init__()
        context_dim = context_dim or dim
        self.heads = heads
        self.norm_q, self.norm_kv, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(context_dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(context_dim, 2 * dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, q: Tensor, kv: Tensor) -> Tensor:
        """q (B, M, D) reads kv (B, N, E); returns (B, M, D)."""
        split = (self.heads, q.shape[-1] // self.heads)
        query = self.q(self.norm_q(q)).unflatten(-1, split).transpose(1, 2)
        key, value = (t.unflatten(-1, split).transpose(1, 2) for t in self.kv(self.norm_kv(kv)).chunk(2, -1))
        read = F.scaled_dot_product_attention(query, key, value)
        q = q + self.out(read.transpose(1, 2).flatten(2))
        return q + self.mlp(self.norm_mlp(q))


class Decoder(nn.Module):
    """Says what is hidden: queries for cells of slots attend to the tokens (B, N, E) and come out as (B, M, dim).

    Only what the loss needs is queried. Width and depth follow the encoder (half its width, a quarter of its depth): a
    decoder of fixed size would take most of a small model's FLOPs. context_dim: E; slot_dim: of the codes of slots.
    """

    def __init__(self, context_dim: int, slot_dim: int, heads: int, depth: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.micro = 0  # places held at a time in training; 0 = all
        self.place, self.slot = nn.Linear(context_dim, dim), nn.Linear(slot_dim, dim, bias=False)
        self.blocks = nn.ModuleList(CrossBlock(dim, heads, context_dim=context_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, place: Tensor, slot: Tensor, context: Tensor) -> Tensor:
        """place (B, M, E) and slot (B, M, slot_dim): the codes of where, and of which date and sensor, is asked for."""
        return in_slices(self.read, self.micro, context, place, slot, context)

    def read(self, place: Tensor, slot: Tensor, context: Tensor) -> Tensor:
        q = self.place(place) + self.slot(slot)
        for block in self.blocks:
            q = block(q, context)
        return self.norm(q)
