"""The Lightning module of pretraining: one optimiser step per batch, until the budget is spent."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget, wsd
from gfm_objectives.chance import mix
from gfm_objectives.data.augment import augment
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.source import Source
from gfm_objectives.device import peak
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain.progress import Bar, Meter, Table
from gfm_objectives.pretrain.steps import Step, crop

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L


class Pretraining(L.LightningModule):
    """One optimiser step per batch, until the budget is spent. All randomness is a function of (seed, step)."""

    def __init__(
        self,
        objective: Objective,
        costs: dict[Step, Cost],
        budget: Budget,
        cfg: DictConfig,
        source: Source,
        folder: Path,
    ) -> None:
        super().__init__()
        self.objective, self.costs, self.budget, self.cfg, self.source = objective, costs, budget, cfg, source
        self.folder = folder
        self.count: dict[str, Any] = {
            "step": 0,
            "samples": 0,
            "tokens": 0,
            "visible": 0,
            "merged": 0,
            "seconds": 0.0,
            "wait": 0.0,
        }
        self.pending: tuple[int, torch.Tensor] | None = None
        self.saved_at = 0.0
        self.bar: Bar | None = None

    # -- what Lightning asks for

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.objective.parameters() if p.requires_grad]  # a teacher is not
        decay = [p for p in trained if p.ndim > 1]
        rest = [p for p in trained if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        o = self.cfg.optim
        return torch.optim.AdamW(groups, lr=o.lr, weight_decay=o.weight_decay, betas=tuple(o.betas), fused=True)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        # Done here because Lightning refuses to clip for a fused optimiser, though without a grad scaler it is safe.
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.cfg.optim.clip)

    def train_dataloader(self) -> StepLoader:
        self.loader = StepLoader(
            self.source,
            self.cfg.optim.batch_size,
            self.cfg.seed,
            start=self.count["step"],
            workers=self.cfg.loader.workers,
            prefetch=self.cfg.loader.prefetch,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            pin_memory=self.device.type == "cuda",
        )
        return self.loader

    def on_train_start(self) -> None:
        self.objective.train()
        self.peak = peak(self.device)
        self.meter = Meter(self.peak[1], self.trainer.world_size)
        self.saved_at = self.budget.progress
        if self.trainer.is_global_zero:
            self.table = Table(self.folder / "metrics.csv", self.count["step"])
            self.bar = Bar(self.budget.flops, self.cfg.name)

    def training_step(self, batch: Batch, _: int) -> torch.Tensor | None:
        if self.meter.begun is None:
            self.meter.start()
        self._refuse_nonfinite()
        step, world, c = self.count["step"], self.trainer.world_size, self.count
        torch.manual_seed(mix(self.cfg.seed, step, self.global_rank, "step"))
        kind = random.Random(mix(self.cfg.seed, step, "variant")).choice(list(self.costs))
        variant, cost = kind.variant, self.costs[kind].total
        self.objective.set_patch(kind.patch)
        batch = batch.first(max(1, min(len(batch), round(self.budget.samples_left(cost) / world))))
        generator = torch.Generator().manual_seed(mix(self.cfg.seed, step, self.global_rank, "augment"))
        batch = augment(crop(batch, kind.side, generator), generator, self.cfg.augment.zoom)
        batch = batch.pad_to(self.objective.multiple)
        n = len(batch) * world
        lr = self.cfg.optim.lr * wsd(
            self.budget.progress, c["samples"] + n, self.cfg.budget.warmup, self.cfg.budget.cooldown
        )
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = lr
        out = self.objective(batch, variant)
        self.pending = (step, out["loss"].detach())
        self.sensors = variant or tuple(batch.sensors)
        # Counted here and not in a hook: whatever is saved after this step must say that it was taken.
        self.budget.spend(cost * n)
        self.meter.add(cost * n, n)
        c["step"] += 1
        c["samples"] += n
        c["tokens"] += n * Objective.visible(self.objective, batch)
        c["merged"] += n * self.objective.tokens(batch)
        c["visible"] += n * self.objective.visible(batch, variant)
        if not self.budget.samples_left(min(k.total for k in self.costs.values())):
            self.trainer.should_stop = True
        if self.trainer.is_global_zero and (step % self.cfg.log_every == 0 or self.trainer.should_stop):
            self._log(lr, {k: float(v.detach()) for k, v in out.items()})
        return out["loss"]

    def on_train_batch_end(self, *_: Any) -> None:
        self.objective.after_step(self.budget.progress)
        due = self.budget.progress - self.saved_at >= self.cfg.checkpoint_every
        if due or self.trainer.should_stop:
            self._refuse_nonfinite()
            self.saved_at = self.budget.progress
            path = self.folder / "checkpoints" / "last.ckpt"
            self.trainer.save_checkpoint(path.with_suffix(".tmp"))
            if self.trainer.is_global_zero:
                os.replace(path.with_suffix(".tmp"), path)  # a kill leaves the old one or the new one, never half

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seconds = self.count["seconds"] + self.meter.seconds
        wait = self.count["wait"] + self.loader.wait
        checkpoint["run"] = self.count | {"seconds": seconds, "wait": wait, "spent": self.budget.spent}
        checkpoint["data_fingerprint"] = self.source.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("data_fingerprint", self.source.fingerprint) != self.source.fingerprint:
            raise InputError(
                f"{self.folder}: the data, or what its targets are made with, changed since this run began; "
                "choose another name=, or overwrite=true"
            )
        self.count = {k: v for k, v in checkpoint["run"].items() if k != "spent"}
        self.budget.spent = checkpoint["run"]["spent"]
        print(f"{self.cfg.name}: goes on from step {self.count['step']} ({self.budget.progress:.0%} of the budget)")

    # -- telling

    def _refuse_nonfinite(self) -> None:
        """Stop on a loss that is not finite. The check lags one step, so the GPU need not wait for its answer."""
        if self.pending is not None and not bool(torch.isfinite(self.pending[1])):
            step = self.pending[0]
            kept = self.folder / "checkpoints" / "last.ckpt"
            held = f"the checkpoint before it is kept in {kept}" if kept.exists() else "no checkpoint was written yet"
            raise InputError(
                f"loss is {float(self.pending[1])} at step {step} (sensors {', '.join(self.sensors)}); {held}; "
                "lower optim.lr or look for values out of range in the data"
            )
        self.pending = None

    def _log(self, lr: float, scalars: dict[str, float]) -> None:
        self.meter.wait = self.loader.wait
        rates = self.meter.rates(self.budget.remaining)
        place = {"step": self.count["step"], "samples": self.count["samples"], "flops": f"{self.budget.spent:.6e}"}
        row = place | {"progress": f"{self.budget.progress:.4f}", "lr": f"{lr:.3e}"}
        self.table.add(row | {k: f"{v:.5g}" for k, v in (scalars | rates).items()})
        if self.logger is not None:
            self.logger.log_metrics(scalars | rates | {"lr": lr, "flops": self.budget.spent}, self.count["step"])
        assert self.bar is not None
        self.bar.update(self.budget.spent, scalars["loss"], rates)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
