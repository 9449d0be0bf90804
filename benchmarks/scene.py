"""How fast, in how much memory and with what seams a whole scene is mapped: a made-up scene of any size, and its map.

    python benchmarks/scene.py 4096                     # time, peak memory, shares, seams with and without blending
    python benchmarks/scene.py 4096 --kill              # kill -9 in the middle, resumed: are the bytes identical?
    python benchmarks/scene.py 1024 --whole             # against one pass over the whole scene, and a plain tile loop
    python benchmarks/scene.py 1024 --torchgeo          # against torchgeo's grid sampler, windows side by side

The scene (4 bands, int16, 10 m) is written once and kept; every map is made by a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

BANDS = ("B02", "B03", "B04", "B08")
STRIP = 512  # rows written at a time


def write_scene(path: Path, side: int, seed: int = 0) -> None:
    """Fields, waves and noise; a corner without data."""
    rng = np.random.default_rng(seed)
    about = dict(
        driver="GTiff", count=len(BANDS), height=side, width=side, dtype="int16", nodata=-9999, crs="EPSG:32633"
    )
    about |= dict(transform=rasterio.Affine(10, 0, 5e5, 0, -10, 6e6), tiled=True, blockxsize=512, blockysize=512)
    levels = rng.integers(500, 4000, (len(BANDS), 97))
    with rasterio.open(path, "w", **about, compress="deflate", zlevel=1, bigtiff="if_safer") as file:
        x = np.arange(side)[None]
        for top in range(0, side, STRIP):
            y = np.arange(top, min(top + STRIP, side))[:, None]
            field = ((y // 37) * 31 + (x // 53) * 17) % 97
            block = levels[:, field] + (200 * np.sin(y / 90) * np.cos(x / 70)).astype(np.int16)
            block = (block + rng.integers(-60, 60, block.shape, dtype=np.int16)).astype(np.int16)
            block[:, (y < side // 8)[:, 0], : side // 8] = -9999
            file.write(block, window=Window(0, top, side, len(y)))
        for n, name in enumerate(BANDS, 1):
            file.set_band_description(n, name)


def write_model(folder: Path, size: int) -> None:
    """A small U-Net, untrained: speed and seams do not ask what it has learned."""
    from gfm_objectives.batch import Spec
    from gfm_objectives.models.unet import UNet
    from gfm_objectives.runs.segmenter import Card, FineTuned, describe, save_segmenter
    from gfm_objectives.sensors import legend

    torch.manual_seed(0)
    spec = Spec({"s2": BANDS}, {"s2": 1}, size, 10.0, {"cover": legend("cover", ["a", "b", "c", "d"])})
    model = UNet(spec, 4, width=8, mode="stack").eval()
    task = {"name": "cover", "kind": "segmentation", "layer": "cover", "metric": "miou"}
    save_segmenter(FineTuned(model, Card(spec, 4, describe(model), task)), folder)


def command_of(model: Path, scene: Path, out: Path) -> list[str]:
    """`gfm predict` as it is typed."""
    words = [f"model={model}", f"input={scene}", f"output={out}"]
    return [sys.executable, "-m", "gfm_objectives.cli", "predict", *words]


def predict(model: Path, scene: Path, out: Path, *words: str) -> tuple[float, float, str]:
    """Seconds, peak memory in MiB, and what was printed, of a process of its own."""
    command = command_of(model, scene, out)
    begun = time.perf_counter()
    done = subprocess.Popen([*command, "scale=0.0001", "overwrite=true", *words], stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    text = done.stdout.read()
    _, status, used = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    return time.perf_counter() - begun, used.ru_maxrss / 1024, text


def kill_and_resume(model: Path, scene: Path, folder: Path, *words: str) -> bool:
    """Whether a map that was killed in the middle has the bytes of one that was not."""
    whole, killed = folder / "whole.tif", folder / "killed.tif"
    predict(model, scene, whole, *words)
    command = command_of(model, scene, killed)
    process = subprocess.Popen([*command, "scale=0.0001", *words], stdout=subprocess.DEVNULL)
    blocks = folder / "killed.tif.blocks"
    while len(list(blocks.glob("*.npz")) if blocks.exists() else []) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed after {len(list(blocks.glob('*.npz')))} blocks; the map exists: {killed.exists()}")
    print(predict(model, scene, killed, *words)[2])
    return whole.read_bytes() == killed.read_bytes()


def against_one_pass(model: Path, scene: Path, out: Path, size: int) -> None:
    """The map against one pass over all pixels, and against windows side by side without blending."""
    from gfm_objectives.batch import Batch, Series
    from gfm_objectives.data.source import normalise
    from gfm_objectives.data.windows import sliding
    from gfm_objectives.runs.segmenter import load_segmenter

    with rasterio.open(scene) as file:
        values = torch.from_numpy(file.read().astype(np.float32))
    valid = (values != -9999).all(0)
    raw = Batch(
        {"s2": Series(values[None, None] * 1e-4, valid[None, None], torch.zeros(1, 1), BANDS)}, {}, torch.tensor([10.0])
    )
    network, batch = load_segmenter(model).network, normalise(raw)
    with torch.inference_mode():
        begun = time.perf_counter()
        whole = network(batch)[0].argmax(0)
        seconds = time.perf_counter() - begun
    print(f"one pass over the whole scene: {seconds:.1f} s")
    for name, overlap in (("blended", 0.25), ("side by side", 0.0)):
        predict(model, scene, out, f"overlap={overlap}", "precision=fp32")
        with rasterio.open(out) as file:
            made = torch.from_numpy(file.read(1).astype(np.int64))
        begun = time.perf_counter()
        with torch.inference_mode():
            loop = sliding(network, batch, size, int(overlap * size)).argmax(0)
        plain = time.perf_counter() - begun
        far = float((made != whole)[valid].float().mean())
        same = float((made == loop)[valid].float().mean())
        print(f"{name}: {far:.2%} of pixels differ from one pass; {same:.4%} equal a plain loop ({plain:.1f} s)")


def against_torchgeo(model: Path, scene: Path, out: Path, size: int) -> None:
    """The same windows through torchgeo's RasterDataset and GridGeoSampler, as its tutorials map a scene: read, model,
    into an array. The side must be a multiple of the window: its grid begins at the bottom."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    from gfm_objectives.batch import Batch, Series
    from gfm_objectives.data.source import normalise
    from gfm_objectives.runs.segmenter import load_segmenter

    network = load_segmenter(model).network
    begun = time.perf_counter()
    dataset = RasterDataset(paths=str(scene))
    loader = DataLoader(dataset, 4, sampler=GridGeoSampler(dataset, size), collate_fn=stack_samples)
    with rasterio.open(scene) as file:
        made, transform = np.full((file.height, file.width), 255, np.uint8), file.transform
    with torch.inference_mode():
        queries = iter(GridGeoSampler(dataset, size))
        for sample in loader:
            x = sample["image"][:, None]
            valid = (x != -9999).all(2)
            n = len(x)
            raw = Batch({"s2": Series(x * 1e-4, valid, torch.zeros(n, 1), BANDS)}, {}, torch.full((n,), 10.0))
            said = network(normalise(raw)).argmax(1).byte().numpy()
            for k in range(n):
                x_range, y_range, _ = next(queries)
                row, column = (
                    round((y_range.stop - transform.f) / transform.e),
                    round((x_range.start - transform.c) / 10),
                )
                made[row : row + size, column : column + size] = np.where(valid[k, 0], said[k], 255)
    seconds = time.perf_counter() - begun
    ours, peak, text = predict(model, scene, out, "overlap=0", "precision=fp32")
    with rasterio.open(out) as file:
        differ = float((file.read(1) != made).mean())
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    inside = sum(json.loads(out.with_name(out.name + ".json").read_text())["seconds"].values())
    print(f"torchgeo {seconds:.1f} s, peak {mine:.0f} MiB, no map written; {differ:.4%} of pixels differ")
    print(f"gfm predict {inside:.1f} s, {ours:.1f} with its start, peak {peak:.0f} MiB")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", type=int, help="pixels a side")
    parser.add_argument("--window", type=int, default=128, help="pixels a side of what the model sees at once")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--torchgeo", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    scene, model = args.folder / f"scene{args.side}.tif", args.folder / f"model{args.window}"
    if not scene.exists():
        write_scene(scene, args.side)
    write_model(model, args.window)
    if args.kill:
        print(f"identical bytes: {kill_and_resume(model, scene, args.folder, 'block=512')}")
        return
    if args.whole:
        against_one_pass(model, scene, args.folder / "map.tif", args.window)
        return
    if args.torchgeo:
        against_torchgeo(model, scene, args.folder / "map.tif", args.window)
        return
    for overlap in (0.25, 0.0):
        out = args.folder / "map.tif"
        seconds, peak, text = predict(model, scene, out, f"overlap={overlap}")
        print(f"--- {args.side} x {args.side}, overlap {overlap}: {seconds:.1f} s, peak {peak:.0f} MiB\n{text}")
        print(json.dumps(json.loads(out.with_name("map.tif.json").read_text())["seams"]))
    print(f"peak of this script {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
