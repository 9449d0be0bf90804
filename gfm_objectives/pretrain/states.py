"""The state between two steps: saved for whoever is killed, kept along the trunk, and gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gfm_objectives.budget import Budget
from gfm_objectives.device import DTYPES
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain.batches import places_of
from gfm_objectives.pretrain.beginning import Initial
from gfm_objectives.runs.trunk import LAST, kept_at
from gfm_objectives.training.sharding import dealt_model, dealt_optimiser, gathered

if TYPE_CHECKING:
    from gfm_objectives.pretrain.measuring import Measuring
    from gfm_objectives.pretrain.module import Pretraining


def state_of(module: Pretraining, measuring: Measuring) -> dict[str, Any]:
    """All that a run goes on from; what it cost to get there included. Where weights are sharded, all processes ask."""
    seconds, wait = module.count["seconds"] + module.meter.seconds, module.count["wait"] + module.loader.wait
    return {
        "state_dict": gathered(module.objective.state_dict()) if module.sharded else module.objective.state_dict(),
        "optimizer": gathered(module.optimiser.state_dict()) if module.sharded else module.optimiser.state_dict(),
        "run": module.count | {"seconds": seconds, "wait": wait, "spent": module.budget.spent},
        "trunk": module.trunk.whole and module.objective.has_trunk(),
        "branched": module.trunk.branched,
        "data_fingerprint": module.source.fingerprint,
        "precision": str(module.dtype).removeprefix("torch."),
        "initial": {"name": module.initial.name, "flops": module.initial.flops},
        "measuring": measuring.state_dict(),
        "energy": module.used.state(),
    }


def restore(module: Pretraining, measuring: Measuring, path: Path | None = None) -> None:
    """Go on from the last checkpoint, or that at `path`, if there is one. InputError where the data is no longer the
    same."""
    path = path or module.folder / "checkpoints" / LAST
    if not path.exists():
        return
    state = torch.load(path, map_location=module.device, weights_only=True)
    check_data(module, state.get("data_fingerprint"))
    if "initial" in state:  # what lies under the path of init= may be others by now
        module.initial = Initial(**state["initial"])
    if module.sharded:
        state["state_dict"] = dealt_model(state["state_dict"], module.objective)
        state["optimizer"] = dealt_optimiser(state["optimizer"], module.optimiser)
    module.objective.load_state_dict(state["state_dict"])
    module.optimiser.load_state_dict(state["optimizer"])
    measuring.load_state_dict(state["measuring"])
    module.energy = state["energy"]
    module.count = {k: v for k, v in state["run"].items() if k != "spent"}
    module.budget.spent = state["run"]["spent"]
    module.done = not module.budget.samples_left(min(k.total for k in module.costs.values()))
    module.trunk.whole, module.trunk.branched = state.get("trunk", False), state.get("branched", {})
    if module.fabric.is_global_zero:
        share = f"{module.budget.progress:.0%} of the budget"
        print(f"{module.cfg.name}: goes on from step {module.count['step']} ({share})")


def check_data(module: Pretraining, fingerprint: str | None) -> None:
    """InputError where the data had another fingerprint when the run was begun; None = not known."""
    if fingerprint not in (None, module.source.fingerprint):
        raise InputError(
            f"{module.folder}: the data, or what its targets are made with, changed since this run began; "
            "choose another name=, or overwrite=true"
        )


def dtype_of(path: Path, otherwise: torch.dtype) -> torch.dtype:
    """In which the steps before the state at `path` were taken; `otherwise` where there is none, or it does not say.

    precision=auto asks the machine, and the next one may answer otherwise.
    """
    if not path.exists():
        return otherwise
    told = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("precision", "")
    return next((d for d in DTYPES if str(d) == f"torch.{told}"), otherwise)


class Trunk:
    """The part of a run with which every larger budget begins, and the states kept along it.

    whole: whether every step so far was of it; branched: the run whose state this one began with, and the FLOPs spent
    by then; {} = its own.
    """

    def __init__(self) -> None:
        self.whole = True
        self.branched: dict[str, Any] = {}
        self.ahead: list[float] = []  # budgets whose branch points lie ahead

    def begin(self, module: Pretraining) -> None:
        """Before the first step of a process."""
        wanted = module.cfg.keep_at
        wanted = [module.budget.flops] if wanted is None else [*wanted, *[module.budget.flops] * bool(wanted)]
        if self.whole and module.objective.has_trunk():
            self.ahead = sorted({b for b in wanted if self.goes_on(module, b)})

    def goes_on(self, module: Pretraining, flops: float) -> bool:
        """Whether a run planned to `flops` would take the next step as all larger ones do."""
        budget = Budget(flops)
        budget.spent = module.budget.spent
        places = places_of(module.cfg, module.world) * module.world
        return budget.is_trunk(places, module.costs[module.kind()].total, module.cfg.budget.cooldown)

    def before_step(self, module: Pretraining) -> None:
        self.whole = self.whole and self.goes_on(module, module.budget.flops)

    def after_step(self, module: Pretraining, measuring: Measuring) -> None:
        """Keep the state for the budgets that begin to cool, or end, with the next step. In front of `last.ckpt`: so
        that no run goes on from behind a state that was to be kept."""
        here = [b for b in self.ahead if not self.goes_on(module, b)]
        for flops in here:
            self.ahead.remove(flops)
            module.finite.ask()
            module.keep(kept_at(module.folder, flops), measuring, {"kept_for": flops})
