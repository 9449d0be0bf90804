"""The comparison as plain JSON: what pretraining gained, over whom, at what price, with paired intervals.

Schema 2. A row of a table is a contender; its name is for people, `rows` says what it is. Values are in the metric's own
unit (mIoU 0..1, RMSE in the target's unit), gains have the sign that makes + better. Floats have 6 significant digits;
null = not known or not run. `status` is 'ok' or 'not run: <what>'. `interval` is [low, high], or 'not given (3 seeds)', or
null where `status` is not ok; `verdict` win | loss | tie (the interval holds 0) | undecided (no interval).

    schema        2
    tasks         [task]
    metrics       {task: {metric, title, statistic, better (+1 | -1), scale (100: printed in points)}}
    fractions     [label fraction], ascending
    suite_size    the n of P/n that is printed beside n = 1
    contenders    [name], in the order of tables: role, kind of rival, extra FLOPs, name
    rows          {name: {role, kind, recipe, shape, pretrain_flops (P), search_flops, extra_flops (P/n given on top of F),
                  pretrain_runs (how many differ)}}
    seeds         [fewest, most] of the trained rows' cells
    sampling      {task: {seeds ('crossed': all on the same areas | 'nested': each on its own), areas (of a seed), tiles}}
    synthetic     [task]; worlds, commits, devices [text]; fingerprints {task: text}
    labels        {task: {fraction: labelled places}}
    scores        [{task, fraction, contender, metric, status, value, interval, error, seeds, val,
                  figures {metric: mean over seeds; all that the statistic gives},
                  classes {'iou' | 'f1' | 'precision' | 'recall': [K] mean over seeds}; {} unless confusions}]
    gains         [{contender, fraction, against, n, task, metric, status, versus (who stands for `against`),
                  candidates ([name], among whom it was chosen), gain, interval, error, df, seeds, verdict,
                  per_eflop, per_eflop_searched}] for rows of the roles pretrained, part and saw_map
    means         [{contender, fraction, against, n, metric, status, tasks, missing, gain, interval, error, df, seeds,
                  verdict, per_eflop, per_eflop_searched, median,
                  without_best {task (left out: the one of the largest gain), gain, interval, error, df, seeds, verdict},
                  over_tasks {label 'tasks', gain, interval (tasks as a sample), error, df, verdict},
                  wins, losses, ties, undecided}] one per metric; without_best null for one task
    break_even    [{contender, fraction, against ('best' | 'unet'), task ('mean': of all, per metric), metric,
                  n (smallest measured with gain > 0 | 'none' | 'not run'), verdict, measured [n]}]
    knowledge     [{fraction, metric, task ('mean': of all), best, by_role {role: best of it}, incomplete [name]}]: by test
                  value; best = {contender, role, value} | null; 'mean' is among those that have run every task
    labels_saved  [{task, fraction, contender, versus (best from scratch at F), labels, status ('ok' | 'more than
                  measured' | 'fewer than measured'), needed, saved}]
    resources     [{contender, runs, pretrain_flops, search_flops, extra_flops, finetune_flops, tuning_flops,
                  inference_flops, epochs, parameters, trainable_parameters, seconds, peak_memory_mib}] means over its runs

`against`, in this order: best (role scratch, at F and at F + P/n, by validation), best_on_test (the same chosen on test: a
bound), unet (kind unet, the better on validation of F and F + P/n), equal (kind unet at F), same (from scratch with the
contender's own shape, at F), map (role saw_map, by validation). Gain per EFLOP divides by the pretraining FLOPs charged to
one task, P/n, in 1e18; `searched` by (P + search)/n.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.gain.intervals import Estimate, estimate
from gfm_objectives.gain.pairing import NOT_RUN, Pair, Table
from gfm_objectives.metrics import f1
from gfm_objectives.scores import SEEDLESS, Score

EFLOP = 1e18


def summarise(scores: Sequence[Score], suite_size: int | None = None) -> dict[str, Any]:
    """Everything the report shows, as plain JSON: no NaN, cells that were not run say so, mIoU in 0..1.

    Gains are mIoU(contender) - mIoU(opponent); `against` is 'headline' (the U-Net that was given P/n as well where
    that helped it), 'unet' (equal fine-tuning FLOPs) or 'scratch' (the same ViT). An interval is [low, high] or
    'not given (n seeds)'. Gain per EFLOP divides by the pretraining FLOPs charged to one task, P/n, in 1e18.
    """
    table = Table(scores, suite_size)
    gains, means, break_even = _gains(table)
    counts = [len(c.seeds) for (_, _, n), c in table.cells.items() if n not in SEEDLESS]
    summary = {
        "schema": 1,
        "tasks": table.tasks,
        "fractions": table.fractions,
        "contenders": table.contenders,
        "pretrained": {c: table.budgets[c] for c in table.pretrained},
        "pretrain_runs": {c: len({s.pretrain_run for s in scores if s.contender == c}) for c in table.pretrained},
        "suite_size": table.suite_size,
        "seeds": [min(counts, default=0), max(counts, default=0)],
        "synthetic": sorted({s.task for s in scores if s.synthetic}, key=table.tasks.index),
        "worlds": sorted({s.world for s in scores if s.world}),
        "commits": sorted({s.commit for s in scores if s.commit}),
        "devices": sorted({s.device for s in scores if s.device}),
        "fingerprints": {s.task: s.fingerprint for s in scores},
        "areas": {
            t: next(c.sampled.areas for (task, _, _), c in table.cells.items() if task == t) for t in table.tasks
        },
        "tiles": {s.task: s.tiles for s in scores},
        "labels": {t: {str(f): _labels(table, t, f) for f in table.fractions} for t in table.tasks},
        "miou": _scores(table),
        "gains": gains,
        "means": means,
        "break_even": break_even,
        "labels_saved": _labels_saved(table),
        "resources": [_resources(c, scores) for c in table.contenders],
    }
    return _plain(summary)


def write(summary: dict[str, Any], path: str | Path) -> None:
    """Save a summary as JSON other tools can read (strict: no NaN)."""
    Path(path).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")


def _scores(table: Table) -> list[dict[str, Any]]:
    rows = []
    for task in table.tasks:
        for fraction in table.fractions:
            for contender in table.contenders:
                row: dict[str, Any] = {"task": task, "fraction": fraction, "contender": contender}
                cell = table.cell(task, fraction, contender)
                if cell is None:
                    rows.append({**row, "status": NOT_RUN, "miou": None, "f1": None, "interval": None, "seeds": 0})
                    continue
                e = estimate([cell.sampled], seedless=contender in SEEDLESS)
                rows.append(
                    {
                        **row,
                        "status": "ok",
                        "miou": e.mean,
                        "f1": f1(torch.tensor([s.iou for s in cell.scores])).mean(0).tolist(),  # by class
                        "interval": _interval(e),
                        "seeds": e.seeds,
                        "val": cell.validation(cell.seeds),
                    }
                )
    return rows


def _gains(table: Table) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows per task and cell, rows of means over tasks, and break-even n; in that order."""
    gains, means, even = [], [], []
    for contender in table.pretrained:
        for fraction in table.fractions:
            for against in ("headline", "unet", "scratch"):
                shares = table.shares(contender) if against == "headline" else [1]
                measured: dict[str, dict[int, dict[str, Any]]] = {}
                for n in shares:
                    head = {"contender": contender, "fraction": fraction, "against": against, "n": n}
                    pairs = {t: table.pair(t, fraction, contender, against, n) for t in table.tasks}
                    rows = [{**head, "task": t, **_gain(table, contender, n, p)} for t, p in pairs.items()]
                    mean = {**head, **_mean(table, contender, n, pairs, rows)}
                    gains += rows
                    means.append(mean)
                    for row in (*rows, {**mean, "task": "mean"}):
                        measured.setdefault(row["task"], {})[n] = row
                if against == "headline":
                    head = {"contender": contender, "fraction": fraction}
                    even += [{**head, "task": t, **_break_even(rows)} for t, rows in measured.items()]
    return gains, means, even


def _gain(table: Table, contender: str, n: int, pair: Pair | str) -> dict[str, Any]:
    if isinstance(pair, str):
        return {"status": pair, "versus": None, "gain": None, "interval": None, "seeds": 0, "verdict": None,
                "per_eflop": None}  # fmt: skip
    return {"status": "ok", "versus": pair.versus, **_figures(table, contender, n, estimate([pair.difference]))}


def _figures(table: Table, contender: str, n: int, e: Estimate) -> dict[str, Any]:
    charged = (table.budgets[contender] or math.nan) / n / EFLOP
    return {"gain": e.mean, "interval": _interval(e), "error": e.error, "df": e.df, "seeds": e.seeds,
            "verdict": e.verdict, "per_eflop": e.mean / charged}  # fmt: skip


def _mean(
    table: Table, contender: str, n: int, pairs: dict[str, Pair | str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Mean over the tasks that were run (the others are named), seeds resampled jointly, tiles task by task."""
    done = {t: p for t, p in pairs.items() if isinstance(p, Pair)}
    missing = [t for t in pairs if t not in done]
    seeds = sorted(set.intersection(*(set(p.seeds) for p in done.values()))) if done else []
    if not seeds:
        return {"status": next((p for p in pairs.values() if isinstance(p, str)), f"{NOT_RUN}: no seed in common"),
                "tasks": [], "missing": missing or list(pairs), "gain": None, "interval": None, "seeds": 0,
                "verdict": None, "per_eflop": None}  # fmt: skip
    parts = [p.difference.take([p.seeds.index(s) for s in seeds]) for p in done.values()]
    each = sorted(float(p.point.mean()) for p in parts)
    verdicts = [r["verdict"] for r in rows]
    return {
        "status": "ok",
        "tasks": list(done),
        "missing": missing,
        **_figures(table, contender, n, estimate(parts)),
        "median": float(np.median(each)),
        "trimmed": float(np.mean(each[1:-1])) if len(each) > 2 else None,  # without the best and the worst task
        **{f"{k}s" if k != "loss" else "losses": verdicts.count(k) for k in ("win", "loss", "tie")},
        "undecided": verdicts.count("undecided"),
    }


def _break_even(rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The smallest measured n whose gain is above 0, and whether its interval says so too."""
    gains = {n: r for n, r in rows.items() if r["gain"] is not None and not r.get("missing")}
    n = next((n for n in sorted(gains) if gains[n]["gain"] > 0), None)
    answer: int | str = n if n is not None else "none" if gains else NOT_RUN
    return {"n": answer, "verdict": gains[n]["verdict"] if n is not None else None, "measured": sorted(gains)}


def _labels_saved(table: Table) -> list[dict[str, Any]]:
    """How many training tiles the plain U-Net needs for the mIoU a contender reaches with fewer.

    Read off the U-Net's curve of mean mIoU against log labels (its running maximum), within what was measured:
    'status' says 'more than measured' where even all labels did not suffice. labels_saved = needed - used.
    """
    rows = []
    for task in table.tasks:
        curve = [
            (c.scores[0].labels, c.sampled.point.mean()) for f in table.fractions if (c := table.cell(task, f, "unet"))
        ]
        if len(curve) < 2 or any(n <= 0 for n, _ in curve):
            continue
        x, y = np.log([n for n, _ in curve]), np.maximum.accumulate([m for _, m in curve])
        for contender in (c for c in table.contenders if c in table.pretrained or c == "scratch"):
            for fraction in table.fractions:
                if (cell := table.cell(task, fraction, contender)) is None:
                    continue
                used, reached = cell.scores[0].labels, cell.sampled.point.mean()
                row = {"task": task, "fraction": fraction, "contender": contender, "labels": used}
                if reached > y[-1]:
                    rows.append({**row, "status": "more than measured", "needed": curve[-1][0], "saved": None})
                elif reached < y[0]:
                    rows.append({**row, "status": "fewer than measured", "needed": curve[0][0], "saved": None})
                else:
                    needed = float(np.exp(np.interp(reached, y, x)))
                    rows.append({**row, "status": "ok", "needed": needed, "saved": needed - used})
    return rows


def _resources(contender: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Means over a contender's runs (tasks, fractions, seeds)."""
    rows = [s for s in scores if s.contender == contender]
    names = ("pretrain_flops", "extra_flops", "finetune_flops", "tuning_flops", "inference_flops", "parameters",
             "trainable_parameters", "seconds", "peak_memory_mib")  # fmt: skip
    return {
        "contender": contender,
        "runs": len(rows),
        **{n: float(np.mean([getattr(s, n) for s in rows])) for n in names},
    }


def _labels(table: Table, task: str, fraction: float) -> int | None:
    return next((c.scores[0].labels for (t, f, n), c in table.cells.items()
                 if (t, f) == (task, fraction) and n not in SEEDLESS), None)  # fmt: skip


def _interval(e: Estimate) -> list[float] | str:
    return list(e.interval) if e.interval else f"not given ({e.seeds} seed{'s' * (e.seeds != 1)})"


def _plain(value: Any) -> Any:
    """NaN and infinity to null, numpy numbers to Python's."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
