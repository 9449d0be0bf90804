"""What a step asks of a device, counted where there is none: kernels launched, and waits of the host.

    python benchmarks/launches.py [encoder=nano,tiny] [objectives=...]

A step is taken on torch's meta device, where tensors have shapes and no values, so that whatever needs one is seen:
values read by the host (item, bool, tolist, cpu), shapes that depend on values (nonzero, an index by a mask), and what
is sent there in a way that waits for the device (lists, and tensors without non_blocking=True).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import common
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfm_objectives import allocations, config
from gfm_objectives.allocations import Fused
from gfm_objectives.budget import Budget
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.pretrain.batches import places_of
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.pretraining import open_source
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.pretrain.steps import cost_of, kinds_of_step
from gfm_objectives.runs.provenance import settled

FAR = torch.device("meta")
HERE = Path(__file__).resolve().parent.parent
MODES = {Path(__file__), Path(allocations.__file__)}
aten = torch.ops.aten
# Of no kernel: storage that is taken, and views that torch does not call such.
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Asked(TorchDispatchMode):
    """Counts what is asked of the meta device while it is active.

    launches: operations that a GPU runs as a kernel or more, by name; waits: those for which the host waits, by name
    and line. A number that the host asks for is -1, which is a loss, and of no step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        far = [t for t in given if t.device == FAR]
        name = func.overloadpacket.__name__
        if far and waits(func, name, args, kwargs, given):
            self.waits[f"{name} at {_line()}"] += 1
        if name == "_local_scalar_dense" and far:
            return True if far[0].dtype == torch.bool else -1.0 if far[0].is_floating_point() else -1
        if far and kwargs.get("device") == torch.device("cpu"):
            return torch.ones(far[0].shape, dtype=kwargs.get("dtype") or far[0].dtype)
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.device == FAR]
        if not far and made and given and not kwargs.get("non_blocking"):  # sent
            self.waits[f"{name} at {_line()}"] += 1
        if (far or made) and not func.is_view and name not in NOTHING:
            self.launches[name] += 1
        return out


def waits(func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor]) -> bool:
    """Whether the host waits for an operation on the device to be done."""
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        by = [i for i in args[1] if i is not None]
        some = any(i.dtype in (torch.bool, torch.uint8) for i in by)  # how many there are is asked
        filled = name != "index" and args[2].numel() == 1  # masked_fill
        return any(i.device != FAR for i in by) or (some and not filled)
    if name in ("copy_", "_to_copy"):
        there = kwargs.get("device") or args[0].device
        crossed = any(t.device != there for t in given)
        quick = there == FAR and bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        return crossed and not quick
    return name in ("lift_fresh", "equal") or bool(ASKS & set(func.tags))


def _line() -> str:
    """The nearest line of this project, or else of whoever is nearest."""
    frame, nearest = sys._getframe(2), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path not in MODES:
            at = f"{path.name}:{frame.f_lineno}"
            if HERE in path.parents and ".venv" not in path.parts:
                return at
            nearest = nearest or at
        frame = frame.f_back  # type: ignore[assignment]
    return nearest


def nowhere() -> Any:
    """A fabric of one process on the meta device."""
    return SimpleNamespace(
        device=FAR,
        global_rank=0,
        world_size=1,
        is_global_zero=True,
        setup=lambda model, optimiser: (model, optimiser),
        backward=Tensor.backward,
    )


def pretraining(cfg: Any) -> Pretraining:
    """A run of pretraining on the meta device, ready for its first step, which is not one that is logged."""
    source, whole = open_source(cfg)
    with FAR:
        objective = build_objective(cfg.objective, build_encoder(cfg.encoder, whole), source.spec)
    kinds = kinds_of_step(objective, source.spec, cfg.augment.sides)
    costs = {k: cost_of(objective, source.spec, k, places_of(cfg, 1)) for k in kinds}
    module = Pretraining(objective, costs, Budget(cfg.budget.flops), cfg, source, Path(), nowhere())
    with FAR:
        module.prepare()
    module.meter = Meter(None, 1)
    module.count["step"] = 1
    module.objective.train()
    return module


def asked(take: Callable[[], Any]) -> Asked:
    """What a call asks of the device, with kernels as a GPU has them: attention is one each way, gradients are clipped
    together. AdamW's step, one more, is left out: it is fused, which the meta device knows nothing of."""
    found, clip = Asked(), "torch.nn.utils.clip_grad._has_foreach_support"
    with mock.patch.object(torch.optim.AdamW, "step", lambda _: None), mock.patch(clip, lambda *_: True):
        with found, Fused():
            take()
    return found


# ---------------------------------------------------------------- the table

WORDS = ("device=cpu", "pool=null", "loader.workers=0", "optim.batch_size=4", "log_every=1000000000")
STEPS = 3
ABOUT = (
    "Counted on torch's meta device, which has no values and no clock: the figures are the same on any machine. An "
    "operation is a kernel unless it is a view; AdamW, one more, is left out. The loss is asked whether it is a number "
    "at every sixteenth step, and a step that is logged waits once."
)


def row(cfg: Any) -> common.Row:
    """Of some steps of pretraining: read, sent, augmented, learned from, none of them logged."""
    module = pretraining(cfg)
    flow = iter(module.opened())
    found = asked(lambda: [module.step(next(flow)) for _ in range(STEPS)])
    kernels = round(found.launches.total() / STEPS)
    return {"kernels a step": kernels, f"waits in {STEPS} steps": found.waits.total(), "at": ", ".join(found.waits)}


def main(argv: list[str]) -> None:
    given = common.words(argv, encoder="nano,tiny", objectives=",".join(OBJECTIVES))
    command = " ".join(["python benchmarks/launches.py", *argv])
    sections: dict[str, list[common.Row]] = {}
    for encoder in given["encoder"].split(","):
        rows = sections[f"encoder={encoder}, eager, float32"] = []
        for objective in given["objectives"].split(","):
            words = (f"encoder={encoder}", f"objective={objective}", "budget.flops=1e18", *WORDS)
            (cfg,) = config.compose("train", [*words])
            rows.append({"objective": objective} | row(settled(cfg)))
        common.write("launches", "Kernels and waits of a step", command, sections, [ABOUT])


if __name__ == "__main__":
    main(sys.argv[1:])
