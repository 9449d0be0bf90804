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
    tasks), S seeds, A areas,

        V  = var_s(g_s) / S + max(c, 0)          (the variance of the mean)
        df = V^2 / ((var_s(g_s) / S)^2 / (S - 1) + c^2 / (A - 1))
        mean +- t(df) sqrt(V)

    var_s divides by S - 1; c is the covariance between two seeds' figures that the shared tiles cause, from resampling
    the areas, times A / (A - 1). The first term holds the seeds' variation and the seed-by-tile noise, the second what
    more seeds cannot remove; neither is counted twice. For S = 5 and variation among seeds alone it is the t interval
    with 4 degrees of freedom. A percentile bootstrap over S = 5 seeds is too short by sqrt((S - 1) / S) and by
    1.96 / 2.78. Several tasks: c is summed over tasks / T^2, since their tiles are drawn independently.

    Source: multi-reader multi-case studies (readers = seeds, cases = tiles): Obuchowski and Rockette,
    Commun. Stat. Simul. Comput. 24 (1995) 285; Hillis, Stat. Med. 26 (2007) 596 for df, here with the
    term of the areas added (Satterthwaite), as tests may have few.

    seedless: contenders without training have one column and only the tiles' variation. Below MIN_SEEDS no interval.
    """
    by_seed = np.mean([p.point for p in parts], 0)  # (S,)
    seeds, tasks = len(by_seed), len(parts)
    mean = float(by_seed.mean())
    if not seedless and seeds < MIN_SEEDS:
        return Estimate(mean, math.nan, math.nan, None, seeds)
    among = 0.0 if seedless else float(by_seed.var(ddof=1)) / seeds
    shared = [max(_shared(p), 0.0) / tasks**2 for p in parts]
    variance = among + sum(shared)
    spread = 0.0 if seedless else among**2 / (seeds - 1)
    spread += sum(c**2 / max(p.areas - 1, 1) for c, p in zip(shared, parts, strict=True))
    if not variance > 1e-24:  # identical everywhere: rounding only
        return Estimate(mean, 0.0, math.inf, (mean, mean), seeds)
    from scipy.stats import t

    df = variance**2 / spread
    half = float(t.ppf(0.5 + confidence / 2, df)) * math.sqrt(variance)
    return Estimate(mean, math.sqrt(variance), df, (mean - half, mean + half), seeds)


def _shared(part: Sampled) -> float:
    """Covariance between two seeds through the tiles they share; with one column its variance over the tiles."""
    seeds = part.draws.shape[1]
    if part.areas < 2:
        return 0.0
    own = part.draws.var(0, ddof=1)  # (S,)
    total = part.draws.sum(1).var(ddof=1)
    covariance = own[0] if seeds == 1 else (total - own.sum()) / (seeds * (seeds - 1))
    return float(covariance) * part.areas / (part.areas - 1)
