"""The comparison as plain JSON: what pretraining gained, over whom, at what price, with paired intervals.

Schema 2. A row of a table is a contender; its name is for people, `rows` says what it is. Values are in the metric's
own unit (mIoU 0..1, RMSE in the target's unit), gains have the sign that makes + better. Floats have 6 significant
digits; null = not known or not run. `status` is 'ok' or 'not run: <what>'. `interval` is [low, high], or 'not given
(3 seeds)', or null where `status` is not ok; `verdict` is win | loss | tie (the interval holds 0) | undecided (none).

    schema        2
    tasks         [task]
    metrics       {task: {metric, title, statistic, better (+1 | -1), scale (100: printed in points)}}
    fractions     [label fraction], ascending
    suite_size    the n of P/n that is printed beside n = 1
    contenders    [name], in the order of tables: role, kind, shape, extra FLOPs, name
    rows          {name: {role, kind, recipe, shape, pretrain_flops (P), search_flops, extra_flops (P/n, given on top of
                  F), pretrain_runs (how many differ)}}
    seeds         [fewest, most] of the trained rows' cells
    sampling      {task: {seeds ('crossed': all on the same areas | 'nested': each on its own), areas (of a seed),
                  tiles (of a seed)}}
    synthetic     [task]; worlds, commits, devices [text]; fingerprints {task: text}
    labels        {task: {fraction: labelled places}}
    scores        [{task, fraction, contender, metric, status, value, interval, error, seeds, val, epochs,
                  figures {metric: mean over seeds; all that the statistic gives},
                  classes {'iou' | 'f1' | 'precision' | 'recall': [K] mean over seeds}; {} unless confusions}]
    gains         [{contender, fraction, against, n, task, metric, status, versus (who stands for `against`),
                  candidates ([name], among whom it was chosen), gain, interval, error, df, seeds, verdict,
                  per_eflop, per_eflop_searched}] for rows of the roles pretrained, part and saw_map
    means         [{contender, fraction, against, n, metric, status, tasks, missing, gain, interval, error, df, seeds,
                  verdict, per_eflop, per_eflop_searched, median,
                  without_best {task (left out: that of the largest gain), gain, interval, error, df, seeds, verdict},
                  over_tasks {label 'tasks', gain, interval (tasks as a sample), error, df, verdict},
                  wins, losses, ties, undecided}] one per metric; without_best null for one task
    break_even    [{contender, fraction, against ('best' | 'unet'), task ('mean': of all, per metric), metric,
                  n (smallest measured with gain > 0 | 'none' | 'not run'), verdict, measured [n]}] where P is not 0
    knowledge     [{fraction, metric, task ('mean': of all), best, by_role {role: best of it}, incomplete [name]}]: by
                  test value; best = {contender, role, value} | null; 'mean' is among those that have run every task
    labels_saved  [{task, fraction, contender, versus (best from scratch at F), labels, status ('ok' | 'more than
                  measured' | 'fewer than measured'), needed, saved}]
    resources     [{contender, runs, pretrain_flops, search_flops, extra_flops, finetune_flops, tuning_flops,
                  inference_flops, epochs, parameters, trainable_parameters, seconds, peak_memory_mib}]: means of runs

`against`, in this order: best (role scratch, at F and at F + P/n, by validation), best_on_test (the same chosen on
test: a bound), unet (kind unet, the better on validation of F and F + P/n), equal (kind unet at F), same (from scratch
with the contender's own shape, at F), map (role saw_map, no dearer than the contender, by validation). Gain per EFLOP
divides by the pretraining FLOPs charged to one task, P/n, in 1e18; `searched` by (P + search)/n.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.gain import means, standing
from gfm_objectives.gain.pairing import Table
from gfm_objectives.scores import Score

# What every gain.json has: reports of a file without one of them would fail half-way.
KEYS = (
    *("tasks", "metrics", "fractions", "suite_size", "contenders", "rows", "seeds", "sampling", "synthetic"),
    *("commits", "devices", "fingerprints", "labels", "scores", "gains", "means", "break_even", "knowledge"),
    *("labels_saved", "resources"),
)


def summarise(scores: Sequence[Score], suite_size: int | None = None) -> dict[str, Any]:
    """Everything the report shows; keys above. suite_size: the n of P/n, by default how many tasks there are."""
    table = Table(scores, suite_size)
    gains, over_tasks, break_even = means.gains(table)
    counts = [len(c.seeds) for (_, _, n), c in table.cells.items() if table.rows[n].role != "untrained"]
    summary = {
        "schema": 2,
        "tasks": table.tasks,
        "metrics": {
            t: {"metric": m.name, "title": m.title, "statistic": m.statistic, "better": m.better, "scale": m.scale}
            for t, m in table.metrics.items()
        },
        "fractions": table.fractions,
        "suite_size": table.suite_size,
        "contenders": list(table.rows),
        "rows": {name: _row(table, name, scores) for name in table.rows},
        "seeds": [min(counts, default=0), max(counts, default=0)],
        "sampling": {t: _sampling(table, t) for t in table.tasks},
        "synthetic": [t for t in table.tasks if any(s.synthetic for s in scores if s.task == t)],
        "worlds": sorted({s.world for s in scores if s.world}),
        "commits": sorted({s.commit for s in scores if s.commit}),
        "devices": sorted({s.device for s in scores if s.device}),
        "fingerprints": {t: ", ".join(sorted({s.fingerprint for s in scores if s.task == t})) for t in table.tasks},
        "labels": {t: {str(f): _labels(table, t, f) for f in table.fractions} for t in table.tasks},
        "scores": standing.scores(table),
        "gains": gains,
        "means": over_tasks,
        "break_even": break_even,
        "knowledge": standing.knowledge(table),
        "labels_saved": standing.labels_saved(table),
        "resources": standing.resources(table, scores),
    }
    return _plain(summary)


def write(summary: dict[str, Any], path: str | Path) -> None:
    """Save a summary as JSON other tools can read (strict: no NaN)."""
    disk.write(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")


def _row(table: Table, name: str, scores: Sequence[Score]) -> dict[str, Any]:
    runs = {s.pretrain_run for s in scores if s.contender == name and s.pretrain_run}
    return {k: v for k, v in asdict(table.rows[name]).items() if k != "name"} | {"pretrain_runs": len(runs)}


def _sampling(table: Table, task: str) -> dict[str, Any]:
    cell = next(c for (t, _, _), c in table.cells.items() if t == task)
    how = "nested" if table.nested[task] else "crossed"
    return {"seeds": how, "areas": len(cell.sampled.areas[0]), "tiles": cell.scores[0].tiles}


def _labels(table: Table, task: str, fraction: float) -> int | None:
    cells = [c for (t, f, n), c in table.cells.items() if (t, f) == (task, fraction)]
    return next((c.scores[0].labels for c in cells if c.scores[0].role != "untrained"), None)


def _plain(value: Any) -> Any:
    """Python's own numbers, floats to 6 significant digits, NaN and infinity to null: what JSON can hold.

    The digits after the sixth differ between processors, and files made on two of them would.
    """
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
