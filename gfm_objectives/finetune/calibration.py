"""How far a model's probabilities can be believed: a temperature fitted on validation, and reliability on test.

Everything is an additive statistic of tiles, so that it goes through `evaluate` like any score and no logits are kept.
Temperature scaling and the expected calibration error with 15 bins: Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.data.places import Places
from gfm_objectives.finetune.evaluation import evaluate
from gfm_objectives.tasks.kinds import Segmentation

TEMPERATURES = tuple(float(t) for t in np.geomspace(0.25, 8.0, 36))  # a step of 10 %; between them a parabola
BINS = 15
QUANTILES = 256  # of the distances from what is familiar
STRIDE = 4  # of every so many pixels a side one is looked at
RIDGE = 1e-3  # of the mean variance, added to every variance


@dataclass(frozen=True, slots=True)
class Likelihoods(Segmentation):
    """Of each tile, (temperatures + 1,): the negative log-likelihood of its labels at each of TEMPERATURES, summed, and
    their number."""

    def observe(self, output: Tensor, target: Tensor, classes: int) -> Tensor:
        output, target = output.cpu().double(), target.cpu()
        sums = [
            F.cross_entropy(output / t, target, ignore_index=-1, reduction="none").flatten(1).sum(1)
            for t in TEMPERATURES
        ]
        return torch.stack([*sums, (target >= 0).flatten(1).sum(1).double()], 1)


@dataclass(frozen=True, slots=True)
class Reliability(Segmentation):
    """Of each tile, (classes, BINS, 3): of pixels that are said to be of a class with a probability in each bin, how
    many they are, the sum of the probabilities, and how many of them are."""

    temperature: float = 1.0

    def observe(self, output: Tensor, target: Tensor, classes: int) -> Tensor:
        target = target.cpu()
        confidence, said = (output.cpu().float() / self.temperature).softmax(1).max(1)  # (B, H, W)
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        out = torch.zeros(len(target), classes * BINS, 3, dtype=torch.double)
        for b in range(len(target)):
            keep = target[b] >= 0
            cell = (said[b] * BINS + bins[b])[keep]
            for k, amount in enumerate((torch.ones_like(cell), confidence[b][keep], said[b][keep] == target[b][keep])):
                out[b, :, k] = torch.bincount(cell, amount.double(), minlength=classes * BINS)
        return out.unflatten(1, (classes, BINS))


def best_temperature(sums: Tensor) -> float:
    """Of the summed statistics of `Likelihoods`, the temperature at the bottom of the parabola through the least value
    and its neighbours, in log temperature; 1 where nothing was labelled."""
    if not sums[-1]:
        return 1.0
    nll, log = sums[:-1].numpy(), np.log(TEMPERATURES)
    k = int(np.clip(nll.argmin(), 1, len(nll) - 2))
    a, b, c = nll[k - 1 : k + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c > 0 else 0.0
    return float(np.exp(log[k] + np.clip(shift, -1, 1) * (log[1] - log[0])))


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error of the summed statistics of `Reliability`: over bins, |confidence - accuracy| by their
    pixels; NaN where there are none."""
    n, confidence, right = sums.sum(0).unbind(-1)  # (BINS,)
    return float((confidence - right).abs().sum() / n.sum()) if n.sum() else float("nan")


def calibrate(
    model: nn.Module, val: Places, test: Places, layer: str, legend: Sequence[str], size: int, **where: Any
) -> tuple[float, dict[str, Any]]:
    """The temperature that suits `val`, and what it does on `test`: calibration errors before and after, and for each
    class [pixels, mean probability, share that is right] of every bin after."""
    about = (layer, len(legend), size)
    likelihoods, _ = evaluate(model, val, Likelihoods("segmentation", ()), *about, **where)
    temperature = best_temperature(likelihoods.sum(0))
    before, after = (
        evaluate(model, test, Reliability("segmentation", (), temperature=t), *about, **where)[0].sum(0)
        for t in (1.0, temperature)
    )
    curves = {name: _curve(after[k]) for k, name in enumerate(legend)}
    errors = {"ece_before": calibration_error(before), "ece_after": calibration_error(after)}
    return temperature, {"temperature": temperature, **errors, "reliability": curves}


def _curve(bins: Tensor) -> list[list[float]]:
    return [[float(n), float(p / n), float(right / n)] for n, p, right in bins if n]


# ---------------------------------------------------------------------------------------------------------------------
# What is familiar


def head_of(model: nn.Module) -> nn.Conv2d:
    """The convolution that reads a model's last features."""
    return next(m for m in model.head.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]


class Watch:
    """While entered, `take` gives the features (N, D) that the head has read since, of every STRIDE-th pixel."""

    def __init__(self, model: nn.Module, stride: int = STRIDE) -> None:
        self.head, self.stride, self.read = head_of(model), stride, []  # type: ignore[var-annotated]

    def __enter__(self) -> Watch:
        self.hook = self.head.register_forward_pre_hook(lambda _, inputs: self._see(inputs[0]))
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _see(self, x: Tensor) -> None:
        some = x[:, :, self.stride // 2 :: self.stride, self.stride // 2 :: self.stride]
        self.read.append(some.detach().float().cpu().movedim(1, -1).flatten(0, -2))

    def take(self) -> Tensor:
        out, self.read = torch.cat(self.read), []
        return out


@dataclass(frozen=True, slots=True)
class _Watched(Segmentation):
    """Of each tile nothing; what was watched goes to `to` before more comes."""

    watch: Any = None
    to: Any = None

    def observe(self, output: Tensor, target: Tensor, classes: int) -> Tensor:
        if self.watch.read:
            self.to(self.watch.take())
        return torch.zeros(len(output), 1)


def familiar(model: nn.Module, train: Places, val: Places, layer: str, size: int, **where: Any) -> dict[str, Tensor]:
    """What the head reads on the training places, as a Gaussian: mean (D,) and whiten (D, D); and quantiles
    (QUANTILES,) of the distances from it on validation, see `distance`."""
    total: dict[str, Tensor] = {}

    def add(x: Tensor) -> None:
        x = x.double()
        for key, value in (("n", torch.tensor(float(len(x)))), ("x", x.sum(0)), ("xx", x.T @ x)):
            total[key] = total.get(key, 0) + value

    far: list[Tensor] = []
    with Watch(model) as watch:
        evaluate(model, train, _Watched("segmentation", (), watch=watch, to=add), layer, 1, size, **where)
        mean = total["x"] / total["n"]
        cov = total["xx"] / total["n"] - mean[:, None] * mean
        cov += torch.eye(len(mean), dtype=cov.dtype) * max(float(cov.diagonal().mean()) * RIDGE, 1e-12)
        whiten = torch.linalg.inv(torch.linalg.cholesky(cov)).T
        out = {"mean": mean.float(), "whiten": whiten.float()}
        evaluate(
            model,
            val,
            _Watched("segmentation", (), watch=watch, to=lambda x: far.append(distance(x, out))),
            layer,
            1,
            size,
            **where,
        )
    levels = torch.linspace(0, 1, QUANTILES, dtype=torch.double)
    return out | {"quantiles": torch.from_numpy(np.quantile(torch.cat(far).numpy(), levels.numpy())).float()}


def distance(x: Tensor, known: Mapping[str, Tensor]) -> Tensor:
    """Mahalanobis distance (N,) of features x (N, D) from what is familiar (Lee et al. 2018, arXiv:1807.03888)."""
    return ((x - known["mean"].to(x)) @ known["whiten"].to(x)).square().mean(-1).sqrt()


def strangeness(x: Tensor, known: Mapping[str, Tensor]) -> Tensor:
    """(N,) in 0..1: the share of validation pixels that are nearer to what is familiar than features x (N, D)."""
    marks = known["quantiles"].to(x)
    return torch.searchsorted(marks, distance(x, known)).float() / len(marks)
