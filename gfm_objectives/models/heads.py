"""Heads on the dense features: the class of every pixel, a sensor's images on given days, pixels of hidden tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives import ranks
from gfm_objectives.models.masking import take


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
                classes = torch.arange(len(self.counts), device=target.device)
                # compared, not added at an index: a GPU's additions to eight places stand in line for each other
                self.counts += ranks.total((target.flatten() == classes[:, None]).sum(1).to(self.counts.dtype))
            share = self.counts / self.counts.sum()
            weight = (share.mean() / share).sqrt().clamp(max=5)
            pixel = weight[target.clamp(min=0)] * (target >= 0)
            pixel = pixel if where is None else pixel * where
        each = F.cross_entropy(logits, target.clamp(min=0), reduction="none", label_smoothing=self.label_smoothing)
        return (each * pixel).sum() / ranks.mean(pixel.sum()).clamp(min=1)


class ShareHead(nn.Module):
    """Shares of the map's classes in every patch, from its token alone: deep supervision, so that tokens must know what
    they stand for."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.logits = nn.Linear(dim, classes)

    def loss(self, tokens: Tensor, target: Tensor, patch: int) -> Tensor:
        """Cross-entropy with the shares among labelled pixels, mean over pixels; tokens (B, N, D), target (B, H, W)."""
        log_share = self.logits(tokens).float().log_softmax(-1)  # (B, N, K)
        one_hot = F.one_hot(target.clamp(min=0), log_share.shape[-1]) * (target >= 0)[..., None]
        counts = by_cell(one_hot.movedim(-1, 1).float(), patch).unflatten(-1, (patch * patch, -1)).sum(2)  # (B, N, K)
        return -(counts * log_share).sum() / ranks.mean(counts.sum()).clamp(min=1)


def sampled_accuracy(logits: Tensor, target: Tensor, every: int = 4) -> Tensor:
    """Share of labelled pixels named right, of every fourth row and column: it is logged, and need not cost time."""
    logits, target = logits[:, :, ::every, ::every], target[:, ::every, ::every]
    return (logits.argmax(1) == target).sum() / (target >= 0).sum().clamp(min=1)


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


class SeriesHead(nn.Module):
    """A sensor's images on given days from (B, width, H, W): the day draws up the linear map that reads each pixel.

    What a sensor shows must be in the features, linearly: a head that is told the day and has a hidden layer of its own
    learned the season by itself, and features knew the next date worse than untrained ones (LOG.md).

    channels: sensor -> values per pixel. The loss is L1 on pixels that count, divided by the running mean of itself
    (of this decay), so that noisy sensors do not drown the rest.
    """

    def __init__(self, width: int, channels: Mapping[str, int], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.out = nn.ModuleDict({s: nn.Linear(6 * width, c) for s, c in channels.items()})
        self.day = nn.ModuleDict({s: nn.Linear(5, c) for s, c in channels.items()})
        for s in channels:
            self.register_buffer(f"ema_{s}", torch.ones(()))

    def forward(self, dense: Tensor, sensor: str, when: Tensor) -> Tensor:
        """when (B, T, 5), as day_features gives it; returns (B, T, C, H, W), float32."""
        layer, by_day = self.out[sensor], self.day[sensor]
        assert isinstance(layer, nn.Linear) and isinstance(by_day, nn.Linear)
        maps = layer.weight.unflatten(1, (6, -1))  # (C, 6, width)
        weight = maps[:, 0] + torch.einsum("btk,ckd->btcd", when, maps[:, 1:])  # (B, T, C, width)
        bias = layer.bias + by_day(when)  # (B, T, C)
        image = torch.baddbmm(bias.flatten(1)[..., None], weight.flatten(1, 2), dense.flatten(2))  # (B, T C, H W)
        return image.unflatten(1, bias.shape[1:]).unflatten(-1, dense.shape[2:]).float()

    def loss(self, sensor: str, prediction: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the plain L1; target as the prediction, weight (B, T, C or 1, H, W)."""
        weight = weight.expand_as(target)
        error = ((prediction - target).abs() * weight).sum() / ranks.mean(weight.sum()).clamp(min=1)
        ema = self.get_buffer(f"ema_{sensor}")
        if self.training:
            with torch.no_grad():
                ema.mul_(self.decay).add_(ranks.mean(error.detach()), alpha=1 - self.decay)
        return error / ema.clamp(min=1e-3), error.detach()


class PatchHead(nn.Module):
    """Pixels of hidden tokens, in two ways that add up: from what the decoder says of the token, and per pixel from
    the dense features of its cell, gated by the same."""

    def __init__(self, dim: int, width: int, patch: int, bands: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.patch = patch
        self.token = nn.ModuleDict({s: nn.Linear(dim, patch * patch * len(b)) for s, b in bands.items()})
        self.gate = nn.Linear(dim, width)
        self.pixel = nn.ModuleDict({s: nn.Linear(width, len(b)) for s, b in bands.items()})

    def forward(self, sensor: str, told: Tensor, cells: Tensor, cell: Tensor) -> Tensor:
        """told (B, K, dim), cells as by_cell gives them, cell (B, K) long; returns (B, K, p p, C), float32."""
        fine = take(cells, cell).unflatten(-1, (self.patch**2, -1))  # (B, K, p p, width)
        pixels, linear = self.token[sensor](told).unflatten(-1, (self.patch**2, -1)), self.pixel[sensor]
        maps = self.gate(told)[..., None] * linear.weight.mT  # (B, K, width, C): the gate in the map, not in each pixel
        return (pixels + fine @ maps + linear.bias).float()


def by_cell(dense: Tensor, patch: int) -> Tensor:
    """(B, width, H, W) -> (B, cells, p p width): the pixels of each cell in one row."""
    return rearrange(dense.movedim(1, -1), "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)
