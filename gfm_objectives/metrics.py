"""Confusion matrices per tile, and IoU, mIoU and F1 from their sums."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(pred: Tensor, target: Tensor, classes: int, ignore: int = -1) -> Tensor:
    """One confusion matrix per tile, rows = truth, columns = prediction.

    pred, target (B, H, W) class numbers; pixels whose target is `ignore` count nowhere. Returns (B, K, K) long.
    ValueError where a counted class number lies outside 0..K-1: counting it elsewhere would falsify the score.
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


def iou(cm: Tensor) -> Tensor:
    """Intersection over union per class of matrices (..., K, K): (..., K) float64, NaN where a class is in neither
    truth nor prediction."""
    cm = cm.double()
    hit = cm.diagonal(dim1=-2, dim2=-1)
    union = cm.sum(-1) + cm.sum(-2) - hit
    return torch.where(union > 0, hit / union.clamp(min=torch.finfo(torch.float64).tiny), torch.nan)


def f1(iou: Tensor) -> Tensor:
    """F1 (Dice) per class from its IoU; NaN stays NaN. What is printed of the change class in change detection."""
    return 2 * iou / (1 + iou)


def miou(cm: Tensor) -> float:
    """mIoU in 0..1 of the *sum* of matrices (..., K, K), over the classes present in its truth or prediction.

    Tiles are summed first: a mean of tile mIoUs would weigh a tile's rare class as much as a whole region's. NaN
    where nothing was counted.
    """
    total = cm.reshape(-1, *cm.shape[-2:]).sum(0)
    return float(iou(total).nanmean())
