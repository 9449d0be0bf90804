"""The yardstick: what a frozen encoder knows of places it never saw, in figures that all objectives share.

Losses of different objectives do not compare, and a loss need not tell what an encoder is worth downstream. Linear
probes on the same held-out places do compare: their negative log-likelihood for the map, another sensor and the next
date. docs/yardstick.md says what each figure means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.chance import mix, order
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.yardstick import probes
from gfm_objectives.yardstick.features import ALL, PAST, Features, at, of_bands, of_encoder, pooled, see, views

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet

PLACES = 48  # held-out places
PIXELS = 128  # drawn of each
MAP = "map"  # the layer of the map

Figures = dict[str, float]


class Yardstick:
    """Held-out places of `source`, with what their features are to tell; call it with an encoder, or `bands()`.

    Figures (those that the data does not allow are absent; all are, where features are not finite): map_nll in nats per
    pixel, sensor_nll and date_nll in nats per value, knn in 0..1, and std, cosine, rankme of the cells' dense features
    and, with `token_` before them, of the tokens. flops: spent so far, on features and on fitting the linear probes.

    Which places and pixels is a function of the source alone. Half of the areas fit the probes that the others judge,
    both ways. InputError where there are fewer than two places.
    """

    def __init__(self, source: Source, encoder: Encoder | UNet, dtype: torch.dtype = torch.float32) -> None:
        self.spec: Spec = source.spec
        self.views, self.dtype, self.flops = views(source.spec), dtype, 0.0
        index, self.half = held_out(source)
        self.batch: Batch = source.read(index)
        generator = torch.Generator().manual_seed(mix("yardstick", "pixels"))
        n = self.batch.size[0] * self.batch.size[1]
        self.pixel = torch.stack([torch.randperm(n, generator=generator)[:PIXELS] for _ in index])  # (B, P)
        self.targets = {
            name: [
                (at(y, self.pixel).double(), at(known[:, None], self.pixel)[..., 0])
                for y, known in withheld(self.batch, seen)
            ]
            for name, seen in self.views.items()
        }
        digest = hashlib.blake2b(digest_size=4)
        for t in (*(s.x for s in self.batch.sensors.values()), *self.batch.targets.values()):
            digest.update(t.numpy().tobytes())
        self.places = digest.hexdigest()  # two runs compare where it is the same
        self.cost = len(index) * measure(encoder, source.spec.dummy(2), self._forward).forward  # of all features

    def __call__(self, encoder: Encoder | UNet) -> Figures:
        """Figures of the encoder as it is, which is not changed."""
        self.flops += self.cost
        return self.score(of_encoder(encoder, self.batch, self.views, self.pixel, self.dtype))

    def bands(self) -> Figures:
        """Figures of the bands' statistics, the rival that needs no training."""
        return self.score(of_bands(self.batch, self.views, self.pixel))

    def score(self, features: Features) -> Figures:
        if not features.finite:
            return {}
        out: Figures = {}
        if MAP in self.spec.legends:
            out |= self._map(features)
        out["sensor_nll"] = _mean([n for s in self.views if s not in (ALL, PAST) for n in self._values(features, s)])
        out["date_nll"] = _mean(self._values(features, PAST) if PAST in self.views else [])
        out |= probes.spread(features.cells)
        if features.tokens is not None:
            out |= probes.spread(features.tokens, "token_")
        return {k: v for k, v in out.items() if v == v}

    def _map(self, features: Features) -> Figures:
        """Of the map: nats per labelled pixel, and the share of cells whose majority class their neighbours name."""
        target, classes = self.batch.targets[MAP], len(self.spec.legends[MAP])
        label = at(target[:, None], self.pixel)[..., 0]
        cell, share = majority(target, classes)
        pixel, right = [], []
        for fit, judge in self._halves():
            a, b = (h[:, None] & (label >= 0) for h in (fit, judge))
            x = features.pixels[ALL]
            if a.any() and b.any():
                pixel.append(probes.class_nll(x[a], label[a], x[b], label[b], classes))
                self.flops += probes.class_flops(int(a.sum()), x.shape[-1], classes)
            a, b = (h[:, None] & (share > 0) for h in (fit, judge))
            if a.any() and b.any():
                right.append(probes.knn(features.cells[a], cell[a], features.cells[b], classes) == cell[b])
        return {"map_nll": _mean(pixel), "knn": _mean(right)}

    def _values(self, features: Features, view: str) -> list[Tensor]:
        """Nats per value of what this view withholds, for each sensor and half."""
        x, nll = features.pixels[view], []
        for y, known in self.targets[view]:
            for fit, judge in self._halves():
                a, b = (h[:, None] & known for h in (fit, judge))
                if a.any() and b.any():
                    nll.append(probes.value_nll(x[a], y[a], x[b], y[b]))
                    self.flops += probes.value_flops(int(a.sum()), x.shape[-1], y.shape[-1])
        return nll

    def _forward(self, encoder: nn.Module, batch: Batch) -> Tensor:
        """The features of every view, for their FLOPs alone."""
        seen = (see(batch, dates, not isinstance(encoder, Encoder)) for dates in self.views.values())
        return torch.stack([encoder.features(b).sum() for b in seen]).sum().detach()  # type: ignore[operator]

    def _halves(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (self.half, ~self.half), (~self.half, self.half)


def held_out(source: Source) -> tuple[list[int], Tensor]:
    """At most PLACES places, and which of them are in the first half: whole areas, where there are two."""
    n = len(source)
    shuffled = order(mix("yardstick", "places"), n, np.arange(n)).tolist()
    areas = source.groups()
    if len(set(areas)) < 2:
        areas = [str(i) for i in range(n)]
    number = {a: k for k, a in enumerate(dict.fromkeys(areas[i] for i in shuffled))}
    halves = [[i for i in shuffled if number[areas[i]] % 2 == h][: PLACES // 2] for h in (0, 1)]
    if not all(halves):
        raise InputError(f"the split val has {n} {'place' if n == 1 else 'places'}, and the yardstick needs two")
    return halves[0] + halves[1], torch.arange(len(halves[0]) + len(halves[1])) < len(halves[0])


def withheld(batch: Batch, seen: Mapping[str, int]) -> list[tuple[Tensor, Tensor]]:
    """Of each sensor with dates that are not seen, their mean over valid ones (B, C, H, W), and where there is one
    (B, H, W) bool: how a place looks in another sensor over the year, or on its last date."""
    out = []
    for s, series in batch.sensors.items():
        x, ok = series.x[:, seen[s] :].float(), series.valid[:, seen[s] :, None]
        if x.shape[1]:
            out.append(((x * ok).sum(1) / ok.sum(1).clamp(min=1), ok[:, :, 0].any(1)))
    return out


def majority(target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Of map (B, H, W), -1 = no label: the commonest class of each cell (B, cells), and its share of the cell's pixels,
    0 where none has a label."""
    one_hot = F.one_hot(target.clamp(min=0), classes) * (target >= 0)[..., None]
    share, cell = pooled(one_hot.movedim(-1, 1).double()).max(-1)
    return cell, share


def _mean(values: Sequence[Tensor]) -> float:
    """Of the means of each; NaN where there is none."""
    return float(torch.stack([v.double().mean() for v in values]).mean()) if values else float("nan")
