"""The comparison end to end on tiny synthetic tasks: plan, plateau, tuning, seeds, resume, report; and its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from gfm_objectives import compare
from gfm_objectives.batch import Spec
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.comparison import flat_steps
from gfm_objectives.compare.contenders import KINDS
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders, not_run, notes
from gfm_objectives.compare.trials import TUNING, Job, TrialLog, work
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.unet import FIRST, UNet
from gfm_objectives.runs.checkpoint import load_model, save_encoder
from gfm_objectives.runs.finished import group_runs
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Store

LANDCOVER = {
    "data": {"name": "synthetic", "size": 16, "dates": 2, "sensors": ["s2", "dem"], "layers": ["map", "landcover"]},
    "layer": "landcover",
    "train": 6,
    "val": 3,
    "test": 5,
    "recode": {0: 0, 1: 3, 2: 6, 3: 6, 4: 5, 5: 9, 6: 7, 7: 1},
}
BANDS = {"s2": ("B02", "B03", "B04", "B08")}
OPTIONS = {"dim": 16, "depth": 1, "heads": 2, "patch": 8, "dense_width": 8}


def make_run(folder, seed=0, objective="mae", flops=3e8, model=None, **recipe):
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_encoder(model or Encoder(BANDS, **OPTIONS), folder)
    Ledger(objective, seed, "c", "d", "abc", flops_spent=flops).write(folder / "ledger.json")
    config = {"name": folder.name, "seed": seed, "objective": {"name": objective, **recipe}}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return str(folder)


def make_unet_run(folder, seed=0, **about):
    spec = Spec(BANDS, {"s2": 3}, 16, 10.0, {})
    return make_run(folder, seed, "supervised", model=UNet(spec, 0, width=8, mode="shared"), **about)


def config(tmp_path, **changes):
    base = {
        "name": "demo",
        "results": str(tmp_path / "results"),
        "checkpoint": [],
        "seeds": 2,
        "fractions": [0.5],
        "contenders": ["scratch", "unet"],
        "tasks": {"landcover": LANDCOVER},
        "world": None,
        "finetune": {"flops": 3e8, "start": 1e9, "limit": 4e9, "plateau": 0.01, "batch_size": 4, "trials": 1},
        "plan_only": False,
        "workers": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    return OmegaConf.merge(base, changes)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return open_bench("landcover", LANDCOVER, tmp_path_factory.mktemp("cache"))


def test_encoders_of_another_shape_have_a_scratch_row_of_their_own(tmp_path):
    """Two rows of one name would be merged without a word."""
    wide = Encoder(BANDS, **(OPTIONS | {"dense_width": 16}))
    runs = [make_run(tmp_path / "narrow"), make_run(tmp_path / "wide", model=wide, mask_ratio=0.5)]
    assert [c.name for c in contenders(["scratch"], runs[:1], 1, None)] == ["scratch"]
    assert [c.name for c in contenders(["scratch"], runs, 1, None)] == [
        "scratch dense_width=8",
        "scratch dense_width=16",
    ]


def test_end_to_end_and_resume(tmp_path, monkeypatch, capsys):
    runs = [make_run(tmp_path / "runs" / f"mae-s{s}", seed=s) for s in (0, 1)]
    kinds = ["pretrained", "scratch", "unet", "unet_plus", "map", "index"]
    cfg = config(tmp_path, checkpoint=runs, contenders=kinds)
    seen, die_at = [], [3, 7]  # killed while tuning, and among the seeds

    def dying(job, device, dtype):
        if die_at and len(seen) + 1 == die_at[0]:
            die_at.pop(0)
            raise KeyboardInterrupt
        seen.append(job.key)
        return work(job, device, dtype)

    monkeypatch.setattr("gfm_objectives.compare.trials.work", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare.run(cfg)
    out = compare.run(cfg)
    assert len(seen) == len(set(seen)) == 4 + 2 * 4  # every training once: four contenders, one trial and two seeds
    scores = Store(out).load()
    assert {(s.contender, s.seed) for s in scores} == {
        *((c, s) for c in ("mae", "scratch", "unet", "unet+3e+08") for s in (0, 1)),
        ("map", 0),  # the task declares no index
    }
    for s in scores:
        assert s.tiles == 5 and 0 <= s.miou <= 1 and 0 <= s.val_miou <= 1 and s.synthetic and s.world == "dev"
        if s.contender != "map":
            cap = 6e8 if s.contender == "unet+3e+08" else 3e8
            assert s.labels == 3 and abs(s.finetune_flops / cap - 1) < 0.05 and s.tuning_flops > 0.9 * cap
    assert {s.pretrain_run.split("@")[0] for s in scores if s.contender == "mae"} == {"mae-s0", "mae-s1"}
    assert [s.pretrain_flops for s in scores if s.contender == "mae"] == [3e8, 3e8]
    for name in ("gain.json", "report.md", "tuning.json", "trials.jsonl", "config.yaml"):
        assert (out / name).is_file(), name
    assert {p.stem for p in (out / "ledgers").iterdir()} == {s.pretrain_run for s in scores if s.pretrain_run}
    assert not (out / "cache").exists()
    with np.load(out / "predictions.npz") as saved:
        assert saved["landcover/image"].shape == (4, 16, 16, 3) and saved["landcover/pred/unet"].shape == (4, 16, 16)
        assert 0 <= saved["landcover/image"].min() and saved["landcover/image"].max() <= 1
    compare.run(cfg)
    assert len(seen) == 12, "a finished comparison trains nothing"
    text = capsys.readouterr().out
    assert "run plan: 1 tasks x 1 shares of labels x 4 contenders," in text and "seeds        0 runs" in text
    with pytest.raises(InputError, match=r"finetune\.trials=1; choose another name"):
        compare.run(OmegaConf.merge(cfg, {"finetune": {"trials": 2}}))


def test_one_flat_step_is_no_plateau():
    steps = [flat_steps(v, 0.01) for v in ([0.3], [0.3, 0.31], [0.3, 0.305], [0.3, 0.2, 0.4], [0.3, 0.2, 0.309])]
    assert steps == [0, 0, 1, 0, 2]


def test_plateau_and_plan(tmp_path, monkeypatch, capsys):
    curve = {1e9: 0.3, 2e9: 0.5, 4e9: 0.505, 8e9: 0.508, 1.6e10: 0.9}

    def scored(job, device, dtype):
        from gfm_objectives.compare.trials import Outcome

        return Outcome(job, curve[job.flops] - 0.1 * (job.hparams.length < 1), job.flops, 1.0)

    monkeypatch.setattr("gfm_objectives.compare.trials.work", scored)
    cfg = config(tmp_path, finetune={"flops": None, "limit": 1.6e10, "trials": 2})
    compare.run(OmegaConf.merge(cfg, {"plan_only": True}))
    text = capsys.readouterr().out
    assert "plateau  at most 10 runs" in text and "(F = 1e+09) to" in text
    assert not (tmp_path / "results" / "demo" / "scores.csv").exists()
    with pytest.raises(AssertionError):  # the stand-in has no confusion matrix to store
        compare.run(cfg)
    rows = json.loads((tmp_path / "results" / "demo" / "plateau.json").read_text())
    assert [(r["flops"], r["val_miou"], r["chosen"]) for r in rows] == [
        (1e9, 0.3, False),
        (2e9, 0.5, True),
        (4e9, 0.505, False),
        (8e9, 0.508, False),
    ]
    with pytest.raises(AssertionError):  # one flat step at the limit is no plateau: F is the limit
        compare.run(OmegaConf.merge(cfg, {"name": "short", "finetune": {"limit": 4e9}}))
    rows = json.loads((tmp_path / "results" / "short" / "plateau.json").read_text())
    assert [(r["flops"], r["chosen"]) for r in rows] == [(1e9, False), (2e9, False), (4e9, True)]


def test_result_does_not_depend_on_the_worker(bench):
    from gfm_objectives.compare.trials import Workers

    (unet,) = contenders(["unet"], [], 1, None)
    jobs = [Job(bench, unet, 1.0, s, HParams(1e-3, width=8, mode="stack", batch_size=4), 1e9) for s in (0, 1)]
    with Workers(1, torch.device("cpu"), torch.float32) as one:
        alone = {o.job.seed: o for o in one.run(jobs)}
    with Workers(2, torch.device("cpu"), torch.float32) as two:
        together = {o.job.seed: o for o in two.run(jobs)}
    for s in (0, 1):
        assert torch.equal(alone[s].confusion, together[s].confusion) and alone[s].val_miou == together[s].val_miou
    assert not torch.equal(alone[0].confusion, alone[1].confusion)


def test_workers_end_with_a_killed_parent():
    script = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from gfm_objectives.compare.trials import _start
pool = ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"), _start, (True,))
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=60)  # the worker holds the other end of the pipe: it closes when the worker is gone
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        parent.communicate()
        pytest.fail("the worker went on")


def test_label_subsets_are_nested_and_seeded(bench):
    def ids(fraction, seed):
        return {float(v) for v in bench.subset(fraction, seed).sensors["s2"].x.double().sum((1, 2, 3, 4))}

    assert len(ids(0.5, 0)) == 3 and ids(0.34, 0) < ids(0.5, 0) < ids(1.0, 0)
    assert len({frozenset(ids(0.34, s)) for s in range(8)}) > 1
    assert len(bench.subset(0.01, 0)) == 1


def test_every_kind_of_contender_builds(bench, tmp_path):
    run, unet = make_run(tmp_path / "a"), make_unet_run(tmp_path / "u")
    rows = contenders(["all"], [run, unet], 3, None, published(["timm:vit_tiny_patch16_224"], [], 16))
    assert {c.kind for c in rows} == KINDS.keys() - {"unet_imagenet"}
    extra = [c.extra_flops for c in rows if c.kind == "unet_plus"]
    assert extra == pytest.approx([3e8, 1e8])
    weights = {}
    for c in rows:
        if not c.trained:
            continue
        settings = c.candidates(bench.spec, 4, 4)
        assert len({json.dumps(h.as_dict(), sort_keys=True) for h in settings}) == 4, "four different settings"
        for h in settings:
            model = c.build(bench.spec, bench.classes, h, 0)
        assert model(bench.split("val")).shape == (3, bench.classes, 16, 16)
        weights[c.kind] = {n: p for n, p in model.named_parameters()}
    pre = weights["pretrained"]

    def same(kind, name):
        return torch.equal(pre[name], weights[kind][name])

    dense, token = "encoder.dense_path.up.0.0.weight", "encoder.blocks.0.attn.qkv.weight"
    assert (same("frozen", dense), same("frozen", token)) == (True, True)
    assert (same("fresh_dense", dense), same("fresh_dense", token)) == (False, True)
    assert (same("fresh_tokens", dense), same("fresh_tokens", token)) == (True, False)
    assert (same("scratch", dense), same("scratch", token)) == (False, False)
    assert weights["scratch"].keys() == pre.keys()
    unet = dict(load_model(unet).named_parameters())
    kept = [n for n in unet if torch.equal(unet[n], weights["unet_map"][f"encoder.{n}"])]
    assert set(unet) - set(kept) == {FIRST}, "the task has other bands: the first convolution alone differs"


def test_the_unet_pretrained_on_the_map_and_an_unknown_encoder_are_compared(tmp_path, capsys):
    from timm import create_model

    runs = [make_run(tmp_path / "a"), make_unet_run(tmp_path / "u0"), make_unet_run(tmp_path / "u1", seed=1)]
    torch.save(create_model("vit_tiny_patch16_224", img_size=16).state_dict(), tmp_path / "vit.pth")
    foreign = {"encoder": ["timm:vit_tiny_patch16_224"], "weights": [str(tmp_path / "vit.pth")], "encoder_size": 16}
    kinds = ["foreign_frozen", "unet", "unet_plus", "unet_map", "unet_imagenet"]
    few = {"seeds": 1, "finetune": {"flops": 7e8, "trials": 1}, "contenders": kinds, "checkpoint": runs}
    out = compare.run(config(tmp_path, **foreign, **few))
    scores = {(s.contender, s.seed): s for s in Store(out).load()}
    name = "vit_tiny_patch16_224 at 16 px frozen"
    assert {c for c, _ in scores} == {name, "unet", "unet+3e+08", "unet map"}
    assert scores["unet map", 0].pretrain_run.startswith("u0@") and scores["unet map", 0].pretrain_flops == 3e8
    assert np.isnan(scores[name, 0].pretrain_flops) and scores[name, 0].pretrain_run.startswith("vit_tiny")
    assert scores[name, 0].trainable_parameters < scores[name, 0].parameters - 5e6
    gain = json.loads((out / "gain.json").read_text())
    found = {(g["contender"], g["against"], g["n"]): g for g in gain["means"]}
    assert found["unet map", "headline", 1]["status"] == found[name, "unet", 1]["status"] == "ok"
    assert found[name, "unet", 1]["per_eflop"] is None and "unknown" in found[name, "headline", 1]["status"]
    text = (out / "report.md").read_text()
    for words in ("(unknown FLOPs, 1 run)", "published weights; pretraining FLOPs unknown",
                  "U-Net with ImageNet weights: not run, unet.weights= names no file"):  # fmt: skip
        assert words in text, words
    assert "note: vit_tiny_patch16_224 at 16 px: published weights" in capsys.readouterr().out


def test_the_unet_of_other_means_is_told(tmp_path):
    run = make_run(tmp_path / "a")
    kinds = ["pretrained", "unet_map", "unet_plus"]
    rows = contenders(kinds, [run], 3, None)
    assert list(not_run(kinds, rows, 3)) == ["unet map"] and not notes(rows)
    same = contenders(kinds, [run, make_unet_run(tmp_path / "u")], 3, None)
    assert not not_run(kinds, same, 3) and not notes(same)
    other = contenders(kinds, [run, make_unet_run(tmp_path / "v", flops=6e8)], 3, None)
    assert notes(other) == ["unet map had 6e+08 pretraining FLOPs, which no encoder beside it had."]


def test_runs_are_grouped_by_recipe(tmp_path):
    a0, a1 = (make_run(tmp_path / f"a{s}", seed=s, mask_ratio=0.75) for s in (1, 0))
    other = make_run(tmp_path / "b", objective="masked_seg")
    assert {n: [r.seed for r in v] for n, v in group_runs([a0, a1, other]).items()} == {
        "mae": [0, 1],
        "masked_seg": [0],
    }
    clash = make_run(tmp_path / "c", mask_ratio=0.5)
    assert list(group_runs([a0, clash])) == ["mae mask_ratio=0.75", "mae mask_ratio=0.5"]
    twice = make_run(tmp_path / "d", seed=1, mask_ratio=0.75)
    with pytest.raises(InputError, match="same recipe and seed"):
        group_runs([a0, twice])


def test_mistakes(tmp_path, bench):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "no", "no such folder"), (tmp_path / "empty", "has not finished")):
        with pytest.raises(InputError, match=words):
            group_runs([str(folder)])
    with pytest.raises(InputError, match="choose from all, pretrained"):
        contenders(["unett"], [], 1, None)
    with pytest.raises(InputError, match="nothing to compare"):
        contenders(["pretrained"], [], 1, None)
    with pytest.raises(InputError, match="no layer 'crop'"):
        open_bench("x", {**LANDCOVER, "layer": "crop"}, tmp_path)
    with pytest.raises(InputError, match="recode names label 10, but landcover has 0 to 9"):
        open_bench("x", {**LANDCOVER, "recode": {0: 10}}, tmp_path)
    (unet,) = contenders(["unet"], [], 1, None)
    with pytest.raises(InputError, match=r"finetune\.trials=500"):
        unet.candidates(bench.spec, 500, 8)


def test_faults_of_rows_without_training_are_told_before_any_training(tmp_path):
    index = {"sensor": "s1", "plus": "VV", "minus": "VH", "threshold": 0.0, "above": 1, "below": 0}
    cfg = config(tmp_path, contenders=["unet", "index"], tasks={"landcover": {**LANDCOVER, "index": index}})
    with pytest.raises(InputError, match="needs the bands VV and VH of s1"):
        compare.run(cfg)
    assert not (tmp_path / "results" / "demo" / "trials.jsonl").exists()


def test_trial_log_survives_a_torn_line_and_diverged_trials(tmp_path, bench):
    from gfm_objectives.compare.trials import Outcome

    (unet,) = contenders(["unet"], [], 1, None)
    jobs = [Job(bench, unet, 1.0, TUNING, h, 1e9) for h in unet.candidates(bench.spec, 3, 8)]
    log = TrialLog(tmp_path / "trials.jsonl")
    for job, value in zip(jobs, (0.2, 0.4, float("-inf")), strict=True):
        log.add(Outcome(job, value, 1e9, 1.0))
    with log.path.open("a") as f:
        f.write('{"key": "half')
    again = TrialLog(log.path)
    assert all(j in again for j in jobs) and again.best(jobs) is jobs[1] and again.flops(jobs) == 3e9
    with pytest.raises(InputError, match="every tuning trial diverged"):
        again.best(jobs[2:])


def test_looks_at_the_final_world_are_counted(tmp_path, bench, capsys):
    from dataclasses import replace

    from gfm_objectives.compare.settings import count_final

    final = replace(bench, world="final")
    for name in ("a", "b", "a"):
        count_final(tmp_path / name, [final])
    count_final(tmp_path / "c", [bench])
    assert "so far: 2" in capsys.readouterr().out.splitlines()[-1]
    assert len((tmp_path / "final_evaluations.csv").read_text().splitlines()) == 3
