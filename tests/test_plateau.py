"""F by the plateau rule: every rival from scratch, several seeds, two doublings; else the table is one of speed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from omegaconf import OmegaConf
from small import config

from gfm_objectives import compare
from gfm_objectives.compare.plateau import first_flat
from gfm_objectives.compare.trials import PLATEAU, Outcome
from gfm_objectives.metrics import METRICS

pytestmark = pytest.mark.filterwarnings("ignore:.*no labelled pixel")  # of three places


def test_one_flat_step_or_one_flat_rival_is_no_plateau():
    assert first_flat({"a": [0.3, 0.305, 0.308]}, 0.01) == 0
    assert first_flat({"a": [0.3, 0.305, 0.312]}, 0.01) is None, "two doublings together"
    assert first_flat({"a": [0.3, 0.2, 0.4, 0.4, 0.4]}, 0.01) == 2, "a dip is no plateau"
    assert first_flat({"a": [0.3, 0.3]}, 0.01) is None
    assert first_flat({"a": [0.3] * 4, "b": [0.1, 0.2, 0.2, 0.2]}, 0.01) == 1, "every rival"
    assert first_flat({"a": [0.3, math.nan, 0.3, 0.3, 0.3]}, 0.01) == 2, "no plateau where a run diverged"
    assert first_flat({"a": [0.3, 0.3, math.nan]}, 0.01) is None
    rmse = METRICS["rmse"]  # less is better, and the step is a share of it
    assert first_flat({"a": [9.0, 5.0, 4.97, 4.96]}, 0.01, rmse) == 1
    assert first_flat({"a": [9.0, 5.0, 4.97, 4.9]}, 0.01, rmse) is None


CURVES = {
    "unet": {1e9: 0.3, 2e9: 0.5, 4e9: 0.504, 8e9: 0.508, 1.6e10: 0.509},
    "pixel": {1e9: 0.2, 2e9: 0.3, 4e9: 0.4, 8e9: 0.401, 1.6e10: 0.402},
}


@pytest.fixture
def work(monkeypatch):
    """Every run has the value of its curve; the seeds of a level differ and average to it."""
    ran = []

    def scored(job, device, dtype):
        ran.append(job)
        luck = {-2: 0.05, -3: -0.05}.get(job.seed, 0.0)
        stats = None if job.trial else np.array([[[1, 0], [0, 1]]])
        value = CURVES[job.contender.kind].get(job.flops, 0.1) + luck
        return Outcome(job, value, job.flops, 1.0, stats=stats)

    monkeypatch.setattr("gfm_objectives.compare.trials.work", scored)
    return ran


def stop(self, budgets, pool, plan):
    raise AssertionError(json.dumps(budgets.records()))


def budgets(cfg, monkeypatch):
    monkeypatch.setattr("gfm_objectives.compare.comparison.Comparison.tune", stop)
    with pytest.raises(AssertionError, match=r"^\[") as told:
        compare.run(cfg)
    return json.loads(str(told.value))


def test_f_is_where_the_last_rival_stops(tmp_path, work, monkeypatch, capsys):
    cfg = config(tmp_path, contenders=["unet", "pixel"], finetune={"flops": None, "limit": 1.6e10, "trials": 2})
    assert budgets(cfg, monkeypatch) == [{"task": "landcover", "fraction": 0.5, "flops": 4e9, "plateau": True}]
    seeds = {j.seed for j in work if j.flops == 4e9}
    assert seeds == set(PLATEAU) and len(PLATEAU) >= 3, "the mean of several seeds, none of which is reported"
    rows = json.loads((tmp_path / "results" / "demo" / "plateau.json").read_text())
    assert {r["flops"]: round(r["val"], 3) for r in rows if r["contender"] == "per-pixel MLP"} == CURVES["pixel"]
    before = len(work)
    budgets(cfg, monkeypatch)
    assert len(work) == before, "what was tried is not tried again"


def test_where_the_limit_comes_first_it_is_a_comparison_of_speed(tmp_path, work, monkeypatch, capsys):
    cfg = config(tmp_path, contenders=["unet", "pixel"], finetune={"flops": None, "limit": 4e9, "trials": 2})
    assert budgets(cfg, monkeypatch) == [{"task": "landcover", "fraction": 0.5, "flops": 4e9, "plateau": False}]
    assert "no plateau" in capsys.readouterr().out
    fixed = OmegaConf.merge(cfg, {"name": "fixed", "finetune": {"flops": 3e9}})
    assert budgets(fixed, monkeypatch)[0]["plateau"] is None, "not looked for"
