"""The per-pixel baseline: what the bands and dates of a pixel tell without any of its neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.unet import planes, stack


class PixelMLP(nn.Module):
    """Batch -> logits (B, classes, H, W), float32: 1 x 1 convolutions on the bands, validity and season of every date.

    It reads what the stacked U-Net reads, so the distance between the two is the worth of context. width: hidden
    channels; depth: hidden layers, each with batch norm and ReLU as in the U-Net.
    """

    def __init__(self, spec: Spec, classes: int, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.options: dict[str, Any] = dict(width=width, depth=depth)
        self.layers = pixelwise(len(planes(spec.bands, spec.dates, "stack")), width, depth)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.layers(stack(batch))).float()


def pixelwise(inputs: int, width: int, depth: int) -> nn.Sequential:
    """`depth` layers that see one pixel each: (B, inputs, H, W) -> (B, width, H, W)."""
    layers: list[nn.Module] = []
    for a in [inputs, *[width] * (depth - 1)]:
        layers += [nn.Conv2d(a, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
