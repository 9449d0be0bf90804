"""Places held in memory, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gfm_objectives.batch import Batch, Spec, collate


class Held:
    """The places of one batch, each a tile; `asked` remembers which were read, in order."""

    def __init__(self, batch: Batch, spec: Spec | None = None) -> None:
        self.batch, self.asked = batch, []
        self.spec = spec or Spec({}, {}, batch.size[0], 10.0, {})

    def __len__(self) -> int:
        return len(self.batch)

    def read(self, indices: Sequence[int]) -> Batch:
        self.asked += list(indices)
        return self.batch.take(torch.tensor(list(indices)))

    def tiles(self) -> int:
        return len(self)

    def tile(self, k: int) -> Batch:
        return self.batch.take(torch.tensor([k]))


class Tiles(Held):
    """Tiles of any size."""

    def __init__(self, tiles: Sequence[Batch]) -> None:
        self._tiles = list(tiles)
        super().__init__(collate(self._tiles[:1]))

    def tiles(self) -> int:
        return len(self._tiles)

    def tile(self, k: int) -> Batch:
        return self._tiles[k]
