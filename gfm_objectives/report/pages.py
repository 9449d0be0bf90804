"""`gfm reproduce readme`: every table and figure of the pages, written again from the scores under results/.

A page says where a table stands, and what is between the two marks is the command's:

    <!-- results/dev: headline 0.2 -->
    <!-- end -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from gfm_objectives import disk, report
from gfm_objectives.errors import InputError
from gfm_objectives.report import tables, verdict, yardstick

PAGES = ("README.md", "docs/results.md")
MARK = re.compile(r"(<!-- (results/[^\s:]+): (\w+)((?: [\d.]+)?) -->\n).*?(<!-- end -->)", re.DOTALL)
BY_FRACTION: Mapping[str, Callable[[Path, tables.Summary, float], str]] = {
    "headline": lambda folder, summary, fraction: tables.headline(summary, fraction),
    "gains": lambda folder, summary, fraction: tables.gains(summary, fraction),
    "predicts": lambda folder, summary, fraction: yardstick.predicts(folder, fraction),
    "short": lambda folder, summary, fraction: verdict.of_fraction(summary, report.context(folder), fraction),
}
WHOLE: Mapping[str, Callable[[Path, tables.Summary], str]] = {
    "scores": lambda folder, summary: tables.scores(summary),
    "curve": lambda folder, summary: tables.curve(summary),
    "break_even": lambda folder, summary: tables.break_even(summary),
    "labels_saved": lambda folder, summary: tables.labels_saved(summary),
    "resources": lambda folder, summary: tables.resources(summary),
    "yardstick": lambda folder, summary: yardstick.measured(folder),
}


def reproduce(root: str | Path = ".") -> list[Path]:
    """Write reports, figures and pages anew under `root`, the repository; returns the files whose text changed.

    InputError where `root` has no page, or a page asks for a table that does not exist.
    """
    root = Path(root)
    pages = [p for name in PAGES if (p := root / name).exists()]
    if not pages:
        raise InputError(f"{root.resolve()}: no {' and no '.join(PAGES)}; run it in a checkout of the repository")
    folders = sorted(p.parent for p in (root / "results").glob("*/scores.csv"))
    watched = [*pages, *(f / name for f in folders for name in ("report.md", "gain.json"))]
    before = {p: p.read_text() if p.exists() else "" for p in watched}
    for folder in folders:
        report.write(folder)
    for page in pages:
        disk.write(page, fill(page.read_text(), root, page.name))
    return [p for p in watched if p.read_text() != before[p]]


def fill(text: str, root: Path, name: str = "page") -> str:
    """`text` with the table of every mark written anew."""

    @cache
    def summary(folder: str) -> tables.Summary:
        if not (root / folder / "scores.csv").exists():
            raise InputError(f"{name}: {folder} has no scores.csv; mend the mark or run the comparison")
        return json.loads((root / folder / "gain.json").read_text())  # written just before, from the scores

    def table(mark: re.Match[str]) -> str:
        start, folder, kind, option, end = mark.groups()
        known = summary(folder)
        if kind in WHOLE and not option:
            return f"{start}{WHOLE[kind](root / folder, known)}{end}"
        if kind in BY_FRACTION and option and float(option) in known["fractions"]:
            return f"{start}{BY_FRACTION[kind](root / folder, known, float(option))}{end}"
        fractions = " or ".join(map(str, known["fractions"]))
        raise InputError(
            f"{name}: no table `{kind}{option}` of {folder}; give {', '.join(WHOLE)}, or {' or '.join(BY_FRACTION)} "
            f"with {fractions}"
        )

    return MARK.sub(table, text)


def main(words: list[str]) -> str:
    """What `gfm reproduce readme` prints: the files that changed."""
    return "\n".join(map(str, reproduce())) or "nothing changed"
