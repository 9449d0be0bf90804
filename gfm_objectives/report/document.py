"""report.md, figures and gain.json of a results folder, from its score store alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import gain
from gfm_objectives.report import figures, tables, words, yardstick
from gfm_objectives.report.terminal import terminal_table
from gfm_objectives.scores import Store

__all__ = ["context", "summarise", "terminal_table", "write"]


def write(folder: str | Path) -> Path:
    """Write `folder`/{gain.json,report.md,figures/*.png} from what the folder holds; returns the path of report.md.

    Read, where present: scores.csv and confusions.csv; plateau.json, a list of {task, fraction, flops, val_miou};
    predictions.npz with `<task>/image` (n, H, W, 3) in 0..1, `<task>/label` and `<task>/pred/<contender>` (n, H, W);
    and context.json, see `context`. InputError where no run is finished.
    """
    folder = Path(folder)
    about = context(folder)
    store, summary = Store(folder), summarise(folder)
    gain.write(summary, folder / "gain.json")
    curve = json.loads(p.read_text()) if (p := folder / "plateau.json").exists() else []
    pictures = figures.draw(summary, curve, folder, about)
    parts = [_opening(summary, len(store.stale()), about), _verdict(summary), _gains(summary, pictures)]
    parts += [_scores(summary, pictures, about.get("change", ())), _means(summary, curve, pictures)]
    parts += [_measured(folder, summary["fractions"]), _pictures(pictures), _method(summary)]
    path = folder / "report.md"
    path.write_text("\n".join(p for p in parts if p))
    return path


def summarise(folder: Path) -> dict[str, Any]:
    """gain.summarise of what the folder holds; with `not_run`, row -> why, where rows were asked for and not run, and
    `broken`, the contenders of which the yardstick says so."""
    about = context(folder)
    summary = gain.summarise(Store(folder).load(), about.get("suite_size"))
    absent = {c: why for c, why in about.get("not_run", {}).items() if c not in summary["contenders"]}
    said = {"not_run": absent, "broken": yardstick.broken(folder)}
    return summary | {k: v for k, v in said.items() if v}


def context(folder: Path) -> dict[str, Any]:
    """What scores cannot tell, from `folder`/context.json.

    All optional: command (as typed), suite_size (n), notes and licenses (lines to print), not_run (row -> why), classes
    and colors (task -> names, task -> '#rrggbb') for the pictures, change (tasks whose last class is change).
    """
    path = folder / "context.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _opening(summary: tables.Summary, stale: int, context: Mapping[str, Any]) -> str:
    runs = summary["pretrain_runs"]
    pretrained = ", ".join(
        f"{tables.name(summary, c)} ({words.flops(p)} FLOPs, {runs[c]} {'run' if runs[c] == 1 else 'runs'})"
        for c, p in summary["pretrained"].items()
    )
    others = ", ".join(words.contender(c) for c in summary["contenders"] if c not in summary["pretrained"])
    fractions = " and ".join(words.percent(f) for f in summary["fractions"])
    lines = [
        f"# {context.get('title', 'What pretraining gained')}\n",
        f"Pretrained encoders: {pretrained or 'none'}. Beside them: {others or 'none'}.  ",
        f"{len(summary['tasks'])} tasks ({', '.join(summary['tasks'])}), {fractions} of the training labels, "
        f"**{words.seeds(*summary['seeds'])}** per cell.  ",
    ]
    if any(n < summary["seeds"][0] for n in runs.values()):
        lines.append("Seeds that share a pretraining run: intervals do not hold the luck of pretraining.  ")
    if summary["synthetic"]:
        which = "all tasks" if summary["synthetic"] == summary["tasks"] else ", ".join(summary["synthetic"])
        world = f", world {' and '.join(summary['worlds'])}" if summary["worlds"] else ""
        lines.append(f"**Synthetic data** ({which}{world}): a laboratory, no statement about real imagery.  ")
    if context.get("command"):
        lines.append(f"\n```\n{context['command']}\n```")
    if stale:
        lines.append(f"\n{stale} rows of an earlier task version or of a repeated run are left out.")
    lines += [f"\n{line}" for line in (*context.get("notes", ()), *context.get("licenses", ()))]
    return "\n".join(lines) + "\n"


def _verdict(summary: tables.Summary) -> str:
    """One line per pretrained encoder: its mean gain where all labels are used."""
    fraction = summary["fractions"][-1]
    lines = []
    for c in summary["pretrained"]:
        mean = tables.find(summary["means"], contender=c, fraction=fraction, against="headline", n=1)
        even = tables.find(summary["break_even"], contender=c, fraction=fraction, task="mean")
        assert mean is not None and even is not None, c
        if mean["status"] != "ok":
            equal = tables.find(summary["means"], contender=c, fraction=fraction, against="unet")
            assert equal is not None, c
            told = f"{words.gain(equal)} over the U-Net at equal fine-tuning FLOPs" if equal["status"] == "ok" else "-"
            lines.append(f"- **{tables.name(summary, c)}**: {told}; over the headline U-Net {mean['status']}")
            continue
        some = f" over {len(mean['tasks'])} of {len(summary['tasks'])} tasks" if mean["missing"] else ""
        interval = "" if isinstance(mean["interval"], list) else f", interval {mean['interval']}"
        lines.append(
            f"- **{tables.name(summary, c)}**: {words.gain(mean)} mIoU points over the headline U-Net, "
            f"n = 1{some}{interval}; won {mean['wins']}, lost {mean['losses']}, tied {mean['ties']}"
            f"{', undecided ' + str(mean['undecided']) if mean['undecided'] else ''}; break-even n: {even['n']}"
        )
    title = f"## In short ({words.percent(fraction)} of the labels)\n\n"
    return title + ("\n".join(lines) or "No pretrained encoder was run.") + "\n"


def _gains(summary: tables.Summary, pictures: Mapping[str, Path]) -> str:
    if not summary["pretrained"]:
        return ""
    parts = [
        "## Gain over the U-Net, mIoU points\n",
        "The headline U-Net is the better, on validation, of the tuned U-Net at its plateau budget F and the U-Net "
        "given F + P/n (marked †), P the pretraining FLOPs shared by n tasks. In brackets 95 % intervals for new seeds "
        "and new tiles, one cell at a time (no correction for many cells). Bold: the interval excludes 0. W / L / T: "
        "tasks won, lost, tied (the interval holds 0). Points per EFLOP: gain per 1e18 pretraining FLOPs charged, "
        "P/n.\n",
        _image(pictures, "gains", "Gain per task with intervals"),
    ]
    for f in summary["fractions"]:
        parts.append(f"### {words.percent(f)} of the labels\n\n{tables.gains(summary, f)}")
    parts.append(f"### Break-even n: tasks that must share the pretraining\n\n{tables.break_even(summary)}")
    return "\n".join(parts)


def _scores(summary: tables.Summary, pictures: Mapping[str, Path], change: Sequence[str]) -> str:
    parts = ["## Test mIoU, points ± half of the 95 % interval\n", tables.scores(summary)]
    if shown := [t for t in summary["tasks"] if t in change]:
        parts.append(f"### F1 of the change class, points, mean over seeds\n\n{tables.change(summary, shown)}")
    parts += [f"{words.contender(c)}: not run, {why}.\n" for c, why in summary.get("not_run", {}).items()]
    if summary["seeds"][0] < 5:
        parts.append(f"Intervals need 5 seeds; cells with fewer have none ({words.seeds(*summary['seeds'])} run).\n")
    parts.append(_image(pictures, "labels", "mIoU against the number of labels"))
    if summary["labels_saved"]:
        parts.append(f"### Labels saved, read off the U-Net's label curve\n\n{tables.labels_saved(summary)}")
    return "\n".join(parts)


def _means(summary: tables.Summary, curve: list[dict[str, Any]], pictures: Mapping[str, Path]) -> str:
    parts = ["## Means of every contender, averaged over its runs\n", tables.resources(summary)]
    if curve:
        parts.append("### Where the tuned U-Net plateaus: validation mIoU, points, by fine-tuning FLOPs\n")
        parts += [tables.plateau(curve), _image(pictures, "plateau", "Validation mIoU against fine-tuning FLOPs")]
    return "\n".join(parts)


def _measured(folder: Path, fractions: Sequence[float]) -> str:
    if not (table := yardstick.measured(folder)):
        return ""
    parts = ["## What the yardstick said in pretraining\n", yardstick.BROKEN, table]
    for f in fractions:
        if predicts := yardstick.predicts(folder, f):
            parts += [f"### Does it predict mIoU with {words.percent(f)} of the labels?\n", yardstick.HOW, predicts]
    return "\n".join(parts)


def _pictures(pictures: Mapping[str, Path]) -> str:
    shown = [name for name in pictures if name.startswith("predictions-")]
    images = [_image(pictures, n, f"Predictions beside labels: {n.removeprefix('predictions-')}") for n in shown]
    return "## Predictions beside labels\n\n" + "\n".join(images) if images else ""


def _method(summary: tables.Summary) -> str:
    tiles = "; ".join(f"{t} {n} tiles in {summary['areas'][t]} areas" for t, n in summary["tiles"].items())
    prints = "; ".join(f"{t} {f or 'unknown'}" for t, f in summary["fingerprints"].items())
    return (
        "## How it was measured\n\n"
        "mIoU comes from the confusion matrices summed over test tiles, per seed, then averaged over seeds. Gains are "
        "paired per seed and tile. Intervals: the variance among seeds plus that of resampled areas of test tiles, "
        "Student's t with Satterthwaite's degrees of freedom; the formula and its source are in "
        "`gfm_objectives/gain/intervals.py`, its coverage in `tests/test_gain.py`. Tasks are fixed.\n\n"
        f"Test sets: {tiles}. Versions: {prints}. Commits: {', '.join(summary['commits']) or 'unknown'}. "
        f"Devices: {', '.join(summary['devices']) or 'unknown'}.\n"
    )


def _image(pictures: Mapping[str, Path], name: str, text: str) -> str:
    return f"![{text}](figures/{pictures[name].name})\n" if name in pictures else ""
