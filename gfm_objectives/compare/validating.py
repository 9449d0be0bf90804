"""What validation costs, and the tiles that tuning is judged on where all of them would cost more than the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gfm_objectives.batch import Batch
from gfm_objectives.data.places import Places, spread
from gfm_objectives.data.windows import positions
from gfm_objectives.finetune.evaluation import OVERLAP

if TYPE_CHECKING:
    from gfm_objectives.compare.bench import Bench
    from gfm_objectives.compare.trials import Job

LEAST = 16  # tiles that settings are judged on, whatever they cost: fewer say little


class Some:
    """The tiles `index` of others."""

    def __init__(self, places: Places, index: Sequence[int]) -> None:
        self.places, self.index, self.spec = places, list(index), places.spec

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: Sequence[int]) -> Batch:
        return self.places.read(indices)

    def tiles(self) -> int:
        return len(self.index)

    def tile(self, k: int) -> Batch:
        return self.places.tile(self.index[k])


def windows(bench: Bench, split: str) -> int:
    """How many windows the tiles of a split are predicted by, as far as its first tile tells their size."""
    kept = bench.source(split)
    if not kept.whole:
        return bench.sizes[split]
    size = bench.spec.size
    height, width = kept.source.tile(kept.which[0]).size
    return bench.sizes[split] * len(positions(height, width, size, int(OVERLAP * size)))


def capped(job: Job, forward: float) -> Job:
    """The trial, judged on as many validation tiles as cost what training does; on all, where those cost less.

    forward: FLOPs of a window. The same for all settings of a search, whatever their length.
    """
    tiles, cost = job.bench.sizes["val"], forward * windows(job.bench, "val")
    if cost <= job.flops:
        return job
    judged = max(LEAST, int(tiles * job.flops / cost))
    return replace(job, judged=judged) if judged < tiles else job


def stratified(val: Places, areas: Sequence[str], layer: str, n: int) -> list[int]:
    """n tiles, of every area in turn; and for each class that they do not show and others do, the tile with most."""
    chosen = spread(areas, n)
    shown: dict[int, torch.Tensor] = {}
    for k in range(val.tiles()):
        y = val.tile(k).targets[layer]
        if y.is_floating_point() or y.ndim != 3:
            return chosen  # numbers, or labels of whole tiles
        shown[k] = torch.bincount(y[y >= 0].flatten(), minlength=len(val.spec.legends[layer]))
    counts = torch.stack([shown[k] for k in sorted(shown)])  # (tiles, classes)
    lacking = (counts[chosen].sum(0) == 0) & (counts.sum(0) > 0)
    return sorted({*chosen, *counts.argmax(0)[lacking].tolist()})


def judged_on(jobs: Sequence[Job]) -> list[str]:
    """A line on each task whose tuning is not judged on all of its validation."""
    lines = {}
    for job in jobs:
        if job.judged:
            tiles = job.bench.sizes["val"]
            lines[job.bench.task.name, job.judged] = (
                f"tuning on {job.bench.task.name} is judged on {job.judged} of {tiles} validation tiles, of every area "
                "and class, as all would cost more than the training"
            )
    return list(lines.values())
