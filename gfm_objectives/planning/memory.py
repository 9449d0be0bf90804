"""Memory of a training step, forecast by taking the step on the meta device and counting what is alive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from gfm_objectives.allocations import Alive, Autocast, Fused
from gfm_objectives.batch import Spec
from gfm_objectives.data.pool import packed, tensors
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain.steps import Step

CONTEXT = 1.0e9  # bytes of a GPU that its driver, its kernels and gaps between tensors take, not in a forecast
WORKSPACE = {"cuda": 32 * 2**20, "cpu": 0}  # of cuBLAS on Hopper; 8 MiB before (its manual, cublasSetWorkspace)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device. activations: all else that is alive at the peak of the step: what autograd saves, gradients
    of activations, the batch and the copies of weights in bfloat16; pool: of places kept on the device."""

    weights: float
    gradients: float
    optimiser: float
    buckets: float
    activations: float
    pool: float = 0

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


def forecast(
    objective: Objective,
    spec: Spec,
    step: Step,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cuda",
    several: bool = False,
) -> Memory:
    """Memory of one step of this kind, as training/stepping.py takes it, not compiled.

    Weights, gradients and AdamW's two moments are counted in float32; `several` devices add the buckets in which
    gradients travel. The rest is the most that is alive in forward and backward, each storage once and views not at
    all. Not seen: what kernels take for themselves, but for cuBLAS, and the loader's batches to come. `objective` is on
    the meta device; device: cuda or cpu.
    """
    trained = [p for p in objective.parameters() if p.requires_grad]
    alive = Alive()
    for tensor in (*objective.parameters(), *objective.buffers()):
        alive.hold(tensor)
    weights = alive.now
    for p in trained:  # a step's gradients live until the next step's backward
        p.grad = torch.empty_like(p)
        alive.hold(p.grad)
    gradients = alive.now - weights
    objective.train().set_patch(step.patch)
    with alive:
        batch = dataclasses.replace(spec, size=step.side).dummy(batch_size).pad_to(objective.multiple)
        with Fused(), Autocast() if dtype == torch.bfloat16 else nullcontext():
            loss = objective(batch, step.variant)["loss"]
        for p in trained:
            p.grad = None
        loss.backward()
    for p in trained:
        p.grad = None
    activations = alive.peak - weights - gradients + WORKSPACE[device]
    return Memory(weights, gradients, 2 * gradients, gradients if several else 0, activations)


def pool_bytes(spec: Spec, places: int) -> float:
    """Of that many places kept on the device by data/pool.py."""
    return places * sum(t.nbytes for t in tensors(spec.dummy(1).map(packed)))


def fitting(room: float, needs: Callable[[int], float], batch: int) -> int:
    """The most places, below `batch`, that a step can take in `room` bytes; 0 where not one. needs: bytes for a number
    of places. More than eight are told in eights."""
    low, high = 1, batch
    at = {n: needs(n) for n in (low, high)}
    if at[low] > room:
        return 0
    straight = True  # most models need the same for each place; a look at the middle is for those that do not
    while high - low > 1:
        step = (high - low) * ((room - at[low]) / (at[high] - at[low]) if straight else 0.5)
        n = min(max(low + int(step), low + 1), high - 1)
        at[n], straight = needs(n), not straight
        low, high = (n, high) if at[n] <= room else (low, n)
    return low // 8 * 8 if low > 8 else low
