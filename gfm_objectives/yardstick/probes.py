"""Probes of frozen features: linear ones by their negative log-likelihood, nearest neighbours, and signs of collapse.

All in float64, where the features are, without a draw of chance: the same features give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-3  # of every linear probe, per example, on standardised features
STEPS = 50  # of LBFGS
NEIGHBOURS = 10
RANK, STD, COSINE = 2.0, 0.05, 0.999  # collapsed: below, below, above; docs/yardstick.md has what is usual


def standardise(fit: Tensor, *others: Tensor) -> list[Tensor]:
    """Zero mean and unit deviation over the rows of `fit` (N, D); the same shift and scale for `others`. A column that
    is constant there tells nothing and becomes 0."""
    mean, scale = _moments(fit)
    return [(x - mean) * scale for x in (fit, *others)]


def _moments(fit: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = fit.mean(0), fit.std(0, correction=0)
    return mean, torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), 0)


def class_nll(fit: Tensor, labels: Tensor, x: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Nats per example (M,) of `logistic`, fitted on `fit` (N, D) and `labels` (N,) long."""
    weight, bias = logistic(fit, labels, classes)
    return F.cross_entropy(x @ weight + bias, truth, reduction="none")


def logistic(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (D, K) and bias (K,) of a multinomial logistic regression of `labels` (N,) long on x (N, D).

    The penalty RIDGE / 2 x |W|^2, on standardised x, holds the intercept too: a class the fit never saw keeps a finite
    price.
    """
    return _minimise(x, classes, lambda output: F.cross_entropy(output, labels))


def logistic_each(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The same for K labels that may hold together: one logistic regression of each column of `present` (N, K) 0 or 1,
    NaN = not known."""
    known, y = ~present.isnan(), present.nan_to_num().to(x.dtype)

    def loss(output: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(output, y, reduction="none") * known
        return each.sum() / known.sum().clamp(min=1)

    return _minimise(x, present.shape[1], loss)


def _minimise(x: Tensor, outputs: int, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The linear map of x (N, D) to (N, outputs) with the least loss and penalty: weight (D, outputs) and bias."""
    mean, scale = _moments(x)
    fit = _with_one((x - mean) * scale)
    weight = fit.new_zeros(fit.shape[1], outputs).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=STEPS, max_eval=STEPS, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss(fit @ weight) + RIDGE / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[arg-type]
    slope = scale[:, None] * weight.detach()[:-1]
    return slope, weight.detach()[-1] - mean @ slope


def class_flops(n: int, width: int, classes: int) -> float:
    """Of a logistic regression of n examples: two products forward and back, as if every step were taken."""
    return STEPS * 4.0 * n * (width + 1) * classes


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (D, C) and bias (C,) of a ridge regression of y (N, C) on x (N, D), with RIDGE on standardised x."""
    mean, scale = _moments(x)
    weight = _least_squares(_with_one((x - mean) * scale), y - y.mean(0))
    slope = scale[:, None] * weight[:-1]
    return slope, weight[-1] + y.mean(0) - mean @ slope


def _least_squares(fit: Tensor, y: Tensor) -> Tensor:
    penalty = RIDGE * len(fit) * torch.eye(fit.shape[1], dtype=fit.dtype, device=fit.device)
    return torch.linalg.solve(fit.T @ fit + penalty, fit.T @ y)


def value_nll(fit: Tensor, y: Tensor, x: Tensor, truth: Tensor) -> Tensor:
    """Nats per value (M, C) of a ridge regression with Gaussian errors fitted on `fit` (N, D), `y` (N, C).

    log(2 pi v) / 2 + r^2 / 2v, v the mean squared residual of a band in the fit, all in deviations of that band there:
    a band that nothing is known of costs 1.42, in any unit.
    """
    fit, x = (_with_one(t) for t in standardise(fit, x))
    y, truth = standardise(y, truth)
    weight = _least_squares(fit, y)
    variance = (y - fit @ weight).square().mean(0).clamp(min=1e-6)
    return ((2 * math.pi * variance).log() + (truth - x @ weight).square() / variance) / 2


def value_flops(n: int, width: int, values: int) -> float:
    """Of a ridge regression of n examples: the normal equations and the residuals; solving them counts as zero."""
    return 2.0 * n * (width + 1) * (width + 1 + 2 * values)


def knn(fit: Tensor, labels: Tensor, x: Tensor, classes: int, k: int = NEIGHBOURS) -> Tensor:
    """Class (M,) of each row of x by a vote of its k nearest rows of `fit` (N, D) in cosine; a draw: the lowest."""
    fit, x = (F.normalize(t, dim=1) for t in standardise(fit, x))
    nearest = (x @ fit.T).topk(min(k, len(fit)), dim=1).indices
    return F.one_hot(labels[nearest], classes).sum(1).argmax(1)


def rankme(z: Tensor) -> float:
    """Effective rank of z (N, D), 1 to D: exp of the entropy of its singular values scaled to sum 1.

    Garrido et al. 2023, RankMe, arXiv:2210.02885, equation 1, with their 1e-7.
    """
    s = torch.linalg.svdvals(z)
    p = s / s.sum().clamp(min=1e-30) + 1e-7
    return float((-(p * p.log()).sum()).exp())


def spread(z: Tensor, prefix: str = "") -> dict[str, float]:
    """How far z (places, cells, D) is from collapse: std, cosine and rankme, none of which knows the scale of z.

    std: of unit vectors of all cells, times sqrt(D): 1 = even in all directions, 0 = all the same (as Chen and He 2021,
    arXiv:2011.10566, watch it); cosine: mean over pairs of places, of their mean vectors.
    """
    cells = z.flatten(0, 1)
    unit = F.normalize(cells, dim=1)
    place, n = F.normalize(z.mean(1), dim=1).sum(0), len(z)
    return {
        f"{prefix}std": float(unit.std(0, correction=0).mean()) * math.sqrt(z.shape[-1]),
        f"{prefix}cosine": (float(place.square().sum()) - n) / max(1, n * (n - 1)),
        f"{prefix}rankme": rankme(cells),
    }


def alarm(figures: Mapping[str, float]) -> str:
    """What says that the features have collapsed, in words; '' where nothing does."""
    if not figures:
        return "features are not finite"
    signs = []
    for prefix, what in (("", "dense features"), ("token_", "tokens")):
        for name, limit, below in (("rankme", RANK, True), ("std", STD, True), ("cosine", COSINE, False)):
            value = figures.get(prefix + name)
            if value is not None and (value < limit if below else value > limit):
                signs.append(f"{name} of {what} {value:.4g}, {'below' if below else 'above'} {limit:g}")
    return "; ".join(signs)


def _with_one(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)
