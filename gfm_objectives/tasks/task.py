"""Task: what a downstream task declares. The data it names is built above, so tasks know nothing of readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gfm_objectives.sensors import Legend


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled problem.

    data: options of the source that holds it; layer: the target to predict, in `legend`, -1 = ignored;
    train, val, test: how many places of each split are used (None = all); recode: pretraining-map label -> task label,
    for the row that needs no training; index: a spectral index row, {sensor, plus, minus, threshold, above, below}.
    """

    name: str
    data: Mapping[str, Any]
    layer: str
    legend: Legend
    train: int | None = None
    val: int | None = None
    test: int | None = None
    kind: str = "segmentation"
    metric: str = "miou"
    recode: Mapping[int, int] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None
