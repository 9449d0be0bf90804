"""Structured masks: which cells of which dates and sensors may be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives import ranks
from gfm_objectives.batch import Batch
from gfm_objectives.errors import InputError
from gfm_objectives.models.stem import images

WHOLE = ("cell", "block")  # kinds that hide a cell at every date of every sensor
KINDS = ("random", "cell", "block", "date", "sensor")


@dataclass(frozen=True, slots=True)
class Mask:
    """seen (B, slots, h, w) bool: whether a cell of a slot may be looked at, where a slot is one date of one sensor, in
    the order of the batch; valid, the same shape: whether there is anything to see. keep (B, k) long: the cells that
    the ViT reads where it is to read no others, None = all."""

    seen: Tensor
    valid: Tensor
    keep: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """(B, h, w) bool: cells that are hidden at every date of every sensor."""
        return ~self.seen.any(1)


def known_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """ValueError, with the choice, where there is none or an unknown one."""
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"objective.kinds={kinds}: choose from {', '.join(KINDS)}")
    return tuple(kinds)


def shown(share: float, n: int) -> int:
    """How many of n cells the share `share` is, one at least. InputError where some are to be hidden and none is."""
    keep = max(1, round(share * n))
    if share < 1 and keep == n:
        raise InputError(
            f"objective.mask_ratio: {1 - share:.3g} of the cells of a place, {n}, hides none; raise it, or take a "
            "smaller encoder.patch or larger places"
        )
    return keep


def slots(batch: Batch) -> tuple[str, ...]:
    """The sensor of each slot."""
    return tuple(name for name, s in images(batch.sensors).items() for _ in range(s.x.shape[1]))


def valid_cells(batch: Batch, patch: int) -> Tensor:
    """(B, slots, h, w) bool: cells of `patch` pixels with a valid one."""
    return torch.cat([valid_of(s.valid, patch) for s in images(batch.sensors).values()], 1)


def valid_of(valid: Tensor, patch: int) -> Tensor:
    """(B, T, H, W) -> (B, T, h, w)."""
    h, w = valid.shape[2] // patch, valid.shape[3] // patch
    return valid.unflatten(3, (w, patch)).any(4).unflatten(2, (h, patch)).any(3)


def scattered(batch: Batch, patch: int, share: float, kinds: Sequence[str] = KINDS) -> Mask:
    """A mask that shows the share `share` of each place's cells of slots; each sample draws one of `kinds`.

    random: every cell of every slot for itself; cell: as many whole positions; block: the same, smooth in space; date,
    sensor: whole slots. Valid ones come first, so nothing is shown that is nothing while something is hidden.
    """
    valid = valid_cells(batch, patch)
    noise = _scores(batch, valid, kinds).masked_fill(~valid, torch.inf).flatten(1)
    order = noise.argsort(dim=1, stable=True)[:, : shown(share, noise.shape[1])]
    seen = torch.zeros_like(noise, dtype=torch.bool).scatter(1, order, True)
    return Mask(seen.view_as(valid), valid)


def positions(batch: Batch, patch: int, share: float, kinds: Sequence[str] = WHOLE, encode: str = "all") -> Mask:
    """A mask of whole positions: the share `share` of the cells is seen, at every date of every sensor.

    encode: all = the ViT reads hidden cells too, as mask tokens; seen = it does not, which costs less.
    """
    valid = valid_cells(batch, patch)
    b, n, h, w = valid.shape
    noise = _spatial(valid, kinds).masked_fill(~valid.any(1).flatten(1), torch.inf)
    keep = noise.argsort(dim=1, stable=True)[:, : shown(share, h * w)]
    seen = torch.zeros_like(noise, dtype=torch.bool).scatter(1, keep, True)
    return Mask(seen.view(b, 1, h, w).expand(-1, n, -1, -1), valid, keep if encode == "seen" else None)


def hidden_of(mask: Mask, names: Sequence[str], sensor: str, count: int) -> tuple[Tensor, Tensor]:
    """Exactly `count` of one sensor's hidden and valid cells: their numbers date * cells + cell, and weights, 0 =
    filler, both (B, count). names: of the slots."""
    first, dates = names.index(sensor), names.count(sensor)
    mine = (mask.valid & ~mask.seen)[:, first : first + dates].flatten(1)
    order = (ranks.rand(*mine.shape, device=mine.device) + (~mine).float()).argsort(dim=1, stable=True)[:, :count]
    return order, mine.gather(1, order).float()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, K) of x (B, N, D): (B, K, D)."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)


def _scores(batch: Batch, valid: Tensor, kinds: Sequence[str]) -> Tensor:
    """(B, slots, h, w) random order in which a sample's kind of mask shows cells."""
    b, n, h, w = valid.shape
    names = list(dict.fromkeys(slots(batch)))
    noise = ranks.rand(*valid.shape, device=valid.device)
    dates = ranks.rand(b, n, device=valid.device)
    each = dict(zip(names, ranks.rand(b, len(names), device=valid.device).unbind(1), strict=True))
    sensors = torch.stack([each[s] for s in slots(batch)], 1)
    by_kind = {
        "random": noise,
        "cell": ranks.rand(b, 1, h, w, device=valid.device) + 1e-3 * noise,
        "block": _spatial(valid, ("block",)).view(b, 1, h, w) + 1e-3 * noise,
        "date": dates[..., None, None] + 1e-3 * noise,
        "sensor": sensors[..., None, None] + 1e-3 * noise,
    }
    choice = ranks.randint(len(kinds), b, 1, 1, 1, device=valid.device)
    return torch.stack([by_kind[k].expand_as(valid) for k in kinds]).gather(0, choice.expand_as(valid)[None])[0]


def _spatial(valid: Tensor, kinds: Sequence[str]) -> Tensor:
    """(B, cells) noise: white for 'cell', smooth over about a third of the chip for 'block'."""
    b, _, h, w = valid.shape
    white = ranks.rand(b, h * w, device=valid.device)
    coarse = ranks.rand(b, 1, 3, 3, device=valid.device)
    smooth = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=True).flatten(1) + 1e-3 * white
    choice = ranks.randint(len(kinds), b, 1, device=valid.device)
    return torch.stack([smooth if k == "block" else white for k in kinds]).gather(0, choice.expand_as(white)[None])[0]
