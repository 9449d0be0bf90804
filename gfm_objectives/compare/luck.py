"""What needs no model: the figure of one answer given everywhere. Trained rows that are not better learned nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.metrics import METRICS, MOMENTS, Metric
from gfm_objectives.scores import Score

MARGIN = 0.005  # of what a metric runs through from the constant answer to perfection


def at_chance(scores: Sequence[Score]) -> list[str]:
    """A line for each task with trained rows whose test figure, all seeds pooled, is no better than one answer."""
    out = []
    for task in dict.fromkeys(s.task for s in scores):
        mine = [s for s in scores if s.task == task and s.role != "untrained"]
        weak = []
        for cell in dict.fromkeys((s.contender, s.fraction) for s in mine):
            some = [s for s in mine if (s.contender, s.fraction) == cell]
            stats = torch.from_numpy(sum(np.asarray(s.stats).sum(0, dtype=np.float64) for s in some))
            metric = METRICS[some[0].metric]
            if _no_better(metric, stats):
                weak.append(f"{cell[0]} ({100 * cell[1]:g} %)")
        if weak:
            out.append(f"{task}: at chance, no better than one answer everywhere: {', '.join(weak)}.")
    return out


def _no_better(metric: Metric, stats: Tensor) -> bool:
    constant, value = best_constant(metric, stats), float(metric.of(stats))
    best = 1.0 if metric.better > 0 else 0.0
    return metric.better * (value - constant) <= MARGIN * abs(best - constant)


def best_constant(metric: Metric, stats: Tensor) -> float:
    """The best figure of a prediction that is the same everywhere, from the statistics (*shape) of any prediction."""
    if metric.statistic == "confusion":
        truth = stats.sum(-1)  # (K,)
        answers = torch.diag_embed(torch.ones_like(truth))[:, None, :] * truth[:, None]  # (answer, truth, predicted)
        return float(metric.of(answers).nan_to_num(0).max())
    if metric.statistic == "moments":  # of the mean: the error is the truth's own deviation
        n, y, y2 = (stats[MOMENTS.index(k)] for k in ("n", "y", "y2"))
        deviation = (y2 / n - (y / n) ** 2).clamp(min=0)
        constant = torch.stack([n, y, y2, torch.zeros_like(n), n * deviation.sqrt(), n * deviation])
        return float(metric.of(constant))
    absent, present = stats.sum(-1).unbind(-1)  # of scores: every place alike, at the middle of the histogram
    constant = torch.zeros_like(stats)
    half = stats.shape[-1] // 2
    constant[:, 0, half], constant[:, 1, half] = absent, present
    return float(metric.of(constant))
