"""What pretraining gives by the number of labels: docs/results.md's table, and docs/images/labels.svg.

    python benchmarks/labels.py

Every folder of results (FOLDERS) is one number of labelled places, with the same encoders, F and test places. A gain
is over the best rival from scratch on validation, with F or F + P/n (benchmarks/budgets.py); intervals are Student's t
over Earths.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

import budgets
import common

from gfm_objectives.config.values import number
from gfm_objectives.svg import Axis, Chart

FOLDERS = {
    "landcover": ("five_percent", "baseline_landcover", "all_labels"),
    "flood": ("baseline_flood", "all_labels_flood"),
}
PAGE, PICTURE = budgets.PAGE, common.ROOT / "docs" / "images" / "labels.svg"
MARK = re.compile(r"(<!-- labels (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
P = 1e12  # FLOPs of pretraining of the rows that are compared
Curve = Mapping[int, budgets.Rows]  # labelled places -> rows


def read(task: str) -> dict[int, budgets.Rows]:
    return {labels(folder): budgets.read([folder]) for folder in FOLDERS[task]}


def labels(folder: str) -> int:
    """Labelled places of this folder's rows."""
    with (common.ROOT / "results" / folder / "scores.csv").open(newline="") as f:
        return max(int(r["labels"]) for r in csv.DictReader(f))


def compared(curve: Curve) -> dict[str, dict[int, budgets.Row]]:
    """Name -> labels -> row of what was pretrained with P, the best with the most labels first."""
    found: dict[str, dict[int, budgets.Row]] = {}
    for n, (pretrained, _, _) in sorted(curve.items()):
        for row in pretrained:
            if row.budget == P:
                found.setdefault(row.name, {})[n] = row
    return dict(sorted(found.items(), key=lambda f: -budgets.score(f[1][max(f[1])])))


def table(curve: Curve) -> str:
    """Scores and gains by labels; then the best from scratch, and what reads the map."""
    rivals = {n: budgets.rival(scratch, P) for n, (_, scratch, _) in sorted(curve.items())}

    def cell(by: Mapping[int, budgets.Row], n: int) -> str:
        return budgets.cell(by.get(n), rivals[n])

    out = [{"": name} | {f"{n} labels": cell(by, n) for n in rivals} for name, by in compared(curve).items()]
    best = {"": "best from scratch"} | {f"{n} labels": f"{budgets.score(r):.1f}, {r.name}" for n, r in rivals.items()}
    seen = {n: {r.name: r for r in rows[2] if not r.budget} for n, rows in curve.items()}
    for name in dict.fromkeys(name for n in rivals for name in seen[n]):
        by = {n: rows[name] for n, rows in seen.items() if name in rows}
        out.append({"": name} | {f"{n} labels": cell(by, n) for n in rivals})
    return common.table([*out, best])


def picture(curve: Curve) -> str:
    """mIoU by labels; dashed: the best from scratch, and the network that reads the map."""
    ns, rows = sorted(curve), compared(curve)
    reader = budgets.SEEN["conv_map_input"]
    lines = {name: {n: common.interval(list(r.test.values())) for n, r in by.items()} for name, by in rows.items()}
    dashed = {
        f"best from scratch, up to {number(P)} FLOPs more": [budgets.score(budgets.rival(curve[n][1], P)) for n in ns],
        "from scratch, reading the map": [budgets.score(r) for n in ns for r in curve[n][2] if r.name == reader],
    }
    ends = [v for by in lines.values() for m, h in by.values() for v in (m - h, m + h)]
    chart = Chart(
        Axis(-0.4, len(ns) - 0.6, "labelled places", names=tuple(map(str, ns))),
        Axis.around([*ends, *(v for values in dashed.values() for v in values)], "mIoU"),
        f"Land cover by labels, {number(P)} FLOPs of pretraining",
        "mIoU by labelled places",
        width=720,
        height=400,
    )
    for pattern, anchor, dx, dy, (name, values) in zip(
        ("2 3", "6 4"), ("start", "end"), (14, -6), (26, -8), dashed.items(), strict=True
    ):
        chart.line(list(enumerate(values)), 7, pattern, width=1.6)
        chart.text(0.5, sum(values[:2]) / 2, name, 7, anchor=anchor, dx=dx, dy=dy)
    for color, (name, by) in enumerate(lines.items()):
        x = {n: ns.index(n) + 0.04 * (color - (len(lines) - 1) / 2) for n in by}
        chart.line([(x[n], mean) for n, (mean, _) in by.items()], color)
        for n, (mean, half) in by.items():
            chart.interval(mean - half, mean + half, x[n], color, upright=True)
            chart.dot(x[n], mean, color, about=f"{name}, {n} labels: {mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]")
        chart.legend.append((name, color, "o", False))
    return chart.svg(standalone=True)


def fill(text: str) -> str:
    """The page with the tables of these tasks."""
    return MARK.sub(lambda m: f"{m[1]}{table(read(m[2]))}\n{m[3]}", text)


if __name__ == "__main__":
    PICTURE.write_text(picture(read("landcover")))
    PAGE.write_text(fill(PAGE.read_text()))
