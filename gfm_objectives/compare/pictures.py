"""Predictions of a few test tiles beside their labels, and of each contender's worst, kept as arrays for the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.compare.bench import Bench
from gfm_objectives.metrics import wrong
from gfm_objectives.report.pictures import LOOKED, dates, error, image, telling

COUNT = 4
LARGEST = 256  # pixels a side; of a larger tile the upper left corner is shown
STEP = 32  # pixels by which the window shown of a larger tile is moved
DATES = 3  # of a series, at most; of a change its first and its last


class Pictures:
    """predictions.npz: `<task>/image` (n, H, W, 3) in 0..1, of several dates `<task>/dates` (n, D, H, W, 3) too,
    `<task>/label` and `<task>/pred/<contender>` (n, H, W). Of the tile that a contender has most wrong
    `<task>/worst/<contender>/` image (D, H, W, 3), label and pred (H, W)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.npz"
        self._chosen: dict[str, tuple[int, ...]] = {}

    def tiles(self, bench: Bench) -> tuple[int, ...]:
        """Test tiles shown: of LOOKED that are evenly spread those that show most classes, the same for all contenders,
        chosen before any result; of numbers some evenly spread; none of a task whose labels are no picture."""
        if not bench.kind.dense:
            return ()
        if bench.fingerprint not in self._chosen:
            n = bench.sizes["test"]
            if bench.task.kind == "regression":
                chosen = evenly(n, COUNT)
            else:
                some = evenly(n, LOOKED)
                labels = [_cropped(bench.source("test").tile(k).targets[bench.task.layer][0]) for k in some]
                chosen = [some[i] for i in telling(labels, bench.classes, COUNT)]
            self._chosen[bench.fingerprint] = tuple(chosen)
        return self._chosen[bench.fingerprint]

    def add(self, bench: Bench, contender: str, predicted: Mapping[int, np.ndarray], stats: np.ndarray) -> None:
        """Add a contender's predictions, each (H, W) by the number of its tile: of the shown tiles, and of the one that
        by stats (tiles, *shape) is most wrong; those of an earlier version of the task go."""
        arrays: dict[str, np.ndarray] = {}
        if self.path.exists():
            arrays = disk.read_arrays(self.path, "delete it, and the report lacks its pictures")
        task, source, change = bench.task.name, bench.source("test"), bench.task.kind == "change"
        shown = self.tiles(bench)
        tiles = [source.tile(k) for k in shown]
        h, w = (min(LARGEST, *(t.size[i] for t in tiles)) for i in (0, 1))
        label = np.stack([t.targets[bench.task.layer][0, :h, :w].numpy() for t in tiles])
        known = arrays.get(f"{task}/label")
        if known is None or not np.array_equal(known, label, equal_nan=label.dtype.kind == "f"):
            arrays = {k: v for k, v in arrays.items() if not k.startswith(f"{task}/")}
            arrays |= {f"{task}/image": np.stack([image(t)[0, :h, :w] for t in tiles]), f"{task}/label": label}
            series = [dates(t, 2 if change else DATES)[0, :, :h, :w] for t in tiles]
            if (count := min(len(s) for s in series)) > 1:
                arrays[f"{task}/dates"] = np.stack([s[[*range(count - 1), -1]] for s in series])
        arrays[f"{task}/pred/{contender}"] = np.stack([predicted[k][:h, :w] for k in shown]).astype(label.dtype)
        amounts = wrong(torch.from_numpy(stats)).numpy()
        arrays = {k: v for k, v in arrays.items() if not k.startswith(f"{task}/worst/{contender}/")}
        if amounts.max() > 0:
            number = int(amounts.argmax())
            parts = _worst(source.tile(number), bench.task.layer, predicted[number], change)
            arrays |= {f"{task}/worst/{contender}/{name}": part for name, part in parts.items()}
        with disk.replacing(self.path) as scratch:
            np.savez_compressed(scratch, **arrays)  # type: ignore[arg-type]


def _worst(tile: Batch, layer: str, predicted: np.ndarray, change: bool) -> dict[str, np.ndarray]:
    """image (D, H, W, 3), of a change its first and last date, label and pred (H, W) of one tile; of a larger one the
    window with most errors."""
    label = tile.targets[layer][0].numpy()
    h, w = (min(LARGEST, n) for n in label.shape)
    top, left = densest(error(predicted, label), h, w)
    here = np.s_[top : top + h, left : left + w]
    images = dates(tile, 2)[0][[0, -1]] if change else image(tile)
    return {"image": images[:, *here], "label": label[here], "pred": predicted[here].astype(label.dtype)}


def densest(amount: np.ndarray, h: int, w: int) -> tuple[int, int]:
    """Top and left of the window of h x w pixels with the largest sum of `amount` (H, W), in steps of STEP."""
    means = F.avg_pool2d(torch.from_numpy(amount)[None, None].double(), (h, w), STEP)[0, 0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return row * STEP, column * STEP


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to n - 1, evenly spread."""
    return list(dict.fromkeys(round((i + 0.5) * n / min(most, n) - 0.5) for i in range(min(most, n))))


def _cropped(label: Tensor) -> Tensor:
    """What is shown of it."""
    return label[:LARGEST, :LARGEST]
