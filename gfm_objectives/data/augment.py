"""Augmentation of whole batches on their device: flips, quarter turns and, for real chips, zoom."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.batch import Batch


def augment(
    batch: Batch, generator: torch.Generator, zoom: float = 1.0, first: int = 0, of: int | None = None
) -> Batch:
    """Each place in one of its eight orientations, and magnified by up to `zoom`: all its sensors and targets alike.

    The draws come from `generator` alone, so a generator seeded from (seed, step) makes a step repeatable; with a CPU
    generator they are the same on every device. first, of: the batch is what begins there of a larger one of so
    many places, for all of which is drawn, as where several processes share it. zoom=1 changes no value, only places. H
    must equal W.
    """
    n, device = batch.size[0], batch.gsd.device
    assert batch.size == (n, n), batch.size
    whole, mine = of or len(batch), slice(first, first + len(batch))
    which = torch.randint(8, (whole,), generator=generator, device=generator.device)[mine]
    here = which.to(device, non_blocking=True)
    source = _orientations(n, device)[here][:, None]  # (B, 1, n * n): the pixel that comes to each place

    def move(t: Tensor) -> Tensor:
        flat = t.reshape(len(batch), -1, n * n)
        return flat.gather(2, source.expand_as(flat)).view_as(t)

    batch = batch.map_grids(lambda t, _: move(t))
    if zoom == 1.0:
        return batch
    draw = torch.rand(3, whole, generator=generator, device=generator.device)[:, mine]
    return _magnify(batch, draw.to(device, non_blocking=True), zoom)


@lru_cache(maxsize=8)
def _orientations(n: int, device: torch.device) -> Tensor:
    """Pixel numbers of an n x n grid in the eight symmetries of the square, (8, n * n)."""
    grid = torch.arange(n * n, device=device).view(n, n)
    return torch.stack([g.rot90(k).flatten() for g in (grid, grid.mT) for k in range(4)])


def _magnify(batch: Batch, draw: Tensor, zoom: float) -> Batch:
    """Cut a window smaller by a factor log-uniform in 1..zoom, anywhere in the chip, and resample it to full size; draw
    (3, B) in 0..1."""
    assert zoom > 1, zoom
    n = batch.size[0]
    factor = zoom ** draw[0]  # (B,)
    side = (n - 1) / factor  # from the first pixel's centre to the last one's
    corner = draw[1:] * (n - 1 - side)  # (2, B): left and top
    along = torch.linspace(0, 1, n, device=side.device)
    x, y = (2 * (corner[..., None] + side[:, None] * along) / max(n - 1, 1) - 1).unbind()  # (B, n) each, in -1..1
    grid = torch.stack([x[:, None, :].expand(-1, n, n), y[:, :, None].expand(-1, n, n)], -1)  # (B, n, n, 2)

    def resample(t: Tensor, mode: str) -> Tensor:
        flat = t.reshape(len(batch), -1, n, n).float()
        return F.grid_sample(flat, grid, mode, "border", align_corners=True).reshape(t.shape)

    sensors = {}
    for name, s in batch.sensors.items():
        valid = resample(s.valid, "nearest") > 0.5
        weight = resample(s.valid, "bilinear").unsqueeze(
            2
        )  # x is 0 where invalid: dividing leaves the valid ones' mean
        x = torch.where(valid.unsqueeze(2), resample(s.x, "bilinear") / weight.clamp(min=0.25), 0).to(s.x.dtype)
        sensors[name] = s.replace(x=x, valid=valid)
    targets = {k: resample(t, "nearest").to(t.dtype) if t.ndim == 3 else t for k, t in batch.targets.items()}
    return batch.replace(sensors=sensors, targets=targets, gsd=batch.gsd / factor)
