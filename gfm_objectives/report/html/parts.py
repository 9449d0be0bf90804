"""Pieces of HTML that the page's sections share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Cell = str | tuple[str, str]  # text, or text and attributes


def table(head: Sequence[str], rows: Iterable[str], label: str) -> str:
    """A table that scrolls inside its own box; rows are finished <tr>."""
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, quote=True)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(cells: Sequence[Cell], attributes: str = "") -> str:
    """A <tr>; texts are escaped, attributes are not."""
    made = "".join(f"<td>{escape(c)}</td>" if isinstance(c, str) else f"<td {c[1]}>{escape(c[0])}</td>" for c in cells)
    return f"<tr {attributes}>{made}</tr>" if attributes else f"<tr>{made}</tr>"


def judged(text: str, verdict: str | None) -> Cell:
    """A cell of a gain, marked where its interval does not hold 0."""
    return (text, f'class="{verdict}"') if verdict in ("win", "loss") else text


def fold(summary: str, body: str, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def prose(markdown: str) -> str:
    """Paragraphs, lists and bold of the report's own sentences."""
    out, items = [], []
    for line in [*markdown.split("\n"), ""]:
        text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(line.strip()))
        if line.startswith("- "):
            items.append(f"<li>{text[2:]}</li>")
            continue
        if items:
            out.append(f"<ul>{''.join(items)}</ul>")
            items = []
        if text:
            out.append(f"<p>{text}</p>")
    return "".join(out)


def pretrained(summary: Mapping[str, Any]) -> list[str]:
    """The rows of encoders, without their parts."""
    return [c for c in summary["contenders"] if summary["rows"][c]["role"] == "pretrained"]
