"""The summary eval.py prints: gains with intervals, as a rich table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.report import words
from gfm_objectives.report.tables import find, gain_rows, name

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"win": "green", "loss": "red"}


def terminal_table(summary: Mapping[str, Any]) -> RenderableType:
    """What `rich.print` shows at the end of a comparison: mIoU of all contenders, then the gains of the pretrained."""
    from rich.console import Group
    from rich.text import Text

    label = f"{words.seeds(*summary['seeds'])} per cell" + (", synthetic data" if summary["synthetic"] else "")
    legend = "mIoU points; brackets: 95 % intervals; green: win, red: loss, plain: tie or no interval; W/L/T over tasks"
    parts: list[RenderableType] = [_scores(summary, label)]
    if summary["pretrained"]:
        parts.append(_gains(summary))
    return Group(*parts, Text(legend, style="dim"))


def _scores(summary: Mapping[str, Any], label: str) -> RenderableType:
    from rich.table import Table

    table = Table(title=f"Test mIoU, points ({label})", title_justify="left")
    table.add_column("contender", no_wrap=True)
    columns = [(t, f) for t in summary["tasks"] for f in summary["fractions"]]
    for t, f in columns:
        table.add_column(f"{t}\n{words.percent(f)}", justify="right")
    for c in summary["contenders"]:
        cells = [find(summary["miou"], task=t, fraction=f, contender=c) for t, f in columns]
        table.add_row(name(summary, c), *(words.plus_minus(r) if r else words.NOT_RUN for r in cells))
    return table


def _gains(summary: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table(title="Gain, mIoU points", title_justify="left")
    for title in ("contender", "labels", "against"):
        table.add_column(title)
    for title in (*summary["tasks"], "mean", "W/L/T"):
        table.add_column(title, justify="right")
    for fraction in summary["fractions"]:
        for c, against, n in gain_rows(summary, fraction):
            at = {"contender": c, "fraction": fraction, "against": against, "n": n}
            rows = [find(summary["gains"], task=t, **at) for t in summary["tasks"]] + [find(summary["means"], **at)]
            cells = [_styled(r) for r in rows if r is not None]
            mean = rows[-1]
            assert mean is not None, at
            record = words.record(mean, "/")
            table.add_row(name(summary, c), words.percent(fraction), words.opponent(against, n), *cells, record)
        table.add_section()
    return table


def _styled(row: Mapping[str, Any]) -> str:
    text = words.gain(row).replace("[", "\\[")
    text += " (some tasks)" if row.get("missing") and row["status"] == "ok" else ""
    style = _STYLES.get(row["verdict"] or "")
    return f"[{style}]{text}[/{style}]" if style else text
