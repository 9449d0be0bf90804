"""Heads on the dense features: the class of every pixel, and the loss that suits a noisy map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapHead(nn.Module):
    """Class of every pixel from (B, width, H, W), trained on a noisy map.

    Cross-entropy with label smoothing and class weights 1 / sqrt(frequency), clipped at 5.
    Frequencies are running counts of the labels seen, so no pass over the data is needed.
    """

    counts: Tensor

    def __init__(self, width: int, classes: int, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.logits = nn.Conv2d(width, classes, 1)
        self.label_smoothing = label_smoothing
        self.register_buffer("counts", torch.ones(classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.logits(features).float()

    def loss(self, logits: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean over labelled pixels, weighted by `where` (B, H, W), bool or float, if given; target (B, H, W) long,
        -1 = no label."""
        with torch.no_grad():
            if self.training:
                labelled = (target >= 0).flatten().to(self.counts.dtype)
                self.counts += torch.zeros_like(self.counts).index_add(0, target.clamp(min=0).flatten(), labelled)
            share = self.counts / self.counts.sum()
            weight = (share.mean() / share).sqrt().clamp(max=5)
            pixel = weight[target.clamp(min=0)] * (target >= 0)
            pixel = pixel if where is None else pixel * where
        each = F.cross_entropy(logits, target.clamp(min=0), reduction="none", label_smoothing=self.label_smoothing)
        return (each * pixel).sum() / pixel.sum().clamp(min=1)


def borders(target: Tensor) -> Tensor:
    """Pixels that touch one of another class, by an edge and both labelled: target (B, H, W) long -> bool."""
    out = torch.zeros_like(target, dtype=torch.bool)
    for dim in (1, 2):
        n = target.shape[dim] - 1
        here, next_one = target.narrow(dim, 0, n), target.narrow(dim, 1, n)
        differ = (here != next_one) & (here >= 0) & (next_one >= 0)
        out.narrow(dim, 0, n).logical_or_(differ)
        out.narrow(dim, 1, n).logical_or_(differ)
    return out
