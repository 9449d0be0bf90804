"""Chance that depends on the place alone: hashed seeds, smooth random fields, and a bank of pixel noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gfm_objectives.chance import seed_of


class Draws:
    """Standard normal numbers of B places, each from its own seed, dealt out in order as (B, *shape).

    earth names the Earth the places lie on (world:seed), whose bank of pixel noise they read.
    """

    def __init__(self, seeds: Sequence[int], count: int, earth: str) -> None:
        self.seeds, self.earth = list(seeds), earth
        gens = [torch.Generator().manual_seed(s) for s in seeds]
        self.numbers = torch.stack([torch.randn(count, generator=g) for g in gens])
        self.used = 0

    def fork(self, stream: int, count: int) -> Draws:
        """Further numbers of the same places, unaffected by how many were used here."""
        return Draws([s + 1 + stream for s in self.seeds], count, self.earth)

    def normal(self, *shape: int) -> Tensor:
        n = math.prod(shape)
        self.used += n
        assert self.used <= self.numbers.shape[1], (self.used, self.numbers.shape)
        return self.numbers[:, self.used - n : self.used].reshape(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        return torch.erf(self.normal(*shape) * math.sqrt(0.5)).mul_(0.5).add_(0.5).clamp_(0, 0.999999)

    def field(self, count: int, knots: int, size: int) -> Tensor:
        """(B, count, size, size): smooth fields of about zero mean and unit variance, `knots` bumps across."""
        n = knots_at(knots, size)
        z = self.normal(count, n, n).reshape(-1, n, n)
        up = spline(n, size).expand(len(z), -1, -1)
        # bmm and not matmul: each place is its own product, whatever the batch
        return torch.bmm(torch.bmm(up, z), up.transpose(1, 2)).view(-1, count, size, size)

    def pixels(self, kind: str, length: int) -> list[Tensor]:
        """For each place a stretch of the `kind` of pixel noise, from an offset of its own."""
        assert length < BANK, length
        source = bank(kind, self.earth)
        starts = (self.uniform(1)[:, 0] * ((BANK - length) // 16)).long() * 16
        return [source[s : s + length] for s in starts.tolist()]


def knots_at(knots: int, size: int) -> int:
    """`knots` counts a 64-pixel place; other sizes keep the scale of the landscape. Three more overhang the edges."""
    return max(1, round(knots * size / 64)) + 3


@lru_cache(maxsize=32)
def spline(n: int, size: int) -> Tensor:
    """(size, n) cubic B-spline weights, scaled so that white noise on the knots gives a field of unit variance."""
    at = (torch.arange(size) + 0.5) / size * (n - 3) + 1
    d = (at[:, None] - torch.arange(n)).abs()
    w = torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, torch.where(d < 2, (2 - d) ** 3 / 6, 0.0))
    return (w / w.square().sum(1).mean().sqrt()).float().contiguous()


BANK = 1 << 20


@lru_cache(maxsize=8)
def bank(kind: str, earth: str) -> Tensor:
    """An Earth's bank of pixel noise, the same in every process. Places read from it at their own offsets: drawing
    afresh for every pixel, band and date would cost more than all the rest.
    """
    g = torch.Generator().manual_seed(seed_of(earth, "bank", kind))
    if kind == "normal":
        return torch.randn(BANK, generator=g)
    # speckle: 10 log10 of a gamma variable of 5 looks and mean 1
    looks = 5
    exponential = -torch.log(torch.rand(looks, BANK, generator=g).clamp_(min=1e-7))
    return 10 * torch.log10(exponential.mean(0))
