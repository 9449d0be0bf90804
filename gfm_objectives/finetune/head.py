"""The head first: the last convolution is fitted to features as training will see them, before anything else moves.

Fine-tuning that starts from a random head distorts good features before the head can use them; fitted first, it does
not (LP-FT, Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gfm_objectives.chance import mix
from gfm_objectives.data.augment import augment
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.places import Places
from gfm_objectives.data.telling import Telling
from gfm_objectives.device import autocast
from gfm_objectives.finetune.settings import HParams, train_mode
from gfm_objectives.flops import measure_once
from gfm_objectives.tasks.kinds import Kind, Multilabel, Regression
from gfm_objectives.yardstick import probes

SHARE = 0.05  # of the budget: what computing the features may cost, but for one batch
EXAMPLES = 2**14  # labelled pixels the head is fitted on


@torch.no_grad()
def fit_head(
    model: nn.Module,
    train: Places,
    kind: Kind,
    layer: str,
    flops: float,
    hparams: HParams,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    shown: bool = False,
) -> float:
    """Fit the first convolution in `model.head` to the labels, on what it reads; FLOPs spent.

    As many batches of hparams.batch_size places as SHARE of `flops` pays for, but one at least and all places at most,
    and EXAMPLES of their labelled pixels, drawn by `seed`; where places have labels and not pixels, the mean of each
    place's features. Batches, augmentation and batch norm are as in training: a head fitted to what an untrained
    network's running statistics make of the features fits nothing of what training then reads. Those statistics become
    the average over the batches, so that the fitted model can be used in evaluation mode too.
    """
    device = torch.device(device)
    head = next(m for m in model.head.modules() if isinstance(m, nn.Conv2d))  # type: ignore[union-attr]
    size = hparams.batch_size
    sample = train.read(range(min(2, len(train))))
    forward = measure_once(
        model, sample, lambda m, b: kind.loss(m(b), b.targets[layer]), (type(kind).__name__, layer)
    ).forward
    steps = max(1, min(-(-len(train) // size), int(SHARE * flops / (forward * size))))
    generator = torch.Generator().manual_seed(mix(seed, "head"))
    read: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float()))
    x, y = [], []
    train_mode(model.to(device), hparams.freeze)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with averaged_statistics(model), forked, Telling("batches for the head", steps, shown) as telling:
        for step, batch in enumerate(StepLoader(train, size, mix(seed, "head"), stop=steps)):
            torch.manual_seed(mix(seed, step, "head dropout"))
            batch = augment(batch.to(device), generator)
            with autocast(device, dtype):
                model(batch)
            near, label = examples(read.pop(), batch.targets[layer], head, batch.size)
            some = torch.randperm(len(label), generator=generator)[: -(-EXAMPLES // steps)].to(device)
            x.append(near[some].double())
            y.append(label[some])
            telling.done(step + 1)
    hook.remove()
    spent, labels = steps * size * forward, torch.cat(y)
    if not len(labels):
        return spent  # nothing is labelled, so the head stays as it was drawn
    weight, bias, price = solve(kind, torch.cat(x), labels, head.out_channels)
    head.weight.copy_(weight.T.reshape(head.weight.shape))
    head.bias.copy_(bias)  # type: ignore[union-attr]
    return spent + price


def examples(features: Tensor, target: Tensor, head: nn.Conv2d, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the head reads (N, C k k) at what is labelled, and the labels (N,) or, several a place, (N, K).

    features (B, C, H, W): of a grid that may be padded at the bottom and right beyond `size`.
    """
    assert not isinstance(head.padding, str), head
    places = []
    for place in features.split(1):  # k k times as large as the features
        near = F.unfold(place, head.kernel_size, padding=head.padding)[0].unflatten(1, place.shape[2:])
        near = near[:, : size[0], : size[1]].flatten(1).T  # (H W, C k k)
        places.append(near if target.ndim == 3 else near.mean(0, keepdim=True))
    label = target.flatten() if target.ndim == 3 else target
    known = ~label.isnan() if label.is_floating_point() else label >= 0
    known = known if known.ndim == 1 else known.any(1)
    if target.ndim == 3:
        return torch.cat([p[k] for p, k in zip(places, known.chunk(len(places)), strict=True)]), label[known]
    return torch.cat(places)[known], label[known]


@contextmanager
def averaged_statistics(model: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms in training mode start anew and become the plain mean over what passes."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momentum = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    try:
        yield
    finally:
        for m, value in zip(norms, momentum, strict=True):
            m.momentum = value


def solve(kind: Kind, x: Tensor, y: Tensor, outputs: int) -> tuple[Tensor, Tensor, float]:
    """Weight (D, outputs) and bias of the linear map of x (N, D) that fits the labels y, and the FLOPs that takes."""
    n, width = x.shape
    match kind:
        case Regression():
            wanted = (y.double() - kind.offset) / kind.scale
            return *probes.ridge(x, wanted[:, None]), probes.value_flops(n, width, 1)
        case Multilabel():
            return *probes.logistic_each(x, y), probes.class_flops(n, width, outputs)
        case _:
            return *probes.logistic(x, y, outputs), probes.class_flops(n, width, outputs)
