"""Task: what a downstream task declares. The data it names is built above, so tasks know nothing of readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled problem.

    data: options of the source that holds it (its spec.legends[layer] names the classes); layer: the target to predict;
    train, val, test: how many places of each split are used (None = all); kind: a key of tasks.kinds.KINDS, which says
    what targets look like; metric: one of its kind's, by which settings and opponents are chosen and gains measured;
    recode: pretraining-map label -> task label, for the row that needs no training; index: a spectral index row,
    (plus - minus) / (plus + minus) > threshold, as {sensor, plus, minus, threshold, above, below} with task labels;
    with change: true its drop from the first date to the last (dNBR); with only: [map labels] nowhere else; offset,
    scale: mean and deviation of a regression's training labels, see kinds.standardised, never from the yaml.
    """

    name: str
    data: Mapping[str, Any]
    layer: str
    train: int | None = None
    val: int | None = None
    test: int | None = None
    kind: str = "segmentation"
    metric: str = "miou"
    recode: Mapping[int, int] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None
    offset: float = 0.0
    scale: float = 1.0
