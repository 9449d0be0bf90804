"""How fast, in how much memory and with what seams a whole scene is mapped: a made-up scene of any size, and its map.

    python benchmarks/scene.py 8192                     # time, peak memory, shares, seams with and without blending
    python benchmarks/scene.py 8192 --kill              # kill -9 in the middle, resumed: are the bytes identical?
    python benchmarks/scene.py 4096 --whole             # against one pass over the whole scene
    python benchmarks/scene.py 4096 --peer torchgeo     # against torchgeo's grid sampler, windows side by side
    python benchmarks/scene.py 4064 --peer terratorch --python venv/bin/python    # against its tiled_inference

The scene (4 bands, int16, 10 m) is written once and kept; a larger one than 8,192 pixels is a VRT that repeats it.
Every map is made by a process of its own. Rows are kept in results/benchmarks/scene.json, of which page.py makes the
page. `--python` runs a peer of another environment.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import common
import numpy as np
import rasterio
import scene_peers
import torch
from rasterio.windows import Window

TITLE = "Mapping a scene"
TIME, SEAMS, KILLED, PEERS = (
    "Time and memory",
    "Seams: the share of neighbouring pixels of different classes",
    "Killed and resumed",
    "Beside other tiled inference",
)
STRIP = 512  # rows written at a time
LARGEST = 8192  # pixels a side of a scene that is written; larger ones repeat it


def write_scene(path: Path, side: int, seed: int = 0) -> None:
    """Fields, waves and noise; a corner without data."""
    rng, bands = np.random.default_rng(seed), scene_peers.BANDS
    about = dict(driver="GTiff", count=len(bands), height=side, width=side, dtype="int16", nodata=-9999)
    about |= dict(transform=rasterio.Affine(10, 0, 5e5, 0, -10, 6e6), tiled=True, blockxsize=512, blockysize=512)
    levels = rng.integers(500, 4000, (len(bands), 97))
    with rasterio.open(path, "w", **about, crs="EPSG:32633", compress="deflate", zlevel=1, bigtiff="if_safer") as file:
        x = np.arange(side)[None]
        for top in range(0, side, STRIP):
            y = np.arange(top, min(top + STRIP, side))[:, None]
            field = ((y // 37) * 31 + (x // 53) * 17) % 97
            block = levels[:, field] + (200 * np.sin(y / 90) * np.cos(x / 70)).astype(np.int16)
            block = (block + rng.integers(-60, 60, block.shape, dtype=np.int16)).astype(np.int16)
            block[:, (y < side // 8)[:, 0], : side // 8] = -9999
            file.write(block, window=Window(0, top, side, len(y)))
        for n, name in enumerate(bands, 1):
            file.set_band_description(n, name)


def repeat_scene(path: Path, tile: Path, side: int) -> None:
    """A VRT of `side` pixels that shows the scene `tile` again and again."""
    with rasterio.open(tile) as file:
        step, t, names, crs = file.width, file.transform, file.descriptions, file.crs.to_wkt()
    starts = range(0, side, step)

    def source(band: int, x: int, y: int) -> str:
        w, h = min(step, side - x), min(step, side - y)
        part = f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/>'
        to = f'<DstRect xOff="{x}" yOff="{y}" xSize="{w}" ySize="{h}"/>'
        name = f"<SourceFilename>{tile.resolve()}</SourceFilename><SourceBand>{band}</SourceBand>"
        return f"<SimpleSource>{name}{part}{to}</SimpleSource>"

    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{n}"><Description>{name}</Description><NoDataValue>-9999</NoDataValue>'
        f"{''.join(source(n, x, y) for y in starts for x in starts)}</VRTRasterBand>"
        for n, name in enumerate(names, 1)
    )
    place = ", ".join(map(str, t.to_gdal()))
    head = f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{escape(crs)}</SRS>'
    path.write_text(f"{head}<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>\n")


def write_model(folder: Path, size: int) -> None:
    """A small U-Net, untrained: speed and seams do not ask what it has learned."""
    from gfm_objectives.batch import Spec
    from gfm_objectives.models.unet import UNet
    from gfm_objectives.runs.segmenter import Card, FineTuned, describe, save_segmenter
    from gfm_objectives.sensors import legend

    torch.manual_seed(0)
    spec = Spec({"s2": scene_peers.BANDS}, {"s2": 1}, size, 10.0, {"cover": legend("cover", ["a", "b", "c", "d"])})
    model = UNet(spec, 4, width=8, mode="stack").eval()
    task = {"name": "cover", "kind": "segmentation", "layer": "cover", "metric": "miou"}
    save_segmenter(FineTuned(model, Card(spec, 4, describe(model), task)), folder)


# ---------------------------------------------------------------------------------------------------------------------
# gfm predict, as it is typed


def command_of(model: Path, scene: Path, out: Path, *words: str) -> list[str]:
    given = [f"model={model}", f"input={scene}", f"output={out}", "scale=0.0001", *words]
    return [sys.executable, "-m", "gfm_objectives.cli", "predict", *given]


def run(command: Sequence[str]) -> tuple[float, float, str]:
    """Seconds, peak memory in MiB, and what was printed, of a process of its own."""
    begun = time.perf_counter()
    done = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    text = done.stdout.read()
    _, status, used = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    return time.perf_counter() - begun, used.ru_maxrss / 1024, text


def predict(model: Path, scene: Path, out: Path, *words: str) -> tuple[dict, float]:
    """What the map's json says, with its seconds without the start, and peak memory."""
    _, peak, text = run(command_of(model, scene, out, "overwrite=true", *words))
    print(text)
    about = json.loads(out.with_name(out.name + ".json").read_text())
    about["all"] = sum(v for k, v in about["seconds"].items() if k != "read")  # read while something else was done
    return about, peak


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def time_and_seams(model: Path, scene: Path, side: int, folder: Path, overlaps: Sequence[float]) -> None:
    for overlap in overlaps:
        about, peak = predict(model, scene, of(folder, side, overlap), f"overlap={overlap:g}", "precision=fp32")
        s = about["seconds"]
        shares = {"waited for reading": s["wait"], "infer": s["infer"], "assemble": s["assemble"]}
        shares |= {"write": s["keep"] + s["write"]}
        row = {"pixels a side": side, "overlap": overlap, "seconds": about["all"]}
        row |= {"CPU seconds": about["cpu_seconds"], "peak MiB": round(peak)}
        row["million pixels/s of CPU"] = side**2 / 1e6 / about["cpu_seconds"]
        keep(TIME, row | {f"{k}, %": 100 * v / about["all"] for k, v in shares.items()})
        seams = {f"{k}, %": 100 * v for k, v in about["seams"].items()}
        keep(SEAMS, {"pixels a side": side, "overlap": overlap, **seams})


def kill_and_resume(model: Path, scene: Path, side: int, folder: Path) -> None:
    """Whether a map that was killed with half of its blocks done has the bytes of one that was not."""
    whole, killed, words = of(folder, side, 0.25), folder / "killed.tif", ("overlap=0.25", "precision=fp32")
    if not whole.exists():
        predict(model, scene, whole, *words)
    process = subprocess.Popen(command_of(model, scene, killed, *words), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = (line.split() for line in process.stdout)
    blocks = next(int(w[0]) for w in lines if w[1:2] == ["blocks"])
    kept = killed.with_name("killed.tif.blocks")
    while len(list(kept.glob("*.npz"))) < blocks // 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, there = {p.name: p.stat().st_mtime_ns for p in kept.glob("*.npz")}, killed.exists()
    _, _, text = run(command_of(model, scene, killed, *words))
    print(text)
    again = blocks - int(text.partition("pixels (")[2].split()[0])
    row = {"pixels a side": side, "blocks": blocks, "done when killed": len(before), "computed after": again}
    same = whole.read_bytes() == killed.read_bytes()
    keep(KILLED, row | {"a map under its name when killed": there, "identical bytes": same})
    killed.unlink()


def against_one_pass(model: Path, scene: Path, side: int, folder: Path) -> None:
    """The pixels that differ from one pass over the whole scene: what windows cost, blended and side by side."""
    from gfm_objectives.runs.segmenter import load_segmenter

    for overlap in (0.25, 0.0):  # before this process grows: a child's peak begins with that of its parent
        if not of(folder, side, overlap).exists():
            time_and_seams(model, scene, side, folder, (overlap,))
    x, valid = scene_peers.read(scene)
    network = load_segmenter(model).network
    with torch.inference_mode():
        whole = network(scene_peers.batch(x[None], valid[None]))[0].argmax(0)
    for overlap in (0.25, 0.0):
        with rasterio.open(of(folder, side, overlap)) as file:
            made = torch.from_numpy(file.read(1).astype(np.int64))
        keep(
            SEAMS,
            {
                "pixels a side": side,
                "overlap": overlap,
                "differ from one pass, %": 100 * float((made != whole)[valid].float().mean()),
            },
        )


def against(peer: str, python: str, model: Path, scene: Path, side: int, window: int, folder: Path) -> None:
    """The same windows through another library: speed without imports, memory, and how far the maps are apart."""
    overlap, saved = scene_peers.OVERLAP[peer], folder / "peer.npz"
    code = [python, scene_peers.__file__, peer, str(model), str(scene), str(window), str(saved)]
    _, theirs, text = run(code)
    said = json.loads(text.splitlines()[-1])
    out = folder / "beside.tif"
    ours, peak = predict(model, scene, out, f"overlap={overlap:g}", "precision=fp32")
    predict(model, scene, out, f"overlap={overlap:g}", "precision=fp32", "extra=probability")
    with np.load(saved) as arrays:
        classes, p = arrays["classes"], arrays["p"]
    with rasterio.open(out) as a, rasterio.open(out.with_name("beside_probability.tif")) as b:
        made, shares = a.read(1), b.read(1)
    seen = made != 255
    row = {"beside": said["what"], "pixels a side": side, "overlap": overlap, "its CPU seconds": said["cpu"]}
    row |= {"gfm predict, CPU seconds": ours["cpu_seconds"], "times as fast": said["cpu"] / ours["cpu_seconds"]}
    row |= {"its peak MiB": round(theirs), "of it before the scene": round(said["before"]), "our peak MiB": round(peak)}
    row["pixels of another class, %"] = 100 * float((made != classes)[seen].mean())
    largest = np.abs(shares / 250 - p.astype(np.float32))[seen].max()  # the map's probabilities are 250ths
    keep(PEERS, row | {"largest difference of the probability": float(largest)})


def of(folder: Path, side: int, overlap: float) -> Path:
    return folder / f"map{side}_{overlap:g}.tif"


def keep(section: str, row: common.Row, folder: Path = common.RESULTS) -> None:
    """Put the row among those kept, in place of what it repeats, or beside it where it tells more of the same."""
    path = folder / "scene.json"
    sections = json.loads(path.read_text())["sections"] if path.exists() else {}
    sections = {name: sections.get(name, []) for name in (TIME, SEAMS, KILLED, PEERS)}
    keys = [k for k in ("beside", "pixels a side", "overlap") if k in row]
    rows = {tuple(r[k] for k in keys): r for r in sections[section]}
    at = tuple(row[k] for k in keys)
    rows[at] = rows.get(at, {}) | row
    sections[section] = list(rows.values())
    command = "python benchmarks/scene.py 8192, with --kill, --whole and --peer (its first lines)"
    common.write("scene", TITLE, command, sections, NOTES, folder=folder, shown=section)


NOTES = (
    "A made-up scene of 4 bands (int16, compressed), an untrained U-Net of width 8, windows of 128 pixels; untrained, "
    "so that its seams are worse than those of a model that has learned.",
    "Without Python's start. Where others use the core, seconds of the clock are too long: speed is by CPU seconds.",
    "TerraTorch's and torchgeo's sides read the scene, run the model and leave an array; ours also writes the map.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", type=int, help="pixels a side")
    parser.add_argument("--window", type=int, default=128, help="pixels a side of what the model sees at once")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.25, 0.0])
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--peer", choices=list(scene_peers.OVERLAP))
    parser.add_argument("--python", default=sys.executable, help="of the environment that has the peer")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    written = args.folder / f"scene{min(args.side, LARGEST)}.tif"
    scene, model = written, args.folder / f"model{args.window}"
    if not written.exists():
        write_scene(written, min(args.side, LARGEST))
    if args.side > LARGEST:
        repeat_scene(scene := args.folder / f"scene{args.side}.vrt", written, args.side)
    if not model.exists():
        write_model(model, args.window)
    if args.kill:
        kill_and_resume(model, scene, args.side, args.folder)
    elif args.whole:
        against_one_pass(model, scene, args.side, args.folder)
    elif args.peer:
        against(args.peer, args.python, model, scene, args.side, args.window, args.folder)
    else:
        time_and_seams(model, scene, args.side, args.folder, args.overlaps)


if __name__ == "__main__":
    main()
