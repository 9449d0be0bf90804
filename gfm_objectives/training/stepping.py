"""A step: forward in mixed precision, backward, clipping, the optimiser. Pretraining and fine-tuning take the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gfm_objectives.device import autocast
from gfm_objectives.heap import keep_freed
from gfm_objectives.training.finite import Finite

Backward = Callable[[Tensor], Any]


class Stepper:
    """Steps of one optimiser. No step makes a GPU wait for an answer.

    clip: gradient norm; dtype: of autocast, float32 = none; finite: told of every step before it is learned from;
    backward: of the loss, where another than `Tensor.backward` is wanted.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        clip: float,
        device: torch.device,
        dtype: torch.dtype,
        finite: Finite,
        backward: Backward = Tensor.backward,
    ) -> None:
        self.optimiser, self.parameters, self.clip = optimiser, [*parameters], clip
        self.device, self.dtype, self.finite, self.backward = device, dtype, finite, backward
        self.peaks = [group["lr"] for group in optimiser.param_groups]
        if device.type == "cpu":
            keep_freed()

    def __call__(self, step: int, factor: float, loss: Callable[[], Tensor]) -> Tensor:
        """Learn from `loss()`, a scalar, with `factor` of every peak learning rate; returns the loss, detached."""
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        with autocast(self.device, self.dtype):
            value = loss()
        self.optimiser.zero_grad(set_to_none=True)
        self.backward(value)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.finite.add(step, value.detach(), norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.optimiser.step()
        return value.detach()
