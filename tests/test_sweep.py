"""A study: planned from what was measured, run where there is room, gone on with; nothing is run twice."""

from __future__ import annotations

import csv
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from gfm_objectives import config
from gfm_objectives.cli import main
from gfm_objectives.errors import InputError
from gfm_objectives.runs.folder import folder
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import config_hash
from gfm_objectives.sweep import cluster, plan, pool, study, trunks

STUDY = """
name: mini
train:
  - {objective: mae, budget.flops: [1e9, 4e9], seed: [0, 1], optim.lr: 0.01}
  - {objective: masked_seg, budget.flops: 1e9, seed: 0}
"""


@pytest.fixture
def mini(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    return study.read("study.yaml", "runs")


def finish(cfg, seconds_per_flop=1e-8, **about):
    """Leave what a finished run leaves."""
    flops = cfg.budget.flops
    ledger = Ledger(cfg.objective.name, cfg.seed, config_hash(cfg), "d", "c", flops_spent=flops, loss=1.5, **about)
    ledger.seconds, ledger.tokens, ledger.parameters = flops * seconds_per_flop, 100, {"encoder": 7, "objective": 3}
    folder(cfg).mkdir(parents=True, exist_ok=True)
    config.save(cfg, folder(cfg) / "config.yaml")
    ledger.write(folder(cfg) / "ledger.json")


def alone(runs):
    return [trunks.Share(c, c.budget.flops) for c in runs]


def leave(cfg, spent, name="last.ckpt", **about):
    """Leave a state of the trunk, as a run does."""
    path = folder(cfg) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"run": {"spent": spent}, "state_dict": {}, "optimizer": {}, "trunk": True} | about, path)
    config.save(cfg, folder(cfg) / "config.yaml")


def test_lists_are_varied_and_sections_follow_each_other(mini):
    names = [c.name for c in mini.runs]
    mae = [f"mae-nano-synthetic-{flops}-s{seed}" for flops in ("1e9", "4e9") for seed in (0, 1)]
    assert names == [*mae, "masked_seg-nano-synthetic-1e9-s0"]
    assert {c.optim.lr for c in mini.runs if c.objective.name == "mae"} == {0.01}
    assert {str(c.runs) for c in mini.runs} == {"runs/mini"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trian: {objective: mae}", "trian: no such section"),
        ("name: ../x", "name: '../x' is no folder name"),
        ("name: a,b", "name: 'a,b' is no folder name"),
        ("name: x", "train: expected keys of gfm train"),
        ("train: {objective: mae, name: y}", "train.name: is set by the study"),
        ("train: {objective: mae, seed: []}", "train.seed: an empty list"),
        ("train: {objectiv: mae}", "objectiv"),
        ("train: [{objective: mae}, {objective: mae}]", "two sections make the run"),
        ("train: {objective: mae}\neval: [a]", "eval: expected keys"),
    ],
)
def test_mistakes_are_one_line(text, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    assert main(["sweep", "s.yaml"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_plan_is_runs_times_what_finished_runs_of_their_kind_took(mini):
    said = plan.text(mini, 2, 500, 0.2)  # two trunks of 4e9, on each a branch that cools for a fifth of 1e9; and 1e9
    assert "5 runs, 9.4e+09 FLOPs in all; 0 finished" in said and "without it they take 1.1e+10 FLOPs" in said
    assert [c.name for c in study.smallest_first(mini.open(), ())] == [mini.runs[0].name, mini.runs[4].name]
    finish(mini.runs[0], 1e-6)
    text = plan.text(mini, 2, 500, 0.2)
    # mae: .2e9 + 4e9 + 4e9 FLOPs at 1e-6 s = 8200 s, two at a time; 2.3 h x 0.5 kW
    assert "1 finished" in text and "2:16:40" in text and "left: 1:08:20 on 2 workers" in text
    assert (
        "1.1 kWh at 500 W each, 0.23 euro" in text and "1 runs are of kinds that no finished run has measured" in text
    )
    assert [c.name for c in study.smallest_first(mini.open(), study.seconds_per_flop(mini))] == [mini.runs[4].name]


def test_the_longest_keeps_the_states_and_the_others_branch(mini):
    short, _, long, _, single = mini.runs
    found = trunks.shares(mini.runs)
    assert found[long.name].cfg.keep_at == [1e9, 4e9] and found[long.name].cfg.branch is None
    assert found[short.name].cfg.branch == str(folder(long)) and found[short.name].after == long.name
    assert found[short.name].flops == pytest.approx(0.2e9) and found[long.name].flops == 4e9
    assert found[single.name] == trunks.Share(single, 1e9)
    assert all(config_hash(s.cfg) == config_hash(c) for c in mini.runs for s in [found[c.name]])
    assert not trunks.ready(found[short.name], [long.name]) and trunks.ready(found[short.name], [])
    assert trunks.started(found[short.name]).branch is None, "the longest left nothing: it trains all of itself"
    leave(long, 0.8e9, "branch-1e9.ckpt", kept_for=1e9)
    assert trunks.ready(found[short.name], [long.name]), "as soon as its state lies there"
    assert trunks.started(found[short.name]).branch == str(folder(long))


def test_what_lies_on_disk_decides_who_branches_from_whom(mini):
    short, _, long, *_ = mini.runs
    finish(short)
    leave(short, 0.85e9, "branch-1e9.ckpt", kept_for=1e9)
    found = trunks.shares(mini.runs)
    assert short.name not in found
    assert found[long.name].cfg.branch == str(folder(short)) and found[long.name].flops == pytest.approx(3.15e9)
    (folder(short) / "ledger.json").unlink()
    finish(long)
    found = trunks.shares(mini.runs)
    assert found[short.name] == trunks.Share(short, 1e9), "what the longest has finished leads nowhere"
    leave(long, 0.85e9, "branch-1e9.ckpt", kept_for=1e9)
    found = trunks.shares(mini.runs)
    assert found[short.name].after is None and found[short.name].flops == pytest.approx(0.15e9)


def test_a_branch_starts_behind_its_trunk_and_runs_without_one(mini, monkeypatch):
    """One of two trunks breaks: what was to branch from it trains all of itself."""
    order = []

    def command(cfg, home):
        order.append((cfg.name, cfg.branch))
        broken = cfg.name == mini.runs[2].name
        return [sys.executable, "-S", "-c", f"raise SystemExit({int(broken)})"]

    monkeypatch.setattr(pool, "command", command)
    broke = pool.run_all([*trunks.shares(mini.runs).values()], mini.home, workers=1, gpus=0)
    assert [*broke] == [mini.runs[2].name] and sorted(n for n, _ in order) == sorted(c.name for c in mini.runs)
    names = [n for n, _ in order]
    assert all(names.index(mini.runs[k + 2].name) < names.index(mini.runs[k].name) for k in (0, 1))
    assert dict(order)[mini.runs[0].name] is None


def test_begun_runs_are_told_and_a_finished_run_of_another_config_is_refused(mini):
    finish(mini.runs[0])
    folder(mini.runs[1]).mkdir(parents=True)
    config.save(mini.runs[1], folder(mini.runs[1]) / "config.yaml")
    assert "1 finished, 1 begun and broken" in plan.text(mini, 1, 500, 0.2)
    other = OmegaConf.merge(mini.runs[0], {"optim": {"lr": 0.5}})
    finish(other)
    with pytest.raises(InputError, match="of another config"):
        mini.open()


def test_points_are_by_objective_and_budgets_share_a_trunk(mini):
    for c in mini.runs:
        finish(c)
    files = study.write_points(mini)
    assert [f.name for f in files] == ["points-mae.csv", "points-masked_seg.csv"]
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    trunks = {r["run"]: r["trunk"] for r in rows}
    assert len(trunks) == 4 and len(set(trunks.values())) == 2
    assert rows[0]["parameters"] == "10" and rows[0]["encoder_parameters"] == "7" and float(rows[0]["loss"]) == 1.5


def test_a_broken_run_takes_none_with_it_and_says_why(mini, monkeypatch):
    def command(cfg, home):
        bad = cfg.name == mini.runs[1].name
        return [sys.executable, "-S", "-c", f"print('error: no room'); raise SystemExit({int(bad)})"]

    monkeypatch.setattr(pool, "command", command)
    broke = pool.run_all(alone(mini.runs), mini.home, workers=2, gpus=0)
    assert broke == {mini.runs[1].name: "no room"}


def test_a_sweep_that_is_ended_ends_its_runs(mini, monkeypatch):
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(pool, "command", lambda cfg, home: sleep)
    started = []
    start = pool._start
    monkeypatch.setattr(pool, "_start", lambda *a: started.append(start(*a)) or started[-1])
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit):
        pool.run_all(alone(mini.runs[:2]), mini.home, workers=2, gpus=0)
    assert len(started) == 2 and all(p.returncode == -signal.SIGTERM for p in started)


def test_every_worker_has_a_gpu_of_its_own(mini, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    monkeypatch.setattr(pool, "command", lambda cfg, home: [sys.executable, "-S", "-c", show])
    pool.run_all(alone(mini.runs[:2]), mini.home, workers=2, gpus=2)
    assert {(mini.home / "logs" / f"{c.name}.txt").read_text().strip() for c in mini.runs[:2]} == {"3", "5"}


def test_what_runs_is_the_config_that_was_planned(mini):
    words = pool.command(mini.runs[0], mini.home)
    (again,) = config.compose("train", words[4:])
    assert again == mini.runs[0] and config_hash(again) == config_hash(mini.runs[0])


def test_slurm_job_is_shown_without_a_cluster(mini, capsys):
    pytest.importorskip("submitit", reason="NOT CHECKED: the extra slurm is not installed")
    assert main(["sweep", "study.yaml", "executor=slurm", "dry_run=true", "slurm.partition=gpu", "slurm.hours=2"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --partition=gpu" in said and "#SBATCH --time=120" in said
    assert "#SBATCH --array=0-2" in said and "#SBATCH --array=0-1" in said, "three trunks, two branches"
    assert said.count("# run ") == 5 and said.count("#SBATCH --dependency=afterany:") == 1
    assert said.count("#SBATCH --requeue\n") == 2 and said.count("#SBATCH --signal=USR2@90") == 2
    assert "ntasks-per-node" not in said and "#SBATCH --cpus-per-task=8" in said
    assert main(["sweep", "study.yaml", "executor=slurm"]) == 2 and "no sbatch here" in capsys.readouterr().err
    assert main(["sweep", "study.yaml", "executor=slurm", "dry_run=true", "slurm.gpus=4"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --ntasks-per-node=4" in said and "#SBATCH --cpus-per-task=2" in said, "a process a GPU"


LEAVES = """
import os, signal, sys, time
def leave(*_):
    time.sleep(0.3)
    print("left", file=open("told.txt", "a"))
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
if os.path.exists("told.txt"):
    sys.exit(print("finished", file=open("told.txt", "a")))
print("began", file=open("told.txt", "a"))
time.sleep(20)
"""


def told(wanted: int) -> list[str]:
    """What the runs of LEAVES said, as soon as it is so many lines."""
    deadline, file = time.monotonic() + 300, Path("told.txt")
    while not (file.exists() and file.read_text().count("\n") >= wanted):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return file.read_text().split()


def test_a_run_on_a_cluster_has_left_before_it_is_put_back(tmp_path, monkeypatch):
    """submitit calls `checkpoint` in a signal's handler, while the run is waited for."""
    pytest.importorskip("submitit", reason="NOT CHECKED: the extra slurm is not installed")
    monkeypatch.chdir(tmp_path)
    run, again, said = cluster.Run([sys.executable, "-c", LEAVES]), [], []

    def handle(*_: object) -> None:
        again.append(run.checkpoint())
        said.extend(told(1))
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, handle)
    threading.Thread(target=lambda: (told(1), os.kill(os.getpid(), signal.SIGUSR2))).start()
    try:
        with pytest.raises(SystemExit):
            run()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert said == ["began", "left"] and run.process is not None and run.process.wait() == 75
    pickle.loads(pickle.dumps(again[0])).result()
    assert told(3) == ["began", "left", "finished"]
    with pytest.raises(subprocess.CalledProcessError):
        cluster.Run([sys.executable, "-c", "raise SystemExit(2)"])()


@pytest.mark.slow
def test_a_job_that_submitit_interrupts_goes_on_to_the_end_bit_for_bit(tmp_path):
    """Its own executor of this machine, which requeues as its one of SLURM does."""
    submitit = pytest.importorskip("submitit", reason="NOT CHECKED: the extra slurm is not installed")

    def job(name: str):  # type: ignore[no-untyped-def]
        words = [
            "objective=mae",
            "encoder.dim=16",
            "encoder.depth=1",
            "data.size=16",
            "data.dates=2",
            "budget.flops=4e9",
        ]
        words += [
            "yardstick=false",
            "loader.workers=0",
            "device=cpu",
            "log_every=1",
            "checkpoint_every=1",
            "loggers=[]",
        ]
        (cfg,) = config.compose("train", [*words, f"runs={tmp_path / name}", "name=demo"])
        executor = submitit.LocalExecutor(tmp_path / name / "slurm")
        executor.update_parameters(timeout_min=60)
        return executor.submit(cluster.Run(pool.command(cfg, tmp_path / name)))

    broken, table = job("broken"), tmp_path / "broken" / "demo" / "metrics.csv"
    deadline = time.monotonic() + 600
    while not (table.exists() and table.read_text().count("\n") > 4):
        assert time.monotonic() < deadline and not broken.done(), broken.stdout()
        time.sleep(0.02)
    (task,) = subprocess.run(["pgrep", "-P", broken.job_id], capture_output=True, text=True).stdout.split()
    os.kill(int(task), signal.SIGUSR2)  # as SLURM does, before the time is up
    broken.result()
    said = broken.stdout()
    assert (
        "asked to leave by SIGTERM" in said and "goes on from step" in said and "Requeued job" in broken.stderr() + said
    )
    job("whole").result()
    one, other = (tmp_path / name / "demo" / "encoder.safetensors" for name in ("broken", "whole"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_study_runs_to_its_points_and_is_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "encoder.dim: 16, encoder.depth: 1, data.size: 16, data.dates: 2, yardstick: false, loader.workers: 0"
    (tmp_path / "s.yaml").write_text(f"train: {{objective: mae, budget.flops: [3e9, 4e9, 5e9], {small}}}")
    assert main(["sweep", "s.yaml", "workers=1"]) == 0
    said = capsys.readouterr().out
    assert "3 runs not measured yet" in said and "left: 0:00:" in said
    assert len((tmp_path / "runs/s/points-mae.csv").read_text().splitlines()) == 4
    names = [f"mae-nano-synthetic-{flops}-s0" for flops in ("3e9", "4e9", "5e9")]
    three, four, five = (Ledger.read(tmp_path / "runs/s" / n / "ledger.json") for n in names)
    assert (three.trunk, five.trunk, four.trunk) == ("", f"runs/s/{names[0]}", f"runs/s/{names[2]}")
    assert five.flops_trunk == pytest.approx(2.4e9, rel=0.1) and four.flops_trunk == pytest.approx(3.2e9, rel=0.1)
    assert main(["sweep", "s.yaml", "workers=1"]) == 0 and "3 finished" in capsys.readouterr().out
