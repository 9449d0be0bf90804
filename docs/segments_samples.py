"""Draw images beside their segments and pseudo-classes: python docs/segments_samples.py [docs/images/segments.png]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from PIL import Image
from synthetic_samples import colour, radar_colour

from gfm_objectives.config import compose
from gfm_objectives.data.earth.tables import LEGENDS
from gfm_objectives.data.segments import Segmented, split
from gfm_objectives.data.synthetic import Synthetic

PLACES = (137, 179, 211, 107, 263)  # of the pretraining split, chosen for clear skies


def main(out: Path) -> None:
    (cfg,) = compose("train", ["objective.target=segments"])
    earth = Synthetic("pretrain")
    source = Segmented(earth, "segments", **cfg.objective.segments)
    shuffled = Segmented(earth, "shuffled", **cfg.objective.segments)
    print(source.about())
    whole, batch = earth.read(PLACES), source.read(PLACES)
    classes, others = batch.targets["segments"], shuffled.read(PLACES).targets["shuffled"]
    spread = plt.get_cmap("gist_ncar")(np.random.default_rng(1).permutation(np.linspace(0.03, 0.97, 128)))
    named = {"cmap": ListedColormap(np.concatenate([[[0.93, 0.93, 0.96, 1]], spread])), "vmin": -1.5, "vmax": 127.5}
    legend = LEGENDS["map"]
    mapped = {"cmap": ListedColormap(legend.colors or ()), "vmin": -0.5, "vmax": len(legend) - 0.5}
    true = ("B04", "B03", "B02")
    rows = []
    for k in range(len(PLACES)):
        views = {n: s.map(lambda t, k=k: t[k : k + 1]) for n, s in split(whole, source.withhold)[1].items()}
        cuts, _ = source.book.cut(views)
        edge = torch.zeros_like(cuts, dtype=torch.bool)
        edge[:-1] |= cuts[:-1] != cuts[1:]
        edge[:, :-1] |= cuts[:, :-1] != cuts[:, 1:]
        drawn = colour(whole, k, 1, true, 0.24)
        drawn[edge.numpy()] = (1, 1, 0.2)
        rows.append(
            [
                ("seen: S2, date 1", {"X": colour(whole, k, 0, true, 0.24)}),
                ("seen: S2, date 3", {"X": colour(whole, k, 2, true, 0.24)}),
                ("withheld: S2, date 2", {"X": colour(whole, k, 1, true, 0.24)}),
                ("withheld: S2, date 4", {"X": colour(whole, k, 3, true, 0.24)}),
                ("withheld: S1, date 2", {"X": radar_colour(whole, k, 1)}),
                ("segments", {"X": drawn}),
                ("pseudo-classes", {"X": classes[k], **named}),
                ("shuffled", {"X": others[k], **named}),
                ("map, not used", {"X": whole.targets["map"][k], **mapped}),
            ]
        )
    fig, axes = plt.subplots(len(rows), len(rows[0]), figsize=(1.2 * len(rows[0]), 1.2 * len(rows) + 0.35))
    for row, axs in zip(rows, axes, strict=True):
        for ax, (title, image) in zip(axs, row, strict=True):
            ax.imshow(**image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row is rows[0]:
                ax.set_title(title, fontsize=7, pad=2)
    fig.subplots_adjust(left=0.005, right=0.995, top=0.915, bottom=0.005, wspace=0.03, hspace=0.03)
    fig.suptitle(
        "Synthetic places, 640 m across: what is seen, what is withheld, and the classes made of it", fontsize=9
    )
    fig.savefig(out, dpi=84)
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images" / "segments.png")
