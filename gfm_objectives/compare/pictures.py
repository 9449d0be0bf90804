"""Predictions of a few test places beside their labels, kept as arrays for the report."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.compare.bench import Bench
from gfm_objectives.sensors import SENSORS

COUNT = 4
# What is shown as red, green and blue, from the first of these sensors that is there; s1 and dem in grey.
RGB = {"s2": ("B04", "B03", "B02"), "hls": ("red", "green", "blue"), "s1": ("VV",), "dem": ("elevation",)}


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
        np.savez_compressed(temporary, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, self.path)


def image(batch: Batch) -> np.ndarray:
    """(B, H, W, 3) in 0..1: each place on its clearest date, stretched between its 2nd and 98th percentile."""
    sensor = next(s for s in RGB if s in batch.sensors)
    s = batch.sensors[sensor]
    bands = [b for b in RGB[sensor] if b in s.bands] or [s.bands[0]]
    clearest = s.valid.flatten(2).sum(2).argmax(1)  # (B,)
    row = torch.arange(len(batch))
    x = s.x[row, clearest][:, [s.bands.index(b) for b in bands]]  # (B, bands, H, W)
    x = SENSORS[sensor].denormalise(x, bands)
    valid = s.valid[row, clearest]
    stretched = torch.stack([_stretch(x[i], valid[i]) for i in range(len(batch))])
    return stretched.expand(-1, 3, -1, -1).movedim(1, -1).numpy().astype(np.float32)


def _stretch(x: Tensor, valid: Tensor) -> Tensor:
    """One place (bands, H, W) to 0..1; white where invalid."""
    if not valid.any():
        return torch.ones_like(x)
    low, high = x[:, valid].float().quantile(torch.tensor([0.02, 0.98]))
    return torch.where(valid, ((x - low) / (high - low).clamp(min=1e-6)).clamp(0, 1), 1.0)
