"""Places as their records hold them: bytes until they are on the device, which decodes and normalises them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.places import Places
from gfm_objectives.data.records import MakeUp, to_batch, unpack
from gfm_objectives.data.source import Source


@dataclass(frozen=True, slots=True)
class Packed:
    """B places whose records are of one make-up.

    records (B, bytes) uint8; figures: sensor -> the mean and deviation of each place's bands, (B, 2, C), none of a
    sensor whose values are kept normalised; centred: sensors that lose each image's own mean instead; bands, levels: of
    each sensor.
    """

    records: Tensor
    figures: dict[str, Tensor]
    made: MakeUp
    bands: Mapping[str, tuple[str, ...]]
    levels: Mapping[str, str]
    centred: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.records)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Packed:
        figures = {name: fn(t) for name, t in self.figures.items()}
        return dataclasses.replace(self, records=fn(self.records), figures=figures)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Packed:
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Packed:
        return self.map(lambda t: t.pin_memory())

    def first(self, k: int) -> Packed:
        """The first k places."""
        return self.map(lambda t: t[:k])

    def unpacked(self) -> Batch:
        """The batch, normalised, where the records are."""
        batch = to_batch(unpack(self.records, self.made), self.bands, self.levels)
        return batch.replace(sensors={name: self._scaled(name, s) for name, s in batch.sensors.items()})

    def _scaled(self, name: str, s: Series) -> Series:
        if name not in self.figures:
            return s
        mean, std = self.figures[name][:, :, None, :, None, None].unbind(1)  # (B, 1, C, 1, 1) each
        if name in self.centred:
            mean = own_means(s, s.valid.sum((-2, -1)))
        return s.replace(x=s.x.sub_(mean).div_(std).masked_fill_(~s.valid.unsqueeze(2), 0))


def own_means(s: Series, seen: Tensor) -> Tensor:
    """Of each image's valid pixels, of which there are `seen` (B, T), as (B, T, C, 1, 1): others hold 0."""
    return s.x.sum((-2, -1), keepdim=True) / seen.clamp(min=1)[..., None, None, None]


class Packing:
    """What a StepLoader reads of a source that is learned from on a device: packed places, where it has such."""

    def __init__(self, source: Source) -> None:
        self.source, self.spec = source, source.spec

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> Batch | Packed:
        return self.source.packed(indices)


def packing(source: Source) -> Places:
    """`ready` makes batches of what is read of it."""
    return cast(Places, Packing(source))


def ready(batch: Batch | Packed, device: torch.device) -> Batch:
    """On the device, and normalised there if it is not yet."""
    there = batch.to(device, non_blocking=True)
    return there.unpacked() if isinstance(there, Packed) else there
