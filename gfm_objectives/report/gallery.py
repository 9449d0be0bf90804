"""Pictures of predictions beside labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

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
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    label = arrays["label"]
    contenders = [k.removeprefix("pred/") for k in arrays if k.startswith("pred/")]
    maps = [label, *(arrays[f"pred/{c}"] for c in contenders)]
    shown_dates = arrays.get("dates")
    images = arrays["image"][:, None] if shown_dates is None else shown_dates  # (n, D, H, W, 3)
    wide = images.shape[1]
    count, columns = len(label), wide + 1 + len(contenders)
    numbers = label.dtype.kind == "f"
    if numbers:
        low, high = np.nanpercentile(label, [2, 98])
    else:
        classes = max(len(names or ()), *(int(m.max()) + 1 for m in maps))
        paint = np.array([to_rgb(c) for c in palette(classes, colors)] + [UNLABELLED])  # index -1 is the last
    figure = Figure(figsize=(1.65 * columns, 1.65 * count + 1.2), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for i in range(count):
        for ax, x in zip(axes[i], images[i], strict=False):
            ax.imshow(x.clip(0, 1))
        for ax, m in zip(axes[i][wide:], maps, strict=True):
            if numbers:
                shown = ax.imshow(m[i], vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            else:
                ax.imshow(paint[np.where(m[i] < 0, classes, m[i])], interpolation="nearest")
        for ax in axes[i]:
            ax.set_xticks([])
            ax.set_yticks([])
    over = ["image"] if wide == 1 else ["first date", *["between"] * (wide - 2), "last date"]
    for ax, title in zip(axes[0], [*over, "label", *contenders], strict=True):
        ax.set_title(fill(title, 18), fontsize=9)
    if numbers:
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.5, aspect=40)
    else:
        texts = [*(names or [f"class {k}" for k in range(classes)]), "no label"]
        patches = [Patch(facecolor=c, edgecolor="0.5", label=t) for c, t in zip(paint, texts, strict=False)]
        columns = min(6, len(patches))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
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
