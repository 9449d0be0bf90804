"""Evaluation: whole tiles are read one after the other, predicted and scored; no split is ever held in memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, collate
from gfm_objectives.data.places import Places
from gfm_objectives.data.telling import Telling
from gfm_objectives.data.windows import sliding
from gfm_objectives.tasks.kinds import Kind

OVERLAP = 0.25  # of a window's side, where a tile is larger than a window: what is cut off by one edge is whole in the
# next, at 1.8 times the cost of windows side by side
TRIM = 2**20  # pixels after which freed memory goes back to the system: 4 tiles of 512 x 512, 256 of 64 x 64
PIXELS = 2**16  # of a window or tile: as many at a time as fit, one at least; 16 of 64 x 64, 1 of 512 x 512


@torch.no_grad()
def evaluate(
    model: nn.Module,
    source: Places,
    kind: Kind,
    layer: str,
    classes: int,
    size: int,
    overlap: float = OVERLAP,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    show: Sequence[int] = (),
    shown: bool = False,
) -> tuple[Tensor, list[np.ndarray]]:
    """The additive statistics of every tile of `source` (tiles, *shape), and the predictions of the tiles `show`.

    Every labelled pixel of a tile counts once, whatever its size: a tile of `size` x `size` is predicted whole, any
    other by windows of that side, which overlap by the share `overlap` and are stitched. shown: print how far it is.
    """
    device = torch.device(device)
    model.to(device).eval()

    def predict(batch: Batch) -> Tensor:
        out = []
        for start in range(0, len(batch), step := max(1, PIXELS // (size * size))):
            part = batch.map(lambda t, s=start: t[s : s + step]).to(device)  # type: ignore[misc]
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                out.append(model(part).float().cpu())
        return torch.cat(out)

    stats, decided, pixels = [], {}, 0
    with Telling("tiles judged", source.tiles(), shown) as telling:
        for number, tile, output in _outputs(predict, source, size, int(overlap * size)):
            stats.append(kind.observe(output, tile.targets[layer].cpu(), classes))
            if number in show:
                decided[number] = kind.decide(output)[0].numpy()
            if (pixels := pixels + output[0, 0].numel()) >= TRIM:
                give_back()
                pixels = 0
            telling.done(number + 1)
    return torch.cat(stats), [decided[k] for k in show]


def evaluate_rule(
    rule: Callable[[Batch], Tensor], source: Places, kind: Kind, layer: str, classes: int, show: Sequence[int] = ()
) -> tuple[Tensor, list[np.ndarray]]:
    """The same for a rule that needs no training: Batch -> what the task asks, such as classes (B, H, W) long."""
    stats, shown = [], {}
    for k in range(source.tiles()):
        tile = source.tile(k)
        decided = rule(tile)
        stats.append(kind.count(decided, tile.targets[layer], classes))
        if k in show:
            shown[k] = decided[0].numpy()
    return torch.cat(stats), [shown[k] for k in show]


def _outputs(
    predict: Callable[[Batch], Tensor], source: Places, size: int, overlap: int
) -> Iterator[tuple[int, Batch, Tensor]]:
    """Number, tile and outputs (1, C, H, W) of every tile, in order; tiles of the window's size go together."""
    together = max(1, PIXELS // (size * size))
    waiting: list[tuple[int, Batch]] = []

    def done() -> Iterator[tuple[int, Batch, Tensor]]:
        if waiting:
            outputs = predict(collate([tile for _, tile in waiting]))
            yield from ((k, tile, output[None]) for (k, tile), output in zip(waiting, outputs, strict=True))
            waiting.clear()

    for k in range(source.tiles()):
        tile = source.tile(k)
        if tile.size != (size, size):
            yield from done()
            yield k, tile, sliding(predict, tile, size, overlap)[None]
            continue
        if waiting and tile.signature != waiting[0][1].signature:
            yield from done()
        waiting.append((k, tile))
        if len(waiting) == together:
            yield from done()
    yield from done()


def give_back() -> None:
    """Hand the allocator's free pages back to the system. glibc keeps them among small live blocks, where they are of
    no use for the next tile's large ones: without this, memory grows with the tiles although nothing holds them."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
