"""Kinds of task: what the head puts out, the loss, and the statistic that is counted of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.errors import InputError
from gfm_objectives.metrics import confusion, moments, score_histogram
from gfm_objectives.tasks.losses import CLASS_LOSSES, NUMBER_LOSSES, class_loss, class_weights, number_loss
from gfm_objectives.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Kind(ABC):
    """name: key of KINDS; metrics: keys of METRICS, the first decides unless the task names another, all are reported.

    A model's output is (B, C, H, W) for every kind; kinds whose labels are of whole places (`dense` is False) take its
    mean over the pixels. Losses are means over what is labelled, 0 where nothing is.
    """

    name: str
    metrics: tuple[str, ...]
    how: str = ""  # the loss, one of `losses`
    weights: tuple[float, ...] = ()  # of each class, for how=weighted
    dense: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("",)  # that tuning may choose among

    @abstractmethod
    def channels(self, classes: int) -> int:
        """C, the outputs of the head per pixel."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar."""

    @abstractmethod
    def decide(self, output: Tensor) -> Tensor:
        """What is counted: class numbers, values in the target's unit, or scores; of the target's shape."""

    @abstractmethod
    def count(self, decided: Tensor, target: Tensor, classes: int) -> Tensor:
        """The additive statistic of each tile (B, *shape), see `metrics`; rows without training come in here."""

    def observe(self, output: Tensor, target: Tensor, classes: int) -> Tensor:
        """The statistic of each tile, on the CPU, from a model's output."""
        return self.count(self.decide(output).cpu(), target.cpu(), classes)


@dataclass(frozen=True, slots=True)
class Segmentation(Kind):
    """A class for every pixel; target (B, H, W) long, -1 = none."""

    losses: ClassVar[tuple[str, ...]] = CLASS_LOSSES

    def channels(self, classes: int) -> int:
        return classes

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return class_loss(self.how, output, target, self.weights)

    def decide(self, output: Tensor) -> Tensor:
        return output.argmax(1)

    def count(self, decided: Tensor, target: Tensor, classes: int) -> Tensor:
        return confusion(decided, target, classes)


@dataclass(frozen=True, slots=True)
class Regression(Kind):
    """A number for every pixel; target (B, H, W) float in its own unit, NaN = none.

    Models put out (target - offset) / scale, so that one learning rate suits metres and tonnes; the loss is the mean
    square, which is what RMSE and R2 judge, unless another is chosen.
    """

    losses: ClassVar[tuple[str, ...]] = NUMBER_LOSSES
    offset: float = 0.0
    scale: float = 1.0

    def channels(self, classes: int) -> int:
        return 1

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        wanted = (torch.where(known, target, self.offset) - self.offset) / self.scale
        return number_loss(self.how, output[:, 0].float(), wanted, known)

    def decide(self, output: Tensor) -> Tensor:
        return output[:, 0].float() * self.scale + self.offset

    def count(self, decided: Tensor, target: Tensor, classes: int) -> Tensor:
        return moments(decided, target)


@dataclass(frozen=True, slots=True)
class Scene(Kind):
    """One class for a place; target (B,) long, -1 = none."""

    losses: ClassVar[tuple[str, ...]] = CLASS_LOSSES
    dense: ClassVar[bool] = False

    def channels(self, classes: int) -> int:
        return classes

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return class_loss(self.how, _pooled(output), target, self.weights)

    def decide(self, output: Tensor) -> Tensor:
        return _pooled(output).argmax(1)

    def count(self, decided: Tensor, target: Tensor, classes: int) -> Tensor:
        return confusion(decided, target, classes)


@dataclass(frozen=True, slots=True)
class Multilabel(Kind):
    """Any number of classes for a place; target (B, K) float, 1 = present, 0 = absent, NaN = not known."""

    dense: ClassVar[bool] = False

    def channels(self, classes: int) -> int:
        return classes

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        wanted = torch.where(known, target, 0)
        each = F.binary_cross_entropy_with_logits(_pooled(output), wanted, reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    def decide(self, output: Tensor) -> Tensor:
        return _pooled(output)

    def count(self, decided: Tensor, target: Tensor, classes: int) -> Tensor:
        return score_histogram(decided, target)


_OF_CLASSES = ("miou", "f1", "precision", "recall", "accuracy")
KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Segmentation("segmentation", _OF_CLASSES),
        Segmentation("change", (*_OF_CLASSES, "change_f1")),  # between a sensor's dates; the last class is change
        Regression("regression", ("rmse", "mae", "r2")),
        Scene("scene", ("accuracy", "f1", "precision", "recall")),
        Multilabel("multilabel", ("map", "multilabel_f1")),
    )
}


def kind_of(task: Task) -> Kind:
    """The task's kind, with the offset and scale of its targets where it has them."""
    kind = KINDS[task.kind]
    return replace(kind, offset=task.offset, scale=task.scale) if isinstance(kind, Regression) else kind


def with_loss(kind: Kind, how: str, targets: Iterable[Tensor], classes: int) -> Kind:
    """The kind with the loss `how`, whose weights, where it has some, are those of the training labels."""
    assert how in kind.losses, f"{how!r} is no loss of {kind.name}; it has {kind.losses}"
    return replace(kind, how=how, weights=class_weights(targets, classes) if how == "weighted" else ())


def standardised(task: Task, targets: Iterable[Tensor]) -> Task:
    """The task with offset and scale of a regression: mean and deviation of its training labels, given batch by batch.

    Tasks of other kinds come back as they are. InputError where not one pixel is labelled or all have one value.
    """
    if task.kind != "regression":
        return task
    n, y, y2 = sum(moments(t, t).sum(0) for t in targets)[:3].tolist()  # type: ignore[index]
    mean = y / max(n, 1)
    variance = y2 / max(n, 1) - mean**2
    if variance <= 1e-12 * mean**2:  # as far as float64 can tell
        held = "one value" if n else "nothing"
        raise InputError(f"task {task.name}: the training labels of {task.layer} hold {held}; give it others")
    return replace(task, offset=mean, scale=variance**0.5)


def _pooled(output: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C)"""
    return output.float().mean((-2, -1))
