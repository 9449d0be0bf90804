"""Tokens: one per sensor x date x patch, with content, place, day, sensor and validity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series
from gfm_objectives.models.bands import BandTable
from gfm_objectives.sensors import SENSORS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A set of tokens of each place.

    x (B, N, D) content and place; where (B, N, D) place alone (position, day, sensor), the query for a hidden token;
    valid (B, N) bool, False = no valid pixel; id (B, N) long = slot * cells + cell, where a slot is one date of one
    sensor, in the order of `slots`, and a cell is a patch position, row by row on `grid` (rows, columns). Without a ViT
    D is 0: such tokens only say what is seen.
    """

    x: Tensor
    where: Tensor
    valid: Tensor
    id: Tensor
    slots: tuple[str, ...]  # the sensor of each slot
    grid: tuple[int, int]

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def cell(self) -> Tensor:
        return self.id % self.cells

    def take(self, index: Tensor) -> Tokens:
        """The tokens at positions `index` (B, k): exactly k, valid or not, so that shapes and FLOPs are static."""
        wide = index[..., None].expand(-1, -1, self.x.shape[-1])
        return dataclasses.replace(
            self,
            x=self.x.gather(1, wide),
            where=self.where.gather(1, wide),
            valid=self.valid.gather(1, index),
            id=self.id.gather(1, index),
        )

    def visible(self) -> Tensor:
        """Which (slot, cell) these tokens cover: (B, slots, h, w) bool."""
        seen = torch.zeros(self.id.shape[0], len(self.slots) * self.cells, dtype=torch.bool, device=self.id.device)
        return seen.scatter(1, self.id, True).unflatten(1, (len(self.slots), *self.grid))

    def key_mask(self) -> Tensor:
        """(B, N) bool for attention; a place with nothing valid keeps its first token, or softmax would be 0/0."""
        first = torch.arange(self.valid.shape[1], device=self.valid.device) == 0
        return self.valid | (first & ~self.valid.any(1, keepdim=True))


class Tokenizer(nn.Module):
    """Linear patchify with one weight block per band, plus sine-cosine position in metres, day of year and sensor."""

    def __init__(self, bands: Mapping[str, Sequence[str]], dim: int, patch: int, band_dropout: float) -> None:
        super().__init__()
        assert dim % 8 == 0, dim
        self.dim, self.patch = dim, patch
        bands = images(bands)
        self.embed = BandTable(bands, patch * patch, dim, band_dropout)
        self.validity = nn.Parameter(torch.zeros(patch * patch, dim))  # tells an invalid pixel from an average one
        self.sensor = nn.ParameterDict({s: nn.Parameter(torch.randn(dim) * 0.02) for s in bands})
        self.day = nn.Linear(5, dim)

    def forward(self, batch: Batch) -> Tokens:
        p = self.patch
        size = batch.size
        assert size[0] % p == 0 and size[1] % p == 0, f"{size} pixels do not divide into patches of {p}"
        grid = (size[0] // p, size[1] // p)
        position = metres(grid, p, batch.gsd, self.dim)  # (B, cells, D)
        content, where, valid, slots = [], [], [], []
        for name, series in images(batch.sensors).items():
            pixels = series.x.masked_fill(~series.valid[:, :, None], 0)
            patches = rearrange(pixels, "b t c (h p) (w q) -> b (t h w) (c p q)", p=p, q=p)
            ok = rearrange(series.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=p, q=p)
            weight = torch.cat([self.embed[name](series.bands).flatten(0, 1), self.validity])
            content.append(F.linear(torch.cat([patches, ok.to(patches.dtype)], -1), weight.T))
            place = position[:, None] + (self.day(day_features(series)) + self.sensor[name])[:, :, None]
            where.append(place.flatten(1, 2))
            valid.append(ok.any(-1))
            slots += [name] * series.x.shape[1]
        x, at = torch.cat(content, 1), torch.cat(where, 1)
        ids = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        return Tokens(x + at, at, torch.cat(valid, 1), ids, tuple(slots), grid)

    @torch.no_grad()
    def extend(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Read further bands and sensors; see BandTable.extend."""
        bands = images(bands)
        for name in [s for s in bands if s not in self.sensor]:
            self.sensor[name] = nn.Parameter(torch.stack(list(self.sensor.values())).mean(0))
        self.embed.extend(bands)


def unread(batch: Batch, patch: int) -> Tokens:
    """The tokens of an encoder that embeds none: where they would be and which would be valid, D = 0."""
    valid = [
        rearrange(s.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=patch, q=patch).any(-1)
        for s in images(batch.sensors).values()
    ]
    ok = torch.cat(valid, 1)
    nothing = ok.new_zeros(*ok.shape, 0, dtype=torch.float32)
    ids = torch.arange(ok.shape[1], device=ok.device).expand(ok.shape[0], -1)
    slots = tuple(name for name, s in images(batch.sensors).items() for _ in range(s.x.shape[1]))
    return Tokens(nothing, nothing, ok, ids, slots, (batch.size[0] // patch, batch.size[1] // patch))


def images(sensors: Mapping[str, T]) -> dict[str, T]:
    """Those that have tokens: all but a map, which has no date and is read pixel by pixel in the dense path alone."""
    return {name: of for name, of in sensors.items() if not SENSORS[name].of_classes}


def metres(grid: tuple[int, int], patch: int, gsd: Tensor, dim: int) -> Tensor:
    """Sine-cosine code of each cell's row and column in metres from the chip's centre: (B, cells, dim).

    Wavelengths run from 40 m to 40 km, so that chips of 640 m and of 4 km are both in range.
    """
    wave = torch.logspace(math.log10(40), math.log10(40_000), dim // 4, device=gsd.device)
    axes = []
    for n in grid:
        at = (torch.arange(n, device=gsd.device) - (n - 1) / 2) * patch * gsd[:, None]  # (B, n) metres
        angle = 2 * math.pi * at[..., None] / wave
        axes.append(torch.cat([angle.sin(), angle.cos()], -1))  # (B, n, dim / 2)
    row, column = axes
    shape = (-1, grid[0], grid[1], -1)
    code = torch.cat([row[:, :, None].expand(shape), column[:, None].expand(shape)], -1)
    return code.flatten(1, 2) * 0.5


def day_features(series: Series, shown: Series | None = None) -> Tensor:
    """(B, T, 5): day of year as two harmonics, and years since the first date of the series, or of the one `shown`."""
    year = 2 * math.pi * series.day / 365.25
    since = (series.day - (shown or series).day.amin(1, keepdim=True)) / 365.25
    return torch.stack([year.sin(), year.cos(), (2 * year).sin(), (2 * year).cos(), since], -1)
