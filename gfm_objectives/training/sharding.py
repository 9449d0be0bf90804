"""Weights, gradients and AdamW's moments shared out among processes (FSDP2), and gathered where one needs them whole.

What is gathered has the form of a run in one process, so that checkpoints and exports are the same, and a run may go on
sharded or not. Run on two CPU processes (gloo); not on GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gfm_objectives import ranks
from gfm_objectives.models.attention import CrossBlock
from gfm_objectives.models.vit import Dilated


def shard(model: nn.Module, device: torch.device) -> None:
    """Every block by itself, and all that is left together, in place: names stay, parameters become DTensors."""
    mesh = init_device_mesh(device.type, (ranks.count(),))
    for module in [m for m in model.modules() if isinstance(m, Block | Dilated | CrossBlock)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gathered(state: Any) -> Any:
    """A `state_dict` whose DTensors are whole tensors; all processes must ask, and the first alone is answered: the
    others get None in their places."""
    if isinstance(state, Mapping):
        return {k: gathered(v) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return [gathered(v) for v in state]
    if not isinstance(state, DTensor):
        return state
    whole = state.full_tensor().detach()
    return whole if ranks.first() else None


def dealt_model(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The whole tensors of a model's `state_dict` as its shards of them."""
    return {k: _dealt(state[k], v) for k, v in model.state_dict().items() if k in state}


def dealt_optimiser(state: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """The same of an optimiser's."""
    every = [p for group in optimiser.param_groups for p in group["params"]]
    shares = {
        i: {k: v if k == "step" else _dealt(v, every[i]) for k, v in moments.items()}
        for i, moments in state["state"].items()
    }
    return {**state, "state": shares}


def _dealt(whole: Tensor, like: Tensor) -> Tensor:
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole
