"""Regions: climates, spectra, seasons, parcels and habits of mapping that differ over the Earth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_objectives.chance import seed_of
from gfm_objectives.data.earth import tables
from gfm_objectives.data.earth.tables import CROPS, ELEMENTS, SPECTRA, USES

# Families of Earths: the world is part of every key of chance and has half of the grid to itself, so that `final` is a
# base that nothing on `dev` has drawn from, whatever the number of the Earth.
WORLDS = ("dev", "final")
# Fine-tuning and validation share regions, as a practitioner's labels do; pretraining and test have their own.
ZONE_OF = {"pretrain": "pretrain", "train": "finetune", "val": "finetune", "test": "test"}
# Spectra of a region: each material is lighter or darker, tilted and bent over the spectrum, by these deviations.
_WAVE = torch.linspace(-1, 1, 10)
SHAPES = torch.stack([torch.ones(10), _WAVE, _WAVE.square() - 0.4, torch.sin(4 * _WAVE)])
BEND = torch.tensor([0.20, 0.15, 0.10, 0.06])
BEYOND = 3.0  # deviations that a shift of 1 moves a region away from the mean, the way it deviates already
CELL = 3.0  # degrees; a region lies in one cell of this grid
ROWS, COLS = 34, 120  # from 42 south to 60 north


@dataclass(frozen=True, slots=True)
class Regions:
    """R regions as a struct of tensors; `rows(ids)` picks one row per place.

    logits (R, uses), crops (R, crops + 1), spectra (R, materials, 10), season (R, elements, 9), radar (R, elements, 5),
    fractions (R, elements, constant), parcel (R, 2) pixels, relief (R,) metres, wet (R,) 0..1, noise (R,) relative to
    the dial, lonlat (R, 2) degrees.
    """

    logits: Tensor
    crops: Tensor
    spectra: Tensor
    season: Tensor
    radar: Tensor
    fractions: Tensor
    parcel: Tensor
    relief: Tensor
    wet: Tensor
    noise: Tensor
    lonlat: Tensor

    def rows(self, ids: Tensor) -> Regions:
        return Regions(*(getattr(self, f)[ids] for f in self.__slots__))


# Log odds of each land use before climate and chance.
_BASE = torch.tensor([-9.0, -0.35, 0.1, 0.1, -0.55, 1.05, 0.25, -0.55, -0.5, -0.4])
#                     water  wet  conif broad orch arable grass bare dense scatt
_BY_WARMTH = torch.tensor([0.0, 0.0, -0.6, 0.1, 0.5, 0.1, 0.0, 0.3, 0.0, 0.0])
_BY_WET = torch.tensor([0.0, 0.6, 0.3, 0.4, -0.2, 0.0, 0.1, -0.6, 0.0, 0.0])


def cells(world: str, zone: str, seed: int, count: int) -> Tensor:
    """(count,) cells of the grid. Worlds never share one, nor do the zones of an Earth; each Earth deals its own."""
    order = torch.randperm(ROWS * COLS, generator=torch.Generator().manual_seed(seed_of("cells")))
    share = len(order) // len(WORLDS)
    order = order[WORLDS.index(world) * share :][:share]
    order = order[torch.randperm(share, generator=torch.Generator().manual_seed(seed_of(world, seed, "cells")))]
    third = share // 3
    start = ("pretrain", "finetune", "test").index(zone) * third
    assert count <= third, (count, third)
    return order[start : start + count]


def make_regions(world: str, zone: str, seed: int, count: int, temporal: float, shift: float = 0.0) -> Regions:
    """The `count` regions of a zone; `shift` moves their spectra, seasons and parcels beyond what the prior gives."""
    gens = [torch.Generator().manual_seed(seed_of(world, zone, seed, "region", i)) for i in range(count)]
    draw = torch.stack([torch.randn(512, generator=g) for g in gens])  # (R, 512), read from left to right
    used = 0

    def normal(*shape: int) -> Tensor:
        nonlocal used
        n = int(torch.tensor(shape).prod()) if shape else 1
        used += n
        assert used <= draw.shape[1], used
        return draw[:, used - n : used].reshape(count, *shape)

    def far(*shape: int) -> Tensor:
        """As normal; each vector along the last axis is BEYOND * shift longer."""
        z = normal(*shape)
        return z * (1 + BEYOND * shift / z.norm(dim=-1, keepdim=True))

    cell = cells(world, zone, seed, count)
    lonlat = torch.stack([(cell % COLS) * CELL - 180 + CELL / 2, (cell // COLS) * CELL - 42 + CELL / 2], 1)
    warmth = (1.4 - lonlat[:, 1].abs() / 25)[:, None] + 0.4 * normal(1)  # about -1 (north) to 1.4
    wet = normal(1)  # standard normal, 0 = average
    logits = _BASE + warmth * _BY_WARMTH + wet * _BY_WET + 0.45 * normal(len(USES))
    crops = 0.7 * normal(len(CROPS) + 1) + torch.tensor([0.4, 0, 0, 0.3, 0, 0, -0.5])

    bend = far(len(SPECTRA), 4) * BEND
    air = normal(1, 4) * torch.tensor([0.04, 0.05, 0.02, 0.01])  # a tilt of its own
    spectra = (SPECTRA * torch.exp((bend + air) @ SHAPES)).clamp(max=0.95)

    season = tables.seasons(temporal).repeat(count, 1, 1)
    spread = far(len(ELEMENTS), 4)
    season[..., 1] += 11 * far(1) + 6 * spread[..., 0]
    season[..., 4] += 6 * spread[..., 1]
    season[..., 2] *= torch.exp(0.10 * far(1) + 0.08 * spread[..., 2])
    season[..., 0] *= torch.exp(0.2 * spread[..., 3])
    dry = torch.sigmoid(2 * warmth - 1.5 * wet)  # grass browns in a dry summer and is green in winter and spring
    for name in ("grass", "meadow", "shrub"):
        e = tables.E[name]
        season[:, e, 1] -= 60 * dry[:, 0]
        season[:, e, 3] *= 1 - 0.3 * dry[:, 0]

    radar = tables.radar().repeat(count, 1, 1)
    radar[..., :2] += 0.7 * normal(1, 2) + 0.6 * normal(len(ELEMENTS), 1)
    # Water holds more or less sediment; canopies are more or less closed.
    fractions = tables.fractions().repeat(count, 1, 1)
    mud = torch.sigmoid(1.2 * normal() - 1.2).reshape(-1)
    fractions[:, tables.E["water"], 2:4] = torch.stack([1 - mud, mud], 1)
    fractions[:, 1:] *= torch.exp(0.08 * normal(len(ELEMENTS) - 1, 1)).clamp(max=1.15)

    sides = torch.exp(torch.cat([0.25 * far(1) + 0.2, 0.25 * far(1) + 0.05], 1))
    parcel = 11 * sides.clamp(0.65 / (1 + shift), 2.0 * (1 + shift))
    relief = 28 * torch.exp(0.9 * normal(1))[:, 0].clamp(0.2, 6)
    noise = torch.exp(0.25 * normal(1))[:, 0].clamp(0.6, 1.6)
    return Regions(
        logits, crops, spectra, season, radar, fractions, parcel, relief, torch.sigmoid(wet)[:, 0], noise, lonlat
    )
