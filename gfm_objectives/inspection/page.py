"""The page of pictures gfm inspect writes: four places in every sensor and layer; under them histograms and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.inspection.tally import Look, pooled
from gfm_objectives.report.gallery import UNLABELLED, palette
from gfm_objectives.report.pictures import image
from gfm_objectives.sensors import SENSORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_page(name: str, spec: Spec, samples: Batch, looks: Mapping[str, Look]) -> Figure:
    """samples: the places shown, as a batch; looks: what was counted, by split."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    columns = len(spec.bands) + len(spec.legends)
    rows = len(samples)
    tall = max((len(legend) for legend in spec.legends.values()), default=0)
    heights = [2.1 * rows + 0.6, max(2.6, 0.22 * tall + 1)]
    figure = Figure(figsize=(max(7.0, 2.6 * columns), sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _pictures(top, spec, samples)
    axes = bottom.subplots(1, columns, squeeze=False)[0]
    for ax, sensor in zip(axes, spec.bands, strict=False):
        _histogram(ax, sensor, looks)
    for ax, layer in zip(axes[len(spec.bands) :], spec.legends, strict=True):
        _classes(ax, spec, layer, looks)
    split = next(iter(looks))
    figure.suptitle(f"{name}: {rows} of {looks[split].places} {split} places; below, all places read", fontsize=11)
    return figure


def _pictures(figure: Any, spec: Spec, samples: Batch) -> None:
    from matplotlib.colors import to_rgb

    axes = figure.subplots(len(samples), len(spec.bands) + len(spec.legends), squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    for column, (sensor, series) in enumerate(samples.sensors.items()):
        axes[0][column].set_title(f"{sensor}, clearest date" if spec.dates[sensor] > 1 else sensor, fontsize=9)
        for ax, picture in zip(axes[:, column], image(samples.replace(sensors={sensor: series})), strict=True):
            ax.imshow(picture, interpolation="nearest")
    for column, (layer, legend) in enumerate(spec.legends.items(), len(samples.sensors)):
        axes[0][column].set_title(layer, fontsize=9)
        if samples.targets[layer].ndim < 3:
            for ax, y in zip(axes[:, column], samples.targets[layer], strict=True):
                ax.text(0.5, 0.5, words(y, legend.classes), ha="center", va="center", fontsize=7, wrap=True)
            continue
        if samples.targets[layer].is_floating_point():
            low, high = np.nanpercentile(samples.targets[layer].numpy(), (2, 98)) if known(samples, layer) else (0, 1)
            for ax, y in zip(axes[:, column], samples.targets[layer].numpy(), strict=True):
                ax.imshow(y, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            continue
        colors = np.array([to_rgb(c) for c in palette(len(legend), legend.colors)] + [UNLABELLED])
        for ax, y in zip(axes[:, column], samples.targets[layer].numpy(), strict=True):
            ax.imshow(colors[np.where(y < 0, len(legend), y)], interpolation="nearest")


def words(y: Tensor, classes: Sequence[str]) -> str:
    """The label of a whole place: y () of its class, or (K,) of which it shows."""
    shown = y.nan_to_num().nonzero()[:, 0] if y.ndim else y.view(1)[y.view(1) >= 0]
    return "\n".join(classes[k] for k in shown.tolist()) or "no label"


def known(samples: Batch, layer: str) -> bool:
    return bool((~samples.targets[layer].isnan()).any())


def _histogram(ax: Any, sensor: str, looks: Mapping[str, Look]) -> None:
    tallies = [found.sensors[sensor] for found in looks.values()]
    known = {b.name: b for b in SENSORS[sensor].bands}
    values = {b: np.concatenate(v.sample) for b in tallies[0].bands if (v := pooled(tallies, b)).n}
    ax.set_title(f"{sensor}, {SENSORS[sensor].unit}", fontsize=9)
    ax.set_yticks([])
    if not values:
        return
    low, high = np.percentile(np.concatenate([*values.values()]), (0.5, 99.5))
    edges = np.linspace(low, high if high > low else low + 1, 61)
    from matplotlib import colormaps

    waves = sorted(values, key=lambda b: known[b].wavelength or 0)
    for i, (band, x) in enumerate(values.items()):
        color = colormaps["turbo"](0.1 + 0.8 * waves.index(band) / max(1, len(waves) - 1))
        share = np.histogram(x, edges)[0] / len(x)
        ax.stairs(share, edges, color=color, label=band, lw=1.1, zorder=3 + i)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=6, frameon=False, ncols=2 if len(values) > 6 else 1)


def _classes(ax: Any, spec: Spec, layer: str, looks: Mapping[str, Look]) -> None:
    """Share of the labelled pixels, a bar for each split in every class."""
    legend = spec.legends[layer]
    if any(found.layers[layer].values.n for found in looks.values()):
        values = np.concatenate([v for found in looks.values() for v in found.layers[layer].values.sample])
        ax.hist(values, 60, color="0.5")
        ax.set_yticks([])
        ax.set_title(f"{layer}, {legend.classes[0]}", fontsize=9)
        return
    colors = palette(len(legend), legend.colors)
    splits = list(looks)
    for k, split in enumerate(splits):
        pixels = looks[split].layers[layer].pixels[:-1]
        at = np.arange(len(legend)) + 0.8 * ((k + 0.5) / len(splits) - 0.5)
        share = pixels / max(1, pixels.sum())
        ax.barh(at, 100 * share, 0.8 / len(splits), color=colors, edgecolor="0.4", lw=0.4)
    ax.set_yticks(range(len(legend)), legend.classes, fontsize=7)
    ax.set_ylim(len(legend) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_title(f"{layer}, % of labelled: {', '.join(splits)}", fontsize=8)
