"""The trunk of a run: states kept from before its cool-down, from which runs of the same recipe go on to other budgets.

Until a run begins to cool, no step depends on its total budget, so a run that goes on from such a state ends with the
weights and the FLOPs of one that was planned to the budget from the start (warm-up, stable, decay: Hägele et al. 2024,
arXiv:2405.18392).
"""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config, disk
from gfm_objectives.config.values import number
from gfm_objectives.errors import InputError
from gfm_objectives.runs.checkpoint import check_state, write_state
from gfm_objectives.runs.provenance import differing

LAST, KEPT = "last.ckpt", "branch-{}.ckpt"
RESULT = ("config.yaml", "ledger.json", "encoder.json", "encoder.safetensors", "metrics.csv", "yardstick.csv")


def kept_at(run: Path, flops: float) -> Path:
    """Where a run keeps the state at which one planned to `flops` begins to cool."""
    return run / "checkpoints" / KEPT.format(number(flops))


def furthest(run: Path, cfg: DictConfig) -> Path | None:
    """The furthest state in the run's folder through which the run of `cfg` passes; None where none is kept.

    That is the one kept for its very budget, else one of the trunk from before its cool-down. What cannot be read is
    passed over.
    """
    best: tuple[float, Path] | None = None
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        try:
            state = _peeked(path)
        except InputError:
            continue
        spent, kept_for = state["run"]["spent"], state.get("kept_for")
        on_trunk = state.get("trunk", False) and spent <= (1 - cfg.budget.cooldown) * cfg.budget.flops
        if (kept_for == cfg.budget.flops or on_trunk) and (best is None or spent > best[0]):
            best = spent, path
    return best and best[1]


def _peeked(path: Path) -> dict[str, Any]:
    """The state, its tensors left on disk."""
    check_state(path)
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)  # type: ignore[no-any-return]


def spent_at(path: Path) -> float:
    """FLOPs spent by the state at `path`."""
    return float(_peeked(path)["run"]["spent"])


def branch_point(cfg: DictConfig) -> Path:
    """The state, of the run that `cfg.branch` names, from which the run of `cfg` goes on. InputError where that is of
    another recipe, with the keys that differ, or keeps none."""
    run = Path(cfg.branch)
    if not (run / "config.yaml").is_file():
        raise InputError(f"branch={run}: no run folder; give one such as runs/demo, or branch=null to train all of it")
    if keys := differing(OmegaConf.create(config.read_yaml(run / "config.yaml")), cfg):
        raise InputError(f"branch={run}: a run of another recipe ({', '.join(keys)} differ); only budget.flops may")
    if (path := furthest(run, cfg)) is None:
        raise InputError(
            f"branch={run}: keeps no state from before the cool-down of budget.flops={number(cfg.budget.flops)}; train "
            "it with keep_at= that budget, or give branch=null to train all of this one"
        )
    return path


def begin(path: Path, out: Path, cfg: DictConfig) -> None:
    """Let the run in `out` go on from the state at `path`, of another run."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    run = path.parent.parent
    carry(run, out, state["run"]["step"], cfg.budget.flops)
    branched = {"run": str(Path(cfg.branch)), "flops": state["run"]["spent"]}
    write_state(out / "checkpoints" / LAST, state | {"branched": branched})


def extend(out: Path, before: DictConfig, cfg: DictConfig) -> None:
    """Let the run in `out`, planned to less before, go on from its trunk; a finished result is set aside first.

    InputError where it was planned to more, or keeps no such state. A kill in between leaves the run of before,
    finished or to be resumed, or this one.
    """
    was, now = number(before.budget.flops), number(cfg.budget.flops)
    if before.budget.flops > cfg.budget.flops:
        raise InputError(
            f"{out}: planned to {was} FLOPs, more than budget.flops={now}; another name= with branch={out} goes on "
            "from its trunk"
        )
    last = out / "checkpoints" / LAST
    finished = (out / "ledger.json").is_file()
    if not (last.exists() or finished):
        return  # nothing was trained yet
    if (path := furthest(out, cfg)) is None:
        raise InputError(
            f"{out}: planned to {was} FLOPs, and keeps no state from before its cool-down; choose another name=, or "
            "overwrite=true to train all of it again"
        )
    if finished:
        set_aside(out, out / f"at-{was}")
    if path != last:
        write_state(last, torch.load(path, map_location="cpu", weights_only=True))
    (out / "ledger.json").unlink(missing_ok=True)
    for name in ("encoder.json", "encoder.safetensors"):
        (out / name).unlink(missing_ok=True)
    carry(out, out, _peeked(last)["run"]["step"], cfg.budget.flops)
    aside = f"; what was finished is in {out / f'at-{was}'}" if finished else ""
    print(f"{cfg.name}: planned to {was} FLOPs before, now to {now}{aside}", flush=True)


def set_aside(out: Path, to: Path) -> None:
    """Copy the finished result to a folder of its own, which is whole or not there."""
    if to.exists():
        return
    scratch = to.with_name(f"{disk.SCRATCH}{to.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name in RESULT:
        if (out / name).exists():
            shutil.copyfile(out / name, scratch / name)
    scratch.rename(to)


def carry(run: Path, out: Path, step: int, flops: float) -> None:
    """Write the tables of `run` up to `step` into `out`, with the progress of a budget of `flops`."""
    for name in ("metrics.csv", "yardstick.csv"):
        if not (run / name).exists():
            continue
        with (run / name).open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if (r.get("step") or "").isdigit() and int(r["step"]) <= step]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], restval="")
        writer.writeheader()
        writer.writerows(r | {"progress": f"{float(r['flops']) / flops:.4f}"} for r in rows)
        with disk.replacing(out / name) as scratch:
            scratch.write_text(text.getvalue(), newline="")
