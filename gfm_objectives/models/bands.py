"""Weights with one block per band: a subset of bands selects blocks, a new band starts from its nearest wavelength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gfm_objectives.sensors import SENSORS, Band


class BandWeights(nn.Module):
    """A linear map from `taps` values of each band to `out` features, stored as (C, taps, out).

    Fewer bands than were trained, or bands dropped in training with probability `drop`, are made up for by scaling the
    rest, as dropout does.
    """

    def __init__(self, sensor: str, bands: Sequence[str], taps: int, out: int, drop: float = 0.0) -> None:
        super().__init__()
        SENSORS[sensor].index(bands)  # refuses unknown bands
        self.sensor, self.bands, self.drop = sensor, tuple(bands), drop
        self.weight = nn.Parameter(torch.empty(len(self.bands), taps, out))
        nn.init.trunc_normal_(self.weight, std=1 / math.sqrt(len(self.bands) * taps))

    def forward(self, bands: Sequence[str]) -> Tensor:
        """The blocks of `bands`, (C', taps, out), scaled for the bands that are absent."""
        index = [self.bands.index(b) for b in bands]
        weight: Tensor = self.weight
        if index != list(range(len(self.bands))):  # a list as an index would make the host wait for the device
            weight = weight.index_select(0, torch.tensor(index).to(weight.device, non_blocking=True))
        weight = weight * (len(self.bands) / len(index))
        if self.training and self.drop > 0 and len(index) > 2:
            stays = torch.rand(len(index), 1, 1, device=weight.device) >= self.drop
            weight = weight * (stays / stays.float().mean().clamp(min=1 / len(index)))
        return weight

    def table(self) -> list[Band]:
        """The bands it reads, as the sensor table has them."""
        return [SENSORS[self.sensor].bands[i] for i in SENSORS[self.sensor].index(self.bands)]

    @torch.no_grad()
    def extend(self, bands: Sequence[str]) -> None:
        """Learn to read `bands` too: each new one copies the known band nearest in wavelength (else the mean band)."""
        new = [b for b in bands if b not in self.bands]
        if new:
            wave = [b.wavelength for b in self.table()]
            add = [SENSORS[self.sensor].bands[i].wavelength for i in SENSORS[self.sensor].index(new)]
            blocks = [self.weight[nearest(w, wave)].mean(0, keepdim=True) for w in add]
            self.weight = nn.Parameter(torch.cat([self.weight.data, *blocks]))
            self.bands = (*self.bands, *new)


class BandTable(nn.ModuleDict):
    """Sensor -> BandWeights."""

    def __init__(self, bands: Mapping[str, Sequence[str]], taps: int, out: int, drop: float) -> None:
        super().__init__({s: BandWeights(s, names, taps, out, drop) for s, names in bands.items()})
        self.options = (taps, out, drop)

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        return {s: m.bands for s, m in self.items()}  # type: ignore[misc]

    @torch.no_grad()
    def extend(self, bands: Mapping[str, Sequence[str]]) -> None:
        """Read further bands and sensors; the bands of a new sensor start from the known ones nearest in wavelength.

        Those of a map start from 0: nothing known is like them, and what was learned is then not disturbed.
        """
        known: list[tuple[float | None, BandWeights, int]] = []
        for module in self.values():
            assert isinstance(module, BandWeights)
            known += [(b.wavelength, module, i) for i, b in enumerate(module.table())]
        for sensor, names in bands.items():
            if sensor in self:
                self[sensor].extend(names)  # type: ignore[operator]
                continue
            fresh = BandWeights(sensor, names, *self.options)
            if SENSORS[sensor].of_classes:
                fresh.weight.zero_()
            for i, band in enumerate(fresh.table()):
                if band.wavelength is not None and any(w is not None for w, _, _ in known):
                    _, donor, j = known[nearest(band.wavelength, [w for w, _, _ in known])[0]]
                    fresh.weight[i] = donor.weight[j] * (len(donor.bands) / len(fresh.bands))
            self[sensor] = fresh


def nearest(wavelength: float | None, among: Sequence[float | None]) -> list[int]:
    """Index of the nearest wavelength, as a list; every index where wavelengths say nothing."""
    known = [(abs(w - wavelength), i) for i, w in enumerate(among) if w is not None and wavelength is not None]
    return [min(known)[1]] if known else list(range(len(among)))
