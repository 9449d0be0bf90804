"""Tasks: their yaml is checked; the rows that need no training, by hand and on real chips."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from gfm_objectives.batch import Batch, Series
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.errors import InputError
from gfm_objectives.metrics import confusion, miou
from gfm_objectives.sensors import SENSORS, calibration
from gfm_objectives.tasks import build_task
from gfm_objectives.tasks.baselines import recode_map, rules, spectral_index
from gfm_objectives.tasks.kinds import KINDS

INDEX = {"sensor": "hls", "plus": "green", "minus": "swir1", "threshold": 0.0, "above": 1, "below": 0}
FIRST = {"segmentation": "miou", "change": "miou", "regression": "rmse", "scene": "accuracy", "multilabel": "map"}
GOOD: dict[str, Any] = {"data": {"name": "chips"}, "layer": "label", "recode": {7: 1, -1: 0}, "index": INDEX}


def test_build_task_takes_what_the_yaml_says():
    task = build_task("water", {**GOOD, "name": "water", "train": 5, "val": None})
    assert (task.name, task.train, task.val, task.metric) == ("water", 5, None, "miou")
    assert task.recode == {7: 1, -1: 0} and task.index == INDEX


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_takes_its_kinds_first_metric_or_another_of_them(kind: str):
    cfg = {"data": {"name": "chips"}, "layer": "label", "kind": kind}
    assert build_task("water", cfg).metric == build_task("water", {**cfg, "metric": None}).metric == FIRST[kind]
    for metric in KINDS[kind].metrics:
        assert build_task("water", {**cfg, "metric": metric}).metric == metric


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lable": "x"}, r"task water: no key 'lable'; choose from name, data, layer"),
        ({"layer": None}, r"task water: layer is missing"),
        ({"data": "hls_water"}, r"task water: data='hls_water': expected the options of a source"),
        ({"kind": "counting"}, r"task water: kind=counting: choose from segmentation"),
        ({"metric": "rmse"}, r"task water: metric=rmse: choose from miou, f1, precision, recall, accuracy$"),
        ({"metric": "change_f1"}, r"task water: metric=change_f1: choose from miou"),
        ({"kind": "regression", "metric": "miou"}, r"task water: metric=miou: choose from rmse, mae, r2"),
        ({"kind": "regression"}, r"task water: recode gives each pixel a class, which kind=regression has not"),
        ({"kind": "scene", "recode": None}, r"task water: index gives each pixel a class, which kind=scene has not"),
        ({"offset": 3.0}, r"task water: no key 'offset'"),
        ({"train": 0}, r"task water: train=0: expected a number of places, or null for all"),
        ({"recode": {"water": 1}}, r"task water: recode=.*: expected \{map label: task label\}"),
        ({"index": {"sensor": "hls"}}, r"task water: index=.*: expected the keys sensor, plus, minus"),
        ({"index": {**INDEX, "change": 1}}, r"task water: index\.change=1: expected true or false"),
        ({"index": {**INDEX, "only": 7}}, r"task water: index\.only=7: expected a list of map labels"),
    ],
)
def test_mistakes_in_a_task_are_named(change: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        build_task("water", {**GOOD, **change})


def reflectances(green: list[list[float]], swir1: list[list[float]], valid: list[list[bool]]) -> Batch:
    """A batch of one row of pixels; each argument is (dates, pixels)."""
    x = torch.tensor([swir1, green]).permute(1, 0, 2)[None, :, :, None]  # (1, T, 2, 1, W)
    ok, bands = torch.tensor(valid)[None, :, None], ("swir1", "green")
    series = Series(SENSORS["hls"].normalise(x, ok, bands), ok, torch.zeros(1, len(green)), bands)
    return Batch({"hls": series}, {}, torch.tensor([30.0]))


def test_the_index_reads_the_last_valid_date():
    batch = reflectances(
        green=[[0.1, 0.1, 0.3, 0.1], [0.3, 0.3, 0.1, 0.3]],
        swir1=[[0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]],
        valid=[[True, True, True, False], [True, False, True, False]],
    )
    assert spectral_index(build_task("water", GOOD), batch).tolist() == [[[1, 0, 0, 0]]]
    dry = build_task("water", {**GOOD, "index": {**INDEX, "threshold": 0.3, "above": 0, "below": 2}})
    assert spectral_index(dry, batch).tolist() == [[[2, 2, 2, 2]]]  # (0.3 - 0.2) / 0.5 = 0.2


def test_the_index_reads_the_change_from_the_first_to_the_last_valid_date():
    batch = reflectances(
        green=[[0.3, 0.3, 0.3, 0.3], [0.1, 0.1, 0.3, 0.1], [0.1, 0.3, 0.3, 0.1]],
        swir1=[[0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]],
        valid=[[True, True, True, False], [True, True, True, True], [True, False, True, True]],
    )
    drop = build_task("water", {**GOOD, "index": {**INDEX, "change": True, "threshold": 0.5}})
    # 0.2 to -0.33; 0.2 to -0.33 at the second date, the last that is valid; no change; no change among valid dates
    assert spectral_index(drop, batch).tolist() == [[[1, 1, 0, 0]]]


def test_the_index_reads_the_unit_of_the_series_level():
    bands, ok = ("B08", "B04"), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    x = calibration("s2", "L1C").normalise(torch.tensor([0.22, 0.20]).view(1, 1, 2, 1, 1), ok, bands)
    batch = Batch({"s2": Series(x, ok, torch.zeros(1, 1), bands, "L1C")}, {}, torch.tensor([10.0]))
    ndvi = {"sensor": "s2", "plus": "B08", "minus": "B04", "above": 1, "below": 0}  # 0.02 / 0.42 = 0.048
    for threshold, label in ((0.04, 1), (0.05, 0)):
        task = build_task("green", {**GOOD, "index": {**ndvi, "threshold": threshold}})
        assert spectral_index(task, batch).tolist() == [[[label]]]


def test_the_index_counts_on_some_labels_of_the_map_only():
    batch = reflectances([[0.3, 0.3, 0.1]], [[0.2, 0.2, 0.2]], [[True, True, True]])
    water = build_task("water", {**GOOD, "index": {**INDEX, "only": [7]}})
    with pytest.raises(InputError, match=r"task water: index\.only needs data with a layer named map"):
        spectral_index(water, batch)
    batch.targets["map"] = torch.tensor([[[7, 3, 7]]])
    assert spectral_index(water, batch).tolist() == [[[1, 0, 0]]]


def test_the_map_is_recoded_and_the_rest_has_its_label():
    batch = reflectances([[0.1] * 4], [[0.1] * 4], [[True] * 4])
    batch.targets["map"] = torch.tensor([[[7, 0, 10, -1]]])
    assert recode_map(build_task("water", GOOD), batch).tolist() == [[[1, 0, 0, 0]]]
    other = build_task("water", {**GOOD, "recode": {0: 2, 7: 1, -1: 3}})
    assert recode_map(other, batch).tolist() == [[[1, 2, 3, 3]]]


def test_a_task_has_the_rules_it_declares_and_they_read_any_batch():
    batch = reflectances([[0.3, 0.1, 0.3]], [[0.2, 0.2, 0.2]], [[True] * 3])
    batch.targets["map"] = torch.tensor([[[7, 3, 3]]])
    found = rules(build_task("water", GOOD))
    assert {kind: rule(batch).tolist() for kind, rule in found.items()} == {
        "map": [[[1, 0, 0]]],
        "index": [[[1, 0, 1]]],
    }
    other = reflectances([[0.1, 0.3]], [[0.2, 0.2]], [[True] * 2])  # of another size, as of another Earth
    other.targets["map"] = torch.tensor([[[0, 7]]])
    assert {k: rule(other).tolist() for k, rule in found.items()} == {"map": [[[0, 1]]], "index": [[[0, 1]]]}
    assert list(rules(build_task("water", {**GOOD, "recode": None}))) == ["index"]
    assert list(rules(build_task("water", {**GOOD, "index": None}))) == ["map"]


def test_rows_that_cannot_be_made_say_why():
    batch = reflectances([[0.1]], [[0.1]], [[True]])
    with pytest.raises(InputError, match="the map row needs `recode` and data with a layer named map"):
        recode_map(build_task("water", GOOD), batch)
    with pytest.raises(InputError, match="the spectral index row needs `index`"):
        spectral_index(build_task("water", {**GOOD, "index": None}), batch)
    with pytest.raises(InputError, match="index needs the bands green and red of hls, absent from the data"):
        spectral_index(build_task("water", {**GOOD, "index": {**INDEX, "minus": "red"}}), batch)


@pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real hls_water chips are absent")
def test_untrained_rows_on_hls_water_score_what_the_pages_say():
    task = build_task("hls_water", load_choice("task", "hls_water"))
    test = build_source(task.data, "test")
    batch = test.read(range(len(test)))
    assert task.index is not None
    ndwi = replace(task, index={**task.index, "minus": "nir"})
    rows = {
        "WorldCover": (recode_map(task, batch), 0.570),
        "MNDWI": (spectral_index(task, batch), 0.660),
        "NDWI": (spectral_index(ndwi, batch), 0.643),
    }
    for name, (labels, expected) in rows.items():
        score = miou(confusion(labels, batch.targets[task.layer], 2))
        assert abs(score - expected) < 0.003, (name, score)
