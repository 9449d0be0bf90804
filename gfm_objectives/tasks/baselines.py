"""Rows of the comparison that need no training: the map in the task's legend, and a spectral index."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import calibration
from gfm_objectives.tasks.task import Task


def rules(task: Task) -> dict[str, Callable[[Batch], Tensor]]:
    """Kind of contender -> its rule, any Batch -> the class of every pixel (B, H, W) long, as far as the task declares
    it: `map` needs `recode`, `index` needs `index`. A rule looks at one place at a time, whatever world it is of."""
    declared = {"map": (recode_map, task.recode), "index": (spectral_index, task.index)}
    return {kind: partial(rule, task) for kind, (rule, options) in declared.items() if options}


def recode_map(task: Task, batch: Batch) -> Tensor:
    """The pretraining map in the task's legend, (B, H, W) long.

    Map labels that `task.recode` does not list, and pixels without a map, get recode[-1], by default 0.
    """
    if not task.recode or "map" not in batch.targets:
        raise InputError(f"task {task.name}: the map row needs `recode` and data with a layer named map")
    out = torch.full_like(batch.targets["map"], task.recode.get(-1, 0))
    for source, label in task.recode.items():
        if source >= 0:
            out[batch.targets["map"] == source] = label
    return out


def spectral_index(task: Task, batch: Batch) -> Tensor:
    """(plus - minus) / (plus + minus) > threshold on each pixel's last valid date, (B, H, W) long.

    Where the index asks for the change, its value on the pixel's first valid date less that on its last; where it
    names map labels, pixels of the noisy map with other labels are `below`. Computed in the sensor's unit, not on
    normalised values. Pixels with no valid date are `below`.
    """
    if task.index is None:
        raise InputError(f"task {task.name}: the spectral index row needs `index`")
    sensor, plus, minus = (task.index[k] for k in ("sensor", "plus", "minus"))
    series = batch.sensors.get(sensor)
    if series is None or plus not in series.bands or minus not in series.bands:
        raise InputError(
            f"task {task.name}: index needs the bands {plus} and {minus} of {sensor}, absent from the data"
        )
    pick = [series.bands.index(plus), series.bands.index(minus)]
    x = calibration(sensor, series.level).denormalise(series.x[:, :, pick], [plus, minus])  # (B, T, 2, H, W)
    value = (x[:, :, 0] - x[:, :, 1]) / (x[:, :, 0] + x[:, :, 1])  # (B, T, H, W), NaN where both are 0: below
    order = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None, None]
    last = (series.valid * order).argmax(1, keepdim=True)  # (B, 1, H, W); 0 where none is valid
    shown = value.gather(1, last)[:, 0]
    if task.index.get("change"):
        first = (series.valid * order.flip(0)).argmax(1, keepdim=True)
        shown = value.gather(1, first)[:, 0] - shown
    above = (shown > task.index["threshold"]) & series.valid.any(1)
    if only := task.index.get("only"):
        if "map" not in batch.targets:
            raise InputError(f"task {task.name}: index.only needs data with a layer named map")
        above &= torch.isin(batch.targets["map"], torch.tensor(only, device=x.device))
    return torch.where(above, task.index["above"], task.index["below"])
