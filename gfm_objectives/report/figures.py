"""The report's charts: gains with intervals, label curves, the plateau of the rivals from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_objectives import disk
from gfm_objectives.report import verdict, words
from gfm_objectives.report.confusions import MOST, confusions, preferred
from gfm_objectives.report.gallery import predictions, worst, worst_of
from gfm_objectives.report.tables import Summary, find, gainers, scale_of
from gfm_objectives.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision (https://jfly.uni-koeln.de/color), without the pale yellow.
_PRETRAINED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def draw(
    summary: Summary,
    curve: Sequence[Mapping[str, Any]],
    folder: Path,
    context: Mapping[str, Any],
    scores: Sequence[Score] = (),
) -> dict[str, Path]:
    """Draw what the folder allows into `folder`/figures; name -> file."""
    pictures: dict[str, Callable[[], Figure]] = {}
    if summary["gains"] and _rivals(summary, _common(summary)[0]):
        pictures["gains"] = lambda: gains(summary, context)
    if len(summary["fractions"]) > 1:
        pictures["labels"] = lambda: labels(summary)
    if curve:
        pictures["plateau"] = lambda: plateau(curve)
    for task in summary["tasks"]:
        if (rows := preferred(scores, task)) and rows[0][0].stats.shape[-1] <= MOST:
            names = context.get("classes", {}).get(task)
            pictures[f"confusion-{task}"] = lambda r=rows, n=names: confusions(r, n)  # type: ignore[misc]
    if (path := folder / "predictions.npz").exists():
        arrays = disk.read_arrays(path, "delete it, and the report lacks its pictures")
        for task in dict.fromkeys(k.split("/")[0] for k in arrays):
            kept = {k.removeprefix(f"{task}/"): v for k, v in arrays.items() if k.startswith(f"{task}/")}
            rank = {f"pred/{c}": i for i, c in enumerate(summary["contenders"])}
            own = {k: kept[k] for k in sorted(kept, key=lambda k: rank.get(k, len(rank)))}  # in the tables' order
            legend = [context.get(k, {}).get(task) for k in ("classes", "colors")]
            pictures[f"predictions-{task}"] = lambda t=task, o=own, n=legend: predictions(t, o, *n)  # type: ignore[misc]
            if errs := worst_of(own, summary["contenders"]):
                pictures[f"worst-{task}"] = lambda t=task, e=errs, n=legend: worst(t, e, *n)  # type: ignore[misc]
    files = {}
    for name, make in pictures.items():
        files[name] = folder / "figures" / f"{name}.png"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(files[name]) as scratch:
            make().savefig(scratch, dpi=140)
    return files


def look(summary: Summary) -> dict[str, dict[str, Any]]:
    """Colour and marker of every contender, the same in all charts: colours for what gains are told of, greys for the
    rivals from scratch, dashes where a rival was given more FLOPs."""
    looks: dict[str, dict[str, Any]] = {c: _distinct(i) for i, c in enumerate(gainers(summary))}
    markers = {"unet": "X", "conv": "P", "scratch": "h", "pixel": "."}
    for c in (c for c in summary["contenders"] if c not in looks):
        row = summary["rows"][c]
        color = "black" if row["kind"] == "unet" else "0.45"
        looks[c] = {"color": color, "marker": markers.get(row["kind"], "x")}
        looks[c] |= {"ls": "--", "mfc": "white"} if row["extra_flops"] else {}
        looks[c] |= {"ls": ":", "marker": ""} if row["role"] == "untrained" else {}
    return looks


def _distinct(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th of many: the colours come again with other markers."""
    turn = i + i // len(_MARKERS)
    return {"color": _PRETRAINED[i % len(_PRETRAINED)], "marker": _MARKERS[turn % len(_MARKERS)]}


def gains(summary: Summary, context: Mapping[str, Any]) -> Figure:
    """Dots with intervals: rows are tasks and, of several, their mean; panels are label fractions by what the gain is
    over. Of the suite's commonest metric."""
    metric, scale = _common(summary)
    rivals = _rivals(summary, metric)
    tasks = [t for t in summary["tasks"] if summary["metrics"][t]["metric"] == metric]
    several = len(tasks) > 1
    rows = [*tasks, *["mean of tasks"] * several]
    names = [c for c in gainers(summary) if summary["rows"][c]["role"] != "part"]
    looks, fractions = look(summary), summary["fractions"]
    apart = min(0.22, 0.75 / max(1, len(names)))  # of a task's dots, so that those of two tasks never meet
    height = 1.3 + len(fractions) * (0.6 + len(rows) * (0.25 + 0.16 * len(names)))
    width = 4.6 * len(rivals) + 1
    below = math.ceil(len(names) / _columns(names, width))  # lines of the legend, of which two have room
    figure = _figure(width, height + 0.2 * max(0, below - 2))
    axes = figure.subplots(len(fractions), len(rivals), squeeze=False, sharex=True, sharey=True)
    for i, fraction in enumerate(fractions):
        for j, (against, n) in enumerate(rivals):
            ax = axes[i][j]
            ax.axvline(0, color="0.3", lw=1)
            if several:
                ax.axhspan(len(rows) - 1.5, len(rows) - 0.5, color="0.95", zorder=0)
            for k, c in enumerate(names):
                at = {"contender": c, "fraction": fraction, "against": against, "n": n, "metric": metric}
                found = [find(summary["gains"], task=t, **at) for t in tasks]
                found += [find(summary["means"], **at)] if several else []
                for y, row in enumerate(found):
                    _dot(ax, row, y + apart * (k - (len(names) - 1) / 2), looks[c], scale)
            ax.set_title(
                f"{words.percent(fraction)} of the labels, over the\n{words.opponent(against, n)}",
                fontsize=9,
                loc="left",
            )
            ax.set_yticks(range(len(rows)), rows)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.grid(axis="x", color="0.9")
    _legend(figure, [(c, looks[c]) for c in names])
    for ax in axes[-1]:
        ax.set_xlabel(_unit(summary, metric, "gain"))
    note = "bars: 95 % intervals; hollow: none given"
    title = {"gain": "What pretraining gained", "speed": "What pretraining gained in speed"}[verdict.what(context)]
    parts = [f"{title}{_synthetic(summary)}", f"({note})"]
    figure.suptitle((" " if len(rivals) > 1 else "\n").join(parts), fontsize=11)
    return figure


def _common(summary: Summary) -> tuple[str, float]:
    """The metric of most tasks, and its scale."""
    every = [m["metric"] for m in summary["metrics"].values()]
    metric = max(every, key=every.count)
    return metric, scale_of(summary, metric)


def _unit(summary: Summary, metric: str, what: str) -> str:
    title, scale = next((m["title"], m["scale"]) for m in summary["metrics"].values() if m["metric"] == metric)
    return f"{what}, {title}{' points' if scale == 100 else ''}"


def _rivals(summary: Summary, metric: str) -> list[tuple[str, int]]:
    """(against, n) of the panels: the best from scratch first, and nothing of which no cell was run."""
    shares = dict.fromkeys([1, summary["suite_size"]])
    every = [*(("best", n) for n in shares), ("unet", 1), ("map", 1)]
    ran = {(r["against"], r["n"]) for r in summary["gains"] if r["status"] == "ok" and r["metric"] == metric}
    return [r for r in every if r in ran]


def _dot(ax: Any, row: Mapping[str, Any] | None, y: float, style: Mapping[str, Any], scale: float) -> None:
    color, marker = style["color"], style["marker"]
    if row is None or row["status"] != "ok":
        ax.annotate("not run", (0, y), xytext=(4, 0), textcoords="offset points", color=color, fontsize=7, va="center")
        return
    if isinstance(row["interval"], list):
        ax.plot([scale * v for v in row["interval"]], [y, y], color=color, lw=1.8, solid_capstyle="butt")
    face = color if isinstance(row["interval"], list) else "white"
    ax.plot(scale * row["gain"], y, marker, color=color, markerfacecolor=face, ms=6)
    if row.get("missing"):  # a mean over fewer tasks than its neighbours
        text = f"{len(row['tasks'])} of {len(row['tasks']) + len(row['missing'])} tasks"
        right = row["interval"][1] if isinstance(row["interval"], list) else row["gain"]
        ax.annotate(text, (scale * right, y), xytext=(6, 0), textcoords="offset points", fontsize=7, va="center")


def labels(summary: Summary) -> Figure:
    """The metric against the number of labelled training places, one panel per task."""
    looks, tasks = look(summary), summary["tasks"]
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = _figure(max(6.0, 4.2 * columns), 2.4 + 3.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    drawn = [c for c in summary["contenders"] if summary["rows"][c]["role"] != "part"]
    for ax, task in zip(axes.flat, tasks, strict=False):
        scale = summary["metrics"][task]["scale"]
        xs = [summary["labels"][task][str(f)] for f in summary["fractions"]]
        for k, c in enumerate(drawn):
            found = [find(summary["scores"], task=task, fraction=f, contender=c) for f in summary["fractions"]]
            done = [(x, r) for x, r in zip(xs, found, strict=True) if r and r["status"] == "ok" and x]
            if not done:
                continue
            if summary["rows"][c]["role"] == "untrained":
                ax.axhline(scale * done[0][1]["value"], lw=1, **{k: looks[c][k] for k in ("color", "ls")})
                continue
            shift = 1.02 ** (k - (len(drawn) - 1) / 2)  # apart, so that bars do not hide each other
            x, y = [x * shift for x, _ in done], [scale * r["value"] for _, r in done]
            bars = [_half(r, scale) for _, r in done]
            ax.errorbar(x, y, yerr=bars, lw=1.3, ms=5, capsize=2, elinewidth=1, **looks[c])
        ax.set_xscale("log")
        known = [x for x in xs if x]
        ax.set_xticks(known, [str(x) for x in known])
        ax.minorticks_off()
        ax.margins(x=0.1)
        ax.set_title(task, fontsize=10, loc="left")
        ax.set_xlabel("labelled training places")
        ax.set_ylabel(_unit(summary, summary["metrics"][task]["metric"], "test"))
        ax.grid(axis="y", color="0.9")
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    _legend(figure, [(c, {"ls": "-"} | looks[c]) for c in drawn])
    figure.suptitle(f"Scores by number of labels (bars: 95 % intervals){_synthetic(summary)}", fontsize=12)
    return figure


def _half(row: Mapping[str, Any], scale: float) -> float:
    return scale * (row["interval"][1] - row["interval"][0]) / 2 if isinstance(row["interval"], list) else math.nan


def plateau(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Validation of the rivals from scratch against fine-tuning FLOPs: a panel per task, a line per rival and share."""
    tasks = list(dict.fromkeys(r["task"] for r in curve))
    rivals = list(dict.fromkeys(r["contender"] for r in curve))
    fractions = sorted({r["fraction"] for r in curve}, reverse=True)
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = _figure(4.2 * columns + 1.5, 1 + 3 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        for rival in rivals:
            for f in fractions:
                own = [r for r in curve if (r["task"], r["contender"], r["fraction"]) == (task, rival, f)]
                if points := sorted((r["flops"], r["val"]) for r in own if r["val"] is not None):
                    style = ("-", "--", ":", "-.")[fractions.index(f) % 4]
                    text = f"{rival}, {words.percent(f)}"
                    ax.plot(*zip(*points, strict=True), ls=style, ms=4, label=text, **_distinct(rivals.index(rival)))
        ax.set_xscale("log")
        ax.set_xlabel("fine-tuning budget, FLOPs")
        ax.set_title(task, fontsize=10, loc="left")
        ax.grid(color="0.9")
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("validation, mean of seeds")
    figure.suptitle("Where the rivals from scratch plateau (rival, share of the labels)", fontsize=11)
    handles, texts = axes[0][0].get_legend_handles_labels()
    fit = max(1, min(4, int(figure.get_figwidth() / 2.2)))
    figure.legend(handles, texts, loc="outside lower center", ncols=fit, fontsize=8, frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ms=6, label=text, **{"ls": "", **style}) for text, style in entries]
    columns = _columns([text for text, _ in entries], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _columns(texts: Sequence[str], width: float) -> int:
    """Of a legend in a figure `width` inches wide: names are long, and what sticks out is cut off."""
    return max(1, min(4, int(width / max(2.6, 0.6 + 0.085 * max(map(len, texts), default=0)))))


def _synthetic(summary: Summary) -> str:
    return ", synthetic data" if summary["synthetic"] else ""
