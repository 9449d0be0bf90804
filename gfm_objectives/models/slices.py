"""Parts of a model that hold some places of a batch at a time: memory for the price of a second forward.

What a part keeps for backward is dropped and computed again, slice by slice, as GradCache does (Gao et al. 2021, arXiv
2101.06983). Whatever looks at all places together (batch norms, contrast, means of losses) stays outside and sees the
whole batch, so slices change nothing but rounding. Plain accumulation of gradients would change all of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def in_slices(part: Callable[..., T], micro: int, like: Tensor, *given: Any) -> T:
    """`part(*given)`, `micro` places at a time where gradients are wanted; 0 = all at once.

    like: any tensor of the places (B, ...); given, and what comes back: tensors (B, ...), dataclasses and tables of
    them. Every slice draws the same from torch's generators, and so much is drawn: `part` draws nothing for each place.
    """
    if not 0 < micro < len(like) or not torch.is_grad_enabled():
        return part(*given)
    host, device = torch.get_rng_state(), like.device
    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    out = []
    for first in range(0, len(like), micro):
        torch.set_rng_state(host)
        if there is not None:
            torch.cuda.set_rng_state(there, device)
        some = slice(first, first + micro)
        out.append(
            checkpoint(
                lambda _, *own: part(*own),  # the tensor tells whose generator is put back
                like[some],
                *(cut(g, some) for g in given),
                use_reentrant=False,
                preserve_rng_state=device.type != "meta",
            )
        )
    return joined(out)


def cut(of: Any, some: slice) -> Any:
    """Those places of a tensor, and of all tensors in a dataclass or table; anything else as it is."""
    if isinstance(of, Tensor):
        return of[some]
    if isinstance(of, dict):
        return {k: cut(v, some) for k, v in of.items()}
    if is_dataclass(of) and not isinstance(of, type):
        return replace(of, **{f.name: cut(getattr(of, f.name), some) for f in fields(of)})
    return of


def joined(parts: Sequence[Any]) -> Any:
    """The inverse of `cut`, tuples included."""
    one = parts[0]
    if isinstance(one, Tensor):
        return torch.cat([*parts])
    if isinstance(one, dict):
        return {k: joined([p[k] for p in parts]) for k in one}
    if isinstance(one, tuple):
        return tuple(joined(column) for column in zip(*parts, strict=True))
    if is_dataclass(one) and not isinstance(one, type):
        return replace(one, **{f.name: joined([getattr(p, f.name) for p in parts]) for f in fields(one)})
    return one
