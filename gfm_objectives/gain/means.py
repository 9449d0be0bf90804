"""Gains per task, their means over tasks with what a mean hides, and from how many tasks on pretraining pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfm_objectives.gain.intervals import Estimate, estimate, over_tasks
from gfm_objectives.gain.pairing import AGAINST, NOT_RUN, Pair, Table
from gfm_objectives.scores import Score

EFLOP = 1e18
BREAK_EVEN = ("best", "unet")

Rows = list[dict[str, Any]]


def gains(table: Table) -> tuple[Rows, Rows, Rows]:
    """`gains`, `means` and `break_even` of the summary."""
    singles, means, even = [], [], []
    for contender in table.gainers:
        for fraction in table.fractions:
            for against in AGAINST:
                measured: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
                for n in table.shares(contender, against):
                    head = {"contender": contender, "fraction": fraction, "against": against, "n": n}
                    pairs = {t: table.pair(t, fraction, contender, against, n) for t in table.tasks}
                    rows = [{**head, "task": t, **_gain(table, t, contender, n, p)} for t, p in pairs.items()]
                    whole = [{**head, **_mean(table, m, contender, n, pairs, rows)} for m in metrics(table)]
                    singles += rows
                    means += whole
                    for row in (*rows, *({**m, "task": "mean"} for m in whole)):
                        measured.setdefault((row["task"], row["metric"]), {})[n] = row
                if against in BREAK_EVEN and table.rows[contender].pretrain_flops != 0:
                    head = {"contender": contender, "fraction": fraction, "against": against}
                    even += [{**head, "task": t, "metric": m, **_break_even(r)} for (t, m), r in measured.items()]
    return singles, means, even


def metrics(table: Table) -> list[str]:
    """The metrics of the tasks, each once."""
    return list(dict.fromkeys(m.name for m in table.metrics.values()))


def _gain(table: Table, task: str, contender: str, n: int, pair: Pair | str) -> dict[str, Any]:
    head = {"metric": table.metrics[task].name}
    if isinstance(pair, str):
        return {**head, "status": pair, "versus": None, "candidates": [], **_NOTHING}
    who = {"status": "ok", "versus": pair.versus, "candidates": list(pair.candidates)}
    return {**head, **who, **figures(e := estimate([pair.difference])), **_rates(table, contender, n, e.mean)}


def _mean(
    table: Table, metric: str, contender: str, n: int, pairs: Mapping[str, Pair | str], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Mean over the tasks of one metric that were run; the others are named."""
    tasks = [t for t in pairs if table.metrics[t].name == metric]
    done = {t: p for t in tasks if isinstance(p := pairs[t], Pair)}
    missing = [t for t in tasks if t not in done]
    seeds = _common([p.seeds for p in done.values()])
    if not seeds:
        why = next((p for t in missing if isinstance(p := pairs[t], str)), f"{NOT_RUN}: no seed in common")
        nothing = _NOTHING | dict.fromkeys(("median", "without_best", "over_tasks"))
        record = dict.fromkeys(("wins", "losses", "ties", "undecided"), 0)
        return {"metric": metric, "status": why, "tasks": [], "missing": tasks, **nothing, **record}
    parts = {t: p.difference.take([p.seeds.index(s) for s in seeds]) for t, p in done.items()}
    each = {t: float(p.point.mean()) for t, p in parts.items()}
    best = max(each, key=lambda t: each[t])  # fixed by the point estimate
    rest = [p for t, p in parts.items() if t != best]
    e, sample = estimate(list(parts.values())), over_tasks(list(each.values()))
    verdicts = [r["verdict"] for r in rows if r["task"] in done]
    return {
        "metric": metric,
        "status": "ok",
        "tasks": list(done),
        "missing": missing,
        **figures(e),
        **_rates(table, contender, n, e.mean),
        "median": float(np.median(list(each.values()))),
        "without_best": {"task": best, **figures(estimate(rest))} if rest else None,
        "over_tasks": {"label": "tasks", **{k: v for k, v in figures(sample).items() if k != "seeds"}},
        **{k: verdicts.count(v) for k, v in (("wins", "win"), ("losses", "loss"), ("ties", "tie"))},
        "undecided": verdicts.count("undecided"),
    }


_UNKNOWN = ("gain", "interval", "error", "df", "verdict", "per_eflop", "per_eflop_searched")
_NOTHING: dict[str, Any] = dict.fromkeys(_UNKNOWN) | {"seeds": 0}


def figures(e: Estimate) -> dict[str, Any]:
    return {"gain": e.mean, "interval": interval(e), "error": e.error, "df": e.df, "seeds": e.seeds,
            "verdict": e.verdict}  # fmt: skip


def interval(e: Estimate) -> list[float] | str:
    return list(e.interval) if e.interval else f"not given ({e.why})"


def _rates(table: Table, contender: str, n: int, gain: float) -> dict[str, float]:
    """Gain per 1e18 pretraining FLOPs charged to one task, P/n, and with those of the search for the recipe."""
    row = table.rows[contender]
    charged = row.pretrain_flops / n / EFLOP or math.nan
    searched = (row.pretrain_flops + row.search_flops) / n / EFLOP or math.nan
    return {"per_eflop": gain / charged, "per_eflop_searched": gain / searched}


def _break_even(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The smallest measured n whose gain is above 0, and whether its interval says so too."""
    measured = {n: r for n, r in sorted(rows.items()) if r["gain"] is not None and not r.get("missing")}
    n = next((n for n, r in measured.items() if r["gain"] > 0), None)
    answer: int | str = n if n is not None else "none" if measured else NOT_RUN
    return {"n": answer, "verdict": measured[n]["verdict"] if n is not None else None, "measured": list(measured)}


# ---------------------------------------------------------------------------------------------------------------------
# What to expect of a comparison that is planned


def deviation_of_gains(scores: Sequence[Score]) -> float | None:
    """Standard deviation among seeds of the mean gain over tasks (n = 1), in the first task's metric.

    Over the best rival from scratch; where that was not run, over U-Nets at F. The root of the mean variance of all
    contenders and label fractions; None where nothing tells: fewer than two seeds of a pair.
    """
    if not scores:
        return None
    table = Table(scores)
    metric = metrics(table)[0]
    for against in ("best", "equal"):
        variances = []
        for contender in table.gainers:
            for fraction in table.fractions:
                pairs = [table.pair(t, fraction, contender, against) for t in table.tasks
                         if table.metrics[t].name == metric]  # fmt: skip
                done = [p for p in pairs if isinstance(p, Pair)]
                seeds = _common([p.seeds for p in done])
                if len(seeds) > 1:
                    parts = [p.difference.take([p.seeds.index(s) for s in seeds]) for p in done]
                    variances.append(np.mean([p.point for p in parts], 0).var(ddof=1))
        if variances:
            return math.sqrt(np.mean(variances))
    return None


def _common(seeds: Sequence[Sequence[int]]) -> list[int]:
    return sorted(set.intersection(*map(set, seeds))) if seeds else []
