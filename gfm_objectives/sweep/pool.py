"""Runs as processes of their own, some at a time: on cores, or one to a GPU. A run that breaks takes none with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from gfm_objectives import config
from gfm_objectives.sweep.trunks import Share, ready, started


def command(cfg: DictConfig, home: Path) -> list[str]:
    """The command of a run, whose config is kept in `home`/configs."""
    path = home / "configs" / f"{cfg.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    config.save(cfg, path)
    return [sys.executable, "-m", "gfm_objectives.cli", "train", f"config={path}", f"name={cfg.name}"]


def run_all(runs: Sequence[Share], home: Path, workers: int, gpus: int) -> dict[str, str]:
    """Run them, `workers` at a time; returns name -> why, of those that broke. What they print goes to `home`/logs.
    A run that branches waits for the state it begins with.

    With GPUs every worker has one of its own. An interrupt, or the signal that clusters send when time is up, ends the
    children too, which go on at the next call.
    """
    waiting, broke = list(runs), {}
    busy: dict[int, tuple[DictConfig, subprocess.Popen[bytes]]] = {}
    done = 0
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or busy:
            for slot in (s for s in range(workers) if s not in busy):
                undone = [s.cfg.name for s in waiting] + [c.name for c, _ in busy.values()]
                if (share := next((s for s in waiting if ready(s, undone)), None)) is None:
                    break
                waiting.remove(share)
                busy[slot] = share.cfg, _start(started(share), home, slot, workers, gpus)
            for slot, (cfg, process) in list(busy.items()):
                if (code := process.poll()) is not None:
                    del busy[slot]
                    done += 1
                    if code:
                        broke[cfg.name] = _why(home / "logs" / f"{cfg.name}.txt", code)
                    told = f"broke: {broke[cfg.name]}" if code else "finished"
                    print(f"[{done}/{len(runs)}] {cfg.name}: {told}", flush=True)
            time.sleep(0.05)
    finally:
        for _, process in busy.values():
            process.terminate()
        for _, process in busy.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return broke


def _start(cfg: DictConfig, home: Path, slot: int, workers: int, gpus: int) -> subprocess.Popen[bytes]:
    log = home / "logs" / f"{cfg.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = _visible()[slot % gpus]
    with log.open("ab") as f:
        return subprocess.Popen(command(cfg, home), stdout=f, stderr=subprocess.STDOUT, env=environment)


def _visible() -> list[str]:
    """The GPUs this process may use, by the names it may use them under."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(i) for i in range(64)]


def _why(log: Path, code: int) -> str:
    """The last line a run printed, or the signal that ended it."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"signal {-code}" if code < 0 else (lines[-1].removeprefix("error: ") if lines else f"exit code {code}")
