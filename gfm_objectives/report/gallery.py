"""Pictures of predictions beside labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from gfm_objectives.report.pictures import error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def predictions(
    task: str, arrays: Mapping[str, np.ndarray], names: Sequence[str] | None, colors: Sequence[str] | None
) -> Figure:
    """A grid: image, or its dates, label, then what each contender predicted, classes or numbers; unlabelled pixels are
    white."""
    label = arrays["label"]
    contenders = [k.removeprefix("pred/") for k in arrays if k.startswith("pred/")]
    maps = [label, *(arrays[f"pred/{c}"] for c in contenders)]
    images = arrays["image"][:, None] if arrays.get("dates") is None else arrays["dates"]  # (n, D, H, W, 3)
    rows = [_Row(images[i], [m[i] for m in maps]) for i in range(len(label))]
    return _grid(f"{task}: predictions beside labels, test tiles", rows, ["label", *contenders], names, colors)


def worst(
    task: str,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    names: Sequence[str] | None,
    colors: Sequence[str] | None,
) -> Figure:
    """A row for each contender, whose `arrays` have image (D, H, W, 3), label and pred (H, W) of the test tile that it
    has most wrong; last the errors, the darker the larger."""
    rows = [
        _Row(a["image"], [a["label"], a["pred"]], contender, error(a["pred"], a["label"]))
        for contender, a in arrays.items()
    ]
    title = f"{task}: the test tile that each has most wrong"
    return _grid(title, rows, ["label", "predicted", "errors"], names, colors)


def worst_of(arrays: Mapping[str, np.ndarray], contenders: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """Contender -> image, label and pred of its worst tile, of those that keep one among a task's arrays."""
    parts = ("image", "label", "pred")
    return {c: {p: arrays[f"worst/{c}/{p}"] for p in parts} for c in contenders if f"worst/{c}/pred" in arrays}


@dataclass(frozen=True, slots=True)
class _Row:
    """images (D, H, W, 3); maps of classes or numbers (H, W); what stands before the row; errors (H, W), 0 = none."""

    images: np.ndarray
    maps: list[np.ndarray]
    name: str = ""
    errors: np.ndarray | None = None


def _grid(
    title: str, rows: Sequence[_Row], heads: Sequence[str], names: Sequence[str] | None, colors: Sequence[str] | None
) -> Figure:
    """heads: above the maps and errors; names, colors: of the classes. Unlabelled pixels are white."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    wide = len(rows[0].images)
    columns = wide + len(heads)
    numbers = rows[0].maps[0].dtype.kind == "f"
    if numbers:
        labels = np.concatenate([row.maps[0].ravel() for row in rows])
        low, high = np.nanpercentile(labels, [2, 98])
    else:
        classes = max(len(names or ()), *(int(m.max()) + 1 for row in rows for m in row.maps))
        paint = np.array([to_rgb(c) for c in palette(classes, colors)] + [UNLABELLED])  # index -1 is the last
    figure = Figure(figsize=(1.65 * columns, 1.65 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax, x in zip(line, row.images, strict=False):
            ax.imshow(x.clip(0, 1))
        for ax, m in zip(line[wide:], row.maps, strict=False):
            if numbers:
                shown = ax.imshow(m, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            else:
                ax.imshow(paint[np.where(m < 0, classes, m)], interpolation="nearest")
        if row.errors is not None:
            most = (high - low) / 2 if numbers else 1
            line[-1].imshow(row.errors, vmin=0, vmax=most, cmap="Greys", interpolation="nearest")
        line[0].set_ylabel(fill(row.name, 18), fontsize=9)
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
    over = ["image"] if wide == 1 else ["first date", *["between"] * (wide - 2), "last date"]
    for ax, head in zip(axes[0], [*over, *heads], strict=True):
        ax.set_title(fill(head, 18), fontsize=9)
    if numbers:
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.5, aspect=40)
    else:
        texts = [*(names or [f"class {k}" for k in range(classes)]), "no label"]
        patches = [Patch(facecolor=c, edgecolor="0.5", label=t) for c, t in zip(paint, texts, strict=False)]
        columns = min(6, len(patches))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
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
