"""Source: the interface every reader of data implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gfm_objectives.batch import Batch, Spec

SPLITS = ("pretrain", "train", "val", "test")


class Source(ABC):
    """Places that can be read by number, in any order, from any process, with the same result each time.

    spec describes every batch; fingerprint (hex) changes whenever the content could; synthetic marks results made from
    it; license is the one line a report must carry ('' if none).
    """

    spec: Spec
    fingerprint: str
    synthetic: bool = False
    license: str = ""

    @abstractmethod
    def __len__(self) -> int:
        """Number of places in this split."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Batch:
        """The places `indices` as one batch on the CPU. Deterministic in each index alone."""

    def groups(self) -> list[str]:
        """For each place, the area it belongs to; intervals resample areas. By default each place is its own."""
        return [str(i) for i in range(len(self))]

    def notes(self) -> list[str]:
        """Lines for a person who checks how the data was understood; `gfm inspect` prints them."""
        return []

    def preparation(self, places: int) -> tuple[float, float]:
        """FLOPs and seconds spent on making targets, where `places` were read; (0, 0) where they are only read."""
        return 0.0, 0.0
