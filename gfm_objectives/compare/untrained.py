"""Rows that need no training: the map in the task's legend, and a spectral index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.compare.bench import Bench
from gfm_objectives.finetune import evaluate_rule
from gfm_objectives.tasks.baselines import recode_map, spectral_index
from gfm_objectives.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Rule:
    """declared: whether the task has what it needs; predict: (task, batch) -> class of every pixel (B, H, W)."""

    declared: Callable[[Task], bool]
    predict: Callable[[Task, Batch], Tensor]


RULES = {
    "map": Rule(lambda task: bool(task.recode), recode_map),
    "index": Rule(lambda task: task.index is not None, spectral_index),
}


def evaluate_untrained(
    kind: str, bench: Bench, split: str, show: Sequence[int] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Statistics of every tile (tiles, *shape), and the predictions of the tiles to show."""
    rule = partial(RULES[kind].predict, bench.task)
    stats, shown = evaluate_rule(rule, bench.source(split), bench.kind, bench.task.layer, bench.classes, show)
    return stats.numpy(), shown
