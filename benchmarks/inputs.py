"""Places per second of CPU of the ways to read: torchgeo's data sets with torch's DataLoader, our readers, shards.

    GFM_DATA=/data python benchmarks/inputs.py [seconds=0.5] [repeats=7]

Two sources. MMEarth in torchgeo's miniature: torchgeo's own class. hls_water, real chips of 128 x 128 pixels in
GeoTIFFs without coordinates: torchgeo has no class for it, so one is written here as torchgeo writes its own, which
opens each file when it is asked for. One thread, batches of 4, values normalised, sides take turns; the files are in
the page cache, so that it is work that is measured, not disks. With litdata installed, the same records as its chunks.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import common
import numpy as np
import rasterio
import torch
from PIL import Image
from torch.utils.data import DataLoader

from gfm_objectives.config import compose
from gfm_objectives.config.files import load_choice
from gfm_objectives.data import build_source, prepare
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.packed import packing, ready
from gfm_objectives.data.places import Places
from gfm_objectives.data.shards import Shards
from gfm_objectives.data.source import Source

BATCH = 4
MODALITIES = ("sentinel2", "sentinel2_cloudmask", "sentinel2_scl", "sentinel1_asc", "sentinel1_desc", "aster")
MODALITIES += ("esa_worldcover", "dynamic_world")
Read = Callable[[], Iterator[Any]]


class Reading:
    """A side: reads on, epoch after epoch, `batches` batches a round."""

    def __init__(self, read: Read, seconds: float, places: int) -> None:
        self.read, self.found = read, read()
        self.batches = -(-places // BATCH)
        self()  # all of them once: caches fill
        begun, self.batches = time.process_time(), 4
        self()
        self.batches = max(1, round(seconds / max(time.process_time() - begun, 1e-4) * 4))

    def __call__(self) -> int:
        for _ in range(self.batches):
            if next(self.found, None) is None:
                self.found = self.read()
                next(self.found)
        return self.batches * BATCH


def compared(sides: dict[str, Read], places: int, seconds: float, repeats: int) -> list[common.Row]:
    """A row for each side, beside the first; places: in the source."""
    found = common.alternate({k: Reading(read, seconds, places) for k, read in sides.items()}, repeats)
    base = next(iter(found.values()))
    return [
        {
            "reader": name,
            "places/s of CPU": rounds.rate("cpu"),
            "places/s of the clock": rounds.rate("wall"),
            "x": common.ratio(rounds, base, "cpu"),
        }
        for name, rounds in found.items()
    ]


def steps(source: Places) -> Read:
    return lambda: iter(StepLoader(source, BATCH, 0))


class Stored:
    """A source whose places are not normalised when they are read."""

    def __init__(self, source: Source) -> None:
        self.read, self.spec, self.count = source.raw, source.spec, len(source)

    def __len__(self) -> int:
        return self.count


def finished(shards: Shards) -> Read:
    """Handed over as bytes to this CPU, which stands for the device."""
    return lambda: (ready(batch, torch.device("cpu")) for batch in StepLoader(packing(shards), BATCH, 0))


def loaded(dataset: Any) -> Read:
    """torchgeo's way: its data set, shuffled, in torch's loader."""
    return partial(iter, DataLoader(dataset, BATCH, shuffle=True, drop_last=True, collate_fn=list))


def sharded(name: str, root: Path, out: str, *words: str) -> Shards:
    line = ["data=" + name, f"data.root={root}", f"out={out}", "workers=1", *words]
    return build_source({"name": "shards", "root": str(prepare.run(compose("prepare", line)[0]))}, "pretrain")


def of_litdata(shards: Shards, out: str) -> Read:
    """The records of shards as its tensors of bytes, by random access, decoded and normalised as ours are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from litdata import StreamingDataset
        from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(Path(out) / "lit"), chunk_bytes="64MB")
    for i in range(len(shards)):
        writer[i] = torch.frombuffer(bytearray(shards._store.read([shards.place(i)])[0]), dtype=torch.uint8)
    writer.done()
    writer.merge()
    held = StreamingDataset(str(Path(out) / "lit"))

    class Store:
        def read(self, ranges: list[Any]) -> list[memoryview]:
            return [memoryview(held[at // size].numpy()) for _, at, end in ranges if (size := end - at)]

    other = copy.copy(shards)
    other._store = Store()  # type: ignore[assignment]
    return steps(other)


# ---------------------------------------------------------------- sources


def mmearth(root: Path, out: str) -> dict[str, Read]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchgeo.datasets import MMEarth

        theirs = MMEarth(str(root), subset="MMEarth64", modalities=MODALITIES)
    shards = sharded("mmearth", root, out)
    sides = {
        "torchgeo's MMEarth and torch's DataLoader": loaded(theirs),
        "our reader of the same file": steps(build_source({"name": "mmearth", "root": str(root)}, "pretrain")),
        "shards": steps(shards),
    }
    return sides | ({"the same records in litdata's chunks": of_litdata(shards, out)} if find_spec("litdata") else {})


def hls_water(root: Path, out: str) -> dict[str, Read]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchgeo.datasets import NonGeoDataset

    class Chips(NonGeoDataset):
        """Seven bands of reflectance and height; cloud and shadow; land cover; water. As they are or normalised."""

        def __init__(self, normalised: bool = True) -> None:
            self.normalised = normalised
            lines = (root / "chips.csv").read_text().splitlines()[1:]
            self.ids = [line.split(",")[0] for line in lines if line.split(",")[3] == "train"]

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
            with rasterio.open(root / "images" / f"{self.ids[k]}.tif") as file:
                x = torch.from_numpy(file.read([1, 2, 3, 4, 5, 6, 7, 8, 10, 11]))
            with Image.open(root / "labels" / f"{self.ids[k]}.png") as file:
                label = torch.from_numpy(np.array(file)).long()
            bands, height = x[:7].float() * 1e-4, x[8:9].float()
            valid = (x[7] & 0b1110) == 0
            image = torch.cat([bands, height])
            if self.normalised:
                image = (image - self.mean) / self.std * valid
            return {"image": image, "valid": valid, "map": x[9].long(), "mask": label}

        mean = torch.tensor([0.1] * 7 + [200.0])[:, None, None]
        std = torch.tensor([0.1] * 7 + [200.0])[:, None, None]

    options = load_choice("data", "hls_water") | {"root": str(root)}
    shards = sharded("hls_water", root, out)
    return {
        "a data set as torchgeo's, and torch's DataLoader": loaded(Chips()),
        "our reader, decoding each time": steps(build_source(options | {"cache_mb": 0}, "pretrain")),
        "our reader, decoded chips kept in memory": steps(build_source(options, "pretrain")),
        "shards": steps(shards),
        "a data set as torchgeo's that leaves normalisation to the device": loaded(Chips(normalised=False)),
        "shards that leave normalisation to the device": steps(cast(Places, Stored(shards))),
        "shards that leave decoding and normalisation to the device": steps(packing(shards)),
        "the same, and both done here": finished(shards),
    }


def main(argv: list[str]) -> None:
    given = common.words(argv, seconds=0.5, repeats=7)
    torch.set_num_threads(1)
    data = Path(os.environ["GFM_DATA"])
    sections, notes = {}, []
    miniature = data / "formats" / "torchgeo" / "mmearth"
    for title, make, root, places in (
        ("MMEarth, torchgeo's miniature: ten places of 64 x 64 px", mmearth, miniature, 10),
        ("hls_water: 175 real chips of 128 x 128 px", hls_water, data / "hls_water", 175),
    ):
        with tempfile.TemporaryDirectory() as out:
            rows = compared(make(root, out), places, given["seconds"], given["repeats"])
        sections[title] = rows
        notes += [f"{title.split(':')[0]}: {r['reader']}, {r['x']:.1f} x." for r in rows[1:]]
        common.write("inputs", "Reading", " ".join(["python benchmarks/inputs.py", *argv]), sections, notes)


if __name__ == "__main__":
    main(sys.argv[1:])
