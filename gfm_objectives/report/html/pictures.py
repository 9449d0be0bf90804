"""The gallery's pictures: input, label, predictions and differences as small PNG files inside the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from gfm_objectives import disk
from gfm_objectives.report.gallery import palette, worst_of
from gfm_objectives.report.html.parts import pretrained

LARGEST = 1_600_000  # characters of pictures in a page; beyond, fewer places are shown
NO_LABEL = 255
# Against the label, and against the rival: both right, both wrong, only the row right, only the rival right.
DIFFERENCE = {
    "both right": "#f2f2f2",
    "both wrong": "#8c8c8c",
    "only this row right": "#0072b2",
    "only the rival right": "#d55e00",
}


def section(summary: Mapping[str, Any], context: Mapping[str, Any], folder: Path) -> str:
    """The gallery with its pickers; '' where the folder keeps no predictions."""
    path = folder / "predictions.npz"
    if not path.exists():
        return ""
    arrays = disk.read_arrays(path, "delete it, and the report lacks its pictures")
    tasks = [t for t in dict.fromkeys(k.split("/")[0] for k in arrays) if t in summary["tasks"]]
    places = {t: len(arrays[f"{t}/label"]) for t in tasks}
    while tasks:
        data = {t: _task(t, arrays, summary, context, places[t]) for t in tasks}
        text = json.dumps(data).replace("</", "<\\/")
        if len(text) <= LARGEST or max(places.values()) == 1:
            break
        places = {t: max(1, n - 1) for t, n in places.items()}
    if not tasks:
        return ""
    pickers = "".join(
        f'<label>{n}<select class="{n}" aria-label="{n}"></select></label>' for n in ("task", "contender", "place")
    )
    names = (("input", "input"), ("label", "label"), ("rival", ""), ("own", ""), ("difference", "difference"))
    figures = "".join(
        f'<figure class="{n}"><img alt="{c or n}" width="64" height="64"><figcaption>{c}</figcaption></figure>'
        for n, c in names
    )
    note = (
        "Test places, chosen before any result, one training seed; and the one that the contender has most wrong, "
        "beside the label alone. Difference: blue where only the contender is right, orange where only the rival is, "
        "grey where both are wrong, white where there is no label; of numbers, the darker the larger the error."
    )
    return (
        f'<div class="gallery"><div class="pickers">{pickers}</div><div class="tiles">{figures}</div>'
        f'<div class="legend"></div><p class="note">{note}</p><script type="application/json">{text}</script></div>'
    )


def _task(
    task: str, arrays: Mapping[str, np.ndarray], summary: Mapping[str, Any], context: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """What page.js shows of a task: PNG files in base64, `count` places each."""
    label = arrays[f"{task}/label"][:count]
    kept = {c: arrays[k][:count] for c in summary["contenders"] if (k := f"{task}/pred/{c}") in arrays}
    rows = summary["rows"]
    unets = [c for c in kept if rows[c]["kind"] == "unet" and rows[c]["role"] == "scratch"]
    rival = min(unets, key=lambda c: rows[c]["extra_flops"], default=None)
    first = next((c for c in kept if c in pretrained(summary)), next(iter(kept), None))
    if label.dtype.kind == "f":
        low, high = (float(x) for x in np.nanpercentile(label, [2, 98]))
        colors = _ramp()
        legend = [[colors[0], f"{low:.3g}"], [colors[127], f"{(low + high) / 2:.3g}"], [colors[254], f"{high:.3g}"]]

        def level(m: np.ndarray) -> np.ndarray:
            return _levels(m, low, high)
    else:
        names, own = (context.get(k, {}).get(task) for k in ("classes", "colors"))
        classes = max(len(names or ()), *(int(m.max()) + 1 for m in (label, *kept.values())))
        colors = palette(classes, own)
        legend = [[c, n] for c, n in zip(colors, names or [f"class {k}" for k in range(classes)], strict=True)]

        def level(m: np.ndarray) -> np.ndarray:
            return np.where(m < 0, NO_LABEL, m).astype(np.uint8)

    paint = {c: level(m) for c, m in {"": label, **kept}.items()}
    own_arrays = {k.removeprefix(f"{task}/"): v for k, v in arrays.items() if k.startswith(f"{task}/")}
    errs = worst_of(own_arrays, kept)
    contenders: dict[str, dict[str, Any]] = {}
    for c, predicted in kept.items():
        other = kept[rival] if rival else None
        difference = [
            _difference(predicted[i], label[i], None if other is None else other[i]) for i in range(len(label))
        ]
        contenders[c] = {"map": [_png(m, colors) for m in paint[c]], "difference": difference}
        if c in errs:
            seen = {k: errs[c][k] for k in ("label", "pred")}
            contenders[c]["worst"] = {
                "input": _rgb(errs[c]["image"][-1]),
                "label": _png(level(seen["label"]), colors),
                "own": _png(level(seen["pred"]), colors),
                "difference": _difference(seen["pred"], seen["label"], None),
            }
    return {
        "image": [_rgb(x) for x in arrays[f"{task}/image"][:count]],
        "label": [_png(m, colors) for m in paint[""]],
        "legend": legend,
        "rival": rival,
        "first": first,
        "contenders": contenders,
    }


def _difference(own: np.ndarray, label: np.ndarray, rival: np.ndarray | None) -> str:
    """Who is right where, of classes; of numbers the size of the error, in greys."""
    if label.dtype.kind == "f":
        error = abs(own - label)
        spread = float(np.nanmax(label) - np.nanmin(label)) or 1.0
        greys = [f"#{255 - k:02x}{255 - k:02x}{255 - k:02x}" for k in range(255)]
        return _png(_levels(error, 0.0, spread / 2), greys)
    right, theirs = own == label, (own if rival is None else rival) == label
    index = np.select([right & theirs, ~right & ~theirs, right & ~theirs], [0, 1, 2], 3)
    return _png(np.where(label < 0, NO_LABEL, index).astype(np.uint8), list(DIFFERENCE.values()))


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 to 254 from low to high; what is no number has no label."""
    share = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1)
    return np.where(np.isfinite(values), (254 * share).round(), NO_LABEL).astype(np.uint8)


def _ramp() -> list[str]:
    """255 colours from dark to light that keep their order in grey and for any colour vision (matplotlib's cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(c) for c in colormaps["cividis"](np.linspace(0, 1, 255))]


def _png(index: np.ndarray, colors: Sequence[str]) -> str:
    """(H, W) of indices; NO_LABEL is white."""
    picture = Image.fromarray(index)
    table = [ImageColor.getrgb(c)[:3] for c in colors]
    table += [(255, 255, 255)] * (256 - len(table))
    picture.putpalette([x for rgb in table for x in rgb])
    return _base64(picture)


def _rgb(image: np.ndarray) -> str:
    """(H, W, 3) in 0..1; 5 bits a channel are enough to look at, and much smaller."""
    return _base64(Image.fromarray((image.clip(0, 1) * 31).round().astype(np.uint8) * 8))


def _base64(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
