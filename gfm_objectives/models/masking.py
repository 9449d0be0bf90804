"""Structured masks that keep exactly k tokens: a mask is an order of the tokens, and the first k stay."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.models.tokens import Tokens

KINDS = ("random", "block", "date", "sensor")


def split(tokens: Tokens, keep: int, kinds: tuple[str, ...] = KINDS) -> tuple[Tensor, Tensor]:
    """Positions of kept and of hidden tokens, (B, keep) and (B, N - keep); each sample draws one of `kinds`.

    random: every token for itself; block: smooth in space, the same at all dates; date, sensor: whole slots.
    Valid tokens come first, so fillers are kept only where fewer than `keep` are valid.
    """
    order = scores(tokens, kinds).masked_fill(~tokens.valid, torch.inf).argsort(dim=1, stable=True)
    return order[:, :keep], order[:, keep:]


def split_cells(tokens: Tokens, keep: int, kinds: tuple[str, ...] = ("random", "block")) -> tuple[Tensor, Tensor]:
    """As `split` for whole positions: a cell is kept or hidden at every date of every sensor.

    Returns positions of kept tokens (B, keep * slots) and the hidden cells (B, h, w) bool. `tokens` must be complete.
    """
    b, cells, slots = tokens.x.shape[0], tokens.cells, len(tokens.slots)
    assert tokens.x.shape[1] == cells * slots, "split_cells needs every token"
    noise = spatial(tokens, kinds)
    some = tokens.valid.view(b, slots, cells).any(1)
    order = noise.masked_fill(~some, torch.inf).argsort(dim=1, stable=True)[:, :keep]  # (B, keep)
    index = order[:, None] + torch.arange(slots, device=order.device)[:, None] * cells  # (B, slots, keep)
    hidden = torch.ones(b, cells, dtype=torch.bool, device=order.device).scatter(1, order, False)
    return index.flatten(1), hidden.view(b, *tokens.grid)


def scores(tokens: Tokens, kinds: tuple[str, ...]) -> Tensor:
    """(B, N) random order in which a sample's kind of mask keeps tokens."""
    b, cells = tokens.x.shape[0], tokens.cells
    device = tokens.x.device
    names = list(dict.fromkeys(tokens.slots))
    sensor = torch.tensor([names.index(s) for s in tokens.slots], device=device)
    slot = tokens.id // cells
    noise = torch.rand(tokens.id.shape, device=device)
    by_kind = {
        "random": noise,
        "block": spatial(tokens, ("block",)).gather(1, tokens.cell) + 1e-3 * noise,
        "date": torch.rand(b, len(tokens.slots), device=device).gather(1, slot) + 1e-3 * noise,
        "sensor": torch.rand(b, len(names), device=device).gather(1, sensor[slot]) + 1e-3 * noise,
    }
    choice = torch.randint(len(kinds), (b, 1), device=device)
    return torch.stack([by_kind[k] for k in kinds]).gather(0, choice.expand_as(noise)[None])[0]


def spatial(tokens: Tokens, kinds: tuple[str, ...]) -> Tensor:
    """(B, cells) noise: white for 'random', smooth over about a third of the chip for 'block'."""
    b, (h, w) = tokens.x.shape[0], tokens.grid
    white = torch.rand(b, h * w, device=tokens.x.device)
    coarse = torch.rand(b, 1, 3, 3, device=tokens.x.device)
    smooth = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=True).flatten(1) + 1e-3 * white
    choice = torch.randint(len(kinds), (b, 1), device=white.device)
    return torch.stack([smooth if k == "block" else white for k in kinds]).gather(0, choice.expand_as(white)[None])[0]


def hidden_of(hidden: Tensor, tokens: Tokens, sensor: str, count: int) -> tuple[Tensor, Tensor]:
    """Exactly `count` of one sensor's hidden tokens: positions in `tokens` and weights, 0 = filler, both (B, count).

    hidden (B, M) positions of hidden tokens, as `split` returns them. `tokens` must be complete.
    """
    first = tokens.slots.index(sensor) * tokens.cells
    n = tokens.slots.count(sensor) * tokens.cells
    is_hidden = torch.zeros_like(tokens.valid).scatter(1, hidden, True) & tokens.valid
    mine = is_hidden[:, first : first + n]
    order = (torch.rand(mine.shape, device=mine.device) + (~mine).float()).argsort(dim=1, stable=True)[:, :count]
    return order + first, mine.gather(1, order).float()
