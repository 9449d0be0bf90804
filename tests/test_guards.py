"""Guards: each kind of silent bug is told, and sound data is not."""

from __future__ import annotations

import pytest
import torch

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.guards import doubts
from gfm_objectives.sensors import S2_L1C, S2_TEN, SENSORS, calibration

GENERATOR = torch.Generator().manual_seed(0)


def tile(sensor: str, bands, level: str = "", change=lambda x: x) -> Batch:
    """As the sensor table expects it, then changed."""
    of = calibration(sensor, level)
    pick = [of.bands[i] for i in of.index(bands)]
    mean, std = (torch.tensor([getattr(b, k) for b in pick])[:, None, None] for k in ("mean", "std"))
    x = mean + std * torch.randn(1, 2, len(bands), 16, 16, generator=GENERATOR)
    valid = torch.rand(1, 2, 16, 16, generator=GENERATOR) > 0.2
    return Batch({sensor: Series(change(x), valid, torch.zeros(1, 2), tuple(bands), level)}, {}, torch.tensor([10.0]))


@pytest.mark.parametrize("sensor", ["s2", "s1", "hls", "planet", "gf2", "dem", "map"])
def test_sound_data_raises_no_doubt(sensor):
    assert doubts([tile(sensor, SENSORS[sensor].band_names) for _ in range(2)]) == []
    assert doubts([tile("s2", S2_L1C.band_names, "L1C")]) == []


def test_each_bug_is_told():
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    for made, words in (
        (tile("s2", S2_TEN, change=lambda x: x * 1e4), "medians lie far from the reflectance expected: B02"),
        (tile("s1", ("VV", "VH"), change=lambda x: 10 ** (x / 10)), "as linear power is; decibel = 10 log10"),
        (tile("s2", S2_TEN[:8], change=lambda x: x[:, :, order[2:]]), "rise and fall against what is usual"),
    ):
        found = doubts([made])
        assert len(found) >= 1 and words in found[0], found
    assert "normalisation changes nothing" in doubts([_standard()])[0]


def _standard() -> Batch:
    """Values that normalisation leaves as they are: x = mean / (1 - deviation)."""
    batch = tile("s2", S2_TEN)
    bands = torch.tensor([[b.mean / (1 - b.std)] for b in SENSORS["s2"].bands if b.name in S2_TEN])[:, :, None]
    s2 = batch.sensors["s2"]
    return batch.replace(sensors={"s2": s2.replace(x=bands.expand_as(s2.x).clone())})


def test_nothing_to_look_at_is_told():
    batch = tile("s2", S2_TEN)
    empty = batch.replace(sensors={k: s.replace(valid=s.valid & False) for k, s in batch.sensors.items()})
    assert doubts([empty]) == ["s2: the tiles looked at have no valid pixel"]
