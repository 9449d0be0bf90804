"""Augmentation of whole batches on their device: flips, quarter turns and, for real chips, zoom."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series


def augment(batch: Batch, generator: torch.Generator, zoom: float = 1.0) -> Batch:
    """Each place in one of its eight orientations, and magnified by up to `zoom`: all its sensors and targets alike.

    The draws come from `generator` alone, so a generator seeded from (seed, step) makes a step repeatable; with a CPU
    generator they are the same on every device. zoom=1 changes no value, only places. H must equal W.
    """
    assert batch.size[0] == batch.size[1], batch.size
    device = batch.gsd.device
    flags = torch.randint(0, 2, (3, len(batch)), generator=generator, device=generator.device).bool().to(device)
    batch = _map_grids(batch, lambda t: _orient(t, flags))
    return batch if zoom == 1.0 else _magnify(batch, generator, zoom)


def _map_grids(batch: Batch, fn: Callable[[Tensor], Tensor]) -> Batch:
    """Apply `fn` to every tensor that ends in (H, W)."""
    sensors = {k: Series(fn(s.x), fn(s.valid), s.day, s.bands) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={k: fn(t) for k, t in batch.targets.items()})


def _orient(t: Tensor, flags: Tensor) -> Tensor:
    """Transpose, flip rows, flip columns: the eight combinations are the symmetries of the square. flags (3, B)."""
    transpose, rows, columns = flags.view(3, -1, *[1] * (t.dim() - 1))
    t = torch.where(transpose, t.mT, t)
    t = torch.where(rows, t.flip(-2), t)
    return torch.where(columns, t.flip(-1), t)


def _magnify(batch: Batch, generator: torch.Generator, zoom: float) -> Batch:
    """Cut a window smaller by a factor log-uniform in 1..zoom, anywhere in the chip, and resample it to full size."""
    from kornia.geometry.transform import crop_and_resize

    assert zoom > 1, zoom
    draw = torch.rand(3, len(batch), generator=generator, device=generator.device).to(batch.gsd.device)
    factor = zoom ** draw[0]  # (B,)
    n = batch.size[0]
    side = (n - 1) / factor  # from the first pixel's centre to the last one's
    left, top = draw[1:] * (n - 1 - side)
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    boxes = torch.stack([torch.stack(c, -1) for c in corners], 1)  # (B, 4, 2) as x, y

    def resample(t: Tensor, mode: str) -> Tensor:
        flat = t.reshape(len(batch), -1, n, n).float()
        return crop_and_resize(flat, boxes, (n, n), mode=mode, align_corners=True).reshape(t.shape)

    sensors = {}
    for name, s in batch.sensors.items():
        valid = resample(s.valid, "nearest") > 0.5
        weight = resample(s.valid, "bilinear").unsqueeze(
            2
        )  # x is 0 where invalid: dividing leaves the valid ones' mean
        x = torch.where(valid.unsqueeze(2), resample(s.x, "bilinear") / weight.clamp(min=0.25), 0).to(s.x.dtype)
        sensors[name] = Series(x, valid, s.day, s.bands)
    targets = {k: resample(t, "nearest").to(t.dtype) for k, t in batch.targets.items()}
    return batch.replace(sensors=sensors, targets=targets, gsd=batch.gsd / factor)
