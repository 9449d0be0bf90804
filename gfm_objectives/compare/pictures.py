"""Predictions of a few test places beside their labels, kept as arrays for the report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from gfm_objectives.compare.bench import Bench
from gfm_objectives.report.pictures import image

COUNT = 4


class Pictures:
    """predictions.npz: `<task>/image` (n, H, W, 3) in 0..1, `<task>/label` and `<task>/pred/<contender>` (n, H, W)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.npz"

    def places(self, bench: Bench) -> tuple[int, ...]:
        """Test places shown: spread evenly, the same for all contenders, chosen before any result."""
        n = bench.sizes["test"]
        return tuple(dict.fromkeys(round((i + 0.5) * n / COUNT - 0.5) for i in range(min(COUNT, n))))

    def add(self, bench: Bench, contender: str, pred: np.ndarray) -> None:
        """Add a contender's predictions (n, H, W) of the shown places; those of an earlier version of the task go."""
        arrays: dict[str, np.ndarray] = {}
        if self.path.exists():
            with np.load(self.path) as saved:
                arrays = {k: saved[k] for k in saved.files}
        task = bench.task.name
        batch = bench.split("test").take(torch.tensor(self.places(bench)))
        label = batch.targets[bench.task.layer].numpy().astype(np.int16)
        if f"{task}/label" not in arrays or not np.array_equal(arrays[f"{task}/label"], label):
            arrays = {k: v for k, v in arrays.items() if not k.startswith(f"{task}/")}
            arrays |= {f"{task}/image": image(batch), f"{task}/label": label}
        arrays[f"{task}/pred/{contender}"] = pred.astype(np.int16)
        temporary = self.path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, self.path)
