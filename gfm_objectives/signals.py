"""Signals that ask a run to leave, heard from the first line of its command on; training/leaving.py obeys them.

By default each of them ends a process, and a run takes seconds, on a network disk a minute, to load torch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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


@contextmanager
def held() -> Iterator[None]:
    """SIGNALS wait until its end; for a process started in it, until it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
