"""Signals that ask a run to leave, heard from the first line of its command on; training/leaving.py obeys them.

By default each of them ends a process, and a run takes seconds, on a network disk a minute, to load torch.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any

# Ahead of a SLURM job's time limit (#SBATCH --signal=USR1@300), the same as submitit asks for it, and at preemption.
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Asked:
    """signal: the first that asked this process to leave; 0 = none."""

    def __init__(self) -> None:
        self.signal = 0

    def hear(self, number: int, _: FrameType | None = None) -> None:
        self.signal = self.signal or number


_asked: Asked | None = None  # of the outermost `listening`


@contextmanager
def listening() -> Iterator[Asked]:
    """What SIGNALS this process is sent in it, those that `held` kept included; afterwards they mean what they meant
    before. One in another is that one; outside the main thread nothing is heard."""
    global _asked
    if _asked is not None or threading.current_thread() is not threading.main_thread():
        yield _asked or Asked()
        return
    _asked = Asked()
    before = {s: signal.signal(s, _asked.hear) for s in SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield _asked
    finally:
        _asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


def fork_server(preload: str) -> Any:
    """The context of multiprocessing whose workers come from a server that imports the module `preload` from now on.

    Server and workers do not hear Ctrl-C, which goes to all processes of a terminal: their parent hears it and ends
    them. Of SIGNALS, which are the parent's too, they hear SIGTERM.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    resource_tracker.ensure_running()  # else the server starts it, and it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *SIGNALS} - {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def end_workers() -> None:
    """What an interrupted process does at its end: its workers, who heard nothing, end at once, whatever they read, and
    nobody hears a second Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for worker in multiprocessing.active_children():
        worker.kill()


@contextmanager
def held() -> Iterator[None]:
    """SIGNALS wait until its end; for a process started in it, until it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
