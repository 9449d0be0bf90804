"""Source: the interface every reader of data implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.sensors import calibration

if TYPE_CHECKING:
    from gfm_objectives.data.packed import Packed

SPLITS = ("pretrain", "train", "val", "test")


class Source(ABC):
    """Places that can be read by number, in any order, from any process, with the same result each time.

    A reader implements `raw`, and `read` normalises what it gives: nothing else does. A source whose values come
    normalised (the procedural Earth computes in units of deviations; a source made of another one) implements `read`.

    spec describes every batch of `read`; fingerprint (hex) changes whenever the content could; synthetic marks results
    made from it; license is the one line a report must carry ('' if none); watched: it warns of odd values when it is
    opened, so that `guards.watch` need not.
    """

    spec: Spec
    fingerprint: str
    synthetic: bool = False
    license: str = ""
    watched: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of places in this split."""

    def read(self, indices: Sequence[int]) -> Batch:
        """The places `indices` as one batch on the CPU, normalised. Deterministic in each index alone."""
        return normalise(self.raw(indices))

    def packed(self, indices: Sequence[int]) -> Batch | Packed:
        """The same to be finished on a device, where that saves work here: see `packed.ready`. By default as `read`."""
        return self.read(indices)

    def raw(self, indices: Sequence[int]) -> Batch:
        """The same with values in the sensors' units (reflectance 0..1, decibel, metre), anything where invalid."""
        raise NotImplementedError(f"{type(self).__name__} hands out normalised values only")

    @property
    def normalised(self) -> bool:
        """Whether values come normalised, so that there is `read` and no `raw`."""
        return type(self).raw is Source.raw

    def groups(self) -> list[str]:
        """For each place, the area it belongs to; intervals resample areas. By default each place is its own."""
        return [str(i) for i in range(len(self))]

    def names(self) -> list[str]:
        """For each place, what a person calls it. By default its number."""
        return [str(i) for i in range(len(self))]

    # What is scored: every pixel of a tile once. Places of a source that cuts windows may overlap, and end in padding.

    def tiles(self) -> int:
        """Number of whole tiles in this split. By default a tile is a place."""
        return len(self)

    def tile(self, number: int) -> Batch:
        """One whole tile as a batch of one, of any height and width, normalised."""
        return self.read([number])

    def tile_groups(self) -> list[str]:
        """For each tile, the area it belongs to."""
        return self.groups()

    def footprints(self) -> list[np.ndarray | None]:
        """For each tile, its corners (4, 2) in degrees; None where that is not known. By default none is known."""
        return [None] * self.tiles()

    # What a person is told.

    def notes(self) -> list[str]:
        """Lines for a person who checks how the data was understood; `gfm inspect` prints them."""
        return []

    def preparation(self, places: int) -> tuple[float, float]:
        """FLOPs and seconds spent on making targets, where `places` were read; (0, 0) where they are only read."""
        return 0.0, 0.0


def normalise(raw: Batch) -> Batch:
    """Values in the sensors' units brought to the scale that models see, each series by the figures of its level."""
    sensors = {
        name: s.replace(x=calibration(name, s.level).normalise(s.x, s.valid, s.bands))
        for name, s in raw.sensors.items()
    }
    return raw.replace(sensors=sensors)
