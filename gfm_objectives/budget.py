"""Compute as the unit of account: FLOPs measured, a budget spent, the schedule it drives, and the ledger it leaves."""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from gfm_objectives.batch import Batch
from gfm_objectives.errors import InputError

# ---------------------------------------------------------------------------------------------------------------------
# Measuring


@dataclass(frozen=True, slots=True)
class Cost:
    """Model FLOPs (2 x multiply-accumulate) of one sample.

    total: forward and backward; forward: forward alone; parts: total by module prefix, 'other' for the rest.
    """

    total: float
    forward: float
    parts: dict[str, float] = field(default_factory=dict)


def measure(
    model: nn.Module,
    batch: Batch,
    step: Callable[[nn.Module, Batch], Tensor] | None = None,
    parts: Iterable[str] = (),
) -> Cost:
    """FLOPs per sample of one training step, counted on a copy of the model on the meta device.

    `batch` only lends its shapes. `step(model, batch)` returns the scalar loss; by default `model(batch)["loss"]`.
    `parts` are prefixes of module names (the longest that fits wins); an operation belongs to the innermost module that
    is being called, so arithmetic outside of any named part's forward counts as 'other'. Frozen parameters
    cost no weight gradient, and what lies below the last trainable one costs no backward at all.

    Matrix products, attention and convolutions count, by torch's FlopCounterMode with the math attention kernel:
    the result depends neither on the device nor on the kernel that will run. Resampling, norms, activations and the
    optimiser's elementwise work count as zero; recomputation of activations is not charged.
    """
    step = step or _loss
    twin = _on_meta(model)
    labels = _Labels(twin, parts)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        labels.counter = counter
        with labels:
            loss = step(twin, batch.map(lambda t: torch.empty_like(t, device="meta")))
            forward = counter.get_total_flops()
            if loss.requires_grad:
                loss.backward()
    n = len(batch)
    return Cost(counter.get_total_flops() / n, forward / n, {k: v / n for k, v in sorted(labels.flops.items())})


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch)["loss"]


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers take no memory."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    return copy.deepcopy(model, memo)


def _convolution_backward(grad: Any, x: Any, w: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Each gradient of a convolution costs as much as its forward; torch's own formula forgets the groups."""
    transposed, output_mask = args[4], args[7]
    return (output_mask[0] + output_mask[1]) * conv_flop_count(x, w, grad, transposed=transposed)


_FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}


class _Labels(TorchDispatchMode):
    """Books each operation's FLOPs under a part of the model, in backward too.

    Autograd numbers its nodes in the order of the forward; the numbers seen while a module runs tell whose backward a
    node is. That needs no tensors among the module's arguments, unlike hooks.
    """

    def __init__(self, model: nn.Module, parts: Iterable[str]) -> None:
        super().__init__()
        self.counter: FlopCounterMode
        self.flops: dict[str, float] = defaultdict(float)
        self.stack = ["other"]
        self.spans: list[tuple[int, str]] = []  # (first autograd number, part), ascending
        prefixes = sorted(parts, key=len, reverse=True)
        for name, module in model.named_modules():
            label = next((p for p in prefixes if name == p or name.startswith(p + ".")), None)
            if label is not None:
                module.register_forward_pre_hook(lambda *_, label=label: self._enter(label))
                module.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _enter(self, label: str) -> None:
        self.stack.append(label)
        self.spans.append((torch.autograd._get_sequence_nr(), label))

    def _leave(self) -> None:
        self.stack.pop()
        self.spans.append((torch.autograd._get_sequence_nr(), self.stack[-1]))

    def _part(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.stack[-1]
        number = node._sequence_nr()
        return next((label for first, label in reversed(self.spans) if first <= number), "other")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        spent = self.counter.get_total_flops() - before
        if spent:
            self.flops[self._part()] += spent
        return out


# ---------------------------------------------------------------------------------------------------------------------
# Spending


class Budget:
    """FLOPs to spend. The last batch is cut so that the run lands within half a sample of the total."""

    def __init__(self, flops: float) -> None:
        if not (math.isfinite(flops) and flops > 0):
            raise InputError(f"budget.flops={flops}: must be a positive number of FLOPs, such as 1e13")
        self.flops = float(flops)
        self.spent = 0.0

    def check(self, per_sample: float) -> None:
        """InputError where the budget cannot be met within 0.5 %: it pays for fewer than 100 samples."""
        if self.flops < 100 * per_sample:
            raise InputError(
                f"budget.flops={self.flops:.3g} pays for {self.flops / per_sample:.1f} samples of {per_sample:.3g} "
                f"FLOPs; give at least {100 * per_sample:.2g} or take a smaller encoder"
            )

    def spend(self, flops: float) -> None:
        self.spent += flops

    @property
    def progress(self) -> float:
        """Share spent, 0 to 1."""
        return min(1.0, self.spent / self.flops)

    @property
    def remaining(self) -> float:
        return max(0.0, self.flops - self.spent)

    def samples_left(self, per_sample: float) -> int:
        """How many samples at this price bring the run nearest to its total; 0 = done."""
        return round(self.remaining / per_sample)


def wsd(progress: float, samples: int, warmup: int, cooldown: float) -> float:
    """Warm-up, stable, decay: the factor on the learning rate.

    progress: share of the budget spent before this step; samples: seen when this step ends. The warm-up is absolute, so
    nothing before the last `cooldown` share depends on the total (Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024,
    arXiv:2405.18392).
    """
    up = min(1.0, samples / warmup) if warmup else 1.0
    down = min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0
    return up * down


# ---------------------------------------------------------------------------------------------------------------------
# Devices

# Dense bf16 peaks in FLOP/s from the makers' data sheets (no sparsity); the first name found in the device's wins.
_PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 149.7e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
    "MI250X": 383e12,
}


def device_name(device: torch.device | str) -> str:
    """What the machine calls the device; for a CPU with the number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()} x {torch.get_num_threads()} threads"


def peak(device: torch.device | str) -> tuple[str, float | None]:
    """The dense peak that MFU refers to, by name, in FLOP/s; None for a GPU not in the table.

    CPUs have no data sheet figure worth dividing by: the best of a bf16 and an fp32 matrix product is measured, and
    the name says so.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return _measured_gemm(torch.get_num_threads())
    name = device_name(device)
    known = next((k for k in _PEAKS if k in name), None)
    return (f"{known} dense bf16", _PEAKS[known]) if known else (f"{name}: peak unknown", None)


@lru_cache
def _measured_gemm(threads: int, n: int = 1024, repeats: int = 8) -> tuple[str, float]:
    best = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a = torch.randn(n, n).to(dtype)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            a @ a
            seconds.append(time.perf_counter() - start)
        best[name] = 2 * n**3 / min(seconds)
    name = max(best, key=best.__getitem__)
    return f"measured GEMM {name}, {threads} threads", best[name]


@lru_cache
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (v.split(":", 1)[1].strip() for v in lines if v.startswith("model name")), platform.processor() or "CPU"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Accounting


@dataclass
class Ledger:
    """What a run cost and what it was, written as `ledger.json` beside it. FLOPs are model FLOPs; times in seconds."""

    objective: str
    seed: int
    config_hash: str
    data_fingerprint: str
    commit: str
    encoder: str = ""
    precision: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # encoder, dense path, decoder, heads
    flops_budget: float = 0.0
    flops_spent: float = 0.0
    flops_per_sample: float = 0.0
    flops_per_sample_by_part: dict[str, float] = field(default_factory=dict)
    flops_evaluation: float = 0.0  # of the yardstick; not part of the budget
    flops_target_preparation: float = 0.0  # charged to the budget where a learned model prepares the targets
    seconds_target_preparation: float = 0.0  # of one core, mostly the loader's; fitting included, even if kept
    samples: int = 0
    tokens: int = 0  # masked ones included
    visible_tokens: int = 0
    seconds: float = 0.0
    yardstick_seconds: float = 0.0  # of measuring, not in `seconds`
    data_wait_share: float | None = None  # of the seconds
    device: str = ""
    devices: int = 1
    peak_name: str = ""
    peak_flops: float | None = None  # FLOP/s of one device
    energy_joules: float | None = None  # None where the device does not tell
    loss: float | None = None  # the objective's own, mean over the last tenth of the budget
    yardstick: dict[str, Any] = field(default_factory=dict)  # last figures, and those of what was never trained

    @property
    def tokens_per_parameter(self) -> float | None:
        n = sum(self.parameters.values())
        return self.tokens / n if n else None

    @property
    def six_nd(self) -> float:
        """6 x parameters x tokens: the usual estimate, logged beside the measured figure, never instead of it."""
        return 6.0 * sum(self.parameters.values()) * self.tokens

    @property
    def mfu(self) -> float | None:
        """Model FLOPs per second over the dense peak of the devices."""
        if not self.seconds or not self.peak_flops:
            return None
        return self.flops_spent / self.seconds / (self.peak_flops * self.devices)

    def write(self, path: str | Path) -> None:
        derived = {"tokens_per_parameter": self.tokens_per_parameter, "six_nd": self.six_nd, "mfu": self.mfu}
        Path(path).write_text(json.dumps(asdict(self) | derived, indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Ledger:
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: not found; a finished run has a ledger.json")
        known = cls.__dataclass_fields__
        return cls(**{k: v for k, v in json.loads(path.read_text()).items() if k in known})
