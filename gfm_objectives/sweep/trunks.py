"""Runs of a study that differ in the budget alone share a trunk: the longest keeps the states, the others branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives.objectives.building import find_objective
from gfm_objectives.runs.folder import folder, is_finished
from gfm_objectives.runs.provenance import recipe_hash
from gfm_objectives.runs.trunk import furthest, kept_at, spent_at


@dataclass(frozen=True, slots=True)
class Share:
    """cfg: the run with its `branch` and `keep_at`; flops: what it spends itself; after: the run that is still to leave
    the state it branches from."""

    cfg: DictConfig
    flops: float
    after: str | None = None


def cells(runs: Sequence[DictConfig]) -> list[list[DictConfig]]:
    """Runs that share a trunk, the shortest first; a run alone where none does, or where its objective has no trunk."""
    out: dict[str, list[DictConfig]] = {}
    for c in runs:
        out.setdefault(recipe_hash(c), []).append(c)
    alike: list[list[DictConfig]] = []
    for own in out.values():
        shared = len(own) > 1 and find_objective(own[0].objective.name).has_trunk()
        alike += [sorted(own, key=lambda c: c.budget.flops)] if shared else [[c] for c in own]
    return alike


def in_all(runs: Sequence[DictConfig]) -> float:
    """FLOPs of all runs, every trunk counted once."""
    return sum(
        cell[-1].budget.flops + sum(c.budget.flops * c.budget.cooldown for c in cell[:-1]) for cell in cells(runs)
    )


def shares(runs: Sequence[DictConfig]) -> dict[str, Share]:
    """Name -> what is left to do, of runs that are not finished; what lies on disk decides who branches from whom.

    The longest goes on from the furthest state of its trunk that another run left, and keeps those of the others, which
    branch from it.
    """
    out: dict[str, Share] = {}
    for cell in cells(runs):
        left = [c for c in cell if not is_finished(c)]
        waiting = []
        for c in left:
            state, spent = _found(c, [o for o in cell if o is not c])
            trunk = (1 - c.budget.cooldown) * c.budget.flops
            if c is left[-1] or spent >= trunk:
                branch = _with(c, branch=str(state.parent.parent)) if state else c
                out[c.name] = Share(branch, c.budget.flops - spent)
            else:
                out[c.name] = Share(_with(c, branch=str(folder(left[-1]))), c.budget.flops - trunk, left[-1].name)
                waiting.append(c.budget.flops)
        if waiting:
            longest = out[left[-1].name]
            keep = [*waiting, left[-1].budget.flops]
            out[left[-1].name] = Share(_with(longest.cfg, keep_at=keep), longest.flops)
    return out


def _found(cfg: DictConfig, others: Sequence[DictConfig]) -> tuple[Path | None, float]:
    """The furthest state, kept by another run, through which this one passes, and the FLOPs spent by then."""
    kept = [path for o in others if folder(o).exists() and (path := furthest(folder(o), cfg)) is not None]
    return max(((path, spent_at(path)) for path in kept), key=lambda found: found[1], default=(None, 0.0))


def in_turn(some: Iterable[Share]) -> list[Share]:
    """Those that wait for another run behind those that do not."""
    return sorted(some, key=lambda s: s.after is not None)


def ready(share: Share, open_runs: Sequence[str]) -> bool:
    """Whether the run can be started while those are not done."""
    return share.after not in open_runs or kept_at(Path(share.cfg.branch), share.cfg.budget.flops).exists()


def started(share: Share) -> DictConfig:
    """The config to start it with: it trains all of itself where the state it was to branch from was never left."""
    c = share.cfg
    return _with(c, branch=None) if share.after and furthest(Path(c.branch), c) is None else c


def _with(cfg: DictConfig, **changes: object) -> DictConfig:
    return OmegaConf.merge(cfg, changes)  # type: ignore[return-value]
