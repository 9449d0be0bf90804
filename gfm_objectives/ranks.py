"""Processes that train together: sums over all of them, and who is the first. One process alone pays nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def first() -> bool:
    """Whether this process is the first of those that train together, or alone; known before they are joined."""
    return not any(os.environ.get(k, "0") != "0" for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


_APART = False
_PART: tuple[int, int, int] | None = None  # the first of this process's places, how many, and how many all have


def count() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _APART else 1


@contextmanager
def apart() -> Iterator[None]:
    """In it every process computes for itself, as if it were alone."""
    global _APART
    _APART = True
    try:
        yield
    finally:
        _APART = False


@contextmanager
def part(first: int, mine: int, of: int) -> Iterator[None]:
    """In it `rand` and `randint` draw for the `of` places of all processes and give the `mine` that begin at `first`:
    where all have one seed, they draw together what one process would have drawn."""
    global _PART
    _PART = first, mine, of
    try:
        yield
    finally:
        _PART = None


def rand(*shape: int, device: torch.device) -> Tensor:
    """Uniform in 0..1, of this process's places: shape (B, ...), or of several views of them (n B, ...)."""
    return _mine(lambda *all_of: torch.rand(all_of, device=device), shape)


def randint(high: int, *shape: int, device: torch.device) -> Tensor:
    """Whole numbers below `high`, as `rand` draws."""
    return _mine(lambda *all_of: torch.randint(high, all_of, device=device), shape)


def _mine(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    if _PART is None:
        return draw(*shape)
    first, mine, of = _PART
    assert shape[0] % mine == 0, (shape, mine)
    return draw(shape[0] // mine, of, *shape[1:])[:, first : first + mine].flatten(0, 1)


def total(t: Tensor) -> Tensor:
    """The sum of `t` over all processes, without a gradient; `t` itself where there is one."""
    if count() == 1:
        return t
    t = t.detach().clone()
    dist.all_reduce(t)
    return t


def mean(t: Tensor) -> Tensor:
    """The mean of `t` over all processes, without a gradient; `t` itself where there is one."""
    return total(t) / count() if count() > 1 else t


def summed(t: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow; `t` itself where there is one."""
    if count() == 1:
        return t
    return _Sum.apply(t)  # type: ignore[no-any-return]


def worst(t: Tensor) -> Tensor:
    """The largest value of any process."""
    t = t.detach().clone()
    dist.all_reduce(t, dist.ReduceOp.MAX)
    return t


def gathered(value: str | None) -> list[str | None]:
    """What every process gives, in their order."""
    every: list[str | None] = [None] * count()
    dist.all_gather_object(every, value)
    return every


class _Sum(torch.autograd.Function):
    """Every process's loss depends on everyone's part, so gradients are summed too."""

    @staticmethod
    def forward(ctx: object, t: Tensor) -> Tensor:
        t = t.clone()
        dist.all_reduce(t)
        return t

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad
