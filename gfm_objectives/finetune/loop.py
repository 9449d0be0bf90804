"""Fine-tuning to a budget in FLOPs: one plain loop for every contender and every kind of task."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget
from gfm_objectives.chance import mix
from gfm_objectives.data.augment import augment
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.places import Places
from gfm_objectives.data.telling import Telling
from gfm_objectives.errors import InputError
from gfm_objectives.finetune.head import fit_head
from gfm_objectives.finetune.settings import HParams, frozen_modules, train_mode
from gfm_objectives.flops import Cost, measure_once
from gfm_objectives.tasks.kinds import Kind
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.optimiser import adamw
from gfm_objectives.training.stepping import Stepper

WARMUP = 0.1  # share of the budget
WEIGHT_DECAY = 0.01
CLIP = 1.0  # gradient norm


class Diverged(InputError):
    """The loss was not finite. Tuning drops such a trial; a final run stops the comparison."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a fine-tuning run cost: per sample and in all, and the peak memory of the process (or GPU) in MiB.

    epochs: how often a labelled place was seen, on average; the fit of the head not counted.
    """

    cost: Cost
    flops: float
    samples: int
    epochs: float
    steps: int
    seconds: float
    peak_memory_mib: float
    last_loss: float


def loss(model: nn.Module, batch: Batch, kind: Kind, layer: str) -> Tensor:
    """The task's loss, a scalar; 0 where nothing is labelled."""
    return kind.loss(model(batch), batch.targets[layer])


def step_cost(model: nn.Module, batch: Batch, kind: Kind, layer: str) -> Cost:
    """FLOPs per sample of a fine-tuning step; parameters frozen in `model` cost no gradient."""
    return measure_once(model, batch.first(2), lambda m, b: loss(m, b, kind, layer), (type(kind).__name__, layer))


def finetune(
    model: nn.Module,
    train: Places,
    kind: Kind,
    layer: str,
    flops: float,
    hparams: HParams,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    shown: bool = False,
) -> Result:
    """Train `model` (Batch -> outputs (B, C, H, W)) in place on the labelled places `train` for `flops` x length.

    AdamW, warm-up over the first tenth of the budget, then cosine to 0; flips and quarter turns; bf16 by autocast where
    `dtype` says so. Order, augmentation and dropout are functions of (seed, step), so the result is one of its
    arguments alone; `workers` processes that read ahead change nothing. shown: print how far it is, now and then.
    Raises Diverged, and InputError where the budget pays for less than a batch of two.
    """
    device = torch.device(device)
    for module in frozen_modules(model, hparams.freeze):
        module.requires_grad_(False)
    cost = step_cost(model, train.read(range(min(2, len(train)))), kind, layer)
    model.to(device)
    _reset_peak_memory(device)
    begun = time.perf_counter()
    total, spent = flops * hparams.length, 0.0
    if hparams.head_first:
        spent = fit_head(model, train, kind, layer, total, hparams, seed, device, dtype, shown)
    budget = _budget(total, spent, cost.total, hparams)
    train_mode(model, hparams.freeze)
    finite = Finite(device, lambda step, value: _diverged(step, value, hparams))
    stepper = Stepper(_optimiser(model, hparams), model.parameters(), CLIP, device, dtype, finite)
    samples, step, value = 0, 0, torch.zeros(())
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, Telling("places learned", budget.samples_left(cost.total), shown) as telling:
        batches = iter(StepLoader(train, hparams.batch_size, mix(seed, "order"), workers=workers))
        while take := min(hparams.batch_size, budget.samples_left(cost.total)):
            batch = next(batches).first(take).to(device, non_blocking=True)  # the last one is cut
            torch.manual_seed(mix(seed, step, "dropout"))
            batch = augment(batch, torch.Generator().manual_seed(mix(seed, step, "augment")))
            budget.spend(take * cost.total)
            value = stepper(step, schedule(budget.progress), lambda b=batch: loss(model, b, kind, layer))  # type: ignore[misc]
            samples, step = samples + take, step + 1
            telling.done(samples)
    finite.ask()
    seconds, epochs = time.perf_counter() - begun, samples / len(train)
    return Result(cost, spent + budget.spent, samples, epochs, step, seconds, _peak_memory(device), float(value))


def _budget(total: float, spent: float, per_sample: float, hparams: HParams) -> Budget:
    """What the fit of the head leaves of the total. InputError where it pays for less than a batch of two."""
    left = total - spent
    if round(left / per_sample) < min(hparams.batch_size, 2):
        head = f" of which the head took {spent:.2g}," if spent else ""
        raise InputError(
            f"{total:.2g} FLOPs of fine-tuning,{head} pay for {max(0.0, left / per_sample):.1f} samples of "
            f"{per_sample:.2g}; raise them: flops= of gfm finetune, finetune.flops= or finetune.start= of gfm eval"
        )
    return Budget(left)


def schedule(progress: float) -> float:
    """Factor on the learning rate; progress is counted at the end of the step."""
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def _optimiser(model: nn.Module, hparams: HParams) -> torch.optim.Optimizer:
    """The encoder has its own learning rate."""
    encoder = getattr(model, "encoder", None)
    inside = [] if encoder is None else [*encoder.parameters()]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    return adamw([(inside, hparams.lr * hparams.encoder_factor), (rest, hparams.lr)], WEIGHT_DECAY)


def _diverged(step: int, value: float, hparams: HParams) -> NoReturn:
    what = f"loss is {value}" + ", its gradient no number," * math.isfinite(value)
    raise Diverged(f"fine-tuning: {what} at step {step} with {hparams.as_dict()}; lower lr")


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: start the high-water mark anew
    except OSError:
        pass  # elsewhere the mark covers the process's whole life


def _peak_memory(device: torch.device) -> float:
    """MiB: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        marks = [v for v in status.read_text().splitlines() if v.startswith("VmHWM")]
        if marks:
            return int(marks[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
