"""Places per second of CPU: torchgeo's MMEarth and DataLoader, our reader of its files, and shards of the same places.

GFM_DATA=/data python benchmarks/shards.py [SECONDS]. The files are torchgeo's miniature, so all of them are in memory
(the page cache), and what is measured is work, not disks: CPU time of this process. One thread, batches of 4, values
normalised. With litdata installed, the same records as litdata's own chunks are read too.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gfm_objectives.config import compose
from gfm_objectives.data import build_source, prepare
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.shards import Shards

BATCH = 4
MODALITIES = ("sentinel2", "sentinel2_cloudmask", "sentinel2_scl", "sentinel1_asc", "sentinel1_desc", "aster")
MODALITIES += ("esa_worldcover", "dynamic_world")


def rate(batches: Callable[[], Iterator[Any]], seconds: float) -> float:
    """Places per second of CPU, after a warm-up of a tenth of the time."""
    done, began, counting = 0, time.process_time(), False
    while True:
        for _ in batches():
            done += BATCH
            now = time.process_time() - began
            if not counting and now > seconds / 10:
                done, began, counting = 0, time.process_time(), True
            elif counting and now > seconds:
                return done / now


def of_litdata(shards: Shards, out: str) -> Callable[[], Iterator[Any]]:
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
    return lambda: iter(StepLoader(other, BATCH, 0))


def main(seconds: float = 4.0) -> None:
    torch.set_num_threads(1)
    root = Path(os.environ["GFM_DATA"]) / "formats" / "torchgeo" / "mmearth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchgeo.datasets import MMEarth

    theirs = MMEarth(str(root), subset="MMEarth64", modalities=MODALITIES)
    loader = torch.utils.data.DataLoader(theirs, BATCH, shuffle=True, drop_last=True, collate_fn=list)
    found = {"torchgeo's dataset and DataLoader": rate(lambda: iter(loader), seconds)}
    ours = build_source({"name": "mmearth", "root": str(root)}, "pretrain")
    found["our reader of the same files"] = rate(lambda: iter(StepLoader(ours, BATCH, 0)), seconds)
    with tempfile.TemporaryDirectory() as out:
        words = ["data=mmearth", f"data.root={root}", f"out={out}", "workers=1"]
        shards = build_source({"name": "shards", "root": str(prepare.run(compose("prepare", words)[0]))}, "pretrain")
        found["shards"] = rate(lambda: iter(StepLoader(shards, BATCH, 0)), seconds)
        if find_spec("litdata"):
            found["the same records in litdata's chunks"] = rate(of_litdata(shards, out), seconds)
    base = next(iter(found.values()))
    for name, places in found.items():
        print(f"{name:40} {places:8.0f} places/s {places / base:6.1f} x")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
