"""Where every row stands: its scores, the best rows by what they know, label curves, and what each row cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gfm_objectives.gain.intervals import estimate
from gfm_objectives.gain.means import interval, metrics
from gfm_objectives.gain.pairing import NOT_RUN, Cell, Table
from gfm_objectives.metrics import CLASSWISE, METRICS
from gfm_objectives.scores import ROLES, Score

Rows = list[dict[str, Any]]
SPENT = ("pretrain_flops", "search_flops", "extra_flops", "finetune_flops", "tuning_flops", "inference_flops", "epochs",
         "parameters", "trainable_parameters", "seconds", "peak_memory_mib")  # fmt: skip


def scores(table: Table) -> Rows:
    """`scores` of the summary: every contender on every task and label fraction."""
    out = []
    for task in table.tasks:
        for fraction in table.fractions:
            for name, row in table.rows.items():
                cell = table.cell(task, fraction, name)
                head = {"task": task, "fraction": fraction, "contender": name, "metric": table.metrics[task].name}
                if cell is None:
                    nothing = dict.fromkeys(("value", "interval", "error", "val", "epochs"))
                    out.append({**head, "status": NOT_RUN, **nothing, "seeds": 0, "figures": {}, "classes": {}})
                    continue
                e = estimate([cell.sampled], seedless=row.role == "untrained" and not table.nested[task])
                value = {"value": e.mean, "interval": interval(e), "error": e.error, "seeds": e.seeds}
                value["val"] = cell.validation(cell.seeds)
                value["epochs"] = float(np.mean([s.epochs for s in cell.scores]))
                out.append({**head, "status": "ok", **value, **_figures(cell, table.metrics[task].statistic)})
    return out


def _figures(cell: Cell, statistic: str) -> dict[str, Any]:
    """All that a statistic gives, means over seeds; of classes, over the seeds that have the class."""
    totals = torch.stack([s.total for s in cell.scores])  # (S, *shape)
    classwise = CLASSWISE if statistic == "confusion" else {}
    return {
        "figures": {m.name: float(m.of(totals).mean()) for m in METRICS.values() if m.statistic == statistic},
        "classes": {name: of(totals).nanmean(0).tolist() for name, of in classwise.items()},
    }


def knowledge(table: Table) -> Rows:
    """`knowledge` of the summary: the best row, whoever it is, and the best of each role, by test value."""
    out = []
    for fraction in table.fractions:
        for metric in metrics(table):
            tasks = [t for t in table.tasks if table.metrics[t].name == metric]
            for task in (*tasks, "mean"):
                wanted = tasks if task == "mean" else [task]
                out.append({"fraction": fraction, "metric": metric, "task": task, **_best(table, fraction, wanted)})
    return out


def _best(table: Table, fraction: float, tasks: Sequence[str]) -> dict[str, Any]:
    better = table.metrics[tasks[0]].better
    found: Rows = []
    incomplete = []
    for name, row in table.rows.items():
        cells = [c for t in tasks if (c := table.cell(t, fraction, name))]
        value = float(np.mean([c.sampled.point.mean() for c in cells])) if len(cells) == len(tasks) else math.nan
        if math.isfinite(value):
            found.append({"contender": name, "role": row.role, "value": value})
        else:
            incomplete.append(name)
    found.sort(key=lambda r: -better * r["value"])
    first = {role: next((r for r in found if r["role"] == role), None) for role in ROLES}
    return {"best": found[0] if found else None, "by_role": first, "incomplete": incomplete}


def labels_saved(table: Table) -> Rows:
    """How many labelled places the best rival from scratch needs for what a contender reaches with fewer.

    Read off the label curve of one row at F, the best in the mean of its validation over label fractions: its running
    best against log labels, within what was measured. `status` says 'more than measured' where even all labels did not
    suffice; saved = needed - used.
    """
    rows = []
    for task in table.tasks:
        versus, better = _whole_curve(table, task), table.metrics[task].better
        if versus is None:
            continue
        curve = [(c.scores[0].labels, better * c.sampled.point.mean()) for c in _curve(table, task, versus)]
        if len(curve) < 2 or any(n <= 0 for n, _ in curve):
            continue
        x, y = np.log([n for n, _ in curve]), np.maximum.accumulate([v for _, v in curve])
        for contender in table.gainers:
            for fraction in table.fractions:
                if (cell := table.cell(task, fraction, contender)) is None:
                    continue
                used, reached = cell.scores[0].labels, better * cell.sampled.point.mean()
                row = {"task": task, "fraction": fraction, "contender": contender, "versus": versus, "labels": used}
                if reached > y[-1]:
                    rows.append({**row, "status": "more than measured", "needed": curve[-1][0], "saved": None})
                elif reached < y[0]:
                    rows.append({**row, "status": "fewer than measured", "needed": curve[0][0], "saved": None})
                else:
                    needed = float(np.exp(np.interp(reached, y, x)))
                    rows.append({**row, "status": "ok", "needed": needed, "saved": needed - used})
    return rows


def _curve(table: Table, task: str, contender: str) -> list[Cell]:
    return [c for f in table.fractions if (c := table.cell(task, f, contender))]


def _whole_curve(table: Table, task: str) -> str | None:
    """The best row from scratch at F, by validation, among those run at every label fraction."""
    found = {}
    for r in table.rows.values():
        cells = _curve(table, task, r.name) if r.role == "scratch" and not r.extra_flops else []
        if len(cells) == len(table.fractions):
            found[r.name] = table.metrics[task].better * float(np.mean([c.validation(c.seeds) for c in cells]))
    known = {n: v for n, v in found.items() if math.isfinite(v)}
    return max(known, key=lambda n: known[n]) if known else None


def resources(table: Table, rows: Sequence[Score]) -> Rows:
    """`resources` of the summary: what each contender cost, means over its runs (tasks, fractions, seeds)."""
    out = []
    for contender in table.rows:
        mine = [s for s in rows if s.contender == contender]
        spent = {n: float(np.mean([getattr(s, n) for s in mine])) for n in SPENT}
        out.append({"contender": contender, "runs": len(mine), **spent})
    return out
