"""What the benchmarks share: the words of a command, sides in turns, FLOPs counted, tables, and their file."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gfm_objectives.batch import Spec
from gfm_objectives.device import device_name
from gfm_objectives.sensors import S2_TEN, Legend

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks"
PACKAGES = ("torch", "timm", "lightly", "torchgeo", "lightning", "segmentation-models-pytorch", "litdata")
Row = dict[str, Any]
# Places as most benchmarks take them: 64 x 64 pixels, 4 dates of ten bands, 4 of two, a height model and a map.
SPEC = Spec(
    {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)},
    {"s2": 4, "s1": 4, "dem": 1},
    64,
    10.0,
    {"map": Legend("letters", tuple("abcdefgh"))},
)


def words(argv: Sequence[str], **defaults: Any) -> dict[str, Any]:
    """The settings, `key=value` words over the defaults, each of its default's type; an unknown one lists the rest."""
    found = dict(defaults)
    for word in argv:
        key, _, value = word.partition("=")
        if key not in defaults:
            raise SystemExit(f"{word}: choose from " + " ".join(f"{k}={v}" for k, v in defaults.items()))
        found[key] = type(defaults[key])(value)
    return found


# ---------------------------------------------------------------- intervals


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half its 95 % interval by Student's t; nan below three values."""
    mean, n = statistics.fmean(values), len(values)
    if n < 3:
        return mean, float("nan")
    return mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


# ---------------------------------------------------------------- time


@dataclass(slots=True)
class Rounds:
    """What a side did: samples in all rounds alike; seconds of the clock and of this process's CPU, by round."""

    samples: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def rate(self, clock: str) -> float:
        """Samples a second, the median round."""
        return self.samples / statistics.median(getattr(self, clock))


def alternate(sides: Mapping[str, Callable[[], int]], repeats: int, device: str = "cpu") -> dict[str, Rounds]:
    """Each side in turn, `repeats` times after a round that does not count; the first in a round is another each time.

    A side does some work and returns how many samples that was. Seconds of a GPU end when it is done.
    """
    names, found = list(sides), {name: Rounds(side()) for name, side in sides.items()}
    for k in range(repeats):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            done = sides[name]()
            _wait(device)
            found[name].cpu.append(time.process_time() - cpu)
            found[name].wall.append(time.perf_counter() - wall)
            assert done == found[name].samples, (name, done, found[name].samples)
    return found


def ratio(one: Rounds, other: Rounds, clock: str) -> float:
    """How many times as many samples a second `one` makes: the median of rounds, each with the other's beside it."""
    pairs = zip(getattr(one, clock), getattr(other, clock), strict=True)
    return statistics.median((one.samples / a) / (other.samples / b) for a, b in pairs)


def clock_of(device: str) -> str:
    """What ratios are taken of: the CPU's own seconds, as others use the machine too; with a GPU those of the clock."""
    return "cpu" if device == "cpu" else "wall"


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


# ---------------------------------------------------------------- FLOPs


def counted(loss: Callable[[], Tensor]) -> int:
    """FLOPs of a loss and its gradient, by torch's FlopCounterMode, attention by the plain kernel: matrix products and
    convolutions count, norms, activations and the optimiser do not."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


# ---------------------------------------------------------------- results


def table(rows: Sequence[Row]) -> str:
    """Rows as a markdown table; its columns are their keys, in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    right = {c for c in columns if all(isinstance(row.get(c, 0), int | float | None) for row in rows)}
    lines = [columns, ["---:" if c in right else "---" for c in columns]]
    lines += [[cell(row.get(c)) for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Three digits of a number, more before the point; nothing where nothing was measured."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|")
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def write(
    name: str,
    title: str,
    command: str,
    sections: Mapping[str, Sequence[Row]],
    notes: Sequence[str] = (),
    device: str = "cpu",
    folder: Path = RESULTS,
    shown: str | None = None,
) -> Path:
    """Prints one table, the last unless `shown` names another, and the notes, and keeps all with the device, the
    versions and the date as folder/name.json (of a GPU, name_cuda.json): a benchmark calls it after each section, so
    that none is lost.

    notes: what the figures say, in sentences made of them.
    """
    shown = shown or list(sections)[-1]
    print("\n".join([f"\n{shown}\n", table(sections[shown]), "", *notes]), flush=True)
    path = folder / f"{name}{'' if device == 'cpu' else '_cuda'}.json"
    about = {
        "title": title,
        "command": command,
        "device": device_name(device),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "notes": list(notes),
        "sections": {k: list(v) for k, v in sections.items()},
    }
    keep(path, about)
    return path


def keep(path: Path, content: Mapping[str, Any]) -> None:
    """As JSON, whole or as it was: a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content, indent=1) + "\n")
    half.replace(path)


def versions() -> dict[str, str]:
    """Of Python and of the packages compared that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found
