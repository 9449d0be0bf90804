"""What a pretraining run tells while it runs: a progress bar, metrics.csv and the loss on TensorBoard."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from gfm_objectives import disk
from gfm_objectives.errors import InputError


class Meter:
    """Rates since this process began the run; waiting for the first batch (start of the workers) is left out."""

    def __init__(self, peak_flops: float | None, devices: int) -> None:
        self.peak = peak_flops * devices if peak_flops else None
        self.begun: float | None = None
        self.flops = self.samples = self.wait = self.aside = 0.0

    def start(self) -> None:
        self.begun = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out the last `seconds`, in which nothing was trained."""
        self.aside += seconds

    def add(self, flops: float, samples: int) -> None:
        self.flops, self.samples = self.flops + flops, self.samples + samples

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun - self.aside if self.begun is not None else 0.0

    def rates(self, remaining: float) -> dict[str, float]:
        """samples/s, FLOP/s, MFU (absent where the peak is unknown), data-wait share, seconds left out and to go."""
        s = max(self.seconds, 1e-9)
        speed = self.flops / s
        out = {"samples_per_s": self.samples / s, "flops_per_s": speed, "data_wait": self.wait / s}
        if self.peak:
            out["mfu"] = speed / self.peak
        if self.aside:
            out["yardstick_s"] = self.aside
        return out | {"eta_s": remaining / speed if speed else float("nan")}


FIRST = 5.0  # seconds of training after which somebody who waits wants to know how long it will take


class Bar:
    """FLOPs of the budget, loss, samples/s, MFU, data-wait and ETA: a bar on a terminal, else a line when the rate is
    known, after some seconds, and one per tenth."""

    def __init__(self, budget: float, name: str) -> None:
        self.budget, self.name, self.tenth = budget, name, 0
        self.due: float | None = time.perf_counter() + FIRST  # of the line that is not due by a tenth
        self.rich: Progress | None = None
        if sys.stdout.isatty():
            self.rich = Progress(TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"))
            self.task = self.rich.add_task(name, total=budget, text="")
            self.rich.start()

    def update(self, spent: float, loss: float, rates: dict[str, float]) -> None:
        mfu = f"  MFU {rates['mfu']:.0%}" if "mfu" in rates else ""
        aside = f"  yardstick {rates['yardstick_s']:.0f} s" if "yardstick_s" in rates else ""
        text = (
            f"{spent:.2e} of {self.budget:.2e} FLOPs  loss {loss:.3f}  {rates['samples_per_s']:.1f} samples/s"
            f"{mfu}  wait {rates['data_wait']:.1%}{aside}  {_clock(rates['eta_s'])} left"
        )
        if self.rich:
            self.rich.update(self.task, completed=spent, text=text)
        elif (tenth := int(10 * spent / self.budget)) > self.tenth or (self.due and time.perf_counter() > self.due):
            self.tenth, self.due = tenth, None
            print(f"{self.name}  {spent / self.budget:4.0%}  {text}", flush=True)

    def close(self) -> None:
        if self.rich:
            self.rich.stop()


def _clock(seconds: float) -> str:
    if seconds != seconds:  # not yet known
        return "?"
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02}:{s % 60:02}" if s >= 3600 else f"{s // 60}:{s % 60:02}"


class Table:
    """metrics.csv: a row per logged step, on disk at once; a resumed run drops the rows after its checkpoint.

    A scalar seen for the first time adds a column (objectives with several kinds of step log different ones).
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        self._write([r for r in read_table(path) if int(r["step"]) <= step] if path.exists() else [])

    def add(self, row: dict[str, Any]) -> None:
        if not row.keys() <= set(self.columns):
            self._write([*read_table(self.path), row])
        else:
            with disk.naming(self.path), self.path.open("a", newline="") as f:
                csv.DictWriter(f, self.columns, restval="").writerow(row)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.columns = list(dict.fromkeys(k for r in rows for k in r))
        with disk.replacing(self.path) as scratch, scratch.open("w", newline="") as f:
            writer = csv.DictWriter(f, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv or yardstick.csv; half a line, which a kill or a full disk leaves, is none.

    InputError where it is damaged: neither made up nor left out in silence.
    """
    text = path.read_bytes().decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    for number, row in enumerate(rows, start=2):
        try:
            if None in row or None in row.values():  # more values than columns, or fewer
                raise ValueError
            int(row["step"])
            _ = [float(v) for k, v in row.items() if v and k != "of"]
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{path}, line {number}: damaged, no row of the table; delete the line, or the file with all that it "
                "tells of earlier steps, and the same command goes on"
            ) from None
    return rows


def last_loss(path: Path) -> float | None:
    """Mean loss over the last tenth of the budget, from metrics.csv; None where no line of it falls there."""
    losses = [float(row["loss"]) for row in read_table(path) if float(row["progress"]) >= 0.9]
    return fmean(losses) if losses else None
