"""The summary eval.py prints: scores and gains with intervals, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.report import words
from gfm_objectives.report.tables import find, gain_rows, gainers, scale_of, titles

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"win": "green", "loss": "red"}
_SHOWN = ("best", "unet", "map")  # the rest stands in report.md


def terminal_table(summary: Mapping[str, Any]) -> RenderableType:
    """What `rich.print` shows at the end of a comparison: scores of all contenders, then the gains of those that know
    more than the labels."""
    from rich.console import Group
    from rich.text import Text

    label = f"{words.seeds(*summary['seeds'])} per cell" + (", synthetic data" if summary["synthetic"] else "")
    legend = "brackets: 95 % intervals; green: win, red: loss, plain: tie or no interval; W/L/T over tasks"
    parts: list[RenderableType] = [_scores(summary, label)]
    if gainers(summary):
        parts.append(_gains(summary))
    return Group(*parts, Text(legend, style="dim"))


def _scores(summary: Mapping[str, Any], label: str) -> RenderableType:
    from rich.table import Table

    table = Table(title=f"Test scores ({label})", title_justify="left")
    table.add_column("contender", no_wrap=True)
    for t in titles(summary):
        for f in summary["fractions"]:
            table.add_column(f"{t}\n{words.percent(f)}", justify="right")
    for c in summary["contenders"]:
        cells = []
        for t in summary["tasks"]:
            for f in summary["fractions"]:
                row = find(summary["scores"], task=t, fraction=f, contender=c)
                cells.append(words.plus_minus(row, summary["metrics"][t]["scale"]) if row else words.NOT_RUN)
        table.add_row(c, *cells)
    return table


def _gains(summary: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table(title="Gain", title_justify="left")
    for title in ("contender", "labels", "over the"):
        table.add_column(title)
    for title in (*titles(summary), "mean", "W/L/T"):
        table.add_column(title, justify="right")
    for fraction in summary["fractions"]:
        for c, against, n, metric in gain_rows(summary, fraction):
            if against not in _SHOWN:
                continue
            at = {"contender": c, "fraction": fraction, "against": against, "n": n}
            scale = scale_of(summary, metric)
            rows = [find(summary["gains"], task=t, metric=metric, **at) for t in summary["tasks"]]
            mean = find(summary["means"], metric=metric, **at)
            assert mean is not None, at
            cells = [_styled(r, scale) for r in (*rows, mean)]
            table.add_row(c, words.percent(fraction), words.opponent(against, n), *cells, words.record(mean, "/"))
        table.add_section()
    return table


def _styled(row: Mapping[str, Any] | None, scale: float) -> str:
    if row is None:
        return ""
    text = words.gain(row, scale).replace("[", "\\[")
    text += " (some tasks)" if row.get("missing") and row["status"] == "ok" else ""
    style = _STYLES.get(row["verdict"] or "")
    return f"[{style}]{text}[/{style}]" if style else text
