"""Intervals for test figures and their differences: seeds and test areas are samples, tasks are fixed.

Two designs. *Crossed*: all seeds are scored on the same test areas (real data); an interval is for new seeds and new
areas. *Nested*: every seed has areas of its own (seed s of the synthetic comparison lives on Earth s); what a seed's
areas add is then already in what varies among seeds, and Student's t is all there is to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from gfm_objectives.errors import InputError

MIN_SEEDS = 5  # fewer give no interval
DRAWS = (
    1000  # reweightings of the areas; their share of the error of an interval's length is about 1/sqrt(2 DRAWS) = 2 %
)
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Sampled:
    """A figure of each of S seeds, `point` (S,), and of R reweightings of the areas, `draws` (R, S); nested: None.

    areas: of each seed, the names of the areas that were scored. Two of them subtract: same seeds, areas and draws,
    hence paired.
    """

    point: np.ndarray
    draws: np.ndarray | None
    areas: tuple[tuple[str, ...], ...]

    def __sub__(self, other: Sampled) -> Sampled:
        assert self.areas == other.areas, f"not paired: {self.areas} and {other.areas}"
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        return Sampled(self.point - other.point, draws, self.areas)

    def __mul__(self, sign: int) -> Sampled:
        """With the sign that makes more better."""
        return Sampled(self.point * sign, None if self.draws is None else self.draws * sign, self.areas)

    def take(self, columns: Sequence[int]) -> Sampled:
        """The seeds at these positions."""
        chosen = list(columns)
        draws = None if self.draws is None else self.draws[:, chosen]
        return Sampled(self.point[chosen], draws, tuple(self.areas[c] for c in chosen))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, its standard error and degrees of freedom, and the 95 % interval; else why there is none."""

    mean: float
    error: float
    df: float
    interval: tuple[float, float] | None
    seeds: int
    why: str = ""

    @property
    def verdict(self) -> str:
        """'win' above 0, 'loss' below, 'tie' where the interval holds 0, 'undecided' without an interval."""
        if self.interval is None:
            return "undecided"
        return "win" if self.interval[0] > 0 else "loss" if self.interval[1] < 0 else "tie"


# ---------------------------------------------------------------------------------------------------------------------
# Reweighting


def sample(
    stats: Sequence[np.ndarray],
    groups: Sequence[Sequence[str]],
    figure: Callable[[Tensor], Tensor],
    draws: int = DRAWS,
) -> Sampled:
    """The figure of each seed's summed statistics, as they are and with the areas reweighted.

    stats: of each of S seeds (tiles, *shape), additive; groups: of each seed, the area of each tile; figure: sums
    (..., *shape) to (...), the same for k times the sums. Tiles of one area are not independent, so areas are weighted
    whole; where there is only one, its tiles are. An area without any label (all statistics 0) is none.

    Crossed seeds get the Bayesian bootstrap: weights Exp(1) scaled to a mean of 1, that is Dirichlet(1, ..., 1)
    times the number of areas (Rubin, Ann. Statist. 9 (1981) 130, https://doi.org/10.1214/aos/1176345338). No area ever
    vanishes, so that a class that lives in one of them does not either, as it would in drawing with replacement. The
    weights of an area are a function of its name alone: contenders of a task meet the same draws, and so do tasks that
    share ground, be it a part of it. Nested seeds need no draws. InputError where seeds share areas in part.
    """
    summed = [_by_area(s, g) for s, g in zip(stats, groups, strict=True)]
    areas = tuple(names for names, _ in summed)
    if nested(areas):
        points = [figure(torch.from_numpy(flat.sum(0))) for _, flat in summed]
        return Sampled(np.array([float(p) for p in points]), None, areas)
    weights = torch.from_numpy(np.stack([_weights(a, draws) for a in areas[0]], 1))  # (R, A)
    weights = torch.cat([torch.ones(1, len(areas[0]), dtype=torch.float64), weights / weights.mean(1, keepdim=True)])
    columns = [
        torch.cat([figure(torch.tensordot(w, torch.from_numpy(flat), 1)) for w in weights.split(128)]).numpy()
        for _, flat in summed
    ]
    scores = np.stack(columns, 1)  # (R + 1, S)
    return Sampled(scores[0], scores[1:], areas)


def nested(areas: Sequence[Sequence[str]], seeds: Sequence[int] | None = None, what: str = "the test areas") -> bool:
    """Whether every seed has areas of its own; False where all share them. InputError for anything between.

    areas: of each seed; seeds: their numbers, and `what` is scored on them, for the message.
    """
    sets = [frozenset(a) for a in areas]
    if all(s == sets[0] for s in sets):
        return False
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[:i]):
            if a & b:
                one, two = (seeds[j], seeds[i]) if seeds else (j, i)
                raise InputError(
                    f"{what}: seeds {one} and {two} share {len(a & b)} of {len(a | b)} test areas; the seeds of a task "
                    "share all of them (real data) or none (each on an Earth of its own); run the task again"
                )
    return True


def _by_area(stats: np.ndarray, groups: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the areas that have labels, in order, and their sums (A, *shape)."""
    labelled = stats.reshape(len(stats), -1).any(1)  # decided by the labels, so equal for all contenders
    assert labelled.any(), "not one label in the test tiles"
    names, index = np.unique(np.asarray(groups)[labelled], return_inverse=True)
    kept = stats[labelled].astype(np.float64)
    if len(names) == 1:
        return tuple(f"{names[0]}/{i}" for i in np.flatnonzero(labelled)), kept
    summed = np.zeros((len(names), *stats.shape[1:]))
    np.add.at(summed, index, kept)
    return tuple(str(n) for n in names), summed


@lru_cache(maxsize=8192)
def _weights(area: str, draws: int) -> np.ndarray:
    """Exp(1), (R,): the stream of an area."""
    return np.random.default_rng([20000101, *area.encode()]).standard_exponential(draws)


# ---------------------------------------------------------------------------------------------------------------------
# Intervals


def estimate(parts: Sequence[Sampled], seedless: bool = False, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over `parts` (one per task: tasks are fixed) and over seeds, with an interval for new seeds and new areas.

    With g_s the figure of seed s, averaged over the T tasks, and S seeds,

        V  = a + b,  a = var_s(g_s) / S
        df = V^2 / (a^2 / (S - 1) + sum over c of b_c^2 / df_c)
        mean +- t(df) sqrt(V)

    b is what new areas would change, of crossed tasks only: with nested seeds it is 0, and what is left is the t
    interval over seeds, mean +- t(S - 1) sd / sqrt(S). The areas that tasks share are drawn jointly, so b is no sum
    over tasks: it is summed over components c, tasks that areas connect, and b_c is the variance over the draws of the
    sum over the tasks t in c of

        sqrt((A_t + 1) / (A_t - 1)) (g*_t - mean of g*_t) / T,

    g*_t the mean over seeds of task t on a reweighting of its A_t areas. The root undoes the bias of the Bayesian
    bootstrap: Dirichlet weights give a mean of A values the variance (A - 1) / (A (A + 1)) s^2, and it has s^2 / A.
    df_c is the mean of A_t - 1, harmonic, each task weighing as its standard deviation does: A - 1 where all tasks have
    the same A areas. (All areas of the component minus one would be too many where a task of few areas has most of the
    variance: coverage .91 in a simulation of 8 of 40 areas.)

    This is the variance of a bootstrap that draws seeds and areas independently, freed of its bias, with Student's t at
    Satterthwaite's degrees of freedom in place of percentiles, which are too short. The noise of single seeds on single
    areas is in a and in b; counting it twice errs on the side of caution.

    Sources: Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1 (2007) 386, for crossed resampling and its bias;
    Satterthwaite, Biometrics Bull. 2 (1946) 110, for df.

    seedless: rows without training on crossed tasks have one column, and vary with the areas only. No interval below
    MIN_SEEDS, nor where a crossed task has but one tile.
    """
    by_seed = np.mean([p.point for p in parts], 0)  # (S,)
    seeds, mean = len(by_seed), float(by_seed.mean())
    crossed = [p for p in parts if p.draws is not None]
    if not seedless and seeds < MIN_SEEDS:
        return Estimate(mean, math.nan, math.nan, None, seeds, f"{seeds} seed{'s' * (seeds != 1)}")
    if any(len(p.areas[0]) < 2 for p in crossed):
        return Estimate(mean, math.nan, math.nan, None, seeds, "one test tile")
    pieces = [_component(c, len(parts)) for c in _components(crossed)]
    if not seedless:
        pieces.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1.0))
    variance = sum(v for v, _ in pieces)
    if not math.isfinite(variance):  # R2 of a constant truth, say
        return Estimate(mean, math.nan, math.nan, None, seeds, "not defined for every seed")
    if not variance > 1e-24 * max(1.0, mean**2):  # identical everywhere: rounding only
        return Estimate(mean, 0.0, math.inf, (mean, mean), seeds)
    df = variance**2 / sum(v**2 / d for v, d in pieces)
    half = _t(df, confidence) * math.sqrt(variance)
    return Estimate(mean, math.sqrt(variance), df, (mean - half, mean + half), seeds)


def over_tasks(means: Sequence[float]) -> Estimate:
    """The mean of T tasks' figures with tasks as a sample: mean +- t(T - 1) sd / sqrt(T). Not given below 3 tasks."""
    tasks, mean = len(means), float(np.mean(means))
    if tasks < 3:
        return Estimate(mean, math.nan, math.nan, None, tasks, f"{tasks} task{'s' * (tasks != 1)}")
    sd = float(np.std(means, ddof=1))
    half = half_width(tasks, sd)
    return Estimate(mean, sd / math.sqrt(tasks), tasks - 1, (mean - half, mean + half), tasks)


def half_width(seeds: int, sd: float) -> float:
    """Of the interval for the mean of `seeds` values whose standard deviation is `sd`: t(S - 1) sd / sqrt(S)."""
    return _t(seeds - 1, CONFIDENCE) * sd / math.sqrt(seeds)


def _t(df: float, confidence: float) -> float:
    return float(student.ppf(0.5 + confidence / 2, df))


def _components(parts: Sequence[Sampled]) -> list[list[Sampled]]:
    """Tasks that are connected by areas they share, directly or through others."""
    found: list[tuple[set[str], list[Sampled]]] = []
    for part in parts:
        areas, members = set(part.areas[0]), [part]
        for other in [f for f in found if f[0] & areas]:
            found.remove(other)
            areas, members = areas | other[0], other[1] + members
        found.append((areas, members))
    return [members for _, members in found]


def _component(members: Sequence[Sampled], tasks: int) -> tuple[float, float]:
    """b_c and df_c of `estimate`."""
    deviations, freedom = [], []
    for p in members:
        assert p.draws is not None
        g, areas = p.draws.mean(1), len(p.areas[0])  # (R,)
        deviations.append(math.sqrt((areas + 1) / (areas - 1)) * (g - g.mean()) / tasks)
        freedom.append(areas - 1)
    spread = np.array([d.std() for d in deviations])
    variance = float(np.sum(deviations, 0).var())
    return variance, float(spread.sum() / (spread / freedom).sum()) if spread.any() else float(min(freedom))
