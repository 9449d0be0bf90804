"""Places made or read first, by all cores, and kept on the device: afterwards no step waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.chance import order, seed_of
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.places import Subset
from gfm_objectives.data.source import Source
from gfm_objectives.device import cores
from gfm_objectives.errors import InputError

CHUNK = 64  # places made at a time, and what a pool's size is a multiple of
STEP = 2.0**-10  # of a normalised value, which 16 bits hold up to 32 deviations


class Pool:
    """`count` places of a source on `device`, drawn from all by their number alone, values in 16 bits: rounded to STEP
    and cut at 32 deviations. InputError where the source has fewer, or count is no multiple of CHUNK.

    seconds: that making them took, on `workers` processes.
    """

    def __init__(self, source: Source, count: int, device: torch.device, workers: int | None = None) -> None:
        if count % CHUNK or not 0 < count <= len(source):
            raise InputError(f"pool={count}: must be a multiple of {CHUNK}, at most the data's {len(source)} places")
        self.count, self.device = count, device
        began = time.perf_counter()
        self.whole = self._made(source, cores() if workers is None else workers)
        self.seconds = time.perf_counter() - began

    def _made(self, source: Source, workers: int) -> Batch:
        some = Subset(source, order(seed_of("pool"), len(source), np.arange(self.count)).tolist())  # type: ignore[arg-type]
        whole: Batch | None = None
        steps = StepLoader(some, CHUNK, seed_of("pool order"), stop=self.count // CHUNK, workers=workers)
        for k, batch in enumerate(steps):
            small = batch.replace(lonlat=None).to(self.device).map(packed)  # there: all cores here are making places
            if whole is None:
                whole = small.map(lambda t: t.new_empty((self.count, *t.shape[1:])))
            for there, t in zip(tensors(whole), tensors(small), strict=True):
                there[k * CHUNK : (k + 1) * CHUNK] = t
        assert whole is not None
        return whole

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in tensors(self.whole))

    def take(self, index: np.ndarray) -> Batch:
        """The places `index`, as the source gives them but for rounding."""
        host = torch.from_numpy(index)
        where = (host.pin_memory() if self.device.type == "cuda" else host).to(self.device, non_blocking=True)
        return self.whole.map(lambda t: unpacked(t.index_select(0, where)))


_KEPT: dict[tuple[str, int, str], Pool] = {}


def kept(source: Source, count: int, device: torch.device) -> Pool:
    """The pool of these places, made once in a process: the runs of a sweep share it. One is kept at a time."""
    key = (source.fingerprint, count, str(device))
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = Pool(source, count, device)
    return _KEPT[key]


class PoolLoader:
    """Batches of steps start, start + 1, ... as StepLoader gives them of a source; wait: as there, 0."""

    wait = 0.0

    def __init__(
        self, pool: Pool, batch_size: int, seed: int, *, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.pool, self.batch_size, self.seed = pool, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield self.pool.take(order(self.seed, self.pool.count, first + np.arange(self.batch_size)))
            step += 1


def packed(t: Tensor) -> Tensor:
    """Images in 16 bits, labels too; days and metres per pixel as they are."""
    if t.ndim == 5:
        return (t / STEP).round().clamp(-32767, 32767).to(torch.int16)
    if t.dtype == torch.long:
        return t.to(torch.int32)
    return t


def unpacked(t: Tensor) -> Tensor:
    """The inverse of `packed`, but for what was rounded."""
    if t.dtype == torch.int16:
        return t.to(torch.float32) * STEP
    return t.long() if t.dtype == torch.int32 else t


def tensors(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch, in the order of `Batch.map`."""
    found: list[Tensor] = []

    def see(t: Tensor) -> Any:
        found.append(t)
        return t

    batch.map(see)
    return found
