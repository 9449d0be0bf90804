"""Does what is measured in pretraining predict the score after fine-tuning? Rank correlations with intervals.

Spearman's rho with the interval of Bonett and Wright (2000, https://doi.org/10.1007/BF02294183), who add rho^2 / 2 to
the variance of Fisher's z. Runs of one contender are no independent witnesses of what sets contenders apart, so the two
questions are kept apart: between contenders, over their means; and within them, over what is left of each run once its
contender's mean is taken off, which is the luck of a seed. Few values agree in rank by chance (four of them one time in
twelve, up or down), so fewer than MIN_VALUES give no correlation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from gfm_objectives.runs.ledger import Ledger

MIN_VALUES = 5  # independent ones
# figure -> the number that should rise with the score
FIGURES: Mapping[str, Callable[[Ledger], float | None]] = {
    "map_nll": lambda m: _negative(m.yardstick.get("map_nll")),
    "sensor_nll": lambda m: _negative(m.yardstick.get("sensor_nll")),
    "date_nll": lambda m: _negative(m.yardstick.get("date_nll")),
    "knn": lambda m: m.yardstick.get("knn"),
    "rankme": lambda m: m.yardstick.get("rankme"),
    "loss": lambda m: _negative(m.loss),
}
INCOMPARABLE = ("loss",)  # between contenders: each has its own


@dataclass(frozen=True, slots=True)
class Correlation:
    """rho in -1..1 over n independent values."""

    rho: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        z = math.atanh(max(-0.9999, min(0.9999, self.rho)))
        half = 1.959964 * math.sqrt((1 + self.rho**2 / 2) / (self.n - 3))
        return math.tanh(z - half), math.tanh(z + half)


def correlations(
    runs: Mapping[str, Sequence[tuple[Ledger, float]]],
) -> dict[str, tuple[Correlation | None, Correlation | None]]:
    """Figure -> its correlation with the score (between contenders, within them); None where it cannot be told.

    runs: contender -> (ledger of a pretraining run, score of what was fine-tuned from it, the higher the better).
    Figures that some run lacks are left out.
    """
    out = {}
    for name, figure in FIGURES.items():
        values = {c: [(figure(ledger), score) for ledger, score in members] for c, members in runs.items()}
        if any(v is None or not math.isfinite(v) for pairs in values.values() for v, _ in pairs):
            continue
        arrays = [np.array(pairs, dtype=float) for pairs in values.values()]  # each (runs, 2)
        means = np.array([a.mean(0) for a in arrays])
        rest = np.concatenate([a - a.mean(0) for a in arrays]).round(12)  # or rounding would break ties
        between = None if name in INCOMPARABLE else _spearman(means, len(means))
        out[name] = between, _spearman(rest, len(rest) - len(arrays) + 1)  # a mean was taken off each contender
    return out


def _spearman(pairs: np.ndarray, n: int) -> Correlation | None:
    if n < MIN_VALUES or (pairs.std(0) < 1e-12).any():
        return None
    return Correlation(float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic), n)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
