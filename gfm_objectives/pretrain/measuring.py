"""When a pretraining run is measured by the yardstick, and where the figures go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gfm_objectives.data import build_source
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain.places import data_options
from gfm_objectives.pretrain.progress import Table, read_table
from gfm_objectives.training.compiling import eager
from gfm_objectives.yardstick import Figures, Yardstick
from gfm_objectives.yardstick.probes import alarm

if TYPE_CHECKING:
    from gfm_objectives.pretrain.module import Pretraining

SHARE = 0.1  # of the budget: at most this much is spent on measuring beside it, where that leaves more than the end
TIMES = (10, 5, 2, 1)


class Measuring:
    """Measures the untrained encoder and the bands' statistics at the start, then the encoder at tenths and at the end.

    Every tenth, fifth or half, or the end alone: the most that cost less than SHARE of the budget in FLOPs. None of it
    is in the budget, the training's seconds or its MFU, and none of it changes the training. Under DDP the first
    process measures, and the others wait for it in their next step, where weights are sharded once they have handed
    theirs over. Without a split `val` it says so and does nothing;
    with yardstick=false it does nothing either.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.seconds, self.flops, self.spent = dtype, 0.0, 0.0, 0.0
        self.yardstick: Yardstick | None = None
        self.times = 0  # that a run is measured after its start; 0 = never

    def begin(self, module: Pretraining) -> None:
        """Before the first step of a process."""
        if not module.cfg.yardstick:
            return
        module.objective.set_patch()
        encoder = module.encoder()
        if module.fabric.is_global_zero:
            self._open(module, encoder)
        if module.sharded:
            self.times = module.fabric.broadcast(self.times)
        self.passed = int(self.times * module.budget.progress)

    def _open(self, module: Pretraining, encoder: Any) -> None:
        """Find the held-out places, and measure what has not learned."""
        began, cfg, step = time.perf_counter(), module.cfg, module.count["step"]
        try:
            source = build_source(data_options(cfg), "val")
            self.yardstick = Yardstick(source, encoder, self.dtype)
        except InputError as error:
            print(f"{cfg.name}: no yardstick, for want of held-out places: {error}", flush=True)
            return
        self.times = times(self.yardstick.cost, module.budget.flops)
        # A fresh run begins a fresh table; one that goes on keeps the rows up to its checkpoint.
        self.table = Table(module.folder / "yardstick.csv", step or -1)
        if not step:
            self._add(module, "bands", self.yardstick.bands())
            self._add(module, "encoder", self._measured(module, encoder))
        self._book(began)

    def after_step(self, module: Pretraining) -> None:
        """After every step; measures where it is time."""
        if not self.times:
            return
        progress = module.budget.progress
        if not module.done and int(self.times * progress) == self.passed:
            return
        self.passed = int(self.times * progress)
        began = time.perf_counter()
        module.objective.set_patch()
        encoder = module.encoder()
        if self.yardstick is None:
            return
        figures = self._measured(module, encoder)
        self._add(module, "encoder", figures)
        module.tell({f"yardstick/{k}": v for k, v in figures.items()})
        if signs := alarm(figures):
            print(f"{module.cfg.name}: warning: the encoder collapses at {progress:.0%}: {signs}", flush=True)
        module.meter.pause(self._book(began))

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds, "flops": self.flops}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds, self.flops = state_dict["seconds"], state_dict["flops"]

    def _measured(self, module: Pretraining, encoder: Any) -> Figures:
        assert self.yardstick is not None
        with eager(module.compiled):  # views of other dates and sensors would each be compiled anew
            return self.yardstick(encoder)

    def _add(self, module: Pretraining, of: str, figures: Figures) -> None:
        place = {"of": of, "step": module.count["step"], "progress": f"{module.budget.progress:.4f}"}
        row = place | {"flops": f"{module.budget.spent:.6e}"} | {k: f"{v:.6g}" for k, v in figures.items()}
        self.table.add(row)

    def _book(self, began: float) -> float:
        """Add what was spent since `began`; returns the seconds."""
        assert self.yardstick is not None
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.flops, self.spent = self.flops + self.yardstick.flops - self.spent, self.yardstick.flops
        return seconds

    def summary(self, folder: Path) -> dict[str, Any]:
        """For the ledger: the last figures, those of the untrained encoder and the bands' statistics, and `places`, the
        same for runs that were measured on the same places. {} where nothing was measured."""
        if self.yardstick is None:
            return {}
        rows = read_table(folder / "yardstick.csv")
        encoder, bands = ([r for r in rows if r["of"] == of] for of in ("encoder", "bands"))
        untrained = [r for r in encoder if r["step"] == "0"]
        return {
            "places": self.yardstick.places,
            **_figures(encoder[-1:]),
            "random": _figures(untrained),
            "bands": _figures(bands),
        }


def times(cost: float, budget: float) -> int:
    """How often a run of `budget` FLOPs is measured after its start, at `cost` FLOPs each."""
    return next((n for n in TIMES if (n + 1) * cost <= SHARE * budget), TIMES[-1])


def _figures(rows: list[dict[str, str]]) -> Figures:
    return {k: float(v) for r in rows for k, v in r.items() if v and k not in ("of", "step", "progress", "flops")}
