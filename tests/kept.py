"""Kept models and scenes of a second, which the tests of maps, reviews and exports share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio import Affine

from gfm_objectives.batch import Spec
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.segmenter import Card, FineTuned, describe, save_segmenter
from gfm_objectives.sensors import legend

BANDS = {"s2": ("B02", "B03", "B04", "B08")}
LEGEND = legend("cover", ["land", "water", "ice"], [10, 80, 7], ["#d9ceb8", "#2b6cb0", "#ffffff"])
TASK = {"name": "cover", "kind": "segmentation", "layer": "cover", "metric": "miou"}


def kept(folder: Path, size: int = 32, bands=BANDS, network=None, dates=1, **about) -> Path:
    """A small U-Net, untrained, with its head made decisive, or the `network` that a spec makes."""
    torch.manual_seed(0)
    spec = Spec(bands, dict.fromkeys(bands, dates), size, 10.0, {"cover": LEGEND})
    task = about.pop("task", TASK)
    channels = 1 if task["kind"] == "regression" else 3
    model = (network(spec, channels) if network else UNet(spec, channels, width=8, mode="stack")).eval()
    with torch.no_grad():
        for p in model.head.parameters():
            p.mul_(8)
    card = Card(spec, channels, describe(model), task, temperature=1.5, **about)
    d = next(m for m in model.head.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    known = {"mean": torch.zeros(d), "whiten": torch.eye(d), "quantiles": torch.linspace(0, 2, 16)}
    return save_segmenter(FineTuned(model, card, known), folder)


def scene(path: Path, height=150, width=130, bands=BANDS["s2"], crs="EPSG:32633", gsd=10.0, seed=0, **profile) -> Path:
    """Smooth reflectance x 10000, int16, -9999 in a corner."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 20
    phase = rng.uniform(0, 6, (len(bands), 2))
    waves = np.stack([np.sin(y + a) * np.cos(x * 1.3 + b) for a, b in phase])
    values = (1500 + 1200 * waves + rng.normal(0, 100, waves.shape)).astype(np.int16)
    values[:, :20, :30] = -9999
    write(path, values, crs=crs, gsd=gsd, nodata=-9999, names=bands, **profile)
    return path


def write(
    path: Path, values, crs="EPSG:32633", gsd=10.0, nodata=None, names=(), origin=(500_000, 5_000_000), **profile
):
    place = {"crs": crs, "transform": Affine(gsd, 0, origin[0], 0, -gsd, origin[1])} if crs else {}
    count, height, width = values.shape
    about = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **about, nodata=nodata, **place, **profile) as file:
        file.write(values)
        for n, name in enumerate(names, 1):
            file.set_band_description(n, name)
