"""Places: what fine-tuning and evaluation read. Some places of a source, or a source that is read once and kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from gfm_objectives.batch import Batch, Spec, collate
from gfm_objectives.data.shelf import Shelf
from gfm_objectives.data.source import Source
from gfm_objectives.data.telling import Telling

CACHE_GB = 4.0  # of what is read once and kept, per split of a task; what lies beyond is read whenever it is needed
FREE = 0.5  # share of the temporary folder's free space that a shelf may take at most
CHUNK = 64  # places read at a time


class Places(Protocol):
    """What a Source has of places and tiles; see there."""

    spec: Spec

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Batch: ...

    def tiles(self) -> int: ...

    def tile(self, k: int) -> Batch: ...


class Subset:
    """The places `index` of others, in that order; each is a tile."""

    def __init__(self, places: Places, index: Sequence[int]) -> None:
        self.places, self.index, self.spec = places, [int(i) for i in index], places.spec

    def __len__(self) -> int:
        return len(self.index)

    def read(self, indices: Sequence[int]) -> Batch:
        return self.places.read([self.index[i] for i in indices])

    def tiles(self) -> int:
        return len(self)

    def tile(self, k: int) -> Batch:
        return self.read([k])


class OnDevice:
    """All places of others on a device, read once: what is read of them afterwards comes without the host. Each is a
    tile."""

    def __init__(self, places: Places, device: torch.device) -> None:
        self.spec, self.device = places.spec, device
        n = len(places)
        parts = (places.read(range(k, min(k + CHUNK, n))).to(device) for k in range(0, n, CHUNK))
        self.whole = collate([*parts])
        self.nbytes = nbytes_of(self.whole)

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, indices: Sequence[int]) -> Batch:
        return self.whole.take(torch.tensor([*indices]).to(self.device, non_blocking=True))

    def tiles(self) -> int:
        return len(self)

    def tile(self, k: int) -> Batch:
        return self.read([k])


def spread(areas: Sequence[str], n: int) -> list[int]:
    """n of the places, whose areas these are: one of every area in turn, so that no area is left out before another
    has had two."""
    turn: dict[str, int] = {}
    ranked = []
    for k, area in enumerate(areas):
        turn[area] = turn.get(area, -1) + 1
        ranked.append((turn[area], k))
    return sorted(k for _, k in sorted(ranked)[:n])


class Kept:
    """Places of a source, or its tiles (whole=True), read once and kept on a shelf: the first `count` or those listed.

    What is kept is read from the source at the first need, or before it goes to another process, which is why workers
    do not read it again. Only the targets `layers` are kept. Where a shelf of `room` bytes is full, the rest is read
    from the source each time. With whole=True `read` goes past the shelf, without it `tile` gives places.
    """

    def __init__(
        self,
        source: Source,
        count: int | Sequence[int],
        layers: Sequence[str],
        whole: bool = False,
        room: float = CACHE_GB * 2**30,
    ) -> None:
        self.which = range(count) if isinstance(count, int) else [int(k) for k in count]
        self.source, self.count, self.layers, self.room = source, len(self.which), tuple(layers), room
        self.spec = source.spec
        self.whole = whole and type(source).tile is not Source.tile  # where a tile is a place, many are read at once
        self._shelf: Shelf | None = None

    def __len__(self) -> int:
        return len(self.source) if self.whole else self.count

    def read(self, indices: Sequence[int]) -> Batch:
        if self.whole:
            return self._lean(self.source.read(indices))
        return collate([self._item(i) for i in indices])

    def tiles(self) -> int:
        return self.count

    def tile(self, k: int) -> Batch:
        return self._item(k).map(lambda t: t.clone())

    def _item(self, k: int) -> Batch:
        if not 0 <= k < self.count:
            raise IndexError(f"{'tile' if self.whole else 'place'} {k} of {self.count}")
        shelf = self._filled()
        return shelf[k] if k < len(shelf) else next(self._fetch(range(k, k + 1)))

    def _filled(self) -> Shelf:
        if self._shelf is None:
            shelf, room = Shelf(), min(self.room, FREE * shutil.disk_usage(tempfile.gettempdir()).free)
            with Telling("tiles read" if self.whole else "places read", self.count, bar=False) as telling:
                for k, item in enumerate(self._fetch(range(self.count))):
                    if shelf.nbytes + nbytes_of(item) > room:
                        break
                    shelf.put(item)
                    telling.done(k + 1)
            self._shelf = shelf
        return self._shelf

    def _fetch(self, which: range) -> Iterator[Batch]:
        """Batches of one place or tile, from the source."""
        if self.whole:
            yield from (self._lean(self.source.tile(self.which[k])) for k in which)
            return
        for first in range(which.start, which.stop, CHUNK):
            some = self._lean(self.source.read(self.which[first : min(first + CHUNK, which.stop)]))
            yield from (some.map(lambda t, k=k: t[k : k + 1]) for k in range(len(some)))  # type: ignore[misc]

    def _lean(self, batch: Batch) -> Batch:
        return batch.replace(targets={k: t for k, t in batch.targets.items() if k in self.layers}, lonlat=None)

    def __getstate__(self) -> dict[str, Any]:
        self._filled()
        return self.__dict__


def nbytes_of(batch: Batch) -> int:
    """Of all its tensors."""
    total = 0

    def count(t: Any) -> Any:
        nonlocal total
        total += t.nbytes
        return t

    batch.map(count)
    return total
