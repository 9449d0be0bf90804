"""Fine-tuning to a budget in FLOPs: one plain loop for every contender, and the prediction and scoring that follow."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget
from gfm_objectives.chance import mix, order
from gfm_objectives.data.augment import augment
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost, measure
from gfm_objectives.metrics import confusion
from gfm_objectives.yardstick import probes

WARMUP = 0.1  # share of the budget
WEIGHT_DECAY = 0.01
CLIP = 1.0  # gradient norm
HEAD_SHARE = 0.05  # of the budget: what computing the features that the head is first fitted on may cost at most
HEAD_PIXELS = 2**14  # labelled pixels the head is first fitted on


class Diverged(InputError):
    """The loss was not finite. Tuning drops such a trial; a final run stops the comparison."""


@dataclass(frozen=True, slots=True)
class HParams:
    """What tuning may choose.

    lr: peak; encoder_factor: on the learning rate of parameters named `encoder.*` (0 = frozen); length: share of the
    budget that is spent; batch_size: places per step; head_first: the head is fitted on frozen features before all is
    trained; width and mode: of the U-Net.
    """

    lr: float
    encoder_factor: float = 1.0
    length: float = 1.0
    batch_size: int = 8
    head_first: bool = False
    width: int | None = None
    mode: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None and v is not False}


@dataclass(frozen=True, slots=True)
class Result:
    """What a fine-tuning run cost: per sample and in all, and the peak memory of the process (or GPU) in MiB."""

    cost: Cost
    flops: float
    samples: int
    steps: int
    seconds: float
    peak_memory_mib: float
    last_loss: float


def step_cost(model: nn.Module, batch: Batch, layer: str) -> Cost:
    """FLOPs per sample of a fine-tuning step; parameters frozen in `model` cost no gradient."""
    return measure(model, batch.first(2), lambda m, b: loss(m, b, layer))


def loss(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    """Cross-entropy, mean over labelled pixels (label -1 = none); 0 where there are none."""
    target = batch.targets[layer]
    total = F.cross_entropy(model(batch), target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)


def finetune(
    model: nn.Module,
    train: Batch,
    layer: str,
    flops: float,
    hparams: HParams,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Result:
    """Train `model` (Batch -> logits (B, K, H, W)) in place on the labelled places `train` for `flops` x length.

    AdamW, warm-up over the first tenth of the budget, then cosine to 0; flips and quarter turns; bf16 by autocast where
    `dtype` says so. Order, augmentation and dropout are functions of (seed, step), so the result is one of its
    arguments alone. With encoder_factor 0 the encoder stays as it is, running statistics included. Raises Diverged, and
    InputError where the budget pays for less than a batch of two.
    """
    device = torch.device(device)
    if hparams.encoder_factor == 0:
        for p in _encoder(model):
            p.requires_grad_(False)
    cost = step_cost(model, train, layer)
    per_sample = cost.total
    model.to(device)
    _reset_peak_memory(device)
    begun = time.perf_counter()
    spent = fit_head(model, train, layer, flops * hparams.length, seed, device, dtype) if hparams.head_first else 0.0
    budget = Budget(flops * hparams.length - spent)
    if budget.samples_left(per_sample) < min(hparams.batch_size, 2):
        raise InputError(
            f"fine-tuning with {budget.flops:.2g} FLOPs pays for {budget.flops / per_sample:.1f} samples of "
            f"{per_sample:.2g}; raise finetune.flops (or finetune.start)"
        )
    model.train()
    if hparams.encoder_factor == 0:
        model.get_submodule("encoder").eval()
    optimiser = _optimiser(model, hparams)
    peaks = [g["lr"] for g in optimiser.param_groups]
    samples, step, value = 0, 0, torch.zeros(())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while take := min(hparams.batch_size, budget.samples_left(per_sample)):
            torch.manual_seed(mix(seed, step, "dropout"))
            index = order(mix(seed, "order"), len(train), np.arange(samples, samples + take))
            batch = train.take(torch.from_numpy(index)).to(device)
            batch = augment(batch, torch.Generator().manual_seed(mix(seed, step, "augment")))
            budget.spend(take * per_sample)
            _refuse_nonfinite(value, step - 1, hparams)  # of the last step: a GPU is not made to wait
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(budget.progress)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                value = loss(model, batch, layer)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            samples, step = samples + take, step + 1
    _refuse_nonfinite(value, step - 1, hparams)
    seconds = time.perf_counter() - begun
    return Result(cost, spent + budget.spent, samples, step, seconds, _peak_memory(device), float(value.detach()))


@torch.no_grad()
def fit_head(
    model: nn.Module,
    train: Batch,
    layer: str,
    flops: float,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> float:
    """Fit the convolution in `model.head` to the labels by logistic regression on what it reads; FLOPs spent.

    Fine-tuning that starts from a random head distorts good features before the head can use them; fitted first, it
    does not (LP-FT, Kumar et al. 2022, arXiv:2202.10054). As many places as HEAD_SHARE of `flops` pays for, but one at
    least, and HEAD_PIXELS of their labelled pixels, drawn by `seed`.
    """
    head = next(m for m in model.head.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
    assert not isinstance(head.padding, str), head
    forward = measure(model, train.first(2), lambda m, b: loss(m, b, layer)).forward
    n = min(len(train), max(1, int(HEAD_SHARE * flops / forward)))
    chosen = torch.from_numpy(np.sort(order(mix(seed, "head"), len(train), np.arange(n))))
    generator = torch.Generator().manual_seed(mix(seed, "head"))
    read: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float()))
    x, y = [], []
    for part in chosen.split(8):
        batch = train.take(part)
        predict(model, batch, device, dtype)
        near = F.unfold(read.pop(), head.kernel_size, padding=head.padding).cpu()  # (B, C k k, H W)
        label = batch.targets[layer].flatten()
        pixel = (label >= 0).nonzero()[:, 0]
        pixel = pixel[torch.randperm(len(pixel), generator=generator)[: -(-HEAD_PIXELS * len(part) // n)]]
        x.append(near.movedim(1, 2).flatten(0, 1)[pixel].double())
        y.append(label[pixel])
    hook.remove()
    if not sum(map(len, y)):
        return n * forward  # nothing is labelled, so the head stays as it was drawn
    weight, bias = probes.logistic(torch.cat(x), torch.cat(y), head.out_channels)
    head.weight.copy_(weight.T.reshape(head.weight.shape))
    head.bias.copy_(bias)  # type: ignore[union-attr]
    return n * forward + probes.class_flops(sum(map(len, y)), len(weight), head.out_channels)


def schedule(progress: float) -> float:
    """Factor on the learning rate; progress is counted at the end of the step."""
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@torch.no_grad()
def predict(
    model: nn.Module,
    batch: Batch,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    size: int = 16,
) -> Tensor:
    """Class of every pixel, (B, H, W) long on the CPU; `size` places at a time."""
    device = torch.device(device)
    model.to(device).eval()
    out = []
    for start in range(0, len(batch), size):
        part = batch.map(lambda t, s=start: t[s : s + size]).to(device)  # type: ignore[misc]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out.append(model(part).argmax(1).cpu())
    return torch.cat(out)


def score(pred: Tensor, batch: Batch, layer: str, classes: int) -> Tensor:
    """Confusion matrix of every place, (B, K, K); see metrics.confusion."""
    return confusion(pred, batch.targets[layer], classes)


def _encoder(model: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in model.named_parameters() if n.startswith("encoder.")]


def _optimiser(model: nn.Module, hparams: HParams) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed; the encoder has its own learning rate."""
    inside = {id(p) for p in _encoder(model)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            groups.setdefault((id(p) in inside, p.ndim > 1), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": params,
                "lr": hparams.lr * (hparams.encoder_factor if encoder else 1.0),
                "weight_decay": WEIGHT_DECAY if decay else 0.0,
            }
            for (encoder, decay), params in groups.items()
        ],
        lr=hparams.lr,
        fused=True,
    )


def _refuse_nonfinite(value: Tensor, step: int, hparams: HParams) -> None:
    if not math.isfinite(float(value.detach())):
        raise Diverged(
            f"fine-tuning: loss is {float(value.detach())} at step {step} with {hparams.as_dict()}; lower lr"
        )


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
