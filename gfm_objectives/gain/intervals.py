"""Intervals for mIoU and its differences when both the seeds and the test tiles are samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gfm_objectives.metrics import iou

MIN_SEEDS = 5  # fewer give no interval
DRAWS = 1000  # resamples of the tiles; their share of the error of an interval's length is about 1/sqrt(2 DRAWS) = 2 %


@dataclass(frozen=True, slots=True)
class Sampled:
    """A figure on all tiles, `point` (S,) one per seed, and on R resamples of the tiles, `draws` (R, S).

    areas: how many independent units were resampled. Two of them subtract: same seeds, same resamples, hence paired.
    """

    point: np.ndarray
    draws: np.ndarray
    areas: int

    def __sub__(self, other: Sampled) -> Sampled:
        assert self.draws.shape == other.draws.shape and self.areas == other.areas, "not paired"
        return Sampled(self.point - other.point, self.draws - other.draws, self.areas)

    def take(self, columns: Sequence[int]) -> Sampled:
        """The seeds at these positions."""
        return Sampled(self.point[list(columns)], self.draws[:, list(columns)], self.areas)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, its standard error and degrees of freedom, and the 95 % interval (None: not given)."""

    mean: float
    error: float
    df: float
    interval: tuple[float, float] | None
    seeds: int

    @property
    def verdict(self) -> str:
        """'win' above 0, 'loss' below, 'tie' where the interval holds 0, 'undecided' without an interval."""
        if self.interval is None:
            return "undecided"
        return "win" if self.interval[0] > 0 else "loss" if self.interval[1] < 0 else "tie"


def sample(confusions: Sequence[np.ndarray], groups: Sequence[str], name: str, draws: int = DRAWS) -> Sampled:
    """mIoU of each seed's per-tile matrices (S times (tiles, K, K)) on all tiles and on resamples of the areas.

    Matrices are summed, then scored. Areas are drawn whole, since tiles of one area are not independent; where there
    is only one area its tiles are drawn; areas without a labelled pixel are no areas. The draws depend on `name` (the
    task) alone: every contender of a task meets the same resamples, whichever order they are scored in.
    """
    labelled = confusions[0].sum((1, 2)) > 0  # (tiles,); decided by the labels, so equal for all contenders
    assert labelled.any(), f"{name}: not one labelled pixel"
    units, index = np.unique(np.asarray(groups)[labelled], return_inverse=True)
    if len(units) < 2:
        units = index = np.arange(labelled.sum())
    areas = len(units)
    rng = np.random.default_rng([20000101, *name.encode()])
    weights = torch.from_numpy(rng.multinomial(areas, np.full(areas, 1 / areas), size=draws).astype(np.float64))
    weights = torch.cat([torch.ones(1, areas, dtype=torch.float64), weights])  # row 0: every area once
    columns = []
    for cm in confusions:
        flat = np.zeros((areas, cm.shape[-1] ** 2))
        np.add.at(flat, index, cm[labelled].reshape(len(index), -1))
        summed = (weights @ torch.from_numpy(flat)).view(draws + 1, *cm.shape[-2:])  # (R + 1, K, K)
        columns.append(iou(summed).nanmean(-1).numpy())
    scores = np.stack(columns, 1)  # (R + 1, S)
    return Sampled(scores[0], scores[1:], areas)


def estimate(parts: Sequence[Sampled], seedless: bool = False, confidence: float = 0.95) -> Estimate:
    """Mean over `parts` (one per task: tasks are fixed) and over seeds, with an interval for new seeds and new tiles.

    Seeds and tiles are crossed: every seed is scored on the same tiles. With g_s the figure of seed s (averaged over
    tasks), S seeds, A areas and g* the mean over seeds on a resample of the areas,

        V  = a + b,  a = var_s(g_s) / S,  b = var(g*) A / (A - 1)
        df = V^2 / (a^2 / (S - 1) + b^2 / (A - 1))
        mean +- t(df) sqrt(V)

    var_s divides by S - 1. This is the variance of a bootstrap that draws seeds and tiles independently, freed of its
    factors (S - 1) / S and (A - 1) / A, with Student's t at Satterthwaite's degrees of freedom in place of percentiles:
    at S = 5 and variation among seeds alone, the t interval with 4 degrees of freedom, where percentiles are too short
    by sqrt(4 / 5) and 1.96 / 2.78. The noise of single seeds on single tiles is in a and in b; counting it twice errs
    on the side of caution. Several tasks: b is the sum over tasks / T^2, their tiles being drawn independently.

    Source: Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1 (2007) 386, for crossed resampling and its bias;
    Satterthwaite, Biometrics Bull. 2 (1946) 110, for df.

    seedless: contenders without training have one column and only the tiles' variation. Below MIN_SEEDS no interval.
    """
    by_seed = np.mean([p.point for p in parts], 0)  # (S,)
    seeds, tasks = len(by_seed), len(parts)
    mean = float(by_seed.mean())
    if not seedless and seeds < MIN_SEEDS:
        return Estimate(mean, math.nan, math.nan, None, seeds)
    among = 0.0 if seedless else float(by_seed.var(ddof=1)) / seeds
    areas = [max(p.areas - 1, 1) for p in parts]  # degrees of freedom
    tiles = [float(p.draws.mean(1).var()) * (df + 1) / df / tasks**2 for p, df in zip(parts, areas, strict=True)]
    variance = among + sum(tiles)
    spread = 0.0 if seedless else among**2 / (seeds - 1)
    spread += sum(b**2 / df for b, df in zip(tiles, areas, strict=True))
    if not variance > 1e-24:  # identical everywhere: rounding only
        return Estimate(mean, 0.0, math.inf, (mean, mean), seeds)
    from scipy.stats import t

    df = variance**2 / spread
    half = float(t.ppf(0.5 + confidence / 2, df)) * math.sqrt(variance)
    return Estimate(mean, math.sqrt(variance), df, (mean - half, mean + half), seeds)
