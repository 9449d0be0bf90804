"""Runs of one recipe share a trunk: a branch is the run planned to its budget, and the ledger says who paid."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from test_kills import KILLS, ended, start
from test_pretrain import small

from gfm_objectives import config, lock, pretrain
from gfm_objectives.budget import Budget
from gfm_objectives.errors import InputError
from gfm_objectives.objectives.jepa import JEPA
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain import module
from gfm_objectives.runs import trunk
from gfm_objectives.runs.folder import is_finished, open_folder, using
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import config_hash, recipe_hash

WORDS = ("data.size=16", "log_every=1", "loggers=[]", "encoder.depth=1", "encoder.dim=32", "optim.batch_size=8")
LESS, MORE = "budget.flops=1.2e9", "budget.flops=1.8e9"


@pytest.fixture(autouse=True)
def peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peak", lambda _: ("none", None))  # measured on a CPU, which takes seconds


def tiny(runs: Path, *words: str) -> DictConfig:
    return small(runs, *WORDS, *words)


def run(runs: Path, *words: str) -> Path:
    cfg = tiny(runs, *words)
    with using(cfg):
        return pretrain.run(cfg)


def state(path: Path, name: str = "last.ckpt") -> dict:
    return torch.load(path / "checkpoints" / name, weights_only=True)


def rows(path: Path) -> list[dict[str, str]]:
    timed = ("samples_per_s", "flops_per_s", "data_wait", "eta_s")
    with (path / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in r.items() if k not in timed} for r in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "encoder.safetensors").read_bytes() == (other / "encoder.safetensors").read_bytes()
    a, b = state(one), state(other)
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0)
    x, y = (Ledger.read(o / "ledger.json") for o in (one, other))
    for field in ("flops_spent", "flops_budget", "samples", "tokens", "visible_tokens", "config_hash", "loss"):
        assert getattr(x, field) == getattr(y, field), field
    assert rows(one) == rows(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each objective: a trunk to more, and one planned to less from the start."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "peak", lambda _: ("none", None))
        for name in ("cross_sensor", "jepa"):
            run(runs, f"objective={name}", f"name={name}", MORE, "keep_at=[1.2e9]")
            run(runs, f"objective={name}", f"name={name}-less", LESS)
    return runs


@pytest.mark.parametrize("name", ["cross_sensor", "jepa"])
def test_a_branch_is_the_run_planned_to_its_budget(whole: Path, name: str) -> None:
    """cross_sensor has steps of several costs, and jepa a teacher that moves after each step."""
    branch = run(whole, f"objective={name}", f"name={name}-branch", LESS, f"branch={whole / name}")
    assert_same_run(branch, whole / f"{name}-less")
    ledger = Ledger.read(branch / "ledger.json")
    assert ledger.trunk == str(whole / name)
    assert 0.96e9 <= ledger.flops_trunk < 0.96e9 + 8 * 1.5 * ledger.flops_per_sample, "all but the cool-down"
    assert ledger.flops_trunk == state(whole / name, "branch-1.2e9.ckpt")["run"]["spent"]
    assert ledger.seconds > state(whole / name, "branch-1.2e9.ckpt")["run"]["seconds"] > 0
    alone = Ledger.read(whole / f"{name}-less" / "ledger.json")
    assert (alone.flops_trunk, alone.trunk) == (0.0, "") and alone.recipe_hash == ledger.recipe_hash


def test_a_longer_run_goes_on_from_a_shorter_ones_trunk(whole: Path) -> None:
    words = ("objective=jepa", "name=longer", MORE)
    assert_same_run(run(whole, *words, f"branch={whole / 'jepa-less'}"), whole / "jepa")
    assert Ledger.read(whole / "longer" / "ledger.json").flops_trunk == pytest.approx(0.96e9, rel=0.1)


def test_a_finished_run_goes_on_to_a_larger_budget_and_its_result_is_set_aside(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "jepa-less", tmp_path / "demo")
    assert not is_finished(tiny(tmp_path, "objective=jepa", MORE)), "or a sweep would skip it"
    assert_same_run(run(tmp_path, "objective=jepa", MORE), whole / "jepa")
    aside = tmp_path / "demo" / "at-1.2e9"
    for name in ("encoder.safetensors", "ledger.json", "metrics.csv", "config.yaml"):
        assert (aside / name).read_bytes() == (whole / "jepa-less" / name).read_bytes()
    with pytest.raises(InputError, match=r"finished run of another config \(budget\.flops is smaller: branch="):
        is_finished(tiny(tmp_path, "objective=jepa", LESS))


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_an_unfinished_run_goes_on_to_a_larger_budget(
    whole: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its last checkpoint where that is of the trunk, else from the state before it began to cool."""

    class Cut(Exception):
        pass

    def cut(self: Objective, progress: float) -> None:
        if progress >= share:
            raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(JEPA, "after_step", with_cut(JEPA.after_step, cut))
        run(tmp_path, "objective=jepa", LESS, "checkpoint_every=0.02")
    assert state(tmp_path / "demo")["trunk"] == (share < 0.8)
    assert_same_run(run(tmp_path, "objective=jepa", MORE), whole / "jepa")
    assert not list((tmp_path / "demo").glob("at-*"))


def with_cut(first, second):  # type: ignore[no-untyped-def]
    def both(self, progress):  # type: ignore[no-untyped-def]
        second(self, progress)
        first(self, progress)

    return both


# -- what is refused, and kills, without training


def leave(out: Path, cfg: DictConfig, spent: float, name: str, **about: object) -> None:
    """A state as a run leaves it."""
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    counts = {"spent": spent, "step": int(spent / 1e8)}
    torch.save({"run": counts, "state_dict": {}, "optimizer": {}, "trunk": True} | about, out / "checkpoints" / name)
    config.save(cfg, out / "config.yaml")


def finish(out: Path, cfg: DictConfig) -> None:
    """A finished run of 1.2e9 that began to cool at 1e9."""
    leave(out, cfg, 1e9, "branch-1.2e9.ckpt", kept_for=1.2e9)
    leave(out, cfg, 1.2e9, "last.ckpt", trunk=False)
    (out / "encoder.json").write_text("{}")
    (out / "encoder.safetensors").write_text("weights")
    (out / "metrics.csv").write_text("step,flops,progress\n9,9e8,0.7500\n12,1.2e9,1.0000\n")
    Ledger("mae", 0, config_hash(cfg), "d", "c", flops_spent=1.2e9).write(out / "ledger.json")


OPERATIONS = ("os.replace", "os.rename", "shutil.copyfile", "os.unlink", "os.mkdir")


def killed_after(operations: int, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether `call` was ended after so many changes of files, as by a kill: nothing it does thereafter is done."""
    left = [operations]

    class Kill(BaseException):
        pass

    def counted(do):  # type: ignore[no-untyped-def]
        def one(*args, **keywords):  # type: ignore[no-untyped-def]
            if left[0] <= 0:
                raise Kill
            left[0] -= 1
            return do(*args, **keywords)

        return one

    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            room, _, function = name.partition(".")
            patch.setattr(name, counted(getattr({"os": os, "shutil": shutil}[room], function)))
        try:
            call()
        except Kill:
            return True
    return False


def test_a_kill_at_any_moment_leaves_the_run_of_before_or_the_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a finished run is made ready to go on to a larger budget."""
    less, more = (tiny(tmp_path, "objective=mae", b) for b in (LESS, MORE))
    out, moments = tmp_path / "demo", 0

    def opened(cfg: DictConfig) -> None:
        with using(cfg):
            open_folder(cfg)

    while True:
        shutil.rmtree(out, ignore_errors=True)
        finish(out, less)
        before = (out / "ledger.json").read_bytes()
        if not killed_after(moments, lambda: opened(more), monkeypatch):
            break
        if is_finished(less):  # the run of before is whole, or goes on from its trunk
            assert (out / "encoder.safetensors").read_text() == "weights" and (out / "metrics.csv").exists()
        else:
            assert state(out)["run"]["spent"] == 1e9 and (out / "at-1.2e9" / "ledger.json").read_bytes() == before
        opened(more)
        assert state(out)["run"]["spent"] == 1e9 and not (out / "ledger.json").exists()
        aside = out / "at-1.2e9"
        assert (aside / "ledger.json").read_bytes() == before and (aside / "encoder.safetensors").exists()
        assert len((aside / "metrics.csv").read_text().splitlines()) == 3, "the tables were whole when they were copied"
        assert config.read_yaml(out / "config.yaml")["budget"]["flops"] == 1.8e9
        assert (out / "metrics.csv").read_text().splitlines()[1:] == ["9,9e8,0.5000"]
        assert not [p for p in out.rglob("*") if p.name.startswith(".writing") or p.suffix == ".tmp"]
        moments += 1
    assert moments > 10


def test_a_kill_while_a_branch_begins_leaves_it_to_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path / "demo", tiny(tmp_path, "objective=mae", LESS))
    cfg, moments = tiny(tmp_path, "objective=mae", MORE, "name=b", f"branch={tmp_path / 'demo'}"), 0
    while killed_after(moments, lambda: open_folder(cfg), monkeypatch):
        open_folder(cfg)
        began = state(tmp_path / "b")
        assert began["run"]["spent"] == 1e9 and began["branched"] == {"run": str(tmp_path / "demo"), "flops": 1e9}
        shutil.rmtree(tmp_path / "b")
        lock.release(tmp_path / "b")
        moments += 1
    lock.release(tmp_path / "b")
    assert moments > 3 and is_finished(tiny(tmp_path, "objective=mae", LESS)), "the trunk is as it was"


def test_what_no_trunk_leads_to_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(do: Callable[[DictConfig], object], *words: str) -> str:
        with pytest.raises(InputError) as told:
            do(tiny(tmp_path, "objective=jepa", *words))
        assert "\n" not in str(told.value)
        return str(told.value)

    finish(tmp_path / "trunk", tiny(tmp_path, "objective=jepa", LESS, "name=trunk"))
    leave(tmp_path / "began", tiny(tmp_path, "objective=jepa", LESS, "name=began"), 5e8, "last.ckpt")
    branch = f"branch={tmp_path / 'trunk'}"
    other = refusal(open_folder, MORE, branch, "optim.lr=0.5", "objective.ema=0.5")
    assert "a run of another recipe (objective.ema, optim.lr differ)" in other
    short = refusal(open_folder, "budget.flops=1.1e9", branch)
    assert "keeps no state from before the cool-down of budget.flops=1.1e9" in short
    assert "the run itself" in refusal(open_folder, MORE, branch, "name=trunk", "overwrite=true")
    assert "no run folder" in refusal(open_folder, MORE, f"branch={tmp_path / 'nowhere'}")
    assert "more than budget.flops=1.1e9" in refusal(open_folder, "budget.flops=1.1e9", "name=began")
    (tmp_path / "trunk" / "checkpoints" / "branch-1.2e9.ckpt").unlink()
    assert "keeps no state from before its cool-down" in refusal(open_folder, MORE, "name=trunk")
    assert is_finished(tiny(tmp_path, "objective=jepa", LESS, "name=trunk")), "a refusal changes nothing"
    assert "keep_at=2e9: beyond budget.flops=1.2e9" in refusal(pretrain.run, LESS, "keep_at=[1e9,2e9]")
    assert "keep_at=1e+06 pays for " in refusal(pretrain.run, LESS, "keep_at=[1e6]"), "no run is planned to it"
    monkeypatch.setattr(JEPA, "ramps", True)
    assert "objective=jepa: its after_step may depend on the share" in refusal(pretrain.run, MORE, branch)
    assert not (tmp_path / "demo").exists()


def test_the_furthest_state_of_the_trunk_is_taken(tmp_path: Path) -> None:
    cfg = tiny(tmp_path, "objective=mae", MORE)  # cools from 1.44e9
    assert trunk.furthest(tmp_path, cfg) is None
    for spent, name, about in (
        (1e9, "branch-1.2e9.ckpt", {"kept_for": 1.2e9}),
        (1.1e9, "last.ckpt", {}),
        (1.3e9, "branch-1.5e9.ckpt", {"trunk": False}),
        (1.46e9, "branch-1.9e9.ckpt", {"kept_for": 1.9e9}),
    ):
        leave(tmp_path, cfg, spent, name, **about)
    assert trunk.furthest(tmp_path, cfg) == tmp_path / "checkpoints" / "last.ckpt"
    (tmp_path / "checkpoints" / "branch-1.7e9.ckpt").write_text("cut off")
    assert trunk.furthest(tmp_path, cfg) == tmp_path / "checkpoints" / "last.ckpt"
    leave(tmp_path, cfg, 1.45e9, "branch-1.8e9.ckpt", kept_for=1.8e9)
    assert trunk.furthest(tmp_path, cfg) == trunk.kept_at(tmp_path, 1.8e9)


def test_only_the_total_is_apart_from_the_recipe(tmp_path: Path) -> None:
    one, more, warmer, seed = (
        tiny(tmp_path, *w) for w in ((LESS,), (MORE, "keep_at=[1.2e9]", "branch=x"), ("budget.warmup=8",), ("seed=1",))
    )
    assert recipe_hash(one) == recipe_hash(more) != config_hash(one) != config_hash(more)
    assert len({recipe_hash(c) for c in (one, warmer, seed)}) == 3
    assert config_hash(tiny(tmp_path, MORE)) == config_hash(more), "where a run began does not decide its result"


def test_a_step_is_of_the_trunk_until_it_cools_or_is_cut() -> None:
    budget = Budget(100.0)
    for spent, samples, cooldown, is_trunk in (
        (79.9, 8, 0.2, True),
        (80.5, 8, 0.2, False),
        (60.0, 40, 0.2, True),
        (60.0, 41, 0.2, False),
        (92.0, 8, 0.0, True),
    ):
        budget.spent = spent
        assert budget.is_trunk(samples, 1.0, cooldown) == is_trunk, (spent, samples, cooldown)


@pytest.mark.slow
def test_kills_while_a_branch_trains(whole: Path, tmp_path: Path) -> None:
    words = ("objective=jepa", LESS, f"branch={whole / 'jepa'}", "checkpoint_every=0.02")
    begun = time.monotonic()
    assert ended(start(lambda: run(tmp_path / "whole", *words))) == 0
    took = time.monotonic() - begun
    for k in range(KILLS):
        runs = tmp_path / f"broken{k}"
        pid = start(lambda runs=runs: run(runs, *words))
        time.sleep(random.Random(k).uniform(0, took))
        os.killpg(pid, signal.SIGKILL)
        ended(pid)
        if not (runs / "demo" / "ledger.json").exists():
            assert ended(start(lambda runs=runs: run(runs, *words))) == 0
        assert_same_run(runs / "demo", whole / "jepa-less")
        assert json.loads((runs / "demo" / "ledger.json").read_text())["flops_trunk"] > 0.9e9
