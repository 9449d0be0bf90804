"""Additive statistics per tile (confusions, moments, histograms of scores) and the figures made of their sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 256  # of the histogram of scores: average precision is then .001 off on average, .013 at most with 100 hits
SOFTNESS = 8.0  # logits; a bin is 2 SOFTNESS / BINS = 1/16 logit wide at probability 1/2, 0.2 at .001
MOMENTS = ("n", "y", "y2", "e", "abs_e", "e2")  # sums over labels: 1, truth, its square, error, its size, its square
TINY = torch.finfo(torch.float64).tiny

# ---------------------------------------------------------------------------------------------------------------------
# Statistics: one array per tile, meaningful when summed


def confusion(pred: Tensor, target: Tensor, classes: int, ignore: int = -1) -> Tensor:
    """One confusion matrix per tile, rows = truth, columns = prediction.

    pred, target (B, ...) class numbers, of pixels or of whole places; where the target is `ignore` nothing is counted.
    Returns (B, K, K) long. ValueError where a counted class number lies outside 0..K-1: counting it elsewhere would
    falsify the score.
    """
    assert pred.shape == target.shape, (pred.shape, target.shape)
    tiles = target.shape[0]
    keep = target != ignore
    truth, guess = target[keep].long(), pred[keep].long()
    for name, labels in (("target", truth), ("pred", guess)):
        if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
            raise ValueError(f"{name} holds classes {int(labels.min())}..{int(labels.max())}, not 0..{classes - 1}")
    tile = torch.arange(tiles, device=target.device).view(-1, *[1] * (target.ndim - 1)).expand_as(target)[keep]
    index = (tile * classes + truth) * classes + guess
    return torch.bincount(index, minlength=tiles * classes**2).view(tiles, classes, classes)


def moments(pred: Tensor, target: Tensor) -> Tensor:
    """The sums MOMENTS of each tile, (B, 6) float64; pred, target (B, ...) in one unit, NaN target = no label."""
    assert pred.shape == target.shape, (pred.shape, target.shape)
    known = ~target.isnan()
    y = torch.where(known, target, 0).double()
    e = torch.where(known, pred.double() - y, 0)
    return torch.stack([t.flatten(1).sum(1) for t in (known.double(), y, y**2, e, e.abs(), e**2)], 1)


def wrong(stats: Tensor) -> Tensor:
    """How wrong each tile is, (B,) float64: of confusions (B, K, K) the pixels of another class, of moments (B, 6) the
    sum of squared errors."""
    if stats.ndim == 2:
        return stats[:, MOMENTS.index("e2")].double()
    return (stats.sum((1, 2)) - stats.diagonal(dim1=1, dim2=2).sum(1)).double()


def score_histogram(score: Tensor, target: Tensor) -> Tensor:
    """How often each class was scored how, by truth: (B, K, 2, BINS) long, 0 = absent, 1 = present.

    score (B, K) logits; target (B, K) 0 or 1, NaN = no label. Bins are equal steps of x / (SOFTNESS + |x|): finest
    where probabilities are neither 0 nor 1, and without an end at which the scores of an overconfident model would tie.
    Probability 1/2 is an edge. ValueError for other targets and for scores that are not finite.
    """
    assert score.shape == target.shape and score.ndim == 2, (score.shape, target.shape)
    keep = ~target.isnan()
    x, truth = score[keep].double(), target[keep].long()
    if not ((target[keep] == 0) | (target[keep] == 1)).all():
        raise ValueError(f"target holds {float(target[keep].min())}..{float(target[keep].max())}, not 0, 1 or NaN")
    if not x.isfinite().all():
        raise ValueError("a score is not finite")
    bins = ((1 + x / (SOFTNESS + x.abs())) / 2 * BINS).long().clamp(max=BINS - 1)
    cell = torch.arange(target.numel(), device=target.device).view_as(target)[keep]
    counts = torch.bincount((cell * 2 + truth) * BINS + bins, minlength=target.numel() * 2 * BINS)
    return counts.view(*target.shape, 2, BINS)


# ---------------------------------------------------------------------------------------------------------------------
# Figures of a class: (..., K, K) -> (..., K) float64. NaN where a class is in neither truth nor prediction; 0 where it
# is in one of them and never in both (as in torchmetrics), so that a class that is never predicted costs precision too.


def _ratio(part: Tensor, whole: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted > 0, part / whole.clamp(min=TINY), torch.nan)


def _parts(cm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each class: how often it was found, is in truth, is predicted."""
    cm = cm.double()
    return cm.diagonal(dim1=-2, dim2=-1), cm.sum(-1), cm.sum(-2)


def iou(cm: Tensor) -> Tensor:
    """Intersection over union."""
    hit, truth, pred = _parts(cm)
    return _ratio(hit, truth + pred - hit, truth + pred)


def f1(cm: Tensor) -> Tensor:
    """F1 (Dice): the harmonic mean of precision and recall."""
    hit, truth, pred = _parts(cm)
    return _ratio(2 * hit, truth + pred, truth + pred)


def precision(cm: Tensor) -> Tensor:
    hit, truth, pred = _parts(cm)
    return _ratio(hit, pred, truth + pred)


def recall(cm: Tensor) -> Tensor:
    hit, truth, pred = _parts(cm)
    return _ratio(hit, truth, truth + pred)


CLASSWISE: dict[str, Callable[[Tensor], Tensor]] = {"iou": iou, "f1": f1, "precision": precision, "recall": recall}


def average_precision(scores: Tensor) -> Tensor:
    """Average precision of each class, (..., K, 2, BINS) -> (..., K); NaN where it is never present.

    The mean, over places where the class is present, of precision among what was scored as high or higher. In a bin it
    is taken at the middle of the bin's labels: with all of them above the threshold (ties, as sklearn has them) figures
    come out up to 2.5 points low where scores lie close together, with 256 bins. A constant score gets the prevalence.
    """
    absent, present = scores.double().flip(-1).unbind(-2)  # (..., K, BINS), the highest scores first
    hits = present.cumsum(-1) - (present - 1) / 2
    others = absent.cumsum(-1) - absent / 2
    total = present.sum(-1)
    return _ratio((present * hits / (hits + others)).sum(-1), total, total)


def _at_half(scores: Tensor) -> Tensor:
    """The confusion of each class with the rest, (..., K, 2, BINS) -> (..., K, 2, 2), at probability 1/2."""
    return scores.double().unflatten(-1, (2, BINS // 2)).sum(-1)


# ---------------------------------------------------------------------------------------------------------------------
# Figures: (..., *shape) -> (...)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of summed statistics.

    statistic: "confusion" (K, K), "moments" (6,) or "scores" (K, 2, BINS); of: from its sums over tiles or areas, with
    fractional weights too, (..., *shape), to figures (...) float64, NaN where nothing was counted; better: +1 the
    higher, -1 the lower; scale: 100 = printed in points, 1 = in the target's own unit.
    """

    name: str
    title: str
    statistic: str
    of: Callable[[Tensor], Tensor]
    better: int = 1
    scale: float = 100.0


def _macro(figure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The mean over the classes that have a figure: a rare class weighs as much as a common one."""
    return lambda stats: figure(stats).nanmean(-1)


def _accuracy(cm: Tensor) -> Tensor:
    hit, truth, _ = _parts(cm)
    return _ratio(hit.sum(-1), truth.sum(-1), truth.sum(-1))


def _per_label(m: Tensor, key: str) -> Tensor:
    n = m[..., 0].double()
    return _ratio(m[..., MOMENTS.index(key)].double(), n, n)


def _r2(m: Tensor) -> Tensor:
    """Share of the variance of the truth that is explained; NaN where float64 cannot tell the truth from a constant."""
    n, y, y2, _, _, e2 = m.double().unbind(-1)
    spread = y2 - y**2 / n.clamp(min=TINY)
    return 1 - _ratio(e2, spread, spread - 1e-12 * y2)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("miou", "mIoU", "confusion", _macro(iou)),
        Metric("f1", "macro F1", "confusion", _macro(f1)),
        Metric("precision", "macro precision", "confusion", _macro(precision)),
        Metric("recall", "macro recall", "confusion", _macro(recall)),
        Metric("accuracy", "accuracy", "confusion", _accuracy),
        Metric("change_f1", "F1 of change", "confusion", lambda cm: f1(cm)[..., -1]),  # change is the last class
        Metric("rmse", "RMSE", "moments", lambda m: _per_label(m, "e2").sqrt(), better=-1, scale=1.0),
        Metric("mae", "MAE", "moments", lambda m: _per_label(m, "abs_e"), better=-1, scale=1.0),
        Metric("r2", "R2", "moments", _r2),
        Metric("map", "mAP", "scores", _macro(average_precision)),
        Metric("multilabel_f1", "macro F1", "scores", _macro(lambda s: f1(_at_half(s))[..., 1])),
    )
}


def total(metric: Metric, stats: Tensor | np.ndarray) -> float:
    """The figure of all tiles (tiles, *shape) together."""
    return float(metric.of(torch.as_tensor(stats).double().sum(0)))


def miou(cm: Tensor) -> float:
    """mIoU in 0..1 of the *sum* of matrices (..., K, K), over the classes present in its truth or prediction.

    Tiles are summed first: a mean of tile mIoUs would weigh a tile's rare class as much as a whole region's. NaN
    where nothing was counted.
    """
    return float(METRICS["miou"].of(cm.reshape(-1, *cm.shape[-2:]).sum(0)))
