"""How far something long has come: a bar on a terminal, else a line after some seconds and then every half minute."""

from __future__ import annotations

import sys
import time
from typing import Any

FIRST, EVERY = 5.0, 30.0  # seconds until the first line, and between lines


class Telling:
    """Within a `with`: is told how many of `total` are done, and which stage comes next. Silent unless `shown`.

    bar: False = lines on a terminal too, of what may happen while another bar stands there.
    """

    def __init__(self, what: str, total: int, shown: bool = True, bar: bool = True) -> None:
        self.what, self.total, self.shown, self.barred = what, total, shown, shown and bar
        self.bar: Any = None
        self.begun = time.monotonic()
        self.due = self.begun + FIRST

    def __enter__(self) -> Telling:
        if self.barred and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            words = TextColumn("{task.description}")
            self.bar = Progress(words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True)
            self.task = self.bar.add_task(self.what, total=self.total)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def done(self, count: int) -> None:
        """`count` of them are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=count)
        elif self.shown and (now := time.monotonic()) > self.due and 0 < count < self.total:
            self.due = now + EVERY
            rate = count / (now - self.begun)
            left = (self.total - count) / rate / 60
            print(f"  {count} of {self.total} {self.what}, {rate:.3g} a second, {left:.1f} min left", flush=True)

    def stage(self, name: str) -> None:
        """All are done; what is made of them, of unknown length, has begun."""
        if self.bar is not None:
            self.bar.update(self.task, description=name, total=None)
        elif self.shown and time.monotonic() - self.begun > FIRST:
            print(f"  {name}", flush=True)
