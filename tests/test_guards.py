"""Guards: each kind of silent bug is told, and sound data is not."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from layouts import write_tif

from gfm_objectives.batch import Batch, Series
from gfm_objectives.cli import main
from gfm_objectives.data.guards import doubts, watch
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputWarning
from gfm_objectives.sensors import S2_L1C, S2_TEN, SENSORS, Band, Sensor, calibration

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
    bands = [b for b in SENSORS[sensor].band_names if b != "B10"]  # which Level-2A lacks
    assert doubts([tile(sensor, bands) for _ in range(2)], "mine") == []
    assert doubts([tile("s2", S2_L1C.band_names, "L1C")], "mine") == []


def test_each_bug_is_told():
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    for made, words in (
        (tile("s2", S2_TEN, change=lambda x: x * 1e4), "medians lie far from the reflectance expected: B02"),
        (tile("s1", ("VV", "VH"), change=lambda x: 10 ** (x / 10)), "as linear power is; decibel = 10 log10"),
        (tile("s2", S2_TEN[:8], change=lambda x: x[:, :, order[2:]]), "rise and fall against what is usual"),
        (tile("s2", S2_L1C.band_names, "L1C", lambda x: x.flip(2)), "are bands in this order? Else its files"),
    ):
        found = doubts([made], "mine")
        assert len(found) >= 1 and words in found[0], found
    assert "normalisation changes nothing" in doubts([_standard()], "mine")[0]


@pytest.mark.parametrize(("sensor", "bands"), [("s2", S2_TEN), ("s1", ("VV", "VH"))])
def test_values_that_were_normalised_before_are_told(sensor, bands):
    made = tile(sensor, bands)
    x = made.sensors[sensor]
    again = x.replace(x=SENSORS[sensor].normalise(x.x, x.valid, bands))
    assert "as of values normalised before" in doubts([made.replace(sensors={sensor: again})], "mine")[0]


def test_cloudy_scenes_do_not_look_normalised():
    """Half of it cloud: deviations of .4, as of normalised values, and nothing below 0."""
    made = tile("s2", S2_TEN)
    s2 = made.sensors["s2"]
    cloud = torch.arange(16) % 2 * 0.9
    made = made.replace(sensors={"s2": s2.replace(x=(s2.x * 0.1).abs() + cloud)})
    assert not any("normalised before" in line for line in doubts([made], "mine"))


def test_a_sensor_of_ones_own_that_nothing_scales_is_told(monkeypatch):
    bands = tuple(Band(b, None, 0.0, 1.0) for b in "ab")
    monkeypatch.setitem(SENSORS, "grey", Sensor("grey", "number", 10.0, bands, own=True))
    x = 255 * torch.rand(1, 1, 2, 16, 16, generator=GENERATOR)
    grey = Series(x, torch.ones(1, 1, 16, 16, dtype=torch.bool), torch.zeros(1, 1), ("a", "b"), "")
    assert doubts([Batch({"grey": grey}, {}, torch.tensor([10.0]))], "mine") == [
        "grey: normalisation changes nothing; are its values normalised before?"
    ]


def test_a_level_taken_for_the_other_is_told():
    """By what air scatters, which is nearly all that B01 sees from above a forest."""
    forest = {"": (0.03, 0.04, 0.06, 0.05, 0.25), "L1C": (0.13, 0.1, 0.09, 0.07, 0.24)}
    for level, other in (("", "L1C"), ("L1C", "")):
        made = [_of(forest[level], claimed) for claimed in (level, other)]
        assert doubts(made[:1], "mine") == []
        assert len(found := doubts(made[1:], "mine")) == 1 and "L1C" in found[0]
    assert "Level-2A has no B10" in doubts([tile("s2", S2_L1C.band_names)], "mine")[-1]


def _of(values, level: str) -> Batch:
    x = torch.tensor(values)[:, None, None].expand(1, 1, 5, 8, 8) * (0.9 + 0.2 * torch.rand(8, 8, generator=GENERATOR))
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    series = Series(x, valid, torch.zeros(1, 1), ("B01", "B02", "B03", "B04", "B08"), level)
    return Batch({"s2": series}, {}, torch.tensor([10.0]))


def test_what_is_advised_can_be_done():
    """Scale and offset are keys of a folder's yaml, not of published sets."""
    made = tile("s2", S2_TEN, change=lambda x: x * 1e4)
    advice = {name: doubts([made], name)[0].partition("; ")[2] for name in ("chips", "mosaics", "shards", "mmearth")}
    assert advice["chips"] == advice["mosaics"] == "check scale and offset"
    assert "prepare it again" in advice["shards"]
    assert "gfm data list" in advice["mmearth"] and "check scale" not in advice["mmearth"]


def _standard() -> Batch:
    """Values that normalisation leaves as they are: x = mean / (1 - deviation)."""
    batch = tile("s2", S2_TEN)
    bands = torch.tensor([[b.mean / (1 - b.std)] for b in SENSORS["s2"].bands if b.name in S2_TEN])[:, :, None]
    s2 = batch.sensors["s2"]
    return batch.replace(sensors={"s2": s2.replace(x=bands.expand_as(s2.x).clone())})


class Folder(Source):
    """Two places of Sentinel-2, the second of Level-1C."""

    def __init__(self, change):
        self.made = [tile("s2", S2_TEN, level, change) for level in ("", "L1C")]

    def __len__(self):
        return len(self.made)

    def raw(self, indices):
        return self.made[indices[0]]


def test_sources_without_guards_of_their_own_are_watched_once():
    """Places of each level are judged by its own figures; what was looked at when it was opened is left alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(Folder(lambda x: x), "mine")
        made_up, seen = Folder(lambda x: x * 1e4), Folder(lambda x: x * 1e4)
        made_up.synthetic, seen.watched = True, True
        watch(made_up, "mine"), watch(seen, "mine")
    with pytest.warns(InputWarning, match="data=mine: s2: medians lie far from the reflectance expected") as told:
        watch(Folder(lambda x: x * 1e4), "mine")
    assert len(told) == 2  # Level-2A, and Level-1C with other medians


@pytest.mark.parametrize(("command", "words"), [
    ("train", ["objective=masked_seg", "data={yaml}", "budget.flops=1e7", "encoder=nano", "runs={out}", "name=r"]),
    ("eval", ["suite={task}", "contenders=map", "results={out}", "name=r", "seeds=1", "finetune.flops=1e7"]),
    ("inspect", ["{yaml}", "out={out}", "information=false"]),
])  # fmt: skip
def test_every_command_tells_of_a_planted_fault(command, words, tmp_path, capsys):
    """Reflectance x 10000 read as if it were 0 to 1, in a folder of chips by a yaml."""
    yaml = _chips(tmp_path)
    main([command, *(w.format(yaml=yaml, task=yaml.with_name("task.yaml"), out=tmp_path / "out") for w in words)])
    assert "warning: data=chips: s2: medians lie far from the reflectance expected: B02" in capsys.readouterr().err


def _chips(root: Path) -> Path:
    for k in range(9):
        x = tile("s2", ("B02", "B03", "B04", "B08")).sensors["s2"].x[0, 0].repeat(1, 4, 4) * 1e4
        write_tif(root / "images" / f"{k}.tif", x.clamp(min=1).numpy().astype("uint16"))
        write_tif(root / "labels" / f"{k}.tif", (x[:1] > 700).numpy().astype("uint8"))
    (root / "mine.yaml").write_text(
        f"""name: chips
root: {root}
gsd: 10
size: 64
sensors: {{s2: {{file: "images/{{chip}}.tif", bands: {{B02: 1, B03: 2, B04: 3, B08: 4}}, scale: 1.0}}}}
layers: {{map: {{file: "labels/{{chip}}.tif", classes: [dark, bright]}}}}
splits: {{by: random, shares: {{train: 0.4, val: 0.3, test: 0.3}}}}
"""
    )
    (root / "task.yaml").write_text(
        f"name: mine\ndata: {{use: {root}/mine.yaml}}\nlayer: map\nrecode: {{1: 1, -1: 0}}\n"
    )
    return root / "mine.yaml"


def test_nothing_to_look_at_is_told():
    batch = tile("s2", S2_TEN)
    empty = batch.replace(sensors={k: s.replace(valid=s.valid & False) for k, s in batch.sensors.items()})
    assert doubts([empty], "mine") == ["s2: the tiles looked at have no valid pixel"]
