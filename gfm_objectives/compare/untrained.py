"""Rows that need no training: the map in the task's legend and a spectral index, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.compare.bench import Bench
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


def predict_untrained(
    kind: str, bench: Bench, split: str, show: Sequence[int] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Statistics of every tile (tiles, *shape), and the predictions of the tiles to show."""
    source, stats, shown = bench.source(split), [], []
    for k in range(source.tiles()):
        tile = source.tile(k)
        pred = RULES[kind].predict(bench.task, tile)
        certain = F.one_hot(pred, bench.channels).movedim(-1, 1).float()  # as logits: the class has the largest
        stats.append(bench.kind.observe(certain, tile.targets[bench.task.layer], bench.classes))
        if k in show:
            shown.append(pred[0].numpy().astype(np.int16))
    return np.concatenate([np.asarray(s) for s in stats]), shown
