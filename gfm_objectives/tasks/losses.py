"""Losses of classes and numbers: means over what is labelled, 0 where nothing is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

CLASS_LOSSES = ("", "weighted", "dice", "focal")  # '' = cross-entropy
NUMBER_LOSSES = ("", "huber")  # '' = mean square
FOCUS = 2.0  # Lin et al. 2017, https://arxiv.org/abs/1708.02002, section 3.2: gamma
RAREST = 5.0  # the largest weight of a class, in weights of the commonest


def class_loss(how: str, logits: Tensor, target: Tensor, weights: tuple[float, ...] = ()) -> Tensor:
    """logits (B, K, ...), target (B, ...) long, -1 = none; a key of CLASS_LOSSES.

    weighted: each class by its weight; dice: cross-entropy and one minus the Dice coefficient, in the mean of classes
    that are there (Milletari et al. 2016, https://arxiv.org/abs/1606.04797); focal: what is known already counts less.
    """
    known = target >= 0
    count = known.sum().clamp(min=1)
    if how == "weighted":
        scale = torch.tensor(weights).to(logits.device, non_blocking=True)
        total = F.cross_entropy(logits.float(), target, scale, ignore_index=-1, reduction="sum")
        return total / (scale[target.clamp(min=0)] * known).sum().clamp(min=1e-6)
    if how == "focal":
        each = F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="none")
        return ((1 - (-each).exp()) ** FOCUS * each * known).sum() / count
    plain = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / count
    return plain + _dice(logits, target, known) if how == "dice" else plain


def _dice(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
    share = logits.float().softmax(1) * known[:, None]
    truth = (target[:, None] == classes).float()
    rest = [0, *range(2, logits.ndim)]
    both, each = (share * truth).sum(rest), (share + truth).sum(rest)  # (K,)
    there = truth.sum(rest) > 0
    return ((1 - 2 * both / each.clamp(min=1e-6)) * there).sum() / there.sum().clamp(min=1)


def number_loss(how: str, values: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """values, wanted in deviations from the mean of the training labels; huber: outliers count by their distance."""
    each = F.huber_loss(values, wanted, reduction="none") if how == "huber" else (values - wanted) ** 2
    return (each * known).sum() / known.sum().clamp(min=1)


def class_weights(targets: Iterable[Tensor], classes: int) -> tuple[float, ...]:
    """One over the root of each class's share of the labels, the commonest 1, at most RAREST; absent ones too."""
    counts = sum(torch.bincount(t[t >= 0].flatten(), minlength=classes).double() for t in targets)
    assert isinstance(counts, Tensor)
    return tuple((counts.max().clamp(min=1) / counts.clamp(min=1)).sqrt().clamp(max=RAREST).tolist())
