"""The search for a contender's settings: one lever after another, the same levers, order and trials for everybody.

Coordinate ascent on validation. From the kind's start, every lever is tried one step to either side and taken where it
helps, in the order of LEVERS; then all are gone through again. Nothing in it asks whether a model was pretrained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gfm_objectives.finetune import HParams

# In the order in which they are tried: what moved scores most so far comes first (LOG.md, 2026-11-22 and 2026-11-23).
LEVERS = ("lr", "width", "head_first", "encoder_factor", "freeze", "batch_size", "mode", "length", "loss")
STEP = 2.0  # from one learning rate to the next; the ladder has no end
WIDEN = 4  # further trials, beyond their number, for a winner that lies at the end of the values tried of a lever


@dataclass(frozen=True, slots=True)
class Space:
    """What a contender is tuned over: where the search starts, and the values of each lever it has, in order.

    The learning rate needs no values. A lever that a model does not have (the width of a ViT) is left out.
    """

    start: HParams
    values: Mapping[str, Sequence[Any]]

    def neighbours(self, at: HParams, lever: str) -> list[HParams]:
        """`at` with this lever one step down and up, or with every other loss; ends of a list have one neighbour."""
        if lever == "lr":
            return [replace(at, lr=float(f"{at.lr * f:.6g}")) for f in (STEP, 1 / STEP)]
        values = list(self.values.get(lever, ()))
        if len(values) < 2:
            return []
        if lever == "loss":  # losses have no order: each is beside every other
            return [replace(at, loss=v) for v in values if v != at.loss]
        here = values.index(getattr(at, lever))
        return [replace(at, **{lever: values[i]}) for i in (here - 1, here + 1) if 0 <= i < len(values)]


def proposals(space: Space, tried: Mapping[HParams, float], trials: int) -> list[HParams]:
    """The settings to try next, none where the search is over; a function of what was `tried` (-> validation) alone.

    At most `trials` in all, and up to WIDEN more while the winner has a lever at the end of the values tried.
    """
    if space.start not in tried:
        return [space.start]
    left = trials - len(tried)
    for todo in _steps(space, tried):
        if left > 0:
            return todo[:left]
        break
    if -WIDEN < left <= 0:
        ends = corners(space, tried)
        return _beyond(space, tried, ends[0])[: left + WIDEN] if ends else []
    return []


def best(tried: Mapping[HParams, float]) -> HParams:
    """The settings with the best validation, the first of equals."""
    return max(tried, key=lambda h: tried[h])


def corners(space: Space, tried: Mapping[HParams, float]) -> list[str]:
    """The levers of which the winner lies at the end of the values tried, although there is something beyond."""
    return [n for n in ("lr", "width", "batch_size", "encoder_factor", "length") if _beyond(space, tried, n)]


def _beyond(space: Space, tried: Mapping[HParams, float], lever: str) -> list[HParams]:
    """The winner with a value beyond all that were tried of this lever, where its own is the first or last of them."""
    winner = best(tried)
    values = {getattr(h, lever) for h in tried}
    further = [h for h in space.neighbours(winner, lever) if getattr(h, lever) not in values]
    return further if getattr(winner, lever) in (min(values), max(values)) else []


def _untried(space: Space, at: HParams, tried: Mapping[HParams, float], lever: str) -> list[HParams]:
    return [h for h in space.neighbours(at, lever) if h not in tried]


def _steps(space: Space, tried: Mapping[HParams, float]) -> Iterator[list[HParams]]:
    """What the ascent asks for next, if anything: the walk is made again from the start on what is known."""
    at, before = space.start, None
    while at != before:  # once more through all levers, as long as the last time moved
        before = at
        for lever in LEVERS:
            last = None
            while at != last:  # along one lever until it no longer helps
                last = at
                if todo := _untried(space, at, tried, lever):
                    yield todo
                    return
                better = max([at, *space.neighbours(at, lever)], key=lambda h: tried[h])
                at = better if tried[better] > tried[at] else at
                if math.isinf(tried[at]) and lever == "lr":  # diverged on both sides: walk down
                    at = space.neighbours(at, lever)[1]
