"""The tiled inference of other libraries, for scene.py: a process of its own that leaves the map as an array.

    python benchmarks/scene_peers.py torchgeo MODEL SCENE.tif WINDOW OUT.npz

Prints CPU seconds without imports, and memory in MiB before the scene, as one line of json. Each library is used as its
documentation maps a scene; windows and overlap are those of gfm predict.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.source import normalise
from gfm_objectives.runs.segmenter import load_segmenter

BANDS = ("B02", "B03", "B04", "B08")
OVERLAP = {"torchgeo": 0.0, "terratorch": 0.25}  # torchgeo joins no overlapping windows
TOGETHER = 4  # windows shown at a time, as gfm predict shows


def read(scene: Path) -> tuple[Tensor, Tensor]:
    """Stored values (C, H, W) float32, and where all bands are valid (H, W)."""
    with rasterio.open(scene) as file:
        values = torch.from_numpy(file.read().astype(np.float32))
    return values, (values != -9999).all(0)


def batch(x: Tensor, valid: Tensor) -> Batch:
    """Stored values (N, C, H, W) and validity (N, H, W) as the model reads them."""
    n = len(x)
    series = Series(x[:, None] * 1e-4, valid[:, None], torch.zeros(n, 1), BANDS)
    return normalise(Batch({"s2": series}, {}, torch.full((n,), 10.0)))


def torchgeo(network: torch.nn.Module, scene: Path, size: int) -> tuple[Tensor, Tensor]:
    """RasterDataset and its sampler of a grid. That begins at the bottom: the side must be a multiple of a window."""
    from torch.utils.data import DataLoader
    from torchgeo import samplers
    from torchgeo.datasets import RasterDataset, stack_samples

    dataset = RasterDataset(paths=str(scene))
    grid = getattr(samplers, "GriddedPatchSampler", None) or samplers.GridGeoSampler  # its name until torchgeo 0.10
    loader = DataLoader(dataset, TOGETHER, sampler=grid(dataset, size=size), collate_fn=stack_samples)
    with rasterio.open(scene) as file:
        shape, t = (file.height, file.width), file.transform
    classes, p = torch.full(shape, 255, dtype=torch.uint8), torch.zeros(shape)
    places = iter(grid(dataset, size=size))
    for sample in loader:
        x = sample["image"]
        most, said = network(batch(x, (x != -9999).all(1))).softmax(1).max(1)
        for k in range(len(x)):
            across, down, *_ = next(places)
            row, column = round((down.stop - t.f) / t.e), round((across.start - t.c) / t.a)
            part = slice(row, row + size), slice(column, column + size)
            classes[part], p[part] = said[k].byte(), most[k]
    return classes, p


def terratorch(network: torch.nn.Module, scene: Path, size: int) -> tuple[Tensor, Tensor]:
    """tiled_inference with its blending, the scene in memory; no border (delta) is cropped, as by gfm predict."""
    from terratorch.tasks.tiled_inference import tiled_inference

    x, valid = read(scene)
    out = tiled_inference(
        lambda chips: network(batch(chips[:, :-1], chips[:, -1] > 0)),
        torch.cat([x, valid[None]])[None],
        crop=size,
        stride=size - int(OVERLAP["terratorch"] * size),
        delta=0,
        padding=False,
        batch_size=TOGETHER,
    )
    most, said = out[0].softmax(0).max(0)
    return said.byte(), most


def main(peer: str, model: str, scene: str, size: str, out: str) -> None:
    network, infer = load_segmenter(Path(model)).network, {"torchgeo": torchgeo, "terratorch": terratorch}[peer]
    import_module({"torchgeo": "torchgeo.samplers", "terratorch": "terratorch.tasks.tiled_inference"}[peer])
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time()
    with torch.inference_mode():
        classes, p = infer(network, Path(scene), int(size))
    cpu = time.process_time() - begun
    np.savez(out, classes=classes.numpy(), p=p.half().numpy())
    print(json.dumps({"what": f"{peer} {version(peer)}", "cpu": cpu, "before": before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
