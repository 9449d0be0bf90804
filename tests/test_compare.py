"""The comparison end to end on tiny synthetic tasks: plan, plateau, tuning, seeds, resume, report."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small import BANDS, LANDCOVER, OPTIONS, config, make_run

from gfm_objectives import compare
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.labels import hash_of
from gfm_objectives.compare.rows import contenders
from gfm_objectives.compare.settings import check_settings
from gfm_objectives.compare.trials import TUNING, Job, Outcome, TrialLog, Workers, _start, work
from gfm_objectives.config import save
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.finetune import HParams
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.scores import Store

# Three labelled places do not show every class, and the comparison says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*no labelled pixel")


@pytest.fixture(scope="module")
def bench():
    return open_bench("landcover", LANDCOVER, earths=2)


def test_end_to_end_and_resume(bench, tmp_path, monkeypatch, capsys):
    runs = [make_run(tmp_path / "runs" / f"mae-s{s}", seed=s) for s in (0, 1)]
    kinds = ["pretrained", "scratch", "unet", "plus", "map", "index"]
    cfg = config(tmp_path, checkpoint=runs, contenders=kinds)
    seen, die_at = [], [3, 9]  # killed while tuning, and among the seeds

    def dying(job, device, dtype):
        if die_at and len(seen) + 1 == die_at[0]:
            die_at.pop(0)
            raise KeyboardInterrupt
        seen.append(job.key)
        outcome = work(job, device, dtype)
        return outcome

    monkeypatch.setattr("gfm_objectives.compare.trials.work", dying)
    monkeypatch.setattr("gfm_objectives.compare.search.WIDEN", 0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare.run(cfg)
    out = compare.run(cfg)
    assert len(seen) == len(set(seen)) == 5 + 2 * 5  # every training once: five rows, one trial and two seeds
    scores = Store(out).load()
    plus = {"ViT from scratch + 3e8 FLOPs", "U-Net + 3e8 FLOPs"}
    names = {"mae", "ViT from scratch", "U-Net", *plus}
    assert {(s.contender, s.seed) for s in scores} == {(c, s) for c in (*names, "map, recoded") for s in (0, 1)}
    for s in scores:
        assert s.tiles == 5 and 0 <= s.value <= 1 and 0 <= s.val <= 1 and s.synthetic and s.world == "dev"
        if s.role != "untrained":
            cap = 6e8 if s.contender in plus else 3e8
            assert s.labels == 3 and abs(s.finetune_flops / cap - 1) < 0.05 and s.tuning_flops > 0.9 * cap
            assert s.epochs > 0 and s.extra_flops == cap - 3e8
    drawn = {(s.seed, s.labels_hash) for s in scores if s.role != "untrained"}
    subsets = [[str(i) for i in bench.at(k).subset(0.5, k).index] for k in (0, 1)]
    assert subsets[0] != subsets[1] and drawn == {(k, hash_of(each)) for k, each in enumerate(subsets)}
    assert {s.labels_hash for s in scores if s.role == "untrained"} == {hash_of([])}
    earths = {s.seed: s.groups for s in scores}
    assert not set(earths[0]) & set(earths[1]), "every seed is scored on an Earth of its own"
    assert {s.pretrain_run.split("@")[0] for s in scores if s.kind == "pretrained"} == {"mae-s0", "mae-s1"}
    for name in ("gain.json", "report.md", "tuning.json", "trials.jsonl", "config.yaml"):
        assert (out / name).is_file(), name
    assert {p.stem for p in (out / "ledgers").iterdir()} == {s.pretrain_run for s in scores if s.pretrain_run}
    assert not (out / "cache").exists()
    with np.load(out / "predictions.npz") as saved:
        assert saved["landcover/image"].shape == (4, 16, 16, 3) and saved["landcover/pred/U-Net"].shape == (4, 16, 16)
        assert 0 <= saved["landcover/image"].min() and saved["landcover/image"].max() <= 1
    text = (out / "report.md").read_text()
    assert "**Speed, not gain**" in text and "2 seeds" in text
    compare.run(cfg)
    assert len(seen) == 15, "a finished comparison trains nothing"
    text = capsys.readouterr().out
    assert "run plan: 1 tasks x 1 shares of labels x 5 contenders," in text and "seeds        0 runs" in text
    assert "2 seeds give no interval; 5 do" in text
    with pytest.raises(InputError, match=r"finetune\.trials=1, and now it is finetune\.trials=2; give the former"):
        compare.run(OmegaConf.merge(cfg, {"finetune": {"trials": 2}}))
    deep = make_run(tmp_path / "deep", model=Encoder(BANDS, **OPTIONS | {"depth": 2}))
    with pytest.raises(InputError, match=r"holds scores of another network named '.*'; choose another name="):
        compare.run(OmegaConf.merge(cfg, {"checkpoint": [deep]}))


def test_a_plan_leaves_nothing_behind(tmp_path, capsys):
    cfg = config(tmp_path, seeds=5, plan_only=True, finetune={"flops": None, "limit": 1.6e10, "trials": 2})
    compare.run(cfg)
    text = capsys.readouterr().out
    assert "plateau  at most" in text and "(F = 1e+09) to" in text and "expected: gains +- 5 mIoU points" in text
    assert not (tmp_path / "results").exists()


def test_where_nothing_can_run_it_is_said_and_the_name_stays_free(tmp_path):
    layers = {"layers": ["landcover"]}
    cfg = config(tmp_path, contenders=["map_context", "map"], tasks={"landcover": {"data": layers}})
    with pytest.raises(InputError, match=r"nothing can be run: .* on landcover, for want of a layer named map"):
        compare.run(cfg)
    assert not (tmp_path / "results" / "demo").exists()


def test_settings_bind_once_something_ran(tmp_path):
    cfg = config(tmp_path, finetune={"flops": 1e9})
    save(cfg, tmp_path / "config.yaml")
    other = OmegaConf.to_container(OmegaConf.merge(cfg, {"finetune": {"flops": None}}))
    check_settings(other, tmp_path)
    (tmp_path / "trials.jsonl").touch()
    with pytest.raises(InputError, match=r"runs with finetune\.flops=1e9, and now it is finetune\.flops=null"):
        check_settings(other, tmp_path)


def test_settings_are_chosen_on_validation_where_test_disagrees(tmp_path, bench, monkeypatch):
    """A trial never looks at test, and what is best on validation is what the seeds run with."""
    looked = []

    def scored(model, source, *about, show=(), **more):
        split = next(k for k, s in bench.sources.items() if s is source) if source in bench.sources.values() else "?"
        looked.append(split)
        right = {"val": 9, "test": 1}[split]
        return torch.tensor([[[right, 1], [1, right]]]), []

    monkeypatch.setattr("gfm_objectives.compare.trials.evaluate", scored)
    (unet,) = contenders(["unet"], [], 1, None)
    start = unet.space(bench.spec, 4).start
    trial = work(Job(bench.at(0), unet, 1.0, TUNING, start, 3e8), torch.device("cpu"), torch.float32)
    assert looked == ["val"] and trial.stats is None
    final = work(Job(bench.at(0), unet, 1.0, 0, start, 3e8), torch.device("cpu"), torch.float32)
    assert looked == ["val", "val", "test"] and final.val == trial.val > 0.8
    assert final.stats.tolist() == [[[1, 1], [1, 1]]], "and test is what is reported"


def test_result_does_not_depend_on_the_worker(bench):
    from gfm_objectives.compare.trials import Workers

    (unet,) = contenders(["unet"], [], 1, None)
    hparams = HParams(1e-3, width=8, mode="stack", batch_size=4)
    jobs = [Job(bench.at(s), unet, 1.0, s, hparams, 1e9) for s in (0, 1)]
    with Workers(1, torch.device("cpu"), torch.float32) as one:
        alone = {o.job.seed: o for o in one.run(jobs)}
    with Workers(2, torch.device("cpu"), torch.float32) as two:
        together = {o.job.seed: o for o in two.run(jobs)}
    for s in (0, 1):
        assert np.array_equal(alone[s].stats, together[s].stats) and alone[s].val == together[s].val
    assert not np.array_equal(alone[0].stats, alone[1].stats)


def test_nobody_waits_for_workers_of_an_interrupted_comparison(monkeypatch):
    worker = Mock()
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [worker])
    for error in (None, InputError, KeyboardInterrupt):
        pool = Workers(2, torch.device("cpu"), torch.float32)
        with contextlib.suppress(InputError, KeyboardInterrupt), pool:
            pool.pool = Mock()
            if error:
                raise error
        pool.pool.shutdown.assert_called_once_with(wait=False, cancel_futures=True)
        assert worker.kill.called == (error is not None), error


def test_workers_end_with_a_killed_parent():
    read, write = os.pipe()
    context = multiprocessing.get_context("fork")
    about = Workers(1, torch.device("cpu"), torch.float32)._about(context.SimpleQueue())
    parent = os.fork()
    if not parent:
        pool = ProcessPoolExecutor(1, context, _start, about)
        os.write(write, f"{pool.submit(os.getpid).result()}\n".encode())
        pool.submit(time.sleep, 600)
        time.sleep(600)
    os.close(write)  # the worker holds it now: the pipe ends when the worker is gone
    with os.fdopen(read, "rb", buffering=0) as pipe:
        worker = int(pipe.readline())
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        if not select.select([pipe], [], [], 300)[0]:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("the worker went on")


def test_faults_of_rows_without_training_are_told_before_any_training(tmp_path):
    index = {"sensor": "s1", "plus": "VV", "minus": "VH", "threshold": 0.0, "above": 1, "below": 0}
    cfg = config(tmp_path, contenders=["unet", "index"], tasks={"landcover": {**LANDCOVER, "index": index}})
    with pytest.raises(InputError, match=r"task landcover: index\.sensor=s1: not in its data, which has s2, dem"):
        compare.run(cfg)
    assert not (tmp_path / "results" / "demo" / "trials.jsonl").exists()


def test_trial_log_survives_a_torn_line_and_diverged_trials(tmp_path, bench):
    from dataclasses import replace

    (unet,) = contenders(["unet"], [], 1, None)
    start = Job(bench.at(0), unet, 1.0, TUNING, unet.space(bench.spec, 8).start, 1e9)
    jobs = [replace(start, hparams=replace(start.hparams, lr=lr)) for lr in (1e-3, 2e-3, 4e-3)]
    log = TrialLog(tmp_path / "trials.jsonl")
    for job, value in zip(jobs, (0.2, 0.4, float("nan")), strict=True):
        log.add(Outcome(job, value, 1e9, 1.0))
    with log.path.open("a") as f:
        f.write('{"key": "half')
    again = TrialLog(log.path)
    assert all(j in again for j in jobs) and again.best(start) == jobs[1].hparams
    assert again.flops([start.cell]) == 3e9 and again.tried(start.cell)[jobs[2].hparams] == float("-inf")
    other = replace(start, flops=2e9)
    again.add(Outcome(other, float("nan"), 2e9, 1.0))
    with pytest.raises(InputError, match="every tuning trial diverged"):
        again.best(other)


def test_a_fraction_that_shows_nothing_of_a_class_is_told(tmp_path):
    with pytest.warns(InputWarning, match=r"landcover, 0\.2 of the labels \(1 places\): some seed has no .*water"):
        compare.run(config(tmp_path, fractions=[0.2], contenders=["map"]))


def test_rows_that_read_the_map_need_one(tmp_path):
    from gfm_objectives.compare.fitting import can_run, notes_on

    without = {**LANDCOVER, "data": {**LANDCOVER["data"], "layers": ["landcover"]}, "recode": None}
    rows = contenders(["all"], [make_run(tmp_path / "a")], 1, None)
    there = {c.kind for c in rows if can_run(open_bench("x", without), c)}
    assert there.isdisjoint({"map_context", "unet_map_input", "pretrained_map_input", "map"}) and "pixel" in there
    told = sorted(notes_on([open_bench("x", without)], rows))
    assert told[0].startswith("x: not run, for want of a layer named map in the data: ")
    assert "conv, map as input" in told[0]
    assert told[1:] == [
        "x: not run, for want of index in the task: spectral index.",
        "x: not run, for want of recode in the task: map, recoded.",
    ]


def test_looks_at_the_final_world_are_counted(tmp_path, bench, capsys):
    from dataclasses import replace

    from gfm_objectives.compare.settings import count_final

    final = replace(bench, world="final")
    for name in ("a", "b", "a"):
        count_final(tmp_path / name, [final])
    count_final(tmp_path / "c", [bench])
    assert "so far: 2" in capsys.readouterr().out.splitlines()[-1]
    assert len((tmp_path / "final_evaluations.csv").read_text().splitlines()) == 3
