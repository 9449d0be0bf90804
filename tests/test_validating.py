"""What tuning is judged on: all of validation or, where that costs more than training, tiles of each area and class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from held import Held, Tiles
from test_bench import LANDCOVER, opened
from test_finetune import places

from gfm_objectives.batch import Spec
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.rows import contenders
from gfm_objectives.compare.trials import TUNING, Job, TrialLog, work
from gfm_objectives.compare.validating import LEAST, capped, judged_on, stratified, windows
from gfm_objectives.data import SOURCES
from gfm_objectives.finetune import HParams
from gfm_objectives.sensors import Legend

UNET = contenders(["unet"], [], 1, None)[0]


def job(flops: float, val: int = 200, **more) -> Job:
    bench = open_bench("mine", LANDCOVER | {"val": val})
    return Job(bench, UNET, 1.0, TUNING, HParams(0.01, width=8, mode="stack", batch_size=2), flops, **more)


@pytest.mark.parametrize(("flops", "judged"), [(200e6, 0), (100e6, 100), (50e6, 50), (1e6, LEAST)])
def test_validation_costs_no_more_than_training(flops, judged):
    """Of 200 tiles of 1e6 FLOPs."""
    first = job(flops)
    got = capped(first, 1e6)
    assert got.judged == judged and (got is first) == (judged == 0)
    assert got.cell == first.cell, "what was tried before is not tried again"
    short = replace(first, hparams=replace(first.hparams, length=0.1))
    assert capped(short, 1e6).judged == judged, "all settings of a search are judged on the same"
    assert [f"judged on {judged} of 200 validation tiles" in line for line in judged_on([got])] == [True] * bool(judged)


def test_windows_of_tiles_are_counted(tmp_path, monkeypatch):
    assert windows(job(1.0).bench, "val") == 200
    monkeypatch.setitem(SOURCES, "made", "test_bench:Scenes")
    bench = opened(tmp_path)
    assert windows(bench, "val") == 2 * 4 and windows(bench, "train") == 5  # tiles of 11 x 9 pixels by windows of 8


def test_tiles_are_of_every_area_and_class():
    batch = places(12)
    label = torch.zeros(12, 16, 16, dtype=torch.long)
    label[5, :3], label[7, :9], label[:, 0] = 2, 2, -1
    label[11] = 1
    spec = Spec({}, {}, 16, 10.0, {"label": Legend("label", ("a", "b", "c"))})
    held = Held(batch.replace(targets={"label": label}), spec)
    areas = ["north"] * 4 + ["south"] * 7 + ["west"]
    assert stratified(held, areas, "label", 3) == [0, 4, 7, 11]  # of each area; 7 shows most of c
    assert stratified(held, areas, "label", 12) == list(range(12))
    numbers = Tiles([batch.take(torch.tensor([k])) for k in range(3)])
    numbers.spec = spec
    for k, tile in enumerate(numbers._tiles):
        numbers._tiles[k] = tile.replace(targets={"label": torch.full((1, 16, 16), 0.5)})
    assert stratified(numbers, ["a", "b", "b"], "label", 2) == [0, 1]


def test_a_trial_is_scored_on_those_tiles_and_a_reported_run_on_all(monkeypatch, tmp_path):
    scored = []

    def evaluate(model, source, *about, show=(), **more):
        scored.append(source.tiles())
        return torch.ones(source.tiles(), 10, 10), []

    monkeypatch.setattr("gfm_objectives.compare.trials.evaluate", evaluate)
    trial = job(3e7, val=40, judged=LEAST)
    outcome = work(trial, torch.device("cpu"), torch.float32)
    assert LEAST <= scored[0] < 30 and np.isfinite(outcome.val)
    log = TrialLog(tmp_path / "trials.jsonl")
    log.add(outcome)
    assert TrialLog(log.path).rows[trial.key]["judged"] == LEAST
    work(replace(trial, seed=0, judged=0), torch.device("cpu"), torch.float32)
    assert scored[1:] == [40, 5]
