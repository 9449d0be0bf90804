"""The loader: step k's batch is a pure function of (seed, k, rank, world size)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from gfm_objectives.batch import Batch
from gfm_objectives.chance import order
from gfm_objectives.data.places import Places
from gfm_objectives.errors import InputError
from gfm_objectives.signals import SIGNALS, fork_server

PIXELS = 2**16  # read at a time, in as many steps as that takes: sources that make places make sixteen of 64 x 64 for
# little more than the price of four
GRACE = 60  # seconds that a worker outlives SIGTERM: clusters send it to all of a job, which has a step to finish


class _Steps(Dataset):
    """Numbers of steps in a row -> their batches, joined."""

    def __init__(self, source: Places, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.source, self.batch_size, self.seed, self.rank, self.world_size = source, batch_size, seed, rank, world_size

    def __getitem__(self, steps: range) -> Batch | InputError | OSError:
        first = (np.array(steps) * self.world_size + self.rank) * self.batch_size
        positions = (first[:, None] + np.arange(self.batch_size)).flatten()
        try:
            return self.source.read(order(self.seed, len(self.source), positions).tolist())
        except (InputError, OSError) as error:  # carried over as it is: a DataLoader would wrap it in a traceback
            return error


def _leave_with_parent(worker: int) -> None:
    """End this worker when the training process dies, however it dies, and not before.

    A DataLoader's own watch is on the process id of the worker's parent, here the fork server, which outlives a kill.
    """
    for asking in SIGNALS:
        signal.signal(asking, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    parent = multiprocessing.parent_process()
    assert parent is not None, worker

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def warm_up() -> Any:
    """Start the server that workers come from, which takes seconds; returns its context of multiprocessing."""
    return fork_server(__name__)  # torch is imported once, not by each worker, and while the caller builds its model


class StepLoader:
    """Batches of steps start, start + 1, ... up to `stop` (None = endless); every iteration begins at `start` again.

    A run resumes by `start=steps done`: nothing is replayed. There is no `state_dict` on purpose: workers and trainers
    fetch ahead, so only the training step knows what was consumed. wait: seconds the consumer has waited for data,
    without first_wait, the start of the workers; batches: how many it was given.

    Workers come from a fork server: a plain fork of a process with CUDA, OpenMP or logging threads can hang, and Python
    warns of it since 3.12. Its price is seconds at the start, a source that pickles, and a `__main__` guard in scripts.
    """

    def __init__(
        self,
        source: Places,
        batch_size: int,
        seed: int,
        *,
        start: int = 0,
        stop: int | None = None,
        workers: int = 0,
        prefetch: int = 4,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        assert 0 <= rank < world_size, (rank, world_size)
        assert batch_size > 0 and start >= 0, (batch_size, start)
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.wait = self.first_wait = 0.0
        self.batches = 0
        parallel: dict[str, Any] = {}
        if workers:
            parallel = {"multiprocessing_context": warm_up(), "prefetch_factor": prefetch, "persistent_workers": True}
        self._loader: DataLoader = DataLoader(
            _Steps(source, batch_size, seed, rank, world_size),
            batch_size=None,
            sampler=_Blocks(start, stop, max(1, PIXELS // (batch_size * source.spec.size**2))),
            num_workers=workers,  # each runs torch on one thread
            worker_init_fn=_leave_with_parent,
            pin_memory=pin_memory,
            **parallel,
        )

    def __iter__(self) -> Iterator[Batch]:
        began, first = time.perf_counter(), True
        steps: Iterator[Batch | InputError | OSError] = iter(self._loader)
        for batch in steps:
            seconds = time.perf_counter() - began
            if first:
                self.first_wait, first = seconds, False
            else:
                self.wait += seconds
            if isinstance(batch, InputError | OSError):
                raise batch
            for first_place in range(0, len(batch), self.batch_size):
                self.batches += 1
                yield batch.map(lambda t, k=first_place: t[k : k + self.batch_size])  # type: ignore[misc]
            began = time.perf_counter()


class _Blocks:
    """Steps start, start + 1, ... in rows that end at multiples of `length`, so that a later start reads the same rows;
    a sampler without length where there is no end."""

    def __init__(self, start: int, stop: int | None, length: int) -> None:
        self.start, self.stop, self.length = start, stop, length

    def __iter__(self) -> Iterator[range]:
        step = self.start
        while self.stop is None or step < self.stop:
            end = (step // self.length + 1) * self.length
            yield range(step, end if self.stop is None else min(end, self.stop))
            step = end
