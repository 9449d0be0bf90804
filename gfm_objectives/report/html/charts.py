"""The page's charts: the label curve, gains with intervals, gain against what pretraining cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gfm_objectives.report import verdict, words
from gfm_objectives.report.html.parts import fold, pretrained
from gfm_objectives.report.tables import find, metrics, scale_of
from gfm_objectives.svg import COLORS, GREY, INK, MARKERS, Axis, Chart

Summary = Mapping[str, Any]
Look = tuple[int, str, bool, str]  # colour, marker, hollow, dash


def looks(summary: Summary) -> dict[str, Look]:
    """The same in all charts: colours for what is pretrained or saw the map, ink for the U-Net, grey for the rest."""
    coloured = [c for c in summary["contenders"] if summary["rows"][c]["role"] in ("pretrained", "saw_map")]
    out: dict[str, Look] = {}
    for i, c in enumerate(coloured):
        turn = i // COLORS  # colours come again with other markers, and hollow
        out[c] = (i % COLORS, MARKERS[(i + turn) % len(MARKERS)], bool(turn % 2), "5 3" if turn % 2 else "")
    for i, c in enumerate(c for c in summary["contenders"] if c not in out):
        row = summary["rows"][c]
        color = INK if row["kind"] == "unet" else GREY
        out[c] = (color, MARKERS[-1 - i % len(MARKERS)], bool(row["extra_flops"]), "2 3" if row["extra_flops"] else "")
    return out


def label_curve(summary: Summary) -> str:
    """Score by labelled places: the mean of tasks, and every task folded away. Nothing with one share of the labels."""
    if len(summary["fractions"]) < 2:
        return ""
    parts = [_curve(summary, [t for t in summary["tasks"] if _metric(summary, t) == m], m) for m in metrics(summary)]
    single = "".join(_curve(summary, [t], _metric(summary, t)) for t in summary["tasks"])
    return "".join(parts) + (fold("Every task", single) if len(summary["tasks"]) > 1 else "")


def _metric(summary: Summary, task: str) -> str:
    return str(summary["metrics"][task]["metric"])


def _curve(summary: Summary, tasks: Sequence[str], metric: str) -> str:
    scale, fractions = scale_of(summary, metric), summary["fractions"]
    lines: dict[str, list[tuple[float, float]]] = {}
    for c in summary["contenders"]:
        if summary["rows"][c]["role"] == "part":
            continue
        for f in fractions:
            found = [find(summary["scores"], task=t, fraction=f, contender=c) for t in tasks]
            values = [scale * r["value"] for r in found if r and r["status"] == "ok"]
            if len(values) == len(tasks):
                lines.setdefault(c, []).append((100 * f, sum(values) / len(values)))
    if not lines:
        return ""
    what = tasks[0] if len(tasks) == 1 else f"mean of {len(tasks)} tasks"
    title = next(m["title"] for m in summary["metrics"].values() if m["metric"] == metric)
    unit = f"{title}, points" if scale == 100 else title
    chart = Chart(
        Axis.around([x for line in lines.values() for x, _ in line], "% of the training labels", log=True),
        Axis.around([y for line in lines.values() for _, y in line], unit),
        f"The label curve: {what}",
        f"{unit} against the share of the labels, {what}, by contender",
    )
    look = looks(summary)
    for c, line in sorted(lines.items(), key=lambda item: look[item[0]][0] < COLORS):
        color, marker, hollow, dash = look[c]
        chart.line(line, color, dash)
        for x, y in line:
            chart.dot(x, y, color, marker, hollow, f"{c}, {x:.3g} % of the labels: {y:.4g}")
        chart.legend.append((c, color, marker, hollow))
    return _figure(chart)


def gains(summary: Summary, context: Mapping[str, Any]) -> str:
    """Mean gain of each encoder over the best from scratch and the U-Net, with intervals, a chart for each share."""
    parts = []
    for metric in metrics(summary):
        for f in reversed(summary["fractions"]):
            parts.append(_gains(summary, context, f, metric))
    return "".join(parts)


def _gains(summary: Summary, context: Mapping[str, Any], fraction: float, metric: str) -> str:
    scale = scale_of(summary, metric)
    rivals = [("best", 0, "o"), ("unet", INK, "x"), ("map", 1, "^")]
    at = {"fraction": fraction, "metric": metric, "n": 1, "status": "ok"}
    rows = [
        (c, [(find(summary["means"], contender=c, against=a, **at), color, marker) for a, color, marker in rivals])
        for c in pretrained(summary)
    ]
    rows = [(c, marks) for c, marks in rows if any(m for m, _, _ in marks)]
    if not rows:
        return ""
    ends = [e for _, marks in rows for m, _, _ in marks if m for e in [m["gain"], *_ends(m)]]
    what = "gain" if verdict.is_gain(context, fraction) else "gain in speed"
    title = f"Mean {what} with {words.percent(fraction)} of the labels, n = 1"
    longest = max(len(c) for c, _ in rows)
    chart = Chart(
        Axis.around([scale * e for e in ends], "points" if scale == 100 else "", zero=True),
        Axis(-0.6, len(rows) - 0.4, names=tuple(c for c, _ in rows)),
        title,
        f"{title}; over the best from scratch, the U-Net and the best that saw the map",
        height=90 + 44 * len(rows),
        left=min(240, 24 + 7 * longest),
        down=True,
    )
    chart.line([(0, -0.6), (0, len(rows) - 0.4)], GREY, "3 3")
    for i, (c, marks) in enumerate(rows):
        for j, (m, color, marker) in enumerate(marks):
            if m:
                y = i + 0.22 * (j - 1)
                if ends := _ends(m):
                    chart.interval(scale * ends[0], scale * ends[1], y, color)
                told = f"{c} over the {words.opponent(rivals[j][0], 1)}: {words.gain(m, scale)}"
                chart.dot(scale * m["gain"], y, color, marker, not ends, told)
    shown = [k for k in range(3) if any(marks[k][0] for _, marks in rows)]
    texts = ("over the best from scratch", "over the U-Net", "over the best that saw the map")
    chart.legend = [(texts[k], rivals[k][1], rivals[k][2], False) for k in shown]
    return _figure(chart, "Bars: 95 % intervals of the mean over tasks. Hollow: too few seeds for one.")


def _ends(mean: Mapping[str, Any]) -> list[float]:
    return mean["interval"] if isinstance(mean["interval"], list) else []


def gain_by_cost(summary: Summary) -> str:
    """Mean gain over the best from scratch, n = 1, against pretraining FLOPs, where rows differ in them."""
    look, parts = looks(summary), []
    for metric in metrics(summary):
        scale = scale_of(summary, metric)
        for f in reversed(summary["fractions"]):
            at = {"fraction": f, "metric": metric, "n": 1, "status": "ok", "against": "best"}
            found = {c: m for c in pretrained(summary) if (m := find(summary["means"], contender=c, **at))}
            cost = {c: summary["rows"][c]["pretrain_flops"] for c in found}
            if len({f"{x:.2g}" for x in cost.values() if x}) < 2:
                continue
            ends = [scale * e for m in found.values() for e in (m["gain"], *_ends(m))]
            chart = Chart(
                Axis.around([x for x in cost.values() if x], "pretraining FLOPs, P", log=True),
                Axis.around(ends, "points" if scale == 100 else "", zero=True),
                f"Mean gain against what pretraining cost, {words.percent(f)} of the labels",
            )
            for c in (c for c in found if cost[c]):
                color, marker, hollow, _ = look[c]
                if bar := _ends(found[c]):
                    chart.interval(scale * bar[0], scale * bar[1], cost[c], color, upright=True)
                chart.dot(
                    cost[c], scale * found[c]["gain"], color, marker, hollow, f"{c}: {words.gain(found[c], scale)}"
                )
                chart.legend.append((c, color, marker, hollow))
            parts.append(_figure(chart))
    return "".join(parts)


def _figure(chart: Chart, note: str = "") -> str:
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="chart">{chart.svg()}</div>{told}'
