"""Places as pictures: colours of the optical sensor, grey of the others, stretched place by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.sensors import SENSORS

# What is shown as red, green and blue, from the first of these sensors that is there; s1 and dem in grey.
RGB = {"s2": ("B04", "B03", "B02"), "hls": ("red", "green", "blue"), "s1": ("VV",), "dem": ("elevation",)}
LOOKED = 64  # places among which those that show most classes are chosen
VISIBLE = (660.0, 560.0, 480.0)  # nm


def image(batch: Batch) -> np.ndarray:
    """(B, H, W, 3) in 0..1: each place on its clearest date, stretched between its 2nd and 98th percentile."""
    clearest = batch.sensors[_shown(batch)].valid.flatten(2).sum(2).argmax(1)  # (B,)
    return _on(batch, clearest)


def dates(batch: Batch, most: int) -> np.ndarray:
    """(B, D, H, W, 3) in 0..1: each place on its first date that shows anything, its last, and between them, evenly
    spread, so that there are at most `most`; of a place with fewer the last stands again."""
    seen = batch.sensors[_shown(batch)].valid.flatten(2).any(2)  # (B, T)
    count = max(1, min(most, int(seen.sum(1).max())))
    which = []
    for place in seen:
        there = place.nonzero()[:, 0].tolist() or [0]
        which.append([there[round(i * (len(there) - 1) / max(1, count - 1))] for i in range(count)])
    return np.stack([_on(batch, torch.tensor(w)) for w in zip(*which, strict=True)], 1)


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


def error(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    """How wrong each pixel is: 0 or 1 of classes, the size of the error of numbers; 0 where there is no label."""
    if label.dtype.kind == "f":
        return np.nan_to_num(abs(predicted - label))
    return ((predicted != label) & (label >= 0)).astype(np.float32)


def _shown(batch: Batch) -> str:
    """The sensor that is shown."""
    ranked = sorted(batch.sensors, key=lambda name: -len(_colours(name, batch.sensors[name].bands)))
    return next((s for s in RGB if s in batch.sensors), ranked[0])


def _on(batch: Batch, date: Tensor) -> np.ndarray:
    """(B, H, W, 3) of each place on the date (B,)."""
    sensor = _shown(batch)
    s = batch.sensors[sensor]
    bands = _colours(sensor, s.bands)
    row = torch.arange(len(batch))
    x = s.x[row, date][:, [s.bands.index(b) for b in bands]]  # (B, bands, H, W)
    x = SENSORS[sensor].denormalise(x, bands)
    valid = s.valid[row, date]
    stretched = torch.stack([_stretch(x[i], valid[i]) for i in range(len(batch))])
    return stretched.expand(-1, 3, -1, -1).movedim(1, -1).numpy().astype(np.float32)


def _colours(sensor: str, bands: Sequence[str]) -> list[str]:
    """The bands shown as red, green and blue: those of RGB or nearest in wavelength, else the first alone, in grey."""
    wanted = [b for b in RGB.get(sensor, ()) if b in bands]
    if sensor not in RGB:
        waves = {b.name: b.wavelength for b in SENSORS[sensor].bands if b.name in bands and b.wavelength}
        wanted = [min(waves, key=lambda b, at=at: abs(waves[b] - at)) for at in VISIBLE] if len(waves) > 2 else []  # type: ignore[misc]
    return wanted if len(set(wanted)) == 3 else [*wanted, bands[0]][:1]  # two bands make no colours


def _stretch(x: Tensor, valid: Tensor) -> Tensor:
    """One place (bands, H, W) to 0..1; white where invalid."""
    if not valid.any():
        return torch.ones_like(x)
    low, high = x[:, valid].float().quantile(torch.tensor([0.02, 0.98]))
    return torch.where(valid, ((x - low) / (high - low).clamp(min=1e-6)).clamp(0, 1), 1.0)
