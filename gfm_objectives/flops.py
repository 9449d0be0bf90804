"""FLOPs measured: model FLOPs of a training step, counted on the meta device."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from gfm_objectives.batch import Batch


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
    twin = on_meta(model)
    labels = _Labels(twin, parts)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        labels.counter = counter
        with labels, torch.enable_grad():  # whoever asks: a step is counted
            loss = step(twin, batch.map(lambda t: torch.empty_like(t, device="meta")))
            forward = counter.get_total_flops()
            if loss.requires_grad:
                loss.backward()
    n = len(batch)
    return Cost(counter.get_total_flops() / n, forward / n, {k: v / n for k, v in sorted(labels.flops.items())})


_KNOWN: dict[Any, Cost] = {}


def measure_once(
    model: nn.Module, batch: Batch, step: Callable[[nn.Module, Batch], Tensor], of: tuple[str, ...]
) -> Cost:
    """`measure`, once in a process for models and batches of one make-up; `of` names what else `step` depends on."""
    weights = tuple((n, tuple(p.shape), p.requires_grad) for n, p in model.named_parameters())
    targets = tuple((k, tuple(t.shape)) for k, t in batch.targets.items())
    key = (repr(model), weights, batch.signature, targets, len(batch), of)
    if key not in _KNOWN:
        _KNOWN[key] = measure(model, batch, step)
    return _KNOWN[key]


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch)["loss"]


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers take no memory, and which computes nothing twice."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        if getattr(module, "micro", 0):  # places held at a time, see models/slices
            module.micro = 0  # type: ignore[assignment]
    return twin


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
