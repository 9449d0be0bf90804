"""The report's pictures: gains with intervals, label curves, the plateau of the U-Net, predictions beside labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gfm_objectives.report import tables, words
from gfm_objectives.report.tables import Summary, find
from gfm_objectives.scores import SEEDLESS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision (https://jfly.uni-koeln.de/color), without the pale yellow.
_PRETRAINED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Classes without colours of their own: Paul Tol's 'muted', then greys (https://personal.sron.nl/~pault).
_CLASSES = (
    "#332288",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#CC6677",
    "#44AA99",
    "#882255",
    "#999933",
    "#AA4499",
    "#DDDDDD",
)
UNLABELLED = (1.0, 1.0, 1.0)


def draw(
    summary: Summary, curve: Sequence[Mapping[str, Any]], folder: Path, context: Mapping[str, Any]
) -> dict[str, Path]:
    """Draw what the folder allows into `folder`/figures; name -> file."""
    pictures: dict[str, Callable[[], Figure]] = {}
    if any(g["status"] == "ok" for g in summary["gains"]):
        pictures["gains"] = lambda: gains(summary)
    if len(summary["fractions"]) > 1:
        pictures["labels"] = lambda: labels(summary)
    if curve:
        pictures["plateau"] = lambda: plateau(curve)
    if (path := folder / "predictions.npz").exists():
        with np.load(path, allow_pickle=False) as saved:
            arrays = {k: saved[k] for k in saved.files}
        for task in dict.fromkeys(k.split("/")[0] for k in arrays):
            kept = {k.removeprefix(f"{task}/"): v for k, v in arrays.items() if k.startswith(f"{task}/")}
            rank = {f"pred/{c}": i for i, c in enumerate(summary["contenders"])}
            own = {k: kept[k] for k in sorted(kept, key=lambda k: rank.get(k, len(rank)))}  # in the tables' order
            names, colors = (context.get(k, {}).get(task) for k in ("classes", "colors"))
            pictures[f"predictions-{task}"] = lambda t=task, o=own, n=names, c=colors: predictions(t, o, n, c)  # type: ignore[misc]
    files = {}
    for name, make in pictures.items():
        files[name] = folder / "figures" / f"{name}.png"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        make().savefig(files[name], dpi=140)
    return files


def look(summary: Summary) -> dict[str, dict[str, Any]]:
    """Colour and marker of every contender, the same in all figures."""
    looks: dict[str, dict[str, Any]] = {}
    for i, c in enumerate(summary["pretrained"]):
        looks[c] = _distinct(i)
    for c in summary["contenders"]:
        if c not in looks:
            looks[c] = {
                "unet": {"color": "black", "marker": "X"},
                "scratch": {"color": "0.55", "marker": "h"},
            }.get(c, {"color": "0.35", "marker": "x"})
    return looks


def _distinct(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th of many: the colours come again with other markers."""
    turn = i + i // len(_MARKERS)
    return {"color": _PRETRAINED[i % len(_PRETRAINED)], "marker": _MARKERS[turn % len(_MARKERS)]}


def gains(summary: Summary) -> Figure:
    """Dots with intervals: rows are tasks and their mean, panels are label fractions by what the gain is over."""
    rivals = _rivals(summary)
    rows = [*summary["tasks"], "mean of tasks"]
    names = list(summary["pretrained"])
    looks, fractions = look(summary), summary["fractions"]
    apart = min(0.22, 0.75 / max(1, len(names)))  # of a task's dots, so that those of two tasks never meet
    height = 1.3 + len(fractions) * (0.6 + len(rows) * (0.25 + 0.16 * len(names)))
    figure = _figure(4.6 * len(rivals) + 1, height)
    axes = figure.subplots(len(fractions), len(rivals), squeeze=False, sharex=True, sharey=True)
    for i, fraction in enumerate(fractions):
        for j, (against, n) in enumerate(rivals):
            ax = axes[i][j]
            ax.axvline(0, color="0.3", lw=1)
            ax.axhspan(len(rows) - 1.5, len(rows) - 0.5, color="0.95", zorder=0)
            for k, c in enumerate(names):
                at = {"contender": c, "fraction": fraction, "against": against, "n": n}
                found = [find(summary["gains"], task=t, **at) for t in rows[:-1]] + [find(summary["means"], **at)]
                for y, row in enumerate(found):
                    _dot(ax, row, y + apart * (k - (len(names) - 1) / 2), looks[c])
            ax.set_title(
                f"{words.percent(fraction)} of the labels, {RIVALS[against].format(n=n)}", fontsize=9, loc="left"
            )
            ax.set_yticks(range(len(rows)), rows)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.grid(axis="x", color="0.9")
    _legend(figure, [(tables.name(summary, c), looks[c]) for c in names])
    for ax in axes[-1]:
        ax.set_xlabel("gain, mIoU points")
    note = "bars: 95 % intervals; hollow: none given"
    figure.suptitle(f"What pretraining gained{_synthetic(summary)} ({note})", fontsize=11)
    return figure


RIVALS = {"headline": "over the headline U-Net, n = {n}", "unet": "over the U-Net at equal fine-tuning FLOPs"}


def _rivals(summary: Summary) -> list[tuple[str, int]]:
    """(against, n) of the panels: the headline first, and nothing of which no cell was run."""
    every = [("headline", n) for n in dict.fromkeys([1, summary["suite_size"]])] + [("unet", 1)]
    ran = {(r["against"], r["n"]) for r in summary["gains"] if r["status"] == "ok"}
    return [r for r in every if r in ran] or every[:1]


def _dot(ax: Any, row: Mapping[str, Any] | None, y: float, style: Mapping[str, Any]) -> None:
    color, marker = style["color"], style["marker"]
    if row is None or row["status"] != "ok":
        ax.annotate("not run", (0, y), xytext=(4, 0), textcoords="offset points", color=color, fontsize=7, va="center")
        return
    if isinstance(row["interval"], list):
        ax.plot([100 * v for v in row["interval"]], [y, y], color=color, lw=1.8, solid_capstyle="butt")
    face = color if isinstance(row["interval"], list) else "white"
    ax.plot(100 * row["gain"], y, marker, color=color, markerfacecolor=face, ms=6)
    if row.get("missing"):  # a mean over fewer tasks than its neighbours
        text = f"{len(row['tasks'])} of {len(row['tasks']) + len(row['missing'])} tasks"
        right = row["interval"][1] if isinstance(row["interval"], list) else row["gain"]
        ax.annotate(text, (100 * right, y), xytext=(6, 0), textcoords="offset points", fontsize=7, va="center")


def labels(summary: Summary) -> Figure:
    """mIoU against the number of training tiles, one panel per task."""
    looks, tasks = look(summary), summary["tasks"]
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = _figure(4.2 * columns, 1.2 + 3.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        xs = [summary["labels"][task][str(f)] for f in summary["fractions"]]
        drawn = [c for c in summary["contenders"] if c not in SEEDLESS]
        for c in summary["contenders"]:
            found = [find(summary["miou"], task=task, fraction=f, contender=c) for f in summary["fractions"]]
            done = [(x, r) for x, r in zip(xs, found, strict=True) if r and r["status"] == "ok" and x]
            if not done:
                continue
            if c in SEEDLESS:
                ax.axhline(100 * done[0][1]["miou"], color="0.6", lw=1, ls=":" if c == "map" else "-.")
                continue
            shift = 1.03 ** (drawn.index(c) - (len(drawn) - 1) / 2)  # apart, so that bars do not hide each other
            x, y = [x * shift for x, _ in done], [100 * r["miou"] for _, r in done]
            bars = [_half(r) for _, r in done]
            dashes = "--" if c.startswith("unet+") else "-"
            ax.errorbar(x, y, yerr=bars, ls=dashes, lw=1.3, ms=5, capsize=2, elinewidth=1, **_line(summary, c, looks))
        ax.set_xscale("log")
        known = [x for x in xs if x]
        ax.set_xticks(known, [str(x) for x in known])
        ax.minorticks_off()
        ax.margins(x=0.1)
        ax.set_title(task, fontsize=10, loc="left")
        ax.set_xlabel("labelled training tiles")
        ax.grid(axis="y", color="0.9")
    for ax in axes[:, 0]:
        ax.set_ylabel("test mIoU, points")
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    entries = []
    for c in summary["contenders"]:
        entries.append((tables.name(summary, c), {**_line(summary, c, looks), "line": True, "name": c}))
    _legend(figure, entries)
    figure.suptitle(f"mIoU by number of labels (bars: 95 % intervals){_synthetic(summary)}", fontsize=12)
    return figure


def _line(summary: Summary, name: str, looks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """U-Nets given more FLOPs share a colour and differ by marker."""
    extra = [c for c in summary["contenders"] if c.startswith("unet+")]
    if name in extra:
        return {"color": "0.3", "marker": ("s", "^", "v", "D", "<", ">")[extra.index(name) % 6], "mfc": "white"}
    return looks[name]


def _half(row: Mapping[str, Any]) -> float:
    return 50 * (row["interval"][1] - row["interval"][0]) if isinstance(row["interval"], list) else math.nan


def plateau(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Validation mIoU of the tuned U-Net against fine-tuning FLOPs, one line per task and fraction."""
    figure = _figure(7, 4)
    ax = figure.subplots()
    tasks = list(dict.fromkeys(r["task"] for r in curve))
    fractions = sorted({r["fraction"] for r in curve}, reverse=True)
    for task, fraction in dict.fromkeys((r["task"], r["fraction"]) for r in curve):
        rows = sorted(
            (r["flops"], 100 * r["val_miou"]) for r in curve if (r["task"], r["fraction"]) == (task, fraction)
        )
        style = ("-", "--", ":", "-.")[fractions.index(fraction) % 4]
        text = f"{task}, {words.percent(fraction)}"
        ax.plot(*zip(*rows, strict=True), style, ms=4, label=text, **_distinct(tasks.index(task)))
    budgets = sorted({r["flops"] for r in curve})
    ax.set_xscale("log")
    ax.set_xticks(budgets, [words.flops(b) for b in budgets])
    ax.minorticks_off()
    ax.set_xlabel("fine-tuning budget, FLOPs")
    ax.set_ylabel("validation mIoU, points")
    ax.set_title("Where the tuned U-Net plateaus (task, share of the labels)", fontsize=11, loc="left")
    ax.grid(color="0.9")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def predictions(
    task: str, arrays: Mapping[str, np.ndarray], names: Sequence[str] | None, colors: Sequence[str] | None
) -> Figure:
    """A grid: image, label, then what each contender predicted; unlabelled pixels are white."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    label = arrays["label"]
    contenders = [k.removeprefix("pred/") for k in arrays if k.startswith("pred/")]
    maps = [label, *(arrays[f"pred/{c}"] for c in contenders)]
    classes = max(len(names or ()), *(int(m.max()) + 1 for m in maps))
    paint = np.array([to_rgb(c) for c in palette(classes, colors)] + [UNLABELLED])  # index -1 is the last
    count, columns = len(label), 2 + len(contenders)
    figure = _figure(1.65 * columns, 1.65 * count + 1.2)
    axes = figure.subplots(count, columns, squeeze=False)
    for i in range(count):
        axes[i][0].imshow(arrays["image"][i].clip(0, 1))
        for ax, m in zip(axes[i][1:], maps, strict=True):
            ax.imshow(paint[np.where(m[i] < 0, classes, m[i])], interpolation="nearest")
        for ax in axes[i]:
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, title in zip(axes[0], ["image", "label", *map(words.contender, contenders)], strict=True):
        ax.set_title(fill(title, 18), fontsize=9)
    texts = [*(names or [f"class {k}" for k in range(classes)]), "no label"]
    patches = [Patch(facecolor=c, edgecolor="0.5", label=t) for c, t in zip(paint, texts, strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False)
    figure.suptitle(f"{task}: predictions beside labels, test tiles", fontsize=11)
    return figure


def palette(classes: int, colors: Sequence[str] | None) -> list[str]:
    """A colour for each class: its own, or told apart as well as their number allows."""
    if colors and len(colors) >= classes:
        return list(colors[:classes])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return (
        list(_CLASSES[:classes])
        if classes <= len(_CLASSES)
        else [to_hex(colormaps["tab20"](k % 20)) for k in range(classes)]
    )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for text, style in entries:
        name = style.get("name", "")
        dashes = {"map": ":", "index": "-."}.get(name, "--" if name.startswith("unet+") else "-")
        marker = "" if name in SEEDLESS else style["marker"]
        line = dashes if style.get("line") else ""
        handles.append(
            Line2D([], [], color=style["color"], marker=marker, mfc=style.get("mfc"), ls=line, ms=6, label=text)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=9, frameon=False)


def _synthetic(summary: Summary) -> str:
    return ", synthetic data" if summary["synthetic"] else ""
