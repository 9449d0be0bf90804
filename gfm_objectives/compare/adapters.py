"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): an encoder that stays as it is, but for small additions
to its matrices, which are merged into them in the end."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Adapted(Contender):
    """The contender with adapters of this rank in its encoder."""

    rank: int = 8

    def model_key(self, seed: int) -> str:
        return f"{Contender.model_key(self, seed)}|lora{self.rank}"

    def build(self, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
        model = Contender.build(self, spec, channels, hparams, seed)
        add_low_rank(model, self.rank)
        return model
