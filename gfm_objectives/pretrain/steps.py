"""The kinds of step of a pretraining run, of different cost: an objective's variants, patches and sides of places."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost, measure, on_meta
from gfm_objectives.models.encoder import PARTS, Encoder
from gfm_objectives.objectives.objective import Objective, Variant


class Step(NamedTuple):
    """variant: of the objective; patch: of the encoder, in pixels; side: of what is seen of each place, in pixels."""

    variant: Variant
    patch: int
    side: int


def kinds_of_step(objective: Objective, spec: Spec, sides: Sequence[int] | None) -> list[Step]:
    """Every variant with every patch that the encoder can be asked for and every side; each step draws one.

    InputError for a side that a place does not have.
    """
    patches = objective.encoder.patches if isinstance(objective.encoder, Encoder) else (1,)
    if wrong := [s for s in sides or () if not 0 < s <= spec.size]:
        raise InputError(f"augment.sides: {wrong[0]}: places have {spec.size} pixels a side")
    return [Step(*kind) for kind in itertools.product(objective.variants(), patches, sides or (spec.size,))]


def cost_of(objective: Objective, spec: Spec, step: Step, batch_size: int) -> Cost:
    """FLOPs per sample of one step of this kind, by part: those of the encoder, and each module of the objective.

    The batch size matters to objectives alone that compare samples with each other.
    """
    parts = ["encoder", *(f"encoder.{p}" for p in PARTS), *(n for n, _ in objective.named_children() if n != "encoder")]
    objective.set_patch(step.patch)
    batch = dataclasses.replace(spec, size=step.side).dummy(batch_size).pad_to(objective.multiple)
    return measure(objective, batch, step=lambda m, b: m(b, step.variant)["loss"], parts=parts)


def every_weight_learns(objective: Objective, spec: Spec, kinds: Sequence[Step]) -> bool:
    """Whether each kind of step gives every weight that learns a gradient: tried on blank places without memory."""
    twin = on_meta(objective).train()
    assert isinstance(twin, Objective)
    for kind in kinds:
        twin.set_patch(kind.patch)
        blank = dataclasses.replace(spec, size=kind.side).dummy(2).pad_to(objective.multiple)
        twin.zero_grad()
        twin(blank.map(lambda t: torch.empty_like(t, device="meta")), kind.variant)["loss"].backward()
        if any(p.requires_grad and p.grad is None for p in twin.parameters()):
            return False
    return True


def crop(batch: Batch, side: int, generator: torch.Generator) -> Batch:
    """A window of `side` x `side` pixels of all places, anywhere in them; the batch itself where that is all."""
    height, width = batch.size
    if (height, width) == (side, side):
        return batch
    top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in (height, width))
    return batch.map_grids(lambda t, _: t[..., top : top + side, left : left + side])
