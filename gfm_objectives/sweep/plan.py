"""What a study will take: runs x measured seconds, energy and money, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from gfm_objectives.sweep.study import Study, broken, kind, seconds_per_flop


def seconds_of(runs: Sequence[DictConfig], rates: dict[tuple[str, ...], float]) -> tuple[float, int]:
    """Seconds of the runs whose kind was measured, and how many were not."""
    known = [c for c in runs if kind(c) in rates]
    return sum(c.budget.flops * rates[kind(c)] for c in known), len(runs) - len(known)


def text(study: Study, workers: int, watts: float, euro: float) -> str:
    """The plan in words; watts: of one worker's device at work, an assumption."""
    left, rates = study.open(), seconds_per_flop(study)
    flops = sum(c.budget.flops for c in study.runs)
    lines = [
        f"{study.name}: {len(study.runs)} runs, {flops:.2g} FLOPs in all; {len(study.runs) - len(left)} finished, "
        f"{len(broken(left))} begun and broken, {workers} at a time"
    ]
    for name, own in _by_objective(left).items():
        seconds, unknown = seconds_of(own, rates)
        told = " and ".join(
            [clock(seconds)] * (unknown < len(own)) + [f"{unknown} runs not measured yet"] * bool(unknown)
        )
        lines.append(f"  {name:<14} {len(own):>4} runs  {sum(c.budget.flops for c in own):.2g} FLOPs  {told}")
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


def _by_objective(runs: Sequence[DictConfig]) -> dict[str, list[DictConfig]]:
    out: dict[str, list[DictConfig]] = {}
    for c in runs:
        out.setdefault(c.objective.name, []).append(c)
    return out


def clock(seconds: float) -> str:
    """h:mm:ss"""
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02}:{s % 60:02}"
