"""Pretraining: config -> data -> encoder -> objective -> FLOPs per step -> Lightning Trainer -> ledger -> export."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config
from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget, Cost, Ledger, device_name, measure, peak, wsd
from gfm_objectives.checkpoint import save_encoder
from gfm_objectives.data import build_source
from gfm_objectives.data.augment import augment
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.source import Source
from gfm_objectives.device import resolve
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder, parameter_parts, parameters
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective, Variant
from gfm_objectives.progress import Bar, Meter, Table

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

# Keys that may change between a run and its resumption without changing its result.
FREE_KEYS = ("name", "runs", "resume", "overwrite", "log_every", "checkpoint_every", "loader", "threads", "choices")


def folder(cfg: DictConfig) -> Path:
    return Path(cfg.runs) / cfg.name


def is_finished(cfg: DictConfig) -> bool:
    """Whether the run of this name is complete: the ledger is the last thing written."""
    return (folder(cfg) / "ledger.json").is_file()


def run(cfg: DictConfig) -> Path:
    """Pretrain to the budget and export; returns the run folder. InputError for what the user can mend."""
    device, dtype = resolve(cfg.device, cfg.precision)
    torch.set_num_threads(cfg.threads or os.cpu_count() or 1)
    source = build_source(OmegaConf.to_container(cfg.data), "pretrain")  # type: ignore[arg-type]
    torch.manual_seed(cfg.seed)
    encoder = Encoder.from_config(cfg.encoder, source.spec)
    objective = build_objective(cfg.objective, encoder, source.spec)
    costs = {v: step_cost(objective, source, v) for v in objective.variants()}
    budget = Budget(cfg.budget.flops)
    budget.check(max(c.total for c in costs.values()))
    out = _open_folder(cfg)
    module = Pretraining(objective, costs, budget, cfg, source)
    print(_plan(cfg, objective, costs, budget, device, dtype), flush=True)
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices="auto" if device.type == "cuda" else 1,
        precision="bf16-mixed" if dtype == torch.bfloat16 else "32-true",
        logger=TensorBoardLogger(out, name="", version="tensorboard"),
        max_epochs=-1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    last = out / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
    finally:
        module.close()
    if trainer.is_global_zero:
        save_encoder(encoder, out)
        ledger = module.ledger(device, dtype, trainer.world_size)
        ledger.write(out / "ledger.json.tmp")
        os.replace(out / "ledger.json.tmp", out / "ledger.json")
        mfu = f", MFU {ledger.mfu:.0%} of {ledger.peak_name}" if ledger.mfu else ""
        print(
            f"{cfg.name}: {ledger.flops_spent:.3e} FLOPs ({ledger.flops_spent / budget.flops - 1:+.2%} of budget), "
            f"{ledger.samples} samples, {ledger.seconds:.0f} s{mfu}, data wait {ledger.data_wait_share or 0:.1%}\n"
            f"  -> {out}"
        )
    return out


def step_cost(objective: Objective, source: Source, variant: Variant) -> Cost:
    """FLOPs per sample of one step of this kind, by part: encoder, its dense path, and each module of the objective."""
    parts = ["encoder", "encoder.dense_path", *(n for n, _ in objective.named_children() if n != "encoder")]
    return measure(objective, source.spec.dummy(2), step=lambda m, b: m(b, variant)["loss"], parts=parts)


class Pretraining(L.LightningModule):
    """One optimiser step per batch, until the budget is spent. All randomness is a function of (seed, step)."""

    def __init__(
        self, objective: Objective, costs: dict[Variant, Cost], budget: Budget, cfg: DictConfig, source: Source
    ) -> None:
        super().__init__()
        self.objective, self.costs, self.budget, self.cfg, self.source = objective, costs, budget, cfg, source
        self.count: dict[str, Any] = {"step": 0, "samples": 0, "tokens": 0, "visible": 0, "seconds": 0.0, "wait": 0.0}
        self.pending: tuple[int, torch.Tensor] | None = None
        self.saved_at = 0.0
        self.bar: Bar | None = None

    # -- what Lightning asks for

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decay = [p for p in self.objective.parameters() if p.ndim > 1]
        rest = [p for p in self.objective.parameters() if p.ndim <= 1]
        groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
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
            self.table = Table(folder(self.cfg) / "metrics.csv", self.count["step"])
            self.bar = Bar(self.budget.flops, self.cfg.name)

    def training_step(self, batch: Batch, _: int) -> torch.Tensor | None:
        if self.meter.begun is None:
            self.meter.start()
        self._refuse_nonfinite()
        step, world, c = self.count["step"], self.trainer.world_size, self.count
        torch.manual_seed(mix(self.cfg.seed, step, self.global_rank))
        variant = random.Random(mix(self.cfg.seed, step, -1)).choice(self.objective.variants())
        cost = self.costs[variant].total
        batch = batch.first(max(1, min(len(batch), round(self.budget.samples_left(cost) / world))))
        generator = torch.Generator().manual_seed(mix(self.cfg.seed, step, self.global_rank + 1_000_000))
        batch = augment(batch, generator)
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
            path = folder(self.cfg) / "checkpoints" / "last.ckpt"
            self.trainer.save_checkpoint(path.with_suffix(".tmp"))
            if self.trainer.is_global_zero:
                os.replace(path.with_suffix(".tmp"), path)  # a kill leaves the old one or the new one, never half

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seconds = self.count["seconds"] + self.meter.seconds
        wait = self.count["wait"] + self.loader.wait
        checkpoint["run"] = self.count | {"seconds": seconds, "wait": wait, "spent": self.budget.spent}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.count = {k: v for k, v in checkpoint["run"].items() if k != "spent"}
        self.budget.spent = checkpoint["run"]["spent"]
        print(f"{self.cfg.name}: goes on from step {self.count['step']} ({self.budget.progress:.0%} of the budget)")

    # -- telling

    def _refuse_nonfinite(self) -> None:
        """Stop on a loss that is not finite. The check lags one step, so the GPU need not wait for its answer."""
        if self.pending is not None and not bool(torch.isfinite(self.pending[1])):
            step = self.pending[0]
            kept = folder(self.cfg) / "checkpoints" / "last.ckpt"
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

    def ledger(self, device: torch.device, dtype: torch.dtype, world: int) -> Ledger:
        """The account of the finished run."""
        cfg, c = self.cfg, self.count
        seconds = c["seconds"] + self.meter.seconds
        spent = {k: sum(v.parts.get(k, 0.0) for v in self.costs.values()) / len(self.costs) for k in _parts(self.costs)}
        owned = parameters(self.objective) - parameters(self.objective.encoder)
        return Ledger(
            objective=cfg.objective.name,
            seed=cfg.seed,
            config_hash=config_hash(cfg),
            data_fingerprint=self.source.fingerprint,
            commit=commit(),
            encoder=cfg.encoder.name,
            precision=str(dtype).removeprefix("torch."),
            parameters=parameter_parts(self.objective.encoder) | {"objective": owned},
            flops_budget=self.budget.flops,
            flops_spent=self.budget.spent,
            flops_per_sample=self.budget.spent / max(1, c["samples"]),
            flops_per_sample_by_part=spent,
            samples=c["samples"],
            tokens=c["tokens"],
            visible_tokens=c["visible"],
            seconds=seconds,
            data_wait_share=(c["wait"] + self.loader.wait) / seconds if seconds else None,
            device=device_name(device),
            devices=world,
            peak_name=self.peak[0],
            peak_flops=self.peak[1],
        )


def mix(seed: int, step: int, stream: int) -> int:
    """A 63-bit seed that depends on all three and on nothing else, on every platform."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest(), "big") >> 1


def config_hash(cfg: DictConfig) -> str:
    """Hash of every key that decides the result."""
    kept = {k: v for k, v in OmegaConf.to_container(cfg).items() if k not in FREE_KEYS}  # type: ignore[union-attr]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def commit() -> str:
    """The commit of this checkout, marked where files differ from it; '' outside of one."""
    where = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "."], cwd=where, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (head.stdout.strip() + ("+" if dirty.stdout.strip() else "")) if head.returncode == 0 else ""


def _parts(costs: dict[Variant, Cost]) -> list[str]:
    return list(dict.fromkeys(k for c in costs.values() for k in c.parts))


def _open_folder(cfg: DictConfig) -> Path:
    """The run folder, fresh or to be resumed; refuses to overwrite, and to resume under another config."""
    out = folder(cfg)
    saved = out / "config.yaml"
    if cfg.overwrite and saved.exists():
        shutil.rmtree(out)
    if is_finished(cfg):
        raise InputError(f"{out}: a finished run; choose another name=, or overwrite=true to train it again")
    if saved.exists():
        before = dict(config.leaves(config.read_yaml(saved)))
        now = dict(config.leaves(OmegaConf.to_container(cfg)))  # type: ignore[arg-type]
        differ = [
            k for k in sorted(before.keys() | now) if before.get(k) != now.get(k) and k.split(".")[0] not in FREE_KEYS
        ]
        if differ:
            raise InputError(
                f"{out}: unfinished run of another config ({', '.join(differ[:4])} differ); "
                "choose another name=, or overwrite=true"
            )
        if cfg.resume == "never" and (out / "checkpoints" / "last.ckpt").exists():
            raise InputError(f"{out}: unfinished run; resume=auto goes on with it, overwrite=true starts again")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    config.save(cfg, saved)
    return out


def _plan(
    cfg: DictConfig,
    objective: Objective,
    costs: dict[Variant, Cost],
    budget: Budget,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """What will be trained and where the FLOPs go, printed before they are spent; warns of a dominant decoder."""
    total = sum(c.total for c in costs.values()) / len(costs)
    shares = {k: sum(c.parts.get(k, 0.0) for c in costs.values()) / len(costs) / total for k in _parts(costs)}
    encoder = shares.pop("encoder", 0.0)
    dense = shares.pop("encoder.dense_path", 0.0)
    decoder = sum(shares.values())
    lines = [
        f"{cfg.name}: {cfg.objective.name} on {cfg.data.name}, encoder {cfg.encoder.name} "
        f"({parameters(objective.encoder) / 1e6:.2f} M parameters), {device_name(device)}, {str(dtype)[6:]}",
        f"  {total:.3g} FLOPs per sample: encoder {encoder:.0%}, dense path {dense:.0%}, objective {decoder:.0%}",
        f"  {budget.flops:.3g} FLOPs = about {budget.flops / total:,.0f} samples",
    ]
    if decoder > 0.5:
        lines.append("  warning: most FLOPs go to the decoder, which is thrown away; make it narrower or shallower")
    return "\n".join(lines)
