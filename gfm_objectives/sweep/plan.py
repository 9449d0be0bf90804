"""What a study will take: runs x measured seconds, energy and money, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from gfm_objectives.sweep.study import Study, broken, kind, seconds_per_flop
from gfm_objectives.sweep.trunks import Share, in_all, shares


def seconds_of(left: Sequence[Share], rates: dict[tuple[str, ...], float]) -> tuple[float, int]:
    """Seconds of the runs whose kind was measured, and how many were not."""
    known = [s for s in left if kind(s.cfg) in rates]
    return sum(s.flops * rates[kind(s.cfg)] for s in known), len(left) - len(known)


def text(study: Study, workers: int, watts: float, euro: float) -> str:
    """The plan in words; watts: of one worker's device at work, an assumption. What runs share is counted once."""
    left, rates, every = [*shares(study.runs).values()], seconds_per_flop(study), in_all(study.runs)
    lines = [
        f"{study.name}: {len(study.runs)} runs, {every:.2g} FLOPs in all; "
        f"{len(study.runs) - len(left)} finished, {len(broken([s.cfg for s in left]))} begun and broken, "
        f"{workers} at a time"
    ]
    apart = sum(c.budget.flops for c in study.runs)
    if apart > every:
        lines.append(f"  runs that differ in the budget alone share a trunk; without it they take {apart:.2g} FLOPs")
    for name, own in _by_objective(left).items():
        seconds, unknown = seconds_of(own, rates)
        told = " and ".join(
            [clock(seconds)] * (unknown < len(own)) + [f"{unknown} runs not measured yet"] * bool(unknown)
        )
        lines.append(f"  {name:<14} {len(own):>4} runs  {sum(s.flops for s in own):.2g} FLOPs  {told}")
    seconds, unknown = seconds_of(left, rates)
    kwh = seconds / 3600 * watts / 1000
    if unknown < len(left):
        price = f"{kwh:.2g} kWh at {watts:g} W each, {kwh * euro:.2g} euro"
        lines.append(f"  left: {clock(seconds / workers)} on {workers} workers, {price}")
    if unknown:
        lines.append(
            f"  {unknown} runs are of kinds that no finished run has measured: the smallest of each goes first"
        )
    return "\n".join(lines)


def _by_objective(left: Sequence[Share]) -> dict[str, list[Share]]:
    out: dict[str, list[Share]] = {}
    for s in left:
        out.setdefault(s.cfg.objective.name, []).append(s)
    return out


def clock(seconds: float) -> str:
    """h:mm:ss"""
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02}:{s % 60:02}"
