"""Evaluation: whole tiles are read one after the other, predicted and scored; no split is ever held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, collate
from gfm_objectives.data.places import Places
from gfm_objectives.data.telling import Telling
from gfm_objectives.data.windows import sliding
from gfm_objectives.device import autocast
from gfm_objectives.heap import give_back
from gfm_objectives.metrics import wrong
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
) -> tuple[Tensor, dict[int, np.ndarray]]:
    """The additive statistics of every tile of `source` (tiles, *shape), and by their numbers the predictions of the
    tiles `show`; where there are any, of the tile that is most `wrong` too.

    Every labelled pixel of a tile counts once, whatever its size: a tile of `size` x `size` is predicted whole, any
    other by windows of that side, which overlap by the share `overlap` and are stitched. shown: print how far it is.
    """
    device = torch.device(device)
    model.to(device).eval()

    def predict(batch: Batch) -> Tensor:
        out = []
        for start in range(0, len(batch), step := max(1, PIXELS // (size * size))):
            part = batch.map(lambda t, s=start: t[s : s + step]).to(device)  # type: ignore[misc]
            with autocast(device, dtype):
                out.append(model(part).float().cpu())
        return torch.cat(out)

    stats, decided, pixels = [], Decided(show), 0
    with Telling("tiles judged", source.tiles(), shown) as telling:
        for number, tile, output in _outputs(predict, source, size, int(overlap * size)):
            stats.append(kind.observe(output, tile.targets[layer].cpu(), classes))
            decided.keep(number, stats[-1], lambda o=output: kind.decide(o)[0].numpy())  # type: ignore[misc]
            if (pixels := pixels + output[0, 0].numel()) >= TRIM:
                give_back()
                pixels = 0
            telling.done(number + 1)
    return torch.cat(stats), decided.maps


class Decided:
    """What was predicted of the tiles `show`, and of the one that is most wrong so far, of equals the first."""

    def __init__(self, show: Sequence[int]) -> None:
        self.show = frozenset(show)
        self.maps: dict[int, np.ndarray] = {}
        self.worst, self.amount = -1, 0.0

    def keep(self, number: int, stats: Tensor, decide: Callable[[], np.ndarray]) -> None:
        if self.show and (amount := float(wrong(stats))) > self.amount:
            if self.worst not in self.show:
                self.maps.pop(self.worst, None)
            self.worst, self.amount = number, amount
        if number in self.show or number == self.worst:
            self.maps[number] = decide()


def evaluate_rule(
    rule: Callable[[Batch], Tensor], source: Places, kind: Kind, layer: str, classes: int, show: Sequence[int] = ()
) -> tuple[Tensor, dict[int, np.ndarray]]:
    """The same for a rule that needs no training: Batch -> what the task asks, such as classes (B, H, W) long."""
    stats, shown = [], Decided(show)
    for k in range(source.tiles()):
        tile = source.tile(k)
        decided = rule(tile)
        stats.append(kind.count(decided, tile.targets[layer], classes))
        shown.keep(k, stats[-1], lambda d=decided: d[0].numpy())  # type: ignore[misc]
    return torch.cat(stats), shown.maps


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
