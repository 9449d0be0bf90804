"""Pretraining itself: one optimiser step per batch, until the budget is spent."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig
from torch import Tensor

from gfm_objectives import ranks
from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget, wsd
from gfm_objectives.chance import mix
from gfm_objectives.data.augment import augment
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.packed import Packed, packing, ready
from gfm_objectives.data.pool import PoolLoader, kept
from gfm_objectives.data.source import Source
from gfm_objectives.device import peak
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.norm import count_norms, share_norms
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain.batches import micro_of, places_of
from gfm_objectives.pretrain.beginning import Initial
from gfm_objectives.pretrain.faults import FAULT, note
from gfm_objectives.pretrain.measuring import Measuring
from gfm_objectives.pretrain.progress import Bar, Meter, Table
from gfm_objectives.pretrain.states import Trunk, restore, state_of
from gfm_objectives.pretrain.steps import Step, crop, every_weight_learns
from gfm_objectives.runs.checkpoint import write_state
from gfm_objectives.runs.trunk import LAST
from gfm_objectives.signals import Asked
from gfm_objectives.training.compiling import compile_parts, eager
from gfm_objectives.training.energy import Energy, counter_of
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.launching import look_for_unused
from gfm_objectives.training.leaving import due, leave
from gfm_objectives.training.logging import Logger
from gfm_objectives.training.optimiser import adamw
from gfm_objectives.training.sharding import gathered, shard
from gfm_objectives.training.stepping import Stepper

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L

COUNTS = ("step", "samples", "tokens", "visible", "merged", "seconds", "wait")


class Pretraining:
    """A run of pretraining in one process, or in each of several that train together.

    All randomness is a function of (seed, step), and a checkpoint of the state between two steps, so a run that was
    killed ends with the weights of one that was not. Lightning Fabric launches the processes and averages their
    gradients; its Trainer is not used, whose loops, callbacks and checkpoints were switched off one by one.
    """

    def __init__(
        self,
        objective: Objective,
        costs: dict[Step, Cost],
        budget: Budget,
        cfg: DictConfig,
        source: Source,
        folder: Path,
        fabric: L.Fabric,
        dtype: torch.dtype = torch.float32,
        initial: Initial | None = None,
    ) -> None:
        self.objective, self.costs, self.budget, self.cfg, self.source = objective, costs, budget, cfg, source
        self.folder, self.fabric, self.dtype, self.initial = folder, fabric, dtype, initial or Initial()
        self.device, self.rank, self.world = fabric.device, fabric.global_rank, fabric.world_size
        self.count: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"seconds": 0.0, "wait": 0.0}
        self.loggers: Sequence[Logger] = ()
        self.energy: dict[str, float | None] | None = None  # of the run so far
        self.saved_at = 0.0
        self.asked = Asked()
        self.done = False
        self.sharded = bool(cfg.get("shard")) and self.world > 1
        self.trunk = Trunk()
        self.compiled = False
        self.bar: Bar | None = None
        self.table: Table | None = None  # of a run that is told of
        self.sizes: dict[Any, tuple[int, int, int]] = {}

    def fit(self, measuring: Measuring, compiled: bool = False) -> None:
        """Train until the budget is spent, from the last checkpoint if there is one; SystemExit once `asked` to."""
        self.begin(measuring, compiled)
        if not self.done and due(self.asked, 0, self.device):  # while all this was made ready
            self.leave(measuring)
        batches = iter(self.loader)
        while not self.done:
            self.trunk.before_step(self)
            self.step(next(batches))
            measuring.after_step(self)
            self.objective.after_step(self.budget.progress)
            self.trunk.after_step(self, measuring)
            if not self.done and due(self.asked, self.count["step"], self.device):
                self.leave(measuring)
            if self.done or self.budget.progress - self.saved_at >= self.cfg.checkpoint_every:
                self.save(measuring)

    def begin(self, measuring: Measuring, compiled: bool = False) -> None:
        """Whatever comes before the first step of a process, in this run or after its last checkpoint."""
        self.prepare(compiled)
        restore(self, measuring)
        self.objective.train()
        self.peak = peak(self.device)
        self.meter = Meter(self.peak[1], self.world)
        self.saved_at = self.budget.progress
        self.loader = self.opened()
        self.used = Energy(counter_of(self.device), self.energy)
        measuring.begin(self)
        self.used.start()
        if self.fabric.is_global_zero:
            self.table = Table(self.folder / "metrics.csv", self.count["step"])
            self.bar = Bar(self.budget.flops, self.cfg.name)
        self.trunk.begin(self)

    def leave(self, measuring: Measuring) -> NoReturn:
        """With a checkpoint, as all processes do at this step."""
        self.save(measuring)
        at = f"step {self.count['step']} ({self.budget.progress:.0%} of the budget)"
        leave(self.fabric, self.asked, f"{self.cfg.name}: {{}}, the checkpoint of {at} is written")

    def opened(self) -> StepLoader | PoolLoader:
        """The batches from the next step on."""
        size, seed = self.places, self.cfg.seed
        place: dict[str, int] = {"start": self.count["step"], "rank": self.rank, "world_size": self.world}
        if self.cfg.pool is None:
            loader, pin = self.cfg.loader, self.device.type == "cuda"
            ahead = {"workers": loader.workers, "prefetch": loader.prefetch}
            return StepLoader(packing(self.source), size, seed, **place, **ahead, pin_memory=pin)
        pool = kept(self.source, self.cfg.pool, self.device)
        if self.fabric.is_global_zero:
            made = f"{pool.nbytes / 2**30:.1f} GiB, made in {pool.seconds:.0f} s"
            print(f"{self.cfg.name}: {pool.count} places kept on the device, {made}", flush=True)
        return PoolLoader(pool, size, seed, **place)

    def prepare(self, compiled: bool = False) -> None:
        """The optimiser, on the device, and the model as all processes share it."""
        o = self.cfg.optim
        if self.world > 1 and not self.sharded:
            look_for_unused(self.fabric, not every_weight_learns(self.objective, self.source.spec, [*self.costs]))
        if self.world > 1:
            share_norms(self.objective)
        if self.sharded:
            self.model = self.objective.to(self.device)
            self.copy = copy.deepcopy(self.objective.encoder) if self.fabric.is_global_zero else None
            shard(self.objective, self.device)
        optimiser: Any = adamw([(self.objective.parameters(), o.lr)], o.weight_decay, tuple(o.betas))
        if not self.sharded:
            self.model, optimiser = self.fabric.setup(self.objective, optimiser)
        self.optimiser = optimiser
        self.finite = Finite(self.device, self._refuse, ranks.worst if self.world > 1 else None)
        self.stepper = Stepper(
            optimiser,
            self.objective.parameters(),
            o.clip,
            self.device,
            self.dtype,
            self.finite,
            Tensor.backward if self.sharded else self.fabric.backward,
        )
        self.compiled = compiled
        if compiled:
            compile_parts(self.objective)
        self.places = places_of(self.cfg, self.world)
        about = self.objective, self.source.spec, list(self.costs), self.places, self.device, self.dtype
        with eager(compiled):  # what is compiled takes less
            asked = self.cfg.batch.micro or (self.places if self.sharded else None)  # trying takes all processes
            self.micro = micro_of(asked, *about)

    # -- a step

    def step(self, batch: Batch | Packed) -> Tensor:
        """Learn from a batch, cut to what the budget leaves; returns the loss, detached."""
        if self.meter.begun is None:
            self.meter.start()
        step, c = self.count["step"], self.count
        torch.manual_seed(mix(self.cfg.seed, step, 0, "step"))
        kind = self.kind()
        cost = self.costs[kind].total
        self.objective.set_patch(kind.patch)
        n, first, mine, counts = self.shares(self.budget.samples_left(cost), len(batch))
        cut = mine < len(batch)
        seen = self.turned(batch.first(mine), kind, first, n)
        if not counts:
            seen = seen.map_grids(torch.full_like)  # nothing to see, and nothing to learn
        if self.world > 1:
            count_norms(self.objective, counts)
        factor = wsd(self.budget.progress, c["samples"] + n, self.cfg.budget.warmup, self.cfg.budget.cooldown)
        out: dict[str, Tensor] = {}

        def loss() -> Tensor:
            out.update(self.model(seen, kind.variant))
            return out["loss"] if counts else out["loss"] * 0

        self.sensors = kind.variant or tuple(seen.sensors)
        together = ranks.part(first, len(seen), n) if self.world > 1 else nullcontext()
        with eager(self.compiled and cut), together:
            value = self.stepper(step, factor, loss)
        tokens, visible, merged = self.tokens(seen, kind)
        self.budget.spend(cost * n)
        self.meter.add(cost * n, n)
        c["step"] += 1
        c["samples"] += n
        c["tokens"] += n * tokens
        c["visible"] += n * visible
        c["merged"] += n * merged
        self.done = not self.budget.samples_left(min(k.total for k in self.costs.values()))
        if step % self.cfg.log_every == 0 or self.done:
            self.energy = self.used.state()
            self._log(self.cfg.optim.lr * factor, out)
        return value

    def kind(self) -> Step:
        """Of the next step."""
        return random.Random(mix(self.cfg.seed, self.count["step"], "variant")).choice(list(self.costs))

    def shares(self, left: int, most: int) -> tuple[int, int, int, bool]:
        """How many places all processes learn from, the first of this one and how many, and whether its loss counts,
        where `left` are paid for and it has `most`. One that the last step leaves nothing looks at a blank place."""
        n, first = max(1, min(most * self.world, left)), self.rank * most
        return n, min(first, n - 1), max(1, min(most, n - first)), first < n

    def turned(self, batch: Batch | Packed, kind: Step, first: int, of: int) -> Batch:
        """On the device, as the step sees it: normalised, a window, in another orientation, padded to what the
        objective takes. The batch is what begins at `first` of so many places of all processes."""
        places = ready(batch, self.device)
        seed = mix(self.cfg.seed, self.count["step"], 0, "augment")
        here = torch.Generator().manual_seed(seed)
        there = torch.Generator(self.device).manual_seed(seed) if self.device.type == "cuda" else here
        places = augment(crop(places, kind.side, here), there, self.cfg.augment.zoom, first, of)
        return places.pad_to(self.objective.multiple)

    def tokens(self, batch: Batch, kind: Step) -> tuple[int, int, int]:
        """Of one sample: cells of slots, those that are seen, and tokens once merged."""
        key = kind, batch.signature
        if key not in self.sizes:
            seen = self.objective.visible(batch, kind.variant)
            self.sizes[key] = Objective.visible(self.objective, batch), seen, self.objective.tokens(batch)
        return self.sizes[key]

    # -- checkpoints

    def save(self, measuring: Measuring) -> None:
        """What a killed run goes on from."""
        self.finite.ask()
        self.saved_at = self.budget.progress
        self.keep(self.folder / "checkpoints" / LAST, measuring, {})

    def keep(self, path: Path, measuring: Measuring, also: dict[str, Any]) -> None:
        """Write the state, and `also`, there."""
        if self.fabric.is_global_zero or self.sharded:
            state = state_of(self, measuring) | also
        if self.fabric.is_global_zero:
            write_state(path, state)

    def encoder(self) -> Encoder:
        """The encoder with all its weights, of the first process; where they are sharded, a copy for which all ask."""
        if not self.sharded:
            return self.objective.encoder
        weights = gathered(self.objective.encoder.state_dict())
        if self.copy is None:
            return self.objective.encoder
        self.copy.load_state_dict(weights)
        return self.copy

    # -- telling

    def _refuse(self, step: int, value: float) -> None:
        kept = self.folder / "checkpoints" / LAST
        if not self.fabric.is_global_zero:
            raise SystemExit(0)  # all stop here, and the first tells of it
        note(self, step, value)
        again = f"gfm replay {self.folder} shows where" if self.world == 1 else f"its places: {self.folder / FAULT}"
        held = f"the checkpoint before it is kept in {kept}" if kept.exists() else "no checkpoint was written yet"
        what = f"loss is {value}" + ", its gradient no number," * isfinite(value)
        raise InputError(
            f"{what} at step {step + 1} (sensors {', '.join(self.sensors)}); {held}; "
            f"{again}; lower optim.lr or look for values out of range in the data"
        )

    def _log(self, lr: float, out: dict[str, Tensor]) -> None:
        values = ranks.mean(
            torch.stack([v.detach().float().to(self.device) for v in out.values()])
        ).tolist()  # one wait
        if self.table is None or self.bar is None:
            return
        scalars = dict(zip(out, values, strict=True))
        self.meter.wait = self.loader.wait
        rates = self.meter.rates(self.budget.remaining)
        place = {"step": self.count["step"], "samples": self.count["samples"], "flops": f"{self.budget.spent:.6e}"}
        row = place | {"progress": f"{self.budget.progress:.4f}", "lr": f"{lr:.3e}"}
        self.table.add(row | {k: f"{v:.5g}" for k, v in (scalars | rates).items()})
        self.tell(scalars | rates | {"lr": lr, "flops": self.budget.spent})
        self.bar.update(self.budget.spent, scalars["loss"], rates)

    def tell(self, figures: dict[str, float]) -> None:
        """Every logger of the figures of this step."""
        for logger in self.loggers:
            logger.log_metrics(figures, self.count["step"])

    def joules(self) -> float | None:
        """Energy of the devices of all processes; None where one does not tell."""
        mine = self.energy["joules"] if self.energy else None
        told = torch.tensor(float("nan") if mine is None else mine, device=self.device)
        every = float(ranks.mean(told)) * self.world
        return every if every == every else None

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for logger in self.loggers:
            logger.finalize("success" if self.done else "aborted")
