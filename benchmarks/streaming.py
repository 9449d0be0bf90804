"""Memory and time of scoring 512 x 512 tiles of 10 bands and 4 dates: python benchmarks/streaming.py [TILES] [MODEL].

Tiles are made on the fly from a few stored arrays, 42 MB each, so that nothing but the evaluation can hold them.
MODEL: unet (width 8), nano (as in configs/encoder), or both. A third argument is the window's side, by default that of
the tiles. Memory is the peak of the process beyond that with the model.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

import torch
from torch import nn

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.config import load_choice
from gfm_objectives.data.source import Source
from gfm_objectives.finetune import evaluate
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.sensors import S2_TEN, Legend
from gfm_objectives.tasks.kinds import KINDS

SIDE, DATES, CLASSES = 512, 4, 8


class Made(Source):
    """`count` tiles, each a shifted mixture of two of four stored images."""

    fingerprint, synthetic = "made", True

    def __init__(self, count: int, window: int) -> None:
        self.count = count
        legend = Legend("letters", tuple("abcdefgh"))
        self.spec = Spec({"s2": S2_TEN}, {"s2": DATES}, window, 10.0, {"label": legend})
        self.images = torch.randn(4, len(S2_TEN), SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> Batch:
        return collate([self.tile(i) for i in indices])

    def tile(self, number: int) -> Batch:
        x = torch.stack([self.images[(number + t) % 4].roll(number * (t + 1), -1) for t in range(DATES)])[None]
        s2 = Series(x, x[:, :, 0] > -2, torch.arange(DATES)[None] * 90.0, S2_TEN)
        label = (x[0, 0, :1] * 2 + 4).long().clamp(0, CLASSES - 1)
        return Batch({"s2": s2}, {"label": label}, torch.tensor([10.0]))


def models(spec: Spec) -> dict[str, nn.Module]:
    nano = Segmenter(Encoder.from_config(load_choice("encoder", "nano"), spec), CLASSES)
    return {"unet": UNet(spec, CLASSES, 8, "stack"), "nano": nano}


def peak() -> float:
    """MiB resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(count: int = 1000, which: str = "both", window: int = SIDE) -> None:
    torch.set_num_threads(1)
    source = Made(count, window)
    for name, model in models(source.spec).items():
        if which not in (name, "both"):
            continue
        before, begun = peak(), time.perf_counter()
        stats, _ = evaluate(model, source, KINDS["segmentation"], "label", CLASSES, window)
        assert stats.sum() == count * SIDE * SIDE, "every pixel counts once"
        seconds = time.perf_counter() - begun
        print(
            f"{name}: {count} tiles of {SIDE} x {SIDE} x {len(S2_TEN)} bands x {DATES} dates, windows of {window}: "
            f"{peak() - before:.0f} MiB beyond {before:.0f}, {seconds:.0f} s, {seconds / count:.2f} s per tile",
            flush=True,
        )


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*[kind(word) for kind, word in zip((int, str, int), given, strict=False)])
