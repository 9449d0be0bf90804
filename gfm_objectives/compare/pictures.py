"""Predictions of a few test tiles beside their labels, kept as arrays for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfm_objectives import disk
from gfm_objectives.compare.bench import Bench
from gfm_objectives.report.pictures import image

COUNT = 4
LARGEST = 256  # pixels a side; of a larger tile the upper left corner is shown


class Pictures:
    """predictions.npz: `<task>/image` (n, H, W, 3) in 0..1, `<task>/label` and `<task>/pred/<contender>` (n, H, W)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.npz"

    def tiles(self, bench: Bench) -> tuple[int, ...]:
        """Test tiles shown: spread evenly, the same for all contenders, chosen before any result; none of a task whose
        labels are no picture."""
        n = bench.sizes["test"]
        if not bench.kind.dense:
            return ()
        return tuple(dict.fromkeys(round((i + 0.5) * n / COUNT - 0.5) for i in range(min(COUNT, n))))

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
        arrays[f"{task}/pred/{contender}"] = np.stack([p[:h, :w] for p in pred]).astype(label.dtype)
        with disk.replacing(self.path) as scratch:
            np.savez_compressed(scratch, **arrays)  # type: ignore[arg-type]
