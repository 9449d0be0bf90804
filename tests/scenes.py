"""Places cut from made-up ground, for the tests of curation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.source import Source
from gfm_objectives.sensors import Legend

BANDS = ("B02", "B03", "B04", "B08", "B11")


def ground(seed: int, size: int = 160, bands: int = len(BANDS)) -> torch.Tensor:
    """(bands, size, size): smooth structure at several scales, about unit variance, bands alike."""
    g = torch.Generator().manual_seed(seed)
    out = torch.zeros(bands, size, size)
    for cell in (4, 8, 16):
        coarse = torch.randn(1, bands, size // cell, size // cell, generator=g) + 2 * torch.randn(
            1, 1, size // cell, size // cell, generator=g
        )
        out += F.interpolate(coarse, (size, size), mode="bicubic")[0] / 3
    return out


class Scenes(Source):
    """x (N, T, C, H, W), normalised, as sensor s2; valid (N, T, H, W); lonlat (N, 2); counts what is read."""

    def __init__(self, x, valid=None, lonlat=None, labels=None, name="scenes"):
        n, t, c, h, w = x.shape
        self.x, self.lonlat, self.labels = x, lonlat, labels
        self.valid = torch.ones(n, t, h, w, dtype=torch.bool) if valid is None else valid
        legends = {} if labels is None else {"map": Legend("map", ("a", "b"))}
        self.spec = Spec({"s2": BANDS[:c]}, {"s2": t}, h, 10.0, legends)
        self.fingerprint, self.reads = name, 0

    def __len__(self):
        return len(self.x)

    def read(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(list(indices))
        self.reads += len(index)
        day = torch.zeros(len(index), self.x.shape[1])
        series = Series(self.x[index], self.valid[index], day, self.spec.bands["s2"])
        targets = {} if self.labels is None else {"map": self.labels[index]}
        return Batch(
            {"s2": series},
            targets,
            torch.full((len(index),), 10.0),
            None if self.lonlat is None else self.lonlat[index],
        )


def strangers(count: int, size: int = 64, first: int = 0) -> torch.Tensor:
    """(count, 1, C, size, size): places that have nothing in common."""
    return torch.stack([ground(1000 + first + k, size)[None] for k in range(count)])


def windows(scene: torch.Tensor, at: Sequence[tuple[int, int]], size: int = 64) -> torch.Tensor:
    """(len(at), 1, C, size, size) at the given tops and lefts."""
    return torch.stack([scene[None, :, top : top + size, left : left + size] for top, left in at])
