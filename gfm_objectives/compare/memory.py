"""How much memory a training step takes, counted before it is taken: weights, their gradients, and what is kept."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gfm_objectives.batch import Batch
from gfm_objectives.errors import InputError
from gfm_objectives.finetune.settings import frozen_modules
from gfm_objectives.tasks.kinds import Kind

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
PER_WEIGHT = 16  # bytes of a trained weight: itself, its gradient, two moments of AdamW, fp32
MARGIN = 1.5  # on what is kept for the backward pass: gradients of activations, workspaces, fragments
OWN = 1.0 * 2**30  # bytes that torch and its kernels take before any model does


def bytes_of(key: str, text: str | int | float) -> float:
    """8GB, 500 MiB or a number of bytes, as bytes. InputError names the key."""
    form = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if not form or form[1].count(".") > 1 or not float(form[1]):
        raise InputError(f"{key}={text}: expected an amount such as 8GB or 500MB")
    return float(form[1]) * UNITS[form[2].upper()]


def fitting_batch(model: nn.Module, sample: Batch, kind: Kind, layer: str, freeze: str, room: float) -> int:
    """How many places of the `sample`'s make-up a training step in fp32 can take in `room` bytes; 0 where not one."""
    model = copy.deepcopy(model).to("meta").train()
    for module in frozen_modules(model, freeze):
        module.requires_grad_(False)
    fixed = OWN + sum(PER_WEIGHT * p.numel() if p.requires_grad else 4 * p.numel() for p in model.parameters())
    again = any(getattr(m, "micro", 0) for m in model.modules())  # computed again, place by place: from two places on
    one, *more = (kept(model, sample.first(1), kind, layer, n) for n in (1, 2, 3)[: 2 + again])
    each = more[-1] - (more[0] if again else one)
    fixed += MARGIN * one if again else 0  # a whole place is held while it is computed again
    return max(0, int((room - fixed) / (MARGIN * max(each, 1))))


def kept(model: nn.Module, sample: Batch, kind: Kind, layer: str, places: int) -> int:
    """Bytes that autograd keeps of the forward pass of `places` places, each storage once; computed on meta."""
    batch = sample.map(lambda t: t.expand(places, *t.shape[1:]).to("meta"))
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, int] = {}
    alive = []  # so that no two storages have one address

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            alive.append(t)
        return t

    with saved_tensors_hooks(pack, lambda t: t), torch.enable_grad():
        kind.loss(model(batch), batch.targets[layer])
    return sum(seen.values())
