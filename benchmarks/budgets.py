"""What the same labels give after each budget of pretraining: docs/results.md's tables, and docs/images/budgets.svg.

    python benchmarks/budgets.py

A task of the synthetic Earth lies in several folders of results (FOLDERS), whose rivals, F and places are the same. A
gain is over the best rival from scratch on validation: of those with F, and of those with F + P/n where they were run,
n being the number of tasks that share P: 1 where a rival had all of it, 10 where the most that one had was a tenth.
Intervals are Student's t over Earths, those of the slope too: points per decade of each Earth's own line.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import common
import numpy as np

from gfm_objectives.config.values import number
from gfm_objectives.svg import Axis, Chart

FOLDERS = {
    "landcover": ("baseline_landcover", "budgets_landcover", "budgets_reading", "budgets_1e11"),
    "flood": ("baseline_flood", "budgets_flood"),
}
PAGE, PICTURE = common.ROOT / "docs" / "results.md", common.ROOT / "docs" / "images" / "budgets.svg"
MARK = re.compile(r"(<!-- budgets (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
KINDS = {
    "pretrained": "",
    "conv_map": "no blocks, ",
    "unet_map": "U-Net, ",
}  # pretrained: what stands before the objective
SEEN = {"conv_map_input": "no blocks, reading the map", "unet_map_input": "U-Net, reading the map"}
Seeds = dict[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """test, val: mIoU in points by Earth; budget: FLOPs of pretraining; extra: what a rival had beyond F."""

    name: str
    budget: float
    extra: float
    test: Seeds
    val: Seeds


Rows = tuple[list[Row], list[Row], list[Row]]


def read(folders: Iterable[str]) -> Rows:
    """Pretrained rows, those from scratch, and those that read the map."""
    found: dict[tuple[str, str, float, float], tuple[Seeds, Seeds]] = {}
    for folder in folders:
        with (common.ROOT / "results" / folder / "scores.csv").open(newline="") as f:
            for r in csv.DictReader(f):
                key = (r["kind"], r["recipe"].split(" flops=")[0], float(r["pretrain_flops"]), float(r["extra_flops"]))
                test, val = found.setdefault(key, ({}, {}))
                test.setdefault(int(r["seed"]), 100 * float(r["value"]))  # a row that was run twice: as at first
                val.setdefault(int(r["seed"]), 100 * float(r["val"]))
    rows: Rows = ([], [], [])
    for (kind, recipe, budget, extra), sides in found.items():
        if kind in KINDS:
            rows[0].append(Row(KINDS[kind] + recipe.split(" ")[-1], budget, 0.0, *sides))
        elif kind in ("scratch", "conv", "unet"):
            rows[1].append(Row(kind + f" + {number(extra)} FLOPs" * bool(extra), 0.0, extra, *sides))
        elif kind in SEEN:
            rows[2].append(Row(SEEN[kind], 0.0, 0.0, *sides))
        elif kind == "pretrained_map_input":
            rows[2].append(Row(f"{recipe} after {number(budget)}, reading the map", budget, 0.0, *sides))
    return rows


def rival(scratch: Sequence[Row], budget: float) -> Row:
    """The best on validation, all Earths pooled, of those that had F, and F + P/n with the smallest n that was run."""
    means = {0.0, most(scratch, budget)}
    return max((r for r in scratch if r.extra in means), key=lambda r: statistics.fmean(r.val.values()))


def most(scratch: Sequence[Row], budget: float) -> float:
    """FLOPs that a rival had beyond F: the most that is no more than this budget."""
    return max(r.extra for r in scratch if r.extra <= budget)


def over(a: Seeds, b: Seeds) -> list[float]:
    return [a[s] - b[s] for s in sorted(a.keys() & b.keys())]


def told(values: Sequence[float]) -> str:
    mean, half = common.interval(values)
    text = f"{mean:+.1f}" + (f" [{mean - half:.1f}, {mean + half:.1f}]" if half == half else "")
    return f"**{text}**" if half == half and abs(mean) > half else text


def slopes(by: Mapping[float, Row]) -> list[float]:
    """Of each Earth that has every budget, points per decade by least squares."""
    x = np.log10(sorted(by))
    earths = set.intersection(*(set(r.test) for r in by.values()))
    return [float(np.polyfit(x, [by[b].test[e] for b in sorted(by)], 1)[0]) for e in sorted(earths)]


def curves(rows: Iterable[Row]) -> dict[str, dict[float, Row]]:
    """Name -> budget -> row."""
    out: dict[str, dict[float, Row]] = {}
    for r in rows:
        out.setdefault(r.name, {})[r.budget] = r
    return out


def table(rows: Rows) -> str:
    """A row for each network and objective: the score and the gain after each budget, and points per decade."""
    by_name = curves(rows[0])
    budgets = sorted({b for by in by_name.values() for b in by})
    best, extra = {b: rival(rows[1], b) for b in budgets}, {b: most(rows[1], b) for b in budgets}
    heads = {b: f"P = {number(b)}" + (f", n = {b / extra[b]:.0f}" if extra[b] else "") for b in budgets}
    out = []
    for name, by in sorted(by_name.items(), key=lambda n: -max(map(score, n[1].values()))):
        row = {"pretrained on the map or by": name}
        row |= {heads[b]: cell(by.get(b), best[b]) for b in budgets}
        out.append(row | {"a decade": told(slopes(by)) if len(by) > 1 else ""})
    seen = "; ".join(f"{r.name}: {score(r):.1f}" for r in rows[2])
    rivals = "; ".join(f"{r.name}, {score(r):.1f}" for r in dict.fromkeys(best.values()))
    return f"{common.table(out)}\n\nBest from scratch on validation: {rivals}. {seen}."


def score(row: Row) -> float:
    """Mean over Earths."""
    return statistics.fmean(row.test.values())


def cell(row: Row | None, best: Row) -> str:
    """Score and gain."""
    return f"{score(row):.1f}, {told(over(row.test, best.test))}" if row else "not run"


def picture(rows: Rows) -> str:
    """Gain against FLOPs of pretraining, a colour for each network and objective; dashed: those that read the map."""
    by_name = {n: by for n, by in curves(rows[0]).items() if len(by) > 1}
    last = max(b for by in by_name.values() for b in by)

    def gain(row: Row, budget: float) -> tuple[float, float]:
        return common.interval(over(row.test, rival(rows[1], budget).test))

    found = {n: {b: gain(r, b) for b, r in sorted(by.items())} for n, by in by_name.items()}
    seen = {r: gain(r, r.budget or last) for r in rows[2]}
    ends = [v for by in (*found.values(), seen) for m, h in by.values() for v in (m - h, m + h)]
    chart = Chart(
        Axis.around([b for by in found.values() for b in by], "FLOPs of pretraining", log=True),
        Axis.around(ends, "mIoU over the best from scratch without map", zero=True),
        "What pretraining gained: land cover, 20 labels",
        "Gain in mIoU over the best rival from scratch against pretraining FLOPs",
        width=720,
        height=400,
    )
    chart.line([(chart.x.low, 0.0), (chart.x.high, 0.0)], 7, width=1)
    for row, (mean, half) in seen.items():
        if row.budget:  # pretrained, too
            x = row.budget * 1.1
            chart.interval(mean - half, mean + half, x, 7, upright=True)
            chart.dot(x, mean, 7, hollow=True, about=f"{row.name}: {mean:+.1f} [{mean - half:.1f}, {mean + half:.1f}]")
            chart.text(x, mean, f"{row.name}: {mean:+.0f}", 7, anchor="end", dx=-12, dy=4)
        else:
            chart.line([(chart.x.low, mean), (chart.x.high, mean)], 7, "5 4", width=1.4)
            chart.text(chart.x.low, mean, f"from scratch, {row.name}: {mean:+.0f}", 7, dx=6)
    for color, (name, by) in enumerate(sorted(found.items(), key=lambda n: -list(n[1].values())[-1][0])):
        points = [(b * 1.05 ** (color - (len(found) - 1) / 2), mean, half) for b, (mean, half) in by.items()]
        chart.line([(x, mean) for x, mean, _ in points], color)
        for x, mean, half in points:
            chart.interval(mean - half, mean + half, x, color, upright=True)
            chart.dot(x, mean, color, about=f"{name}: {mean:+.1f} [{mean - half:.1f}, {mean + half:.1f}]")
        chart.legend.append((name, color, "o", False))
    return chart.svg(standalone=True)


def fill(text: str, rows: Mapping[str, Rows]) -> str:
    """The page with the tables of these tasks."""
    return MARK.sub(lambda m: f"{m[1]}{table(rows[m[2]])}\n{m[3]}", text)


if __name__ == "__main__":
    everything = {task: read(folders) for task, folders in FOLDERS.items()}
    PICTURE.write_text(picture(everything["landcover"]))
    PAGE.write_text(fill(PAGE.read_text(), everything))
