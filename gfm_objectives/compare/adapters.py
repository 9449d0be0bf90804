"""Models that take less memory to train: low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685), with which an
encoder stays as it is but for small additions to its matrices, merged into them in the end; and activation
checkpointing (Chen et al. 2016, arXiv:1604.06174), by which what an encoder holds is dropped and computed again."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gfm_objectives.batch import Spec
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams


class LowRank(nn.Module):
    """weight (out, in) -> weight + up @ down, with up (out, rank) zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze the model's encoder and give each of its linear maps an adapter. InputError where it has none."""
    encoder = getattr(model, "encoder", None)
    maps = [m for m in encoder.modules() if isinstance(m, nn.Linear)] if encoder is not None else []
    if not maps:
        raise InputError(f"lora={rank}: a {type(model).__name__} has no encoder with linear maps; freeze=encoder has")
    assert encoder is not None
    encoder.requires_grad_(False)
    for m in maps:
        parametrize.register_parametrization(m, "weight", LowRank(m.weight, min(rank, *m.weight.shape)))


def merge_low_rank(model: nn.Module) -> None:
    """Write the adapters into their matrices, so that the network is what it was."""
    for m in model.modules():
        if isinstance(m, nn.Linear) and parametrize.is_parametrized(m, "weight"):
            parametrize.remove_parametrizations(m, "weight", leave_parametrized=True)


def can_recompute(model: nn.Module) -> bool:
    return hasattr(getattr(model, "encoder", None), "micro")


def recompute(model: nn.Module) -> None:
    """Let the model's encoder hold one place at a time, each computed again for the backward pass. InputError where it
    has no encoder that can."""
    if not can_recompute(model):
        raise InputError(f"recompute=true: a {type(model).__name__} has no stem and ViT to compute again; leave it out")
    model.encoder.micro = 1  # type: ignore[union-attr, assignment]


@dataclass(frozen=True, slots=True)
class Adapted(Contender):
    """The contender with adapters of this rank in its encoder, 0 = none; with activations computed again, or not."""

    rank: int = 0
    recomputed: bool = False

    def model_key(self, seed: int) -> str:
        return f"{Contender.model_key(self, seed)}{f'|lora{self.rank}' if self.rank else ''}"

    def build(self, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
        model = Contender.build(self, spec, channels, hparams, seed)
        if self.rank:
            add_low_rank(model, self.rank)
        if self.recomputed:
            recompute(model)
        return model


def adapted(row: Contender, rank: int | None, recomputed: bool) -> Contender:
    """The contender as a small machine trains it; itself where nothing is asked for."""
    if not rank and not recomputed:
        return row
    own = {f.name: getattr(row, f.name) for f in fields(Contender)}
    return Adapted(**own, rank=rank or 0, recomputed=recomputed)
