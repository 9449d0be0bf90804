"""The order of events of `gfm sweep`: plan, runs, points for the laws, comparison."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from gfm_objectives import config
from gfm_objectives.errors import InputError
from gfm_objectives.runs.folder import folder
from gfm_objectives.sweep import cluster, plan, pool
from gfm_objectives.sweep.study import Study, kind, read, seconds_per_flop, smallest_first, write_points
from gfm_objectives.sweep.trunks import Share, in_turn, shares


def run(cfg: DictConfig) -> Path:
    """Run what is not done of the study that `cfg` (configs/sweep.yaml) names; returns the folder of its runs.

    InputError where runs broke: the others are done, and the same command goes on with the rest.
    """
    study = read(cfg.study, cfg.runs)
    if study.evaluation is not None:  # a mistake there is better known before the runs than after
        try:
            config.compose("eval", [*study.evaluation, f"name={study.name}"])
        except InputError as error:
            raise InputError(f"{cfg.study}: eval: {error}") from None
    gpus = 0 if cfg.executor == "slurm" else _gpus()
    workers = cfg.workers or gpus or 1
    print(plan.text(study, workers, cfg.watts, cfg.euro), flush=True)
    if cfg.plan_only:
        return study.home
    if cfg.executor == "slurm":
        if left := [*shares(study.runs).values()]:
            print(cluster.submit(left, study.home, cfg.slurm, cfg.dry_run))
            return study.home
    elif cfg.dry_run:
        print("\n".join(" ".join(pool.command(s.cfg, study.home)) for s in in_turn(shares(study.runs).values())))
        return study.home
    else:
        _pretrain(study, workers, gpus, cfg)
    for path in write_points(study):
        print(f"{path}: for gfm fit")
    _compare(study)
    return study.home


def _pretrain(study: Study, workers: int, gpus: int, cfg: DictConfig) -> None:
    """The smallest run of each kind first, so that the plan of the rest is measured; then the longest first."""
    broke: dict[str, str] = {}
    if first := smallest_first(study.open(), seconds_per_flop(study)):
        known = shares(study.runs)  # who would have to wait for its trunk goes first all the same, and leaves one
        alone = [Share(c, c.budget.flops) if known[c.name].after else known[c.name] for c in first]
        broke = pool.run_all(alone, study.home, workers, gpus)
        if {c.name for c in study.open()} - broke.keys():
            print(plan.text(study, workers, cfg.watts, cfg.euro), flush=True)
    rates = seconds_per_flop(study)
    left = [s for name, s in shares(study.runs).items() if name not in broke]
    left.sort(key=lambda s: -s.flops * rates.get(kind(s.cfg), 0.0))
    broke |= pool.run_all(left, study.home, workers, gpus)
    if broke:
        write_points(study)
        name, why = next(iter(broke.items()))
        raise InputError(
            f"{len(broke)} of {len(study.runs)} runs broke, {name} first: {why} ({study.home}/logs has what they "
            "printed); the same command goes on with them"
        )


def _compare(study: Study) -> None:
    if study.evaluation is None:
        return
    from gfm_objectives.compare import run as compare

    checkpoints = ",".join(str(folder(c)) for c in study.runs)
    for cfg in config.compose("eval", [*study.evaluation, f"name={study.name}", f"checkpoint={checkpoints}"]):
        compare(cfg)


def _gpus() -> int:
    """How many GPUs this process may use, without importing torch where it is told by the environment."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([n for n in named.split(",") if n and n != "-1"])
    import torch

    return torch.cuda.device_count()
