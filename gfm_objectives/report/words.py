"""How the report writes figures: values in points or in the target's unit, FLOPs, intervals, 'not run'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_RUN = "not run"
TASKS = "tasks as a sample"
NOT_KNOWN = "not known"
GROUND = (
    "Shared ground: the share of the test tiles that overlap with what was trained on, and pretrained on; not known "
    "where chips have no coordinates and `gfm leakage` did not look."
)


def value(x: float | None, scale: float = 100, signed: bool = False) -> str:
    """A metric's value: points with one digit where it is printed in points (scale 100), else three digits."""
    if x is None:
        return NOT_RUN
    form = f"{'+' if signed else ''}{'.1f' if scale == 100 else '.3g'}"
    return format(scale * x, form)


def flops(x: float | None, digits: int = 2) -> str:
    """1.2e13; None is unknown."""
    if x is None:
        return "unknown"
    if not x:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(x: float | None) -> str:
    """Parameters, seconds, MiB, labels: three digits, with k or M; None is unknown."""
    if x is None:
        return "unknown"
    if not x:
        return "0"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.3g}"


def ground(summary: Mapping[str, Any], task: str, contender: str) -> str:
    """'training 0 %, pretraining 12 %': of a real task's test tiles, what this row has seen ground of."""
    row, known = summary["rows"].get(contender), summary["ground"][task]
    if row is None or row["role"] == "untrained":
        return "-"
    parts = {"training": known["training"]}
    if row["pretrain_flops"] or contender in known["pretraining"]:
        parts["pretraining"] = known["pretraining"].get(contender)
    if all(v is None for v in parts.values()):
        return NOT_KNOWN
    return ", ".join(f"{k} {NOT_KNOWN if v is None else percent(v)}" for k, v in parts.items())


def percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def span(interval: Any, scale: float = 100) -> str:
    """' [0.4, 3.8]' of an interval, '' where none is given."""
    return f" [{value(interval[0], scale)}, {value(interval[1], scale)}]" if isinstance(interval, list) else ""


def plus_minus(row: Mapping[str, Any], scale: float = 100) -> str:
    """'71.2 ± 1.3' of a row of scores; without ± where no interval is given."""
    if row["status"] != "ok":
        return NOT_RUN
    interval = row["interval"]
    half = f" ± {value((interval[1] - interval[0]) / 2, scale)}" if isinstance(interval, list) else ""
    return value(row["value"], scale) + half


def gain(row: Mapping[str, Any] | None, scale: float = 100) -> str:
    """'+2.1 [0.4, 3.8]' of a row of gains; the bare gain where no interval is given."""
    if row is None or row.get("status", "ok") != "ok":
        return NOT_RUN
    return value(row["gain"], scale, signed=True) + span(row["interval"], scale)


def bold(text: str, verdict: str | None) -> str:
    """Bold where the interval excludes 0."""
    return f"**{text}**" if verdict in ("win", "loss") else text


def record(mean: Mapping[str, Any], between: str = " / ") -> str:
    """Wins, losses and ties of a row of means; tasks without an interval are undecided."""
    if mean["status"] != "ok":
        return "-"
    text = between.join(str(mean[k]) for k in ("wins", "losses", "ties"))
    return text + (f" ({mean['undecided']} undecided)" if mean["undecided"] else "")


def rate(x: float | None, scale: float = 100) -> str:
    """Gain per EFLOP: +1.4e6."""
    return "-" if x is None else f"{scale * x:+.1e}".replace("e+0", "e").replace("e+", "e")


def opponent(against: str, n: int) -> str:
    """What a row of gains is measured against."""
    return {
        "best": f"best from scratch, n = {n}",
        "best_on_test": f"best from scratch, chosen on test, n = {n}",
        "unet": f"U-Net, n = {n}",
        "equal": "U-Net at F",
        "same": "same network from scratch",
        "map": "best that saw the map",
    }[against]


def seeds(low: int, high: int) -> str:
    return f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"
