"""report.md, figures and gain.json of a results folder, from its score store alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import disk, gain
from gfm_objectives.report import figures, html, tables, verdict, words, yardstick
from gfm_objectives.scores import Store


def write(folder: str | Path) -> Path:
    """Write `folder`/{gain.json,report.md,report.html,figures/*.png} of what it holds; returns report.md.

    Read, where present: scores.csv and statistics.csv; plateau.json, a list of {task, fraction, contender, flops, val,
    chosen}; predictions.npz with `<task>/image` (n, H, W, 3) in 0..1, `<task>/label` and `<task>/pred/<contender>`
    (n, H, W); and context.json, see `context`. InputError where no run is finished.
    """
    folder = Path(folder)
    about = context(folder)
    store, summary = Store(folder), summarise(folder)
    gain.write(summary, folder / "gain.json")
    curve = _written(folder / "plateau.json", None) or []
    pictures = figures.draw(summary, curve, folder, about, store.load())
    parts = [_opening(summary, len(store.stale()), about), _verdict(summary, about), _curve(summary, pictures)]
    parts += [_gains(summary, about, pictures), _scores(summary), _classes(summary, about, pictures)]
    parts += [_means(summary, curve, pictures), _measured(folder, summary["fractions"])]
    parts += [_pictures(pictures), _method(summary)]
    path = folder / "report.md"
    disk.write(path, "\n".join(p for p in parts if p))
    html.write([folder], folder / "report.html")
    return path


def summarise(folder: Path) -> dict[str, Any]:
    """gain.summarise of what the folder holds; with `not_run`, row -> why, where rows were asked for and not run, and
    `ground`, of each real task how much of its test tiles learning has seen."""
    about = context(folder)
    summary = gain.summarise(Store(folder).load(), about.get("suite_size"))
    absent = {c: why for c, why in about.get("not_run", {}).items() if c not in summary["contenders"]}
    real = [t for t in summary["tasks"] if t not in summary["synthetic"]]
    known = about.get("ground", {})
    ground = {t: known.get(t, {"training": None, "pretraining": {}}) for t in real}
    return summary | ({"not_run": absent} if absent else {}) | ({"ground": ground} if real else {})


def context(folder: Path) -> dict[str, Any]:
    """What scores cannot tell, from `folder`/context.json.

    All optional: command (as typed), suite_size (n), notes and licenses (lines to print), not_run (row -> why),
    ground (real task -> {training: share of test tiles, pretraining: {row: share}}; null = not known),
    budgets (of each task and fraction: F in FLOPs, and whether every rival from scratch had plateaued there), classes
    and colors (task -> names, task -> '#rrggbb').
    """
    return _written(folder / "context.json", ()) or {}


def _written(path: Path, needs: Iterable[str] | None) -> Any:
    """What a comparison wrote, if it did."""
    return disk.read_json(path, "delete it, and the same gfm eval writes it again", needs) if path.exists() else None


def _opening(summary: tables.Summary, stale: int, context: Mapping[str, Any]) -> str:
    rows = summary["rows"]
    trained = {c: r for c, r in rows.items() if r["pretrain_flops"]}
    pretrained = ", ".join(
        f"{c} ({words.flops(r['pretrain_flops'])} FLOPs, {r['pretrain_runs']} run{'s' * (r['pretrain_runs'] != 1)})"
        for c, r in trained.items()
    )
    others = ", ".join(c for c in summary["contenders"] if c not in trained)
    fractions = ", ".join(words.percent(f) for f in summary["fractions"])
    tasks = f"{len(summary['tasks'])} task{'s' * (len(summary['tasks']) != 1)} ({', '.join(summary['tasks'])})"
    lines = [
        f"# {context.get('title', 'What pretraining gained')}\n",
        f"Pretrained: {pretrained or 'none'}. Beside them: {others or 'none'}.  ",
        f"{tasks}, {fractions} of the training labels, **{words.seeds(*summary['seeds'])}** per cell.  ",
    ]
    if any(r["pretrain_runs"] < summary["seeds"][0] for r in trained.values()):
        lines.append("Seeds that share a pretraining run: intervals do not hold the luck of pretraining.  ")
    if summary["synthetic"]:
        which = "all tasks" if summary["synthetic"] == summary["tasks"] else ", ".join(summary["synthetic"])
        world = f", world {' and '.join(summary['worlds'])}" if summary["worlds"] else ""
        lines.append(f"**Synthetic data** ({which}{world}): a laboratory, no statement about real imagery.  ")
    lines.append(_budgets(context))
    if context.get("command"):
        lines.append(f"\n```\n{context['command']}\n```")
    if stale:
        lines.append(f"\n{stale} rows of an earlier task version or of a repeated run are left out.")
    if short := verdict.short_of_an_epoch(summary):
        lines.append(f"\n**F pays for less than one epoch** of the labelled places of: {', '.join(short)}.")
    lines += [f"\n{line}" for line in (*context.get("notes", ()), *context.get("licenses", ()))]
    return "\n".join(lines) + "\n"


def _budgets(context: Mapping[str, Any]) -> str:
    """What F is, and whether it lies on the plateau."""
    budgets = context.get("budgets", ())
    spent = sorted({b["flops"] for b in budgets})
    span = " to ".join(words.flops(x) for x in dict.fromkeys([*spent[:1], *spent[-1:]]))
    if verdict.is_gain(context):
        return f"F, the fine-tuning budget, is {span} FLOPs: where every rival from scratch had stopped to gain.  "
    looked = [b["plateau"] for b in budgets if b["plateau"] is not None]
    why = (
        f"the plateau was seen in {sum(looked)} of {len(looked)} cells" if looked else "its plateau was not looked for"
    )
    told = f"F is {span} FLOPs and" if spent else "F was set by hand, and"
    return f"**Speed, not gain**: {told} {why}; below it, a comparison of fine-tuning speed.  "


def _verdict(summary: tables.Summary, context: Mapping[str, Any]) -> str:
    return "## In short\n\n" + verdict.in_short(summary, context)


def _curve(summary: tables.Summary, pictures: Mapping[str, Path]) -> str:
    parts = ["## The label curve\n", tables.curve(summary), _image(pictures, "labels", "Score by number of labels")]
    if summary["labels_saved"]:
        parts.append(f"### Labels saved\n\n{tables.labels_saved(summary)}")
    return "\n".join(p for p in parts if p)


def _gains(summary: tables.Summary, context: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    if not tables.gainers(summary):
        return ""
    parts = [
        f"## {verdict.what(context).capitalize()}, per task\n",
        "Over the best rival from scratch (in brackets behind the figure: who it was, chosen per task and share of the "
        "labels on validation, all seeds pooled, from those with F and those with F + P/n), the same chosen on test (a "
        "bound), the U-Net (the better on validation of F and F + P/n), the U-Net at F, the same network from scratch, "
        "and the best rival that saw the map. P: pretraining FLOPs, shared by n tasks. In brackets 95 % intervals, one "
        "cell at a time (no correction for many cells); bold: 0 is not in it. W / L / T: tasks won, lost, tied. The "
        "mean without the best task leaves out the one of the largest gain. 'Tasks as a sample': an interval for other "
        "tasks like these. Per EFLOP: gain per 1e18 pretraining FLOPs charged, P/n, and with the search for its "
        "recipe.\n",
        _image(pictures, "gains", "Gain per task with intervals"),
    ]
    for f in summary["fractions"]:
        head = f"### {words.percent(f)} of the labels: {verdict.what(context, f)}"
        parts.append(f"{head}\n\n{tables.gains(summary, f)}")
    parts.append(f"### Break-even n: tasks that must share the pretraining\n\n{tables.break_even(summary)}")
    return "\n".join(parts)


def _scores(summary: tables.Summary) -> str:
    parts = ["## Test scores ± half of the 95 % interval\n", tables.scores(summary)]
    parts += [f"{c}: not run, {why}.\n" for c, why in summary.get("not_run", {}).items()]
    parts += [f"{words.GROUND}\n"] if summary.get("ground") else []
    if summary["seeds"][0] < 5:
        parts.append(f"Intervals need 5 seeds; cells with fewer have none ({words.seeds(*summary['seeds'])} run).\n")
    return "\n".join(parts)


def _classes(summary: tables.Summary, context: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    names = context.get("classes", {})
    made = [tables.classes(summary, t, names.get(t), k) for t in summary["tasks"] for k in ("iou", "f1")]
    every = "\n".join(tables.figures(summary, t) for t in summary["tasks"])
    parts = [f"## Further figures, mean over seeds\n\n{every}"]
    if any(made):
        parts.append("## Per class, points, mean over seeds\n\n" + "\n".join(m for m in made if m))
    drawn = [_image(pictures, f"confusion-{t}", f"Which class is taken for which: {t}") for t in summary["tasks"]]
    if any(drawn):
        parts.append("## Which class is taken for which\n\n" + "\n".join(p for p in drawn if p))
    return "\n".join(parts)


def _means(summary: tables.Summary, curve: list[dict[str, Any]], pictures: Mapping[str, Path]) -> str:
    parts = ["## Means of every contender, averaged over its runs\n", tables.resources(summary)]
    if curve:
        parts.append("### Where the rivals from scratch plateau: validation by fine-tuning FLOPs\n")
        parts += [tables.plateau(curve), _image(pictures, "plateau", "Validation against fine-tuning FLOPs")]
    return "\n".join(parts)


def _measured(folder: Path, fractions: Sequence[float]) -> str:
    if not (table := yardstick.measured(folder)):
        return ""
    parts = ["## What the yardstick said in pretraining\n", table]
    for f in fractions:
        if predicts := yardstick.predicts(folder, f):
            parts += [
                f"### Does it predict the score with {words.percent(f)} of the labels?\n",
                yardstick.HOW,
                predicts,
            ]
    return "\n".join(parts)


def _pictures(pictures: Mapping[str, Path]) -> str:
    said = {"predictions": "Predictions beside labels", "worst": "The test tile that each has most wrong"}
    shown = [(name, *name.split("-", 1)) for name in pictures if name.split("-")[0] in said]
    images = [_image(pictures, name, f"{said[kind]}: {task}") for name, kind, task in shown]
    return "## Predictions beside labels\n\n" + "\n".join(images) if images else ""


def _method(summary: tables.Summary) -> str:
    sampling = summary["sampling"].items()
    kinds = {s["seeds"] for _, s in sampling}
    tiles = "; ".join(f"{t} {s['tiles']} tiles in {s['areas']} areas" for t, s in sampling)
    prints = "; ".join(f"{t} {f or 'unknown'}" for t, f in summary["fingerprints"].items())
    nested = "Every seed is an Earth of its own: Student's t over the seeds' means over tasks, nothing else. "
    crossed = (
        "Seeds share the test tiles: the variance among seeds plus that of reweighted areas, areas that tasks share "
        "being drawn once for all of them; Student's t with Satterthwaite's degrees of freedom. "
    )
    return (
        "## How it was measured\n\n"
        "A score is made of statistics summed over test tiles, per seed, then averaged over seeds. Gains are paired "
        f"per seed. Intervals: {nested if 'nested' in kinds else ''}{crossed if 'crossed' in kinds else ''}Formula and "
        "source: `gfm_objectives/gain/intervals.py`; coverage: `tests/test_gain.py`. Tasks are fixed.\n\n"
        f"Test sets: {tiles}. Versions: {prints}. Commits: {', '.join(summary['commits']) or 'unknown'}. "
        f"Devices: {', '.join(summary['devices']) or 'unknown'}.\n"
    )


def _image(pictures: Mapping[str, Path], name: str, text: str) -> str:
    return f"![{text}](figures/{pictures[name].name})\n" if name in pictures else ""
