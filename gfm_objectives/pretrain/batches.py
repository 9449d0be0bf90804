"""How many places a step has, and how many of them the device holds at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from omegaconf import DictConfig

from gfm_objectives import ranks
from gfm_objectives.batch import Spec
from gfm_objectives.device import autocast
from gfm_objectives.errors import InputError
from gfm_objectives.models.attention import Decoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain.steps import Step


def places_of(cfg: DictConfig, processes: int) -> int:
    """Places of one process's step. InputError where batch.global= cannot be dealt out evenly."""
    whole = cfg.get("batch", {}).get("global")
    if whole is None:
        return int(cfg.optim.batch_size)
    if whole % processes:
        raise InputError(
            f"batch.global={whole}: {processes} processes cannot share it evenly; give a multiple of {processes}"
        )
    return int(whole) // processes


def hold(objective: Objective, micro: int) -> None:
    """Let stem, ViT and decoder hold `micro` places at a time; 0 = all."""
    for module in objective.modules():
        if isinstance(module, Encoder | Decoder):
            module.micro = micro


def micro_of(
    asked: int | None,
    objective: Objective,
    spec: Spec,
    kinds: Iterable[Step],
    places: int,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """Places that every process holds at a time: as asked for, else on a GPU as many as its memory has room for, which
    is tried, else all. Leaves the objective as it was, but for `hold`.

    InputError where the encoder cannot be asked, and where not even one place at a time leaves room for the batch.
    """
    sliced = isinstance(objective.encoder, Encoder)
    if asked is not None and asked < places and not sliced:
        raise InputError(
            f"batch.micro={asked}: this encoder cannot be held in parts (the norms of a U-Net look at the "
            f"whole batch in "
            "every layer, published ones are not cut); leave batch.micro out, or give fewer places a step"
        )
    if asked is not None or device.type != "cuda":
        micro = min(asked or places, places)
    else:
        with ranks.apart():
            micro = largest(
                places if sliced else 1, lambda n: attempt(objective, spec, kinds, places, n, dtype, device)
            )
        micro = -int(ranks.worst(torch.tensor(-micro, device=device))) if ranks.count() > 1 else micro
        if not micro:
            raise InputError(
                f"{places} places a step do not fit on {device}, however few of them are held at a time; give a "
                "smaller optim.batch_size or batch.global, or more devices"
            )
    hold(objective, micro if sliced and micro < places else 0)
    return micro if sliced else places


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """The first of most, its half, a quarter, ... that fits; 0 where not even 1 does."""
    while most and not fits(most):
        most = (most + 1) // 2 if most > 1 else 0
    return most


def attempt(
    objective: Objective,
    spec: Spec,
    kinds: Iterable[Step],
    places: int,
    micro: int,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether a step of every kind on a blank batch fits in memory, beside gradients and AdamW's two moments."""
    torch.cuda.empty_cache()  # of an attempt before
    kept = {name: b.clone() for name, b in objective.named_buffers()}
    hold(objective, micro if micro < places else 0)
    objective.train()
    try:
        room = [torch.empty_like(p) for p in objective.parameters() if p.requires_grad for _ in range(2)]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for kind in kinds:
                objective.set_patch(kind.patch)
                batch = dataclasses.replace(spec, size=kind.side).dummy(places, device).pad_to(objective.multiple)
                with autocast(device, dtype):
                    loss = objective(batch, kind.variant)["loss"]
                loss.backward()
        return bool(room)
    except torch.OutOfMemoryError:
        return False
    finally:
        objective.zero_grad(set_to_none=True)
        for name, b in objective.named_buffers():
            b.copy_(kept[name])
