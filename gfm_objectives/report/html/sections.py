"""The page's tables: gains with tasks folded away, scores, classes, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from gfm_objectives.report import verdict, words
from gfm_objectives.report.html.parts import fold, judged, row, table
from gfm_objectives.report.tables import find, gainers, metrics, scale_of

Summary = Mapping[str, Any]
COLUMNS = (("best", 1), ("unet", 1), ("same", 1), ("map", 1))


def gains(summary: Summary, context: Mapping[str, Any]) -> str:
    """For every share of the labels and metric: mean gains, the tasks below each row."""
    parts = []
    size = summary["suite_size"]
    for f in reversed(summary["fractions"]):
        for metric in metrics(summary):
            every = dict.fromkeys([COLUMNS[0], ("best", size), *COLUMNS[1:]])
            columns = [c for c in every if _any(summary, f, metric, *c)]
            if columns:
                over = [f"over the {words.opponent(a, n)}".replace(" = ", "\u00a0=\u00a0") for a, n in columns]
                head = ["contender", *over, "won / lost / tied", "median", "without the best task"]
                rows = [r for c in gainers(summary) for r in _gain_rows(summary, c, f, metric, columns)]
                title = f"{words.percent(f)} of the labels: {_what(context, f)} in {_title(summary, metric)}"
                parts.append(f"<h3>{escape(title)}</h3>{table(head, rows, title)}")
    how = (
        "Mean of tasks with its 95 % interval; ▲ and ▼: 0 is not in it. Won, lost, tied, median and the mean without "
        "the best task are over the best rival from scratch, n = 1. n: the tasks that share the cost of pretraining; "
        "the rival gets P/n more FLOPs. A contender's name shows its tasks."
    )
    return f'{"".join(parts)}<p class="note">{how}</p>' if parts else ""


def _what(context: Mapping[str, Any], fraction: float) -> str:
    return "gain" if verdict.is_gain(context, fraction) else "gain in speed"


def _any(summary: Summary, fraction: float, metric: str, against: str, n: int) -> bool:
    at = {"fraction": fraction, "metric": metric, "against": against, "n": n, "status": "ok"}
    return find(summary["means"], **at) is not None


def _title(summary: Summary, metric: str) -> str:
    return next(str(m["title"]) for m in summary["metrics"].values() if m["metric"] == metric)


def _gain_rows(
    summary: Summary, contender: str, fraction: float, metric: str, columns: list[tuple[str, int]]
) -> list[str]:
    scale = scale_of(summary, metric)
    at = {"contender": contender, "fraction": fraction}
    found = [find(summary["means"], metric=metric, against=a, n=n, **at) for a, n in columns]
    if not any(m and m["status"] == "ok" for m in found):
        return []
    cells = [judged(words.gain(m, scale), m.get("verdict") if m else None) for m in found]
    first = found[0]
    told = ["-", "-", "-"]
    if first and first["status"] == "ok":
        rest = first["without_best"]
        told = [words.record(first), words.value(first["median"], scale, signed=True)]
        told.append(f"{words.gain(rest, scale)} ({rest['task']})" if rest else "-")
    name = f'<td><button class="fold" type="button">{escape(contender)}</button></td>'
    rows = [row([*cells, *told]).replace("<tr>", f"<tr>{name}", 1)]
    for t in (t for t in summary["tasks"] if summary["metrics"][t]["metric"] == metric):
        own = [find(summary["gains"], task=t, against=a, n=n, **at) for a, n in columns]
        shown = [
            judged(_named(g, scale, a), g.get("verdict") if g else None) for g, (a, _) in zip(own, columns, strict=True)
        ]
        rows.append(row([t, *shown, "", "", ""], 'class="task"'))
    return rows


def _named(g: Mapping[str, Any] | None, scale: float, against: str) -> str:
    """A gain and whom it is over, where that was chosen."""
    text = words.gain(g, scale)
    return (
        f"{text} ({g['versus']})" if g and g["status"] == "ok" and against in ("best", "map") and g["versus"] else text
    )


def scores(summary: Summary) -> str:
    """Test scores; `data-value` holds the figure unrounded."""
    parts, ground = [], summary.get("ground", {})
    for f in reversed(summary["fractions"]):
        rows = []
        for c in summary["contenders"]:
            cells: list[Any] = [c]
            for t in summary["tasks"]:
                found = find(summary["scores"], task=t, fraction=f, contender=c)
                ok = found and found["status"] == "ok"
                text = words.plus_minus(found, summary["metrics"][t]["scale"]) if found else words.NOT_RUN
                key = f"{c}|{t}|{f}"
                value = f'data-key="{escape(key, quote=True)}" data-value="{found["value"]}"' if found and ok else ""
                cells.append((text, value))
                if t in ground:
                    cells.append(words.ground(summary, t, c))
            rows.append(row(cells))
        heads = []
        for t in summary["tasks"]:
            heads += [f"{t} ({summary['metrics'][t]['title']})", *([f"{t}: shared ground"] if t in ground else [])]
        title = f"Test scores, {words.percent(f)} of the labels"
        parts.append(f"<h3>{escape(title)}</h3>{table(['contender', *heads], rows, title)}")
    absent = "".join(
        f'<p class="note">{escape(c)}: not run, {escape(w)}.</p>' for c, w in summary.get("not_run", {}).items()
    )
    note = f'<p class="note">{escape(words.GROUND)}</p>' if ground else ""
    return "".join(parts) + absent + note


def classes(summary: Summary, context: Mapping[str, Any]) -> str:
    """IoU of every class, a table for each task, folded away."""
    parts = []
    for t in summary["tasks"]:
        rows, width = [], 0
        for f in reversed(summary["fractions"]):
            for c in summary["contenders"]:
                found = find(summary["scores"], task=t, fraction=f, contender=c)
                values = found["classes"].get("iou") if found and found["status"] == "ok" else None
                if values:
                    width = len(values)
                    rows.append(row([c, words.percent(f), *("-" if v is None else words.value(v) for v in values)]))
        names = context.get("classes", {}).get(t) or [f"class {k}" for k in range(width)]
        if rows:
            parts.append(fold(t, table(["IoU", "labels", *names[:width]], rows, f"IoU of the classes of {t}")))
    return "".join(parts)
