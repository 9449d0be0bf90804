"""Normalisation: once, in Source.read; values are what they were when every reader normalised for itself."""

from __future__ import annotations

import os

import pytest
import torch

from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.source import normalise
from gfm_objectives.sensors import calibration

# Of all places of a split in float64: sum of x, sum of its squares, valid pixels; recorded at commit 1f1d4bf.
RECORDED = {
    "hls_water train": {
        "hls": (-5589187.998521931, 20207833.01649378, 2839191),
        "dem": (0.06737380364211276, 7912649.912715351, 2867200),
    },
    "oscd test": {"s2": (-5292037.614691519, 5998208.93640916, 1337526)},
    "mmearth train": {
        "s2": (22587826.253206514, 1657366659.1779518, 40959),
        "s1": (527928.88671875, 1800217.2733410494, 81920),
        "dem": (0.0, 0.0, 40960),
    },
}
EARTH = {  # places 0, 5, 3 and 17 of pretraining, on Earth 0
    "s2": (-313316.26864644256, 876699.1175648402, 43663),
    "s1": (-131761.9368726017, 299782.1117814646, 65341),
    "dem": (0.00010693963531593909, 14325.663931007732, 16384),
    "hls": (-137405.77697042417, 455426.6708017656, 46710),
}
UNITS = {"reflectance": (-0.1, 2.0), "decibel": (-60.0, 30.0), "metre": (-500.0, 9000.0)}


def assert_recorded(sensors, recorded) -> None:
    assert sensors.keys() == recorded.keys()
    for name, (total, squares, valid) in recorded.items():
        x = sensors[name].x.double()
        assert sensors[name].valid.sum() == valid
        assert float(x.square().sum()) == pytest.approx(squares, rel=1e-6)  # CPUs differ by 2e-7
        assert float(x.sum()) == pytest.approx(total, rel=1e-6, abs=1.0 if name == "dem" else 0.0)


@pytest.mark.parametrize("what", RECORDED)
def test_real_values_are_those_recorded_and_come_from_raw_ones(what: str) -> None:
    if "GFM_DATA" not in os.environ:
        pytest.skip(f"GFM_DATA is not set: values of {what} are NOT TESTED")
    name, split = what.split()
    if name == "mmearth":
        pytest.importorskip("h5py", reason="NOT TESTED: MMEarth; h5py is missing (pip install h5py)")
    options = load_choice("data", name)
    if name == "hls_water":  # the split it came with
        options["splits"] |= {"by": "column", "overlaps": "allow"}
    source = build_source(options, split)
    assert_recorded(source.read(range(len(source))).sensors, RECORDED[what])
    raw, read = source.raw([1]), source.read([1])
    for name, s in read.sensors.items():
        assert torch.equal(normalise(raw).sensors[name].x, s.x) and raw.sensors[name].level == s.level
        figures, ok = calibration(name, s.level), s.valid[:, :, None].expand_as(s.x)
        low, high = UNITS[figures.unit]
        if what != "mmearth train":  # the miniature's values are made up
            assert raw.sensors[name].x[ok].min() >= low and raw.sensors[name].x[ok].max() <= high
        if not figures.centred:
            back = figures.denormalise(s.x, s.bands)[ok]
            torch.testing.assert_close(back, raw.sensors[name].x[ok], rtol=1e-5, atol=1e-4)
    assert {s.level for s in read.sensors.values()} == ({"L1C"} if what == "oscd test" else {""})


def test_values_of_the_earth_are_those_recorded_and_normalised_at_once() -> None:
    source = build_source({"name": "synthetic", "sensors": list(EARTH)}, "pretrain")
    assert_recorded(source.read([0, 5, 3, 17]).sensors, EARTH)
    with pytest.raises(NotImplementedError, match="Synthetic hands out normalised values only"):
        source.raw([0])
