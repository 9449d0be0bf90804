"""`gfm yardstick`: the figures of finished runs as a table, beside those of what was never trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gfm_objectives.budget import Ledger
from gfm_objectives.compare.runs import group_runs
from gfm_objectives.report import words
from gfm_objectives.report.tables import markdown
from gfm_objectives.yardstick.probes import alarm

# figure -> title, factor, digits
COLUMNS = {
    "map_nll": ("map NLL", 1, 3),
    "sensor_nll": ("other-sensor NLL", 1, 3),
    "date_nll": ("next-date NLL", 1, 3),
    "knn": ("kNN, %", 100, 1),
    "std": ("std", 1, 3),
    "cosine": ("cosine", 1, 3),
    "rankme": ("RankMe", 1, 1),
    "token_std": ("std of tokens", 1, 3),
    "token_cosine": ("cosine of tokens", 1, 3),
    "token_rankme": ("RankMe of tokens", 1, 1),
}


def table(folders: Sequence[str]) -> str:
    """Markdown: a row for each contender, mean ± deviation over its seeds, then the same encoders untrained and the
    bands' statistics; a table for each set of places that runs were measured on. InputError for what is no run.
    """
    runs = [
        (words.contender(name), Ledger.read(Path(r.folder) / "ledger.json"))
        for name, members in group_runs(folders).items()
        for r in members
    ]
    places = dict.fromkeys(ledger.yardstick.get("places", "") for _, ledger in runs)
    return "\n".join(_of([r for r in runs if r[1].yardstick.get("places", "") == p]) for p in places)


def _of(runs: Sequence[tuple[str, Ledger]]) -> str:
    """The table of runs on the same places."""
    rows = []
    for name in dict.fromkeys(n for n, _ in runs):
        mine = [ledger for n, ledger in runs if n == name]
        cost = words.flops(fmean(ledger.flops_spent for ledger in mine))
        rows.append([name, cost, str(len(mine)), *_cells(ledger.yardstick for ledger in mine), _remark(mine)])
    untrained = {(m.encoder, sum(m.parameters.values()) - m.parameters["objective"], m.seed): m for _, m in runs}
    for key in dict.fromkeys(k[:2] for k in untrained):
        figures = [f for k, m in untrained.items() if k[:2] == key and (f := m.yardstick.get("random"))]
        rows += [[f"untrained {key[0]}", "0", str(len(figures)), *_cells(figures), ""]] if figures else []
    if bands := [f for _, m in runs if (f := m.yardstick.get("bands"))]:
        rows.append(["band statistics", "0", "-", *_cells(bands[:1]), ""])
    return markdown(["contender", "C", "seeds", *(title for title, *_ in COLUMNS.values()), "remarks"], rows)


def _cells(figures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Mean ± deviation of each column; '-' where the data has no such figure, 'not run' where nothing was measured."""
    every = [f for f in figures if f]
    if not every:
        return [words.NOT_RUN] * len(COLUMNS)
    cells = []
    for key, (_, factor, digits) in COLUMNS.items():
        values = [factor * f[key] for f in every if key in f]
        deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.{digits}f}{deviation}" if values else "-")
    return cells


def _remark(runs: Sequence[Ledger]) -> str:
    """'broken' where, in the mean, a linear probe reads the map no better than from the same encoder untrained, or from
    the bands' statistics; 'collapsed' where a run raised the alarm."""
    measured = [m.yardstick for m in runs if m.yardstick]
    mean = {
        who: fmean(f["map_nll"] for f in figures) if figures and all("map_nll" in f for f in figures) else math.nan
        for who, figures in (
            ("encoder", measured),
            ("random", [y.get("random", {}) for y in measured]),
            ("bands", [y.get("bands", {}) for y in measured]),
        )
    }
    worse = mean["encoder"] >= mean["random"] or mean["encoder"] >= mean["bands"]
    figures = ({k: v for k, v in y.items() if k in COLUMNS} for y in measured)
    return ", ".join(["broken"] * worse + ["collapsed"] * any(alarm(f) for f in figures))
