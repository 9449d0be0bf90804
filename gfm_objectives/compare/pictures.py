"""Predictions of a few test tiles beside their labels, kept as arrays for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gfm_objectives import disk
from gfm_objectives.compare.bench import Bench
from gfm_objectives.report.pictures import dates, image

COUNT = 4
LARGEST = 256  # pixels a side; of a larger tile the upper left corner is shown
LOOKED = 64  # tiles among which those that show most classes are chosen
DATES = 3  # of a series, at most; of a change its first and its last


class Pictures:
    """predictions.npz: `<task>/image` (n, H, W, 3) in 0..1, of several dates `<task>/dates` (n, D, H, W, 3) too,
    `<task>/label` and `<task>/pred/<contender>` (n, H, W)."""

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

    def add(self, bench: Bench, contender: str, pred: Sequence[np.ndarray]) -> None:
        """Add a contender's predictions, each (H, W), of the shown tiles; those of an earlier version of the task
        go."""
        arrays: dict[str, np.ndarray] = {}
        if self.path.exists():
            arrays = disk.read_arrays(self.path, "delete it, and the report lacks its pictures")
        task = bench.task.name
        tiles = [bench.source("test").tile(k) for k in self.tiles(bench)]
        h, w = (min(LARGEST, *(t.size[i] for t in tiles)) for i in (0, 1))
        label = np.stack([t.targets[bench.task.layer][0, :h, :w].numpy() for t in tiles])
        known = arrays.get(f"{task}/label")
        if known is None or not np.array_equal(known, label, equal_nan=label.dtype.kind == "f"):
            arrays = {k: v for k, v in arrays.items() if not k.startswith(f"{task}/")}
            arrays |= {f"{task}/image": np.stack([image(t)[0, :h, :w] for t in tiles]), f"{task}/label": label}
            series = [dates(t, 2 if bench.task.kind == "change" else DATES)[0, :, :h, :w] for t in tiles]
            if (count := min(len(s) for s in series)) > 1:
                arrays[f"{task}/dates"] = np.stack([s[[*range(count - 1), -1]] for s in series])
        arrays[f"{task}/pred/{contender}"] = np.stack([p[:h, :w] for p in pred]).astype(label.dtype)
        with disk.replacing(self.path) as scratch:
            np.savez_compressed(scratch, **arrays)  # type: ignore[arg-type]


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to n - 1, evenly spread."""
    return list(dict.fromkeys(round((i + 0.5) * n / min(most, n) - 0.5) for i in range(min(most, n))))


def telling(labels: Sequence[Tensor], classes: int, count: int) -> list[int]:
    """Which of these label maps to show, in their order: again and again the one with most classes that those before
    do not show, of equals the one whose classes share it most evenly; when all are shown, from the start."""
    share = torch.stack([torch.bincount(y[y >= 0].flatten(), minlength=classes).double() for y in labels])
    share /= share.sum(1, keepdim=True).clamp(min=1)
    evenness = -(share * share.clamp(min=1e-12).log()).sum(1)
    left, chosen, missing = list(range(len(labels))), list[int](), share.sum(0) > 0
    while left and len(chosen) < count:
        best = max(left, key=lambda i: (int((missing & (share[i] > 0)).sum()), float(evenness[i]), -i))
        chosen.append(best)
        left.remove(best)
        missing = missing & (share[best] == 0)
        missing = missing if missing.any() else share.sum(0) > 0
    return sorted(chosen)


def _cropped(label: Tensor) -> Tensor:
    """What is shown of it."""
    return label[:LARGEST, :LARGEST]
