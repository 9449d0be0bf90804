"""What a step of fine-tuning does: turned places, learning rate, decay and clipping by group, and what it all costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from held import Held
from test_finetune import SEGMENTATION, Pixelwise, build, flops, places, tune
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gfm_objectives.batch import Batch
from gfm_objectives.finetune import HParams, evaluate, finetune, fit_head, step_cost
from gfm_objectives.finetune import head as head_room
from gfm_objectives.flops import measure
from gfm_objectives.yardstick import probes

Groups = list[dict]


@contextmanager
def steps() -> Iterator[list[tuple[Groups, float]]]:
    """Every optimiser step: its groups, and the norm of all gradients."""
    seen: list[tuple[Groups, float]] = []

    def stepped(optimiser: torch.optim.Optimizer, *_: object) -> None:
        groups = [dict(g) for g in optimiser.param_groups]
        grads = [p.grad for g in groups for p in g["params"] if p.grad is not None]
        seen.append((groups, float(torch.stack([g.norm() for g in grads]).norm())))

    hook = register_optimizer_step_post_hook(stepped)
    yield seen
    hook.remove()


def test_places_are_turned_before_they_are_learned_from():
    """What is seen are the stored places in all eight orientations, each with its labels."""
    train = places(2)
    train.targets["label"][:] = torch.arange(256).view(16, 16)
    train.sensors["s2"].x[:, 0, 1] = train.targets["label"]
    seen: list[Batch] = []

    class Looking(Pixelwise):
        def forward(self, b: Batch) -> Tensor:
            seen.append(b)
            return super().forward(b)

    model = Looking(256)
    budget = 200 * step_cost(model, train, SEGMENTATION, "label").total
    seen.clear()
    finetune(model, Held(train), SEGMENTATION, "label", budget, HParams(0.01), 0)
    real = [b for b in seen if b.gsd.device.type == "cpu"]
    x, label = torch.cat([b.sensors["s2"].x[:, 0, 1] for b in real]), torch.cat([b.targets["label"] for b in real])
    assert torch.equal(x.long(), label)
    square = torch.arange(256).view(16, 16)
    expected = {tuple(v.flatten().tolist()) for k in range(4) for v in (square.rot90(k), square.rot90(k).mT)}
    assert {tuple(y.flatten().tolist()) for y in label} == expected


def test_the_learning_rate_warms_up_for_a_tenth_and_falls_as_a_cosine():
    """By the FLOPs spent when the step ends, in both groups, to nothing."""
    with steps() as seen:
        tune(build(), places(10), 400, HParams(0.02, encoder_factor=0.1, length=0.5, batch_size=10))
    assert len(seen) == 20
    for k, (groups, _) in enumerate(seen, 1):
        progress = k / 20
        factor = progress / 0.1 if progress < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.1) / 0.9)
        assert sorted({g["lr"] for g in groups}) == pytest.approx(sorted({0.02 * factor, 0.002 * factor}), abs=1e-9)


def test_weights_are_decayed_and_biases_and_norms_are_not():
    model = build()
    model.encoder = nn.Sequential(model.encoder, nn.BatchNorm2d(16))
    with steps() as seen:
        tune(model, places(8), 32, HParams(0.02, encoder_factor=0.1))
    (groups, _), *_ = seen
    said = {id(p): (g["lr"] / max(h["lr"] for h in groups), g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(said) == len(list(model.parameters())) == 6
    for name, p in model.named_parameters():
        factor, decay = said[id(p)]
        assert factor == pytest.approx(0.1 if name.startswith("encoder.") else 1.0), name
        assert decay == (0.01 if p.ndim > 1 else 0.0), name


def test_gradients_are_clipped_to_one():
    train = places(8)
    train.sensors["s2"].x.mul_(100)
    with steps() as seen:
        tune(build(), train, 64, HParams(1e-6))
    assert all(norm == pytest.approx(1, abs=1e-3) for _, norm in seen)


def test_every_step_drops_other_features_and_every_seed_too():
    def dropped(seed: int) -> list[Tensor]:
        model, out = build(), []
        model.encoder.register_forward_hook(lambda *args: torch.ones_like(args[-1]))  # whatever is seen
        model.drop.register_forward_hook(lambda *args: out.append(args[-1] == 0) if not args[-1].is_meta else None)
        tune(model, places(8), 32, HParams(0.01), seed)
        return out

    first, second, *_ = dropped(0)
    assert 0.05 < first.float().mean() < 0.15
    assert not torch.equal(first, second) and not torch.equal(first, dropped(1)[0])


@pytest.mark.parametrize(("share", "steps_taken"), [(1e-9, 1), (2.5, 2), (100.0, 3)])
def test_the_head_costs_what_its_features_and_its_fit_take(share, steps_taken, monkeypatch):
    """As many batches as the share of the budget pays for, one at least, and all places once at most."""
    monkeypatch.setattr(head_room, "EXAMPLES", 300)
    model, train = build(), Held(places(10))
    forward = measure(model, places(2), lambda m, b: m(b).sum()).forward
    total = share * 4 * forward / head_room.SHARE
    spent = fit_head(model, train, SEGMENTATION, "label", total, HParams(0.01, batch_size=4), seed=0)
    assert len(train.asked) == 2 + 4 * steps_taken
    examples = steps_taken * -(-300 // steps_taken)
    assert spent == pytest.approx(4 * steps_taken * forward + probes.class_flops(examples, 16, 3))


def test_the_head_is_paid_from_the_same_budget(monkeypatch):
    monkeypatch.setattr(head_room, "EXAMPLES", 300)
    first = tune(build(), places(10), 801, HParams(0.01, head_first=True))
    alone = tune(build(), places(10), 801, HParams(0.01))
    assert first.flops == pytest.approx(alone.flops, rel=2e-3) and first.samples < alone.samples  # to half a sample
    assert first.flops > first.samples * first.cost.total


def test_the_head_reads_its_own_examples_for_every_seed():
    """Which places and pixels it is fitted on: others for another seed, the same for the same."""

    def fitted(seed: int) -> Tensor:
        model = build()
        fit_head(model, Held(places(24)), SEGMENTATION, "label", flops(100), HParams(0.01), seed)
        return model.head.weight.detach()

    assert torch.equal(fitted(0), fitted(0)) and not torch.equal(fitted(0), fitted(1))


def test_models_are_judged_without_dropout():
    model, val = build(), Held(places(4))
    model.drop.p = 0.9
    model.train()
    once, again = (evaluate(model, val, SEGMENTATION, "label", 3, 16)[0] for _ in range(2))
    assert torch.equal(once, again)
    with torch.no_grad():
        by_hand = model.eval()(val.batch).argmax(1)
    label = val.batch.targets["label"]
    assert torch.equal(once.sum(0).diagonal(), torch.stack([((by_hand == k) & (label == k)).sum() for k in range(3)]))
