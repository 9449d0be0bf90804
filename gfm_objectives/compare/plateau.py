"""F, the fine-tuning budget of a task and label fraction: where every rival from scratch has stopped to gain."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gfm_objectives import disk
from gfm_objectives.compare.plan import Plan
from gfm_objectives.compare.trials import PLATEAU, TUNING, Job, Workers
from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS, Metric

if TYPE_CHECKING:
    from gfm_objectives.compare.comparison import Cell, Comparison
    from gfm_objectives.compare.contenders import Contender


@dataclass
class Budgets:
    """(task, fraction) -> F, and whether the plateau was seen there (None: not looked for): without it a table compares
    speed."""

    flops: dict[tuple[str, float], float] = field(default_factory=dict)
    reached: dict[tuple[str, float], bool | None] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        return [
            {"task": t, "fraction": f, "flops": flops, "plateau": self.reached[t, f]}
            for (t, f), flops in self.flops.items()
        ]


def check_rivals(rows: Sequence[Contender]) -> None:
    """InputError where F is to be found and no row decides it."""
    if not any(c.decides_f for c in rows):
        raise InputError(
            "finetune.flops=null: no rival from scratch to find F by; add contenders=unet, or give a number"
        )


def find_budgets(c: Comparison, pool: Workers, plan: Plan) -> Budgets:
    """F of every task and fraction: the first of start, 2 start, 4 start, ... whose next two doublings together add
    less than `finetune.plateau` to the validation of every rival from scratch, in the mean of len(PLATEAU) seeds.

    Each rival is tuned once, at the first of them. The curves are kept in plateau.json. A fixed finetune.flops is F for
    all, and where `finetune.limit` comes first F is the limit: neither is a plateau.
    """
    out = Budgets()
    keys = [(b.task.name, f) for b in c.benches for f in c.fractions]
    if c.finetune["flops"] is not None:
        return Budgets(dict.fromkeys(keys, float(c.finetune["flops"])), dict.fromkeys(keys))
    rivals = [cell for cell in c.cells() if cell[1].decides_f]
    assert rivals, "check_rivals comes first"
    start, limit = float(c.finetune["start"]), float(c.finetune["limit"])
    number = 0
    while jobs := [j for cell in rivals for j in c.proposed(cell, c.job(cell, TUNING, start))]:
        number += 1
        c.run_trials(list({j.key: j for j in jobs}.values()), pool, plan, f"plateau, tuning round {number}")
    curves: dict[tuple[str, float], dict[str, list[float]]] = {key: {} for key in keys}
    metrics = {(b.task.name, f): METRICS[b.task.metric] for b in c.benches for f in c.fractions}
    flops, levels = start, []
    while open_ := [key for key in keys if key not in out.flops]:
        levels.append(flops)
        cells = [cell for cell in rivals if (cell[0].task.name, cell[2]) in open_]
        level = {id(cell): _jobs(c, cell, start, flops) for cell in cells}
        todo = [j for js in level.values() for j in js if j not in c.log]
        c.run_trials(todo, pool, plan, f"plateau, F = {flops:.3g}")
        for cell in cells:
            values = [c.log.rows[j.key]["val"] for j in level[id(cell)]]
            mean = math.nan if None in values else fmean(values)  # NaN: a run diverged there, which is no plateau
            curves[cell[0].task.name, cell[2]].setdefault(cell[1].name, []).append(mean)
        for key in open_:
            if (k := first_flat(curves[key], c.finetune["plateau"], metrics[key])) is not None:
                out.flops[key], out.reached[key] = levels[k], True
            elif 2 * flops > limit:
                out.flops[key], out.reached[key] = flops, False
        flops *= 2
    _tell(c, curves, levels, out)
    return out


def first_flat(curves: Mapping[str, Sequence[float]], step: float, metric: Metric = METRICS["miou"]) -> int | None:
    """The first level from which two doublings add less than `step` to every curve; None where there is none yet.

    `step` is in the metric where it is a share, printed in points, else a share of the value itself.
    """

    def flat(v: Sequence[float], k: int) -> bool:
        if not all(map(math.isfinite, v[k : k + 3])):
            return False
        gain = max(metric.better * (x - v[k]) for x in v[k + 1 : k + 3])
        return gain < step * (1 if metric.scale == 100 else abs(v[k]))

    n = min(map(len, curves.values()))
    return next((k for k in range(n - 2) if all(flat(v, k) for v in curves.values())), None)


def _jobs(c: Comparison, cell: Cell, start: float, flops: float) -> list[Job]:
    """The seeds of one level, with the settings that were tuned at the first, but all of F and nothing frozen: what was
    best with little would make a curve flat that is not."""
    hparams = replace(c.log.best(c.job(cell, TUNING, start)), length=1.0, freeze="")
    return [replace(c.job(cell, seed, flops), hparams=hparams) for seed in PLATEAU]


def _tell(
    c: Comparison,
    curves: Mapping[tuple[str, float], Mapping[str, Sequence[float]]],
    levels: Sequence[float],
    out: Budgets,
) -> None:
    """The curves on the terminal and in plateau.json."""
    records = []
    for (task, fraction), rivals in curves.items():
        f, reached = out.flops[task, fraction], out.reached[task, fraction]
        end = "" if reached else " (finetune.limit comes first: no plateau)"
        print(f"plateau, {task}, {fraction:.0%} of the labels: F = {f:.3g}{end}")
        for rival, values in rivals.items():
            points = [(x, v if math.isfinite(v) else None) for x, v in zip(levels, values, strict=False)]
            print(
                f"  {rival}  "
                + "  ".join(f"{x:.2g}: {v:.3f}" if v is not None else f"{x:.2g}: diverged" for x, v in points)
            )
            about = {"task": task, "fraction": fraction, "contender": rival}
            records += [{**about, "flops": x, "val": v, "chosen": reached and x == f} for x, v in points]
    c.out.mkdir(parents=True, exist_ok=True)
    disk.write(c.out / "plateau.json", json.dumps(records, indent=1) + "\n")
