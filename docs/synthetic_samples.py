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
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.sensors import SENSORS

PLACES = [293, 124, 130, 129, 50]  # of the training split; chosen for clear skies
LAYERS = ("map", "landcover", "crop", "flood")


def true_colour(batch: Batch, place: int, date: int) -> np.ndarray:
    s2 = batch.sensors["s2"]
    rgb = SENSORS["s2"].denormalise(s2.x[place, date], s2.bands)[[2, 1, 0]]
    rgb = (rgb / 0.24).clamp(0, 1) ** 0.75
    rgb = torch.where(s2.valid[place, date], rgb, rgb * 0 + torch.tensor([0.93, 0.93, 0.96])[:, None, None])
    return rgb.permute(1, 2, 0).numpy()


def radar_colour(batch: Batch, place: int, date: int) -> np.ndarray:
    vv, vh = SENSORS["s1"].denormalise(batch.sensors["s1"].x[place, date], ("VV", "VH"))
    red, green = (vv + 22) / 20, (vh + 29) / 20
    return torch.stack([red, green, (red - green) * 0.8 + 0.4], 2).clamp(0, 1).numpy()


def main(out: Path, places: list[int] = PLACES, split: str = "train") -> None:
    source = Synthetic(split, layers=LAYERS)
    batch = source.read(places)
    dates = source.dates
    columns = dates + 2 + 1 + len(LAYERS)
    fig, axes = plt.subplots(len(places), columns, figsize=(1.32 * columns, 1.37 * len(places) + 1.7))
    for row, axs in enumerate(axes):
        day = batch.sensors["s2"].day[row]
        panels: list[tuple[str, dict]] = []
        for t in range(dates):
            panels.append((f"S2, day {int(day[t] % 365.25)}", {"X": true_colour(batch, row, t)}))
        panels.append(("S1, first date", {"X": radar_colour(batch, row, 0)}))
        panels.append(("S1, last date", {"X": radar_colour(batch, row, dates - 1)}))
        panels.append(("DEM", {"X": batch.sensors["dem"].x[row, 0, 0], "cmap": "terrain"}))
        for layer in LAYERS:
            legend = source.spec.legends[layer]
            label = np.ma.masked_less(batch.targets[layer][row].numpy(), 0)
            cmap = ListedColormap(legend.colors or ())
            title = {"map": "map (noisy)"}.get(layer, layer)
            panels.append((title, {"X": label, "cmap": cmap, "vmin": -0.5, "vmax": len(legend) - 0.5}))
        for ax, (title, image) in zip(axs, panels, strict=True):
            ax.imshow(**image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0 or title.startswith("S2"):
                ax.set_title(title, fontsize=7, pad=2)
    fig.subplots_adjust(left=0.005, right=0.995, top=0.955, bottom=0.115, wspace=0.03, hspace=0.14)
    for k, layer in enumerate(LAYERS):
        legend = source.spec.legends[layer]
        marks = [Patch(color=c, label=n) for c, n in zip(legend.colors or (), legend.classes, strict=True)]
        fig.legend(
            handles=marks,
            title=layer,
            loc="lower left",
            bbox_to_anchor=(0.01 + 0.25 * k, 0.0),
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
    fig.savefig(out, dpi=96)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images" / "synthetic_samples.png")
