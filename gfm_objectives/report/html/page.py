"""`report.html` of one results folder, or of two side by side: everything in one file, to be opened from disk."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gfm_objectives import disk, gain
from gfm_objectives.errors import InputError
from gfm_objectives.report import verdict, words
from gfm_objectives.report.html import answer, charts, costs, pictures, sections
from gfm_objectives.report.html.parts import fold, prose
from gfm_objectives.scores import Store
from gfm_objectives.svg import DARK, LIGHT, STYLE, theme

HERE = Path(__file__).parent
EURO = 0.25  # per kWh, an assumption to be changed on the page
WHOLE_CSV = 700_000  # bytes; a larger table is offered without what few would miss
ESSENTIAL = (
    "task",
    "fraction",
    "contender",
    "seed",
    "role",
    "metric",
    "value",
    "val",
    "labels",
    "pretrain_flops",
    "finetune_flops",
)


def write(folders: Sequence[str | Path], out: str | Path, watts: float | None = None, euro: float = EURO) -> Path:
    """Write the page of `folders`, one or two that hold gain.json and scores.csv, to `out`; returns its path.

    watts: of the device, where it did not measure its energy; None assumes by its name. InputError for a folder that
    holds no comparison.
    """
    reports = [_report(Path(f), watts, euro) for f in folders]
    style = f":root{{{theme(LIGHT)}}}@media(prefers-color-scheme:dark){{:root{{{theme(DARK)}}}}}{STYLE}"
    title = " and ".join(Path(f).resolve().name for f in folders)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}: what pretraining gained</title>"
        f"<style>{style}{(HERE / 'page.css').read_text()}</style></head>"
        f'<body><main class="reports{" pair" if len(reports) > 1 else ""}">{"".join(reports)}</main>'
        f"<script>{(HERE / 'page.js').read_text()}</script></body></html>\n"
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.write(out, page)
    return out


def run(cfg: DictConfig) -> Path:
    """`gfm report`: the page of configs/report.yaml's folders; report.md and gain.json are made anew where missing."""
    from gfm_objectives.report import document

    if cfg.out and Path(cfg.out).suffix not in (".html", ".htm"):
        raise InputError(f"out={cfg.out}: is a page; give a name that ends in .html")
    folders = [Path(f) for f in cfg.results]
    if not 1 <= len(folders) <= 2:
        raise InputError(f"results: {len(folders)} folders; give one, or two to see them side by side")
    for folder in folders:
        if not (folder / "scores.csv").exists():
            raise InputError(f"results={folder}: no scores.csv in it; give a results folder, such as results/demo")
        if not (folder / "gain.json").exists():
            document.write(folder)
    beside = "_".join(["report", *(f.resolve().name for f in folders[1:])])
    out = write(folders, cfg.out or folders[0] / f"{beside}.html", cfg.watts, cfg.euro)
    print(out)
    return out


def _report(folder: Path, watts: float | None, euro: float) -> str:
    """One folder's part of the page."""
    from gfm_objectives.report.document import context as read_context

    if not (folder / "gain.json").exists():
        raise InputError(f"{folder}: no gain.json in it; give a results folder, such as results/demo")
    summary = disk.read_json(folder / "gain.json", "delete it, and gfm report writes it again", gain.KEYS)
    context = read_context(folder)
    parts = [
        ("", _opening(summary, context, folder)),
        ("The label curve", charts.label_curve(summary)),
        (
            f"What pretraining {'gained' if verdict.is_gain(context) else 'gained in speed'}",
            charts.gains(summary, context),
        ),
        ("Task by task", sections.gains(summary, context)),
        ("Scores", sections.scores(summary)),
        ("Class by class", sections.classes(summary, context)),
        ("Predictions", pictures.section(summary, context, folder)),
        (
            "What it cost",
            charts.gain_by_cost(summary) + costs.section(summary, Store(folder).load(), folder, watts, euro),
        ),
        ("How it was made", _making(summary, context, folder)),
    ]
    body = "".join(f"{f'<h2>{escape(h)}</h2>' if h else ''}{text}" for h, text in parts if text)
    return f'<section class="report" aria-label="{escape(folder.resolve().name, quote=True)}">{body}</section>'


def _opening(summary: Mapping[str, Any], context: Mapping[str, Any], folder: Path) -> str:
    badges = ["synthetic data"] if summary["synthetic"] else []
    badges += [] if verdict.is_gain(context) else ["speed, not gain"]
    shown = "".join(f'<span class="badge">{escape(b)}</span>' for b in badges)
    fractions = ", ".join(words.percent(f) for f in summary["fractions"])
    size = len(summary["tasks"])
    about = (
        f"{size} task{'s' * (size != 1)} ({', '.join(summary['tasks'])}); {fractions} of the training labels; "
        f"{words.seeds(*summary['seeds'])} per cell; {len(summary['contenders'])} contenders."
    )
    checks = "".join(
        f'<li class="{"yes" if well else "no"}">{escape(told)}</li>' for well, told in answer.caveats(summary, context)
    )
    notes = "".join(f"<p>{escape(n)}</p>" for n in (*context.get("notes", ()), *context.get("licenses", ())))
    return (
        f"<h1>{escape(context.get('title') or folder.resolve().name)}: does pretraining pay?</h1>{shown}"
        f'<p class="lead">{escape(answer.headline(summary))}</p><p class="quiet">{escape(about)}</p>'
        f'<h3>Whether to believe it</h3><ul class="checks">{checks}</ul>'
        + fold("The same with figures", prose(verdict.in_short(summary, context)))
        + fold("Notes", notes)
    )


def _making(summary: Mapping[str, Any], context: Mapping[str, Any], folder: Path) -> str:
    prints = "; ".join(f"{t} {p or 'unknown'}" for t, p in summary["fingerprints"].items())
    tiles = "; ".join(f"{t}: {s['tiles']} tiles in {s['areas']} areas" for t, s in summary["sampling"].items())
    facts = [
        f"Seeds per cell: {words.seeds(*summary['seeds'])}.",
        f"Commits: {', '.join(summary['commits']) or 'unknown'}.",
        f"Devices: {', '.join(summary['devices']) or 'unknown'}.",
        f"Test sets of a seed: {tiles}.",
        f"Versions of the tasks: {prints}.",
    ]
    parts = ["<ul>", *(f"<li>{escape(f)}</li>" for f in facts), "</ul>"]
    if context.get("command"):
        parts.append(f"<pre>{escape(context['command'])}</pre>")
    if (path := folder / "config.yaml").exists():
        parts.append(fold("Settings", f"<pre>{escape(path.read_text(errors='replace'))}</pre>"))
    table = _csv(folder / "scores.csv")
    data = base64.b64encode(table.encode()).decode()
    name = f"{folder.resolve().name}-scores.csv"
    parts.append(
        f'<p><a class="button" download="{escape(name, quote=True)}" href="data:text/csv;base64,{data}">'
        f"Download the scores as CSV</a></p>"
    )
    return "".join(parts)


def _csv(path: Path) -> str:
    """scores.csv, or its essential columns where it is large."""
    text = path.read_text()
    if len(text) <= WHOLE_CSV:
        return text
    out = io.StringIO()
    writer = csv.DictWriter(out, ESSENTIAL, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv.DictReader(io.StringIO(text)))
    return out.getvalue()
