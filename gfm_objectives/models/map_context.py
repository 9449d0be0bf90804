"""The map's neighbourhood alone: what the noisy map around a pixel tells of it, without any imagery."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.map_input import map_classes
from gfm_objectives.models.pixel import pixelwise
from gfm_objectives.sensors import MAP

WINDOWS = (1, 3, 7, 15, 31, 63)  # pixels a side: from the pixel itself to a whole chip of 64


class MapContext(nn.Module):
    """Batch -> logits (B, classes, H, W), float32: the shares of the map's classes in WINDOWS, then a per-pixel MLP.

    width: hidden channels; depth: hidden layers. Its FLOPs are those of the MLP: window sums are additions, which are
    counted nowhere here. InputError where `spec` has no map.
    """

    def __init__(self, spec: Spec, classes: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.options: dict[str, Any] = dict(width=width, depth=depth)
        self.map_classes = map_classes(spec)
        self.layers = pixelwise(self.map_classes * len(WINDOWS), width, depth)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.layers(shares(batch.targets[MAP], self.map_classes))).float()


def shares(label: Tensor, classes: int) -> Tensor:
    """Of the labelled pixels in each of WINDOWS the share of every class: label (B, H, W), -1 = none ->
    (B, windows * classes, H, W); 0 where none is labelled. Windows end at the edge."""
    one_hot = (label[:, None] == torch.arange(classes, device=label.device)[:, None, None]).float()  # (B, K, H, W)
    counts = (window_sums(one_hot, size) for size in WINDOWS)
    return torch.cat([n / n.sum(1, keepdim=True).clamp(min=1) for n in counts], 1)


def window_sums(x: Tensor, size: int) -> Tensor:
    """Sum of x (..., H, W) over the window of size x size around each pixel, by running sums: exact for counts."""
    for dim in (-2, -1):
        n, at = x.shape[dim], torch.arange(x.shape[dim], device=x.device)
        running = F.pad(x.cumsum(dim), (1, 0) if dim == -1 else (0, 0, 1, 0))
        first, past = (at - size // 2).clamp(min=0), (at + size // 2 + 1).clamp(max=n)
        x = running.index_select(dim, past) - running.index_select(dim, first)
    return x
