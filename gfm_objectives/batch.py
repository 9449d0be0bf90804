"""Series, Batch and Spec: the one thing that flows, and the description of it that needs no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.sensors import MIXED, Legend


@dataclass(frozen=True, slots=True)
class Series:
    """One sensor's images of B places at T dates.

    x (B, T, C, H, W) float, normalised, 0 where invalid; valid (B, T, H, W) bool, False = missing, cloud, no data or
    padding; day (B, T) days since 2000-01-01; bands: the C band names, keys of the sensor table; level: by which of the
    sensor's figures x is normalised, see `sensors.calibration`. A source's `raw` has x in the sensor's unit instead,
    and anything where invalid.
    """

    x: Tensor
    valid: Tensor
    day: Tensor
    bands: tuple[str, ...]
    level: str = ""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Series:
        return self.replace(x=fn(self.x), valid=fn(self.valid), day=fn(self.day))

    def replace(self, **changes: object) -> Series:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def take_dates(self, index: Tensor) -> Series:
        """The dates `index` (B, t) long of each place."""
        place = torch.arange(len(index), device=index.device)[:, None]
        return self.map(lambda t: t[place, index])


@dataclass(frozen=True, slots=True)
class Batch:
    """B places on one grid.

    sensors: keys from the sensor table, all sharing B, H and W; targets: layers such as map (B, H, W) long, -1 = no
    label, or height (B, H, W) float, NaN = none; of whole places (B,) or (B, K); gsd (B,) metres per pixel of the grid;
    lonlat (B, 2) degrees, for splits and reports, never encoded.
    """

    sensors: dict[str, Series]
    targets: dict[str, Tensor]
    gsd: Tensor
    lonlat: Tensor | None = None

    def __len__(self) -> int:
        return self.gsd.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the grid in pixels."""
        s = next(iter(self.sensors.values()))
        return s.x.shape[-2], s.x.shape[-1]

    @property
    def signature(self) -> tuple:
        """What decides the cost of one sample: sensors, dates, bands and grid; not the batch size."""
        return tuple((k, tuple(s.x.shape[1:]), s.bands) for k, s in self.sensors.items())

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `fn` to every tensor."""
        lonlat = None if self.lonlat is None else fn(self.lonlat)
        sensors = {k: s.map(fn) for k, s in self.sensors.items()}
        return Batch(sensors, {k: fn(t) for k, t in self.targets.items()}, fn(self.gsd), lonlat)

    def map_grids(self, fn: Callable[[Tensor, float], Tensor]) -> Batch:
        """Apply `fn(tensor, nothing)` to every tensor that ends in (H, W); `nothing` is how it says that nothing is
        there: 0 in images, False in masks, -1 in labels, NaN in targets that are numbers."""
        sensors = {k: s.replace(x=fn(s.x, 0.0), valid=fn(s.valid, False)) for k, s in self.sensors.items()}
        targets = {
            k: fn(t, float("nan") if t.is_floating_point() else -1) if t.ndim == 3 else t
            for k, t in self.targets.items()
        }
        return self.replace(sensors=sensors, targets=targets)

    def pad_to(self, multiple: int) -> Batch:
        """H and W brought to the next multiple at the bottom and right, with pixels that are invalid and without
        label; the batch itself where they are one already."""
        h, w = self.size
        bottom, right = -h % multiple, -w % multiple
        if not bottom and not right:
            return self
        return self.map_grids(lambda t, nothing: F.pad(t, (0, right, 0, bottom), value=nothing))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.map(lambda t: t.pin_memory())

    def first(self, k: int) -> Batch:
        """The first k places."""
        return self.map(lambda t: t[:k])

    def take(self, index: Tensor) -> Batch:
        """The places `index` (k,) long."""
        return self.map(lambda t: t[index])

    def replace(self, **changes: object) -> Batch:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def collate(batches: Sequence[Batch]) -> Batch:
    """Join batches of one signature along B. ValueError where their sensors or grids differ.

    A sensor's level is that of all, or MIXED.
    """
    head = batches[0]
    for b in batches[1:]:
        if b.signature != head.signature or b.targets.keys() != head.targets.keys():
            raise ValueError(f"cannot join batches of different make-up: {head.signature} and {b.signature}")
    sensors = {
        k: Series(
            torch.cat([b.sensors[k].x for b in batches]),
            torch.cat([b.sensors[k].valid for b in batches]),
            torch.cat([b.sensors[k].day for b in batches]),
            s.bands,
            s.level if all(b.sensors[k].level == s.level for b in batches) else MIXED,
        )
        for k, s in head.sensors.items()
    }
    lonlat = None if head.lonlat is None else torch.cat([b.lonlat for b in batches if b.lonlat is not None])
    targets = {k: torch.cat([b.targets[k] for b in batches]) for k in head.targets}
    return Batch(sensors, targets, torch.cat([b.gsd for b in batches]), lonlat)


@dataclass(frozen=True, slots=True)
class Spec:
    """What every batch of a source looks like: enough to build models and to count FLOPs without reading data.

    bands: sensor -> its bands; dates: sensor -> T; size: H = W in pixels; gsd in metres; legends: layer -> Legend.
    """

    bands: dict[str, tuple[str, ...]]
    dates: dict[str, int]
    size: int
    gsd: float
    legends: dict[str, Legend]

    def dummy(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """A batch of this make-up with no content (zeros, all valid, day 0); on `meta` it costs nothing."""
        b, n = batch_size, self.size
        sensors = {
            k: Series(
                torch.zeros(b, self.dates[k], len(names), n, n, device=device),
                torch.ones(b, self.dates[k], n, n, dtype=torch.bool, device=device),
                torch.zeros(b, self.dates[k], device=device),
                names,
            )
            for k, names in self.bands.items()
        }
        targets = {k: torch.zeros(b, n, n, dtype=torch.long, device=device) for k in self.legends}
        return Batch(sensors, targets, torch.full((b,), self.gsd, device=device))
