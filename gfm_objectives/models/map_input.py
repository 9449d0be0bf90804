"""The noisy map as an input: the rivals that pretraining on the map must beat are shown the map itself."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import MAP, SENSORS


class WithMap(nn.Module):
    """Batch -> what `model`, built for `spec_with_map`, gives for the batch with its map of `classes` as a sensor.

    The model's encoder and head have the names that they have in it, so that whoever goes by names (learning rates,
    frozen parts, the fitting of the head) need not know of the wrapper.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for part in ("encoder", "head"):  # before the model: a parameter is listed under its first name
            if part in dict(model.named_children()):
                setattr(self, part, model.get_submodule(part))
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model(with_map(batch, self.classes))


def with_map(batch: Batch, classes: int) -> Batch:
    """The batch with its target `map` (B, H, W) as a sensor: one date of a band per class, 1 where the map has it.

    Without a label (-1) a pixel is invalid and 0 in every band. A map has no season: its day is 0.
    """
    label = batch.targets[MAP][:, None]  # (B, 1, H, W)
    band = torch.arange(classes, device=label.device)[:, None, None]
    x = (label[:, :, None] == band).float()  # (B, 1, K, H, W)
    series = Series(x, label >= 0, torch.zeros_like(batch.gsd)[:, None], _bands(classes))
    return batch.replace(sensors={**batch.sensors, MAP: series})


def spec_with_map(spec: Spec) -> Spec:
    """What `with_map` makes of batches of `spec`. InputError without a map, or where it has too many classes."""
    classes = map_classes(spec)
    if classes > len(SENSORS[MAP].bands):
        raise InputError(f"the map has {classes} classes; as an input it may have {len(SENSORS[MAP].bands)}")
    return dataclasses.replace(spec, bands={**spec.bands, MAP: _bands(classes)}, dates={**spec.dates, MAP: 1})


def map_classes(spec: Spec) -> int:
    """Classes of the layer `map`; InputError where the data has none."""
    if MAP not in spec.legends:
        raise InputError(
            f"the map as an input: this data has no layer {MAP!r}, but {', '.join(spec.legends) or 'none'}"
        )
    return len(spec.legends[MAP])


def _bands(classes: int) -> tuple[str, ...]:
    return SENSORS[MAP].band_names[:classes]
