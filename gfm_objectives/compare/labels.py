"""A share of the labels in which classes have the shares they have in all: stratified, for any kind of task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.chance import mix, order
from gfm_objectives.data.places import Places, Subset

WAYS = ("random", "stratified")
PRESENT = 0.01  # of a place's labelled pixels, from which it counts as showing a class
LEVELS = 5  # strata of a task whose labels are numbers


def strata(targets: Iterable[Tensor], classes: int) -> np.ndarray:
    """The stratum of every place, (N,) long: the rarest class that it shows, of classes; of numbers, the fifth in which
    its mean lies.

    targets: labels of some places each, (B, H, W) or (B,) long with -1 = none, (B, H, W) float with NaN = none, or
    (B, K) of many classes.
    """
    parts = list(targets)
    if parts[0].is_floating_point() and parts[0].ndim == 3:
        mean = torch.cat([t.flatten(1).nanmean(1) for t in parts]).nan_to_num(0).double().numpy()
        return np.searchsorted(np.quantile(mean, np.arange(1, LEVELS) / LEVELS), mean, side="right")
    share = torch.cat([_shares(t, classes) for t in parts]).numpy()  # (N, K)
    rare_first = np.argsort(share.sum(0), kind="stable")
    shown = share[:, rare_first] >= PRESENT
    return np.where(shown.any(1), rare_first[shown.argmax(1)], -1)


def _shares(t: Tensor, classes: int) -> Tensor:
    if t.is_floating_point():
        return t.nan_to_num(0).double()
    flat = t.reshape(len(t), -1)
    counts = torch.stack([(flat == k).sum(1) for k in range(classes)], 1).double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def stratified(stratum: np.ndarray, count: int, seed: int) -> list[int]:
    """`count` numbers of places, drawn by `seed`, from every stratum its share; a larger count holds a smaller one.

    Places are put in an order in which those of a stratum are evenly spread, at an offset of chance; the first of it
    are taken.
    """
    n = len(stratum)
    index = order(mix(seed, "labels"), n, np.arange(n))
    turn = np.empty(n)
    for k in np.unique(stratum):
        mine = index[stratum[index] == k]
        first = np.random.default_rng(mix(seed, "strata", int(k))).random()
        turn[mine] = (np.arange(len(mine)) + first) / len(mine)
    return np.sort(np.argsort(turn, kind="stable")[:count]).tolist()


def hash_of(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def hash_of_places(train: Places | None) -> str:
    """Of the numbers of the places that were learned from, of all that a task has; None = of none."""
    index = () if train is None else train.index if isinstance(train, Subset) else range(len(train))
    return hash_of([str(k) for k in index])
