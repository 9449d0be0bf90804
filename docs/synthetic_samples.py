"""Draw samples of the procedural Earth: python docs/synthetic_samples.py [docs/images/synthetic_samples.png]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from PIL import Image

from gfm_objectives.batch import Batch
from gfm_objectives.data.earth.tables import LEGENDS
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.sensors import SENSORS

# Places of the training split, chosen for clear skies: their events, numbers, and which layers to show.
ALWAYS = ("map", "landcover", "crop")
ROWS: list[tuple[dict[str, float], list[int], tuple[str, ...]]] = [
    ({}, [293, 124, 130, 129, 50], (*ALWAYS, "flood", "boundary", "builtup")),
    ({"fire": 1.0}, [42, 59], (*ALWAYS, "burn", "boundary", "builtup")),
    ({"coast": 1.0}, [149, 156], (*ALWAYS, "debris", "boundary", "builtup")),
]
TRUE = ("S2", ("B04", "B03", "B02"), 0.24)
FALSE = ("S2 infrared", ("B12", "B8A", "B04"), 0.42)  # shows scars and what floats
LAYERS = (*ALWAYS, "flood", "burn", "debris", "boundary", "builtup")  # in the order of the legends
TITLES = {"map": "map (noisy)", "builtup": "built-up"}


def colour(batch: Batch, place: int, date: int, bands: tuple[str, ...], white: float) -> np.ndarray:
    """Three bands as red, green and blue; reflectance `white` is the brightest."""
    s2 = batch.sensors["s2"]
    rgb = SENSORS["s2"].denormalise(s2.x[place, date], s2.bands)[[s2.bands.index(b) for b in bands]]
    rgb = (rgb / white).clamp(0, 1) ** 0.75
    rgb = torch.where(s2.valid[place, date], rgb, rgb * 0 + torch.tensor([0.93, 0.93, 0.96])[:, None, None])
    return rgb.permute(1, 2, 0).numpy()


def radar_colour(batch: Batch, place: int, date: int) -> np.ndarray:
    vv, vh = SENSORS["s1"].denormalise(batch.sensors["s1"].x[place, date], ("VV", "VH"))
    red, green = (vv + 22) / 20, (vh + 29) / 20
    return torch.stack([red, green, (red - green) * 0.8 + 0.4], 2).clamp(0, 1).numpy()


def panels(batch: Batch, row: int, layers: tuple[str, ...]) -> list[tuple[str, dict]]:
    """Title and arguments of imshow for every panel of a place."""
    day = batch.sensors["s2"].day[row]
    last = len(day) - 1
    out: list[tuple[str, dict]] = []
    for t in range(len(day)):
        name, bands, white = FALSE if {"burn", "debris"} & {*layers} else TRUE
        out.append((f"{name}, day {int(day[t] % 365.25)}", {"X": colour(batch, row, t, bands, white)}))
    out.append(("S1, first date", {"X": radar_colour(batch, row, 0)}))
    out.append(("S1, last date", {"X": radar_colour(batch, row, last)}))
    out.append(("DEM", {"X": batch.sensors["dem"].x[row, 0, 0], "cmap": "terrain"}))
    for layer in layers:
        legend = LEGENDS[layer]
        label = np.ma.masked_less(batch.targets[layer][row].numpy(), 0)
        options = {"cmap": ListedColormap(legend.colors or ()), "vmin": -0.5, "vmax": len(legend) - 0.5}
        out.append((TITLES.get(layer, layer), {"X": label, **options}))
    return out


def main(out: Path, split: str = "train") -> None:
    rows = []
    for events, places, layers in ROWS:
        batch = Synthetic(split, layers=layers, events=events).read(places)
        rows += [panels(batch, k, layers) for k in range(len(places))]
    fig, axes = plt.subplots(len(rows), len(rows[0]), figsize=(1.32 * len(rows[0]), 1.37 * len(rows) + 2.0))
    above = [""] * len(rows[0])
    for row, axs in zip(rows, axes, strict=True):
        for k, (ax, (title, image)) in enumerate(zip(axs, row, strict=True)):
            ax.imshow(**image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if title != above[k]:
                ax.set_title(title, fontsize=7, pad=2)
            above[k] = title
    fig.subplots_adjust(left=0.005, right=0.995, top=0.965, bottom=0.125, wspace=0.03, hspace=0.14)
    for k, layer in enumerate(LAYERS):
        legend = LEGENDS[layer]
        marks = [Patch(color=c, label=n) for c, n in zip(legend.colors or (), legend.classes, strict=True)]
        fig.legend(
            handles=marks,
            title=TITLES.get(layer, layer),
            loc="lower left",
            bbox_to_anchor=(0.01 + 0.25 * (k % 4), 0.042 - 0.042 * (k // 4)),
            ncols=2,
            fontsize=6.5,
            title_fontsize=8,
            frameon=False,
            handlelength=1,
            columnspacing=0.8,
            labelspacing=0.3,
        )
    fig.suptitle(
        "Synthetic data: places of the procedural Earth, 640 m across (nothing here was seen from space)",
        fontsize=9,
        y=0.993,
    )
    fig.savefig(out, dpi=84)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images" / "synthetic_samples.png")
