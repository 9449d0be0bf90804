"""The optimiser of every run: AdamW, whose decay is for matrices alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def adamw(
    parts: Sequence[tuple[Iterable[nn.Parameter], float]],
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW over (parameters, learning rate) parts. Frozen parameters are left out; what has one axis or none, that is
    biases, norms and scales, is not decayed."""
    groups: list[dict[str, Any]] = []
    for parameters, lr in parts:
        trained = [p for p in parameters if p.requires_grad]
        for decay, some in (
            (weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if some:
                groups.append({"params": some, "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=betas, fused=True)
