"""Killed at any moment and started again, a command ends with what the unbroken one has; GFM_KILLS=20 moments."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import config

from gfm_objectives import compare, inspection
from gfm_objectives.config import compose
from gfm_objectives.data import prepare
from gfm_objectives.disk import SCRATCH
from gfm_objectives.errors import InputWarning

KILLS = int(os.environ.get("GFM_KILLS", "4"))
TIMES = ("seconds", "peak_memory_mib", "commit")  # of a run, not of its result


def start(call: Callable[[], object]) -> int:
    """A process that makes the call, and everything that it starts."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            warnings.simplefilter("ignore", InputWarning)  # of classes that so few labels do not show
            torch.set_num_threads(1)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(call: Callable[[], object], after: float) -> None:
    pid = start(call)
    time.sleep(after)
    os.killpg(pid, signal.SIGKILL)
    ended(pid)


def kill_and_go_on(call: Callable[[], object], after: float) -> None:
    kill(call, after)
    assert ended(start(call)) == 0


def scores(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        rows = [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]
    return sorted(rows, key=str)


def statistics(out: Path) -> list[str]:
    return sorted(set((out / "statistics.csv").read_text().splitlines()))  # a kill between the two files repeats a row


@pytest.mark.slow
def test_eval(tmp_path):
    def of(name: str) -> Callable[[], object]:
        cfg = config(tmp_path / name, finetune={"trials": 2}, contenders=["unet", "conv", "map"])
        return lambda: compare.run(cfg)

    begun = time.monotonic()
    assert ended(start(of("whole"))) == 0
    took = time.monotonic() - begun
    whole = tmp_path / "whole" / "results" / "demo"
    for k in range(KILLS):
        kill_and_go_on(of(f"broken{k}"), random.Random(k).uniform(0, took))
        out = tmp_path / f"broken{k}" / "results" / "demo"
        assert scores(out) == scores(whole) and statistics(out) == statistics(whole), k
        assert (out / "plateau.json").exists() == (whole / "plateau.json").exists()
        assert not [p for p in out.rglob("*") if p.name.startswith((SCRATCH, ".lock")) or p.suffix == ".tmp"], k


@pytest.mark.slow
def test_inspect(tmp_path):
    def of(name: str) -> Callable[[], object]:
        (cfg,) = compose("inspect", ["data.size=16", "data.dates=1", "places=8", f"out={tmp_path / name}"])
        return lambda: inspection.run(cfg)

    begun = time.monotonic()
    assert ended(start(of("whole"))) == 0
    took = time.monotonic() - begun
    for k in range(KILLS):
        kill_and_go_on(of(f"broken{k}"), random.Random(k).uniform(0, took))
        for file in ("inspect.txt", "inspect.png"):
            told = [(tmp_path / n / "synthetic" / file).read_bytes() for n in ("whole", f"broken{k}")]
            assert told[0] == told[1], (k, file)


@pytest.mark.slow
def test_prepare(tmp_path):
    words = ["data.size=32", "data.dates=2", "data.places.pretrain=100", "data.regions.pretrain=2", "shard_mb=0.3"]

    def of(name: str) -> Callable[[], object]:
        (cfg,) = compose("prepare", [*words, "workers=1", f"out={tmp_path / name}"])
        return lambda: prepare.run(cfg)

    begun = time.monotonic()
    assert ended(start(of("whole"))) == 0
    took = time.monotonic() - begun
    whole = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").rglob("*.*")}
    done = 0
    for k in range(KILLS):
        out = tmp_path / f"broken{k}"
        kill(of(out.name), random.Random(k).uniform(0, took))
        if (out / "synthetic" / "index.json").exists():
            done += 1  # the kill came too late, and the same command says that it is finished
        else:
            assert ended(start(of(out.name))) == 0, k
        assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")} == whole, k
    assert done < KILLS / 2
