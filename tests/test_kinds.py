"""Kinds of task: losses, what is counted of outputs, and the standardised targets of a regression."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS, MOMENTS, confusion
from gfm_objectives.tasks.kinds import KINDS, Kind, Regression, kind_of, standardised, with_loss
from gfm_objectives.tasks.losses import CLASS_LOSSES, class_loss, class_weights
from gfm_objectives.tasks.task import Task

B, K, SIDE = 6, 4, 8
SHAPES = {"confusion": (K, K), "moments": (len(MOMENTS),), "scores": (K, 2, 256)}


def random_target(kind: str, seed: int = 0) -> Tensor:
    """A target of that kind; every place is labelled, but for one label in ten."""
    g = torch.Generator().manual_seed(seed)
    shape = {"scene": (B,), "multilabel": (B, K)}.get(kind, (B, SIDE, SIDE))
    absent = torch.rand(shape, generator=g) < 0.1
    if kind == "regression":
        return (50 + 7 * torch.randn(shape, generator=g)).masked_fill(absent, math.nan)
    if kind == "multilabel":
        return torch.randint(0, 2, shape, generator=g).float().masked_fill(absent, math.nan)
    return torch.randint(0, K, shape, generator=g).masked_fill(absent, -1)


def output_for(kind: Kind, target: Tensor) -> Tensor:
    """What a model that is always right puts out, (B, C, H, W)."""
    if isinstance(kind, Regression):
        return ((target.nan_to_num() - kind.offset) / kind.scale)[:, None]
    if kind.name == "multilabel":
        return (8 * target.nan_to_num() - 4)[:, :, None, None].expand(B, K, SIDE, SIDE)
    hot = 8.0 * F.one_hot(target.clamp(min=0), K)
    return hot.movedim(-1, 1) if target.ndim == 3 else hot[:, :, None, None].expand(B, K, SIDE, SIDE)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", KINDS)
def test_who_is_always_right_has_the_best_figures(name: str):
    kind, target = KINDS[name], random_target(name)
    if isinstance(kind, Regression):
        kind = replace(kind, offset=40.0, scale=5.0)
    stats = kind.observe(output_for(kind, target), target, K)
    figures = {m: float(METRICS[m].of(stats.double().sum(0))) for m in kind.metrics}
    best = {m: 0.0 if METRICS[m].better < 0 else 1.0 for m in kind.metrics}
    assert figures == pytest.approx(best, abs=1e-4)
    worse = kind.observe(output_for(kind, target) + 20 * noise(B, kind.channels(K), 1, 1), target, K).double().sum(0)
    assert all(METRICS[m].better * (float(METRICS[m].of(worse)) - best[m]) < -0.01 for m in kind.metrics)


@pytest.mark.parametrize("name", KINDS)
def test_statistics_are_additive_and_without_label_nothing_is_counted(name: str):
    kind, target = KINDS[name], random_target(name)
    output = noise(B, kind.channels(K), SIDE, SIDE)
    stats = kind.observe(output, target, K)
    (shape,) = {SHAPES[METRICS[m].statistic] for m in kind.metrics}  # one statistic gives all figures of a kind
    assert stats.shape == (B, *shape) and stats.device.type == "cpu"
    parts = [kind.observe(output[i : i + 1], target[i : i + 1], K) for i in range(B)]
    assert torch.equal(stats, torch.cat(parts))
    nothing = torch.full_like(target, math.nan if target.is_floating_point() else -1)
    assert not kind.observe(output, nothing, K).any()


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_falls_to_the_truth_and_ignores_what_is_not_labelled(name: str):
    kind, target = KINDS[name], random_target(name)
    output = noise(B, kind.channels(K), SIDE, SIDE).requires_grad_()
    loss = kind.loss(output, target)
    loss.backward()
    assert loss.ndim == 0 and loss.isfinite() and output.grad is not None and output.grad.isfinite().all()
    assert float(kind.loss(output_for(kind, target), target)) < 0.1 * float(loss.detach())
    missing = target.isnan() if target.is_floating_point() else target < 0
    reached = output.grad.abs().amax((2, 3)) if name == "multilabel" else output.grad.abs().amax(1)
    reached = reached.flatten(1).amax(1) if name == "scene" else reached
    assert missing.any() and torch.equal(reached == 0, missing)
    nothing = torch.full_like(target, math.nan if target.is_floating_point() else -1)
    assert float(kind.loss(output, nothing).detach()) == 0


@pytest.mark.parametrize("name", KINDS)
def test_losses_are_counted_on_meta_and_kinds_travel_to_other_processes(name: str):
    kind = KINDS[name]
    loss = kind.loss(noise(B, kind.channels(K), SIDE, SIDE).to("meta"), random_target(name).to("meta"))
    assert loss.device.type == "meta" and loss.shape == ()
    assert pickle.loads(pickle.dumps(kind)) == kind


@pytest.mark.parametrize("name", ["segmentation", "change"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_segmentation_is_bit_for_bit_cross_entropy_summed_over_what_is_labelled(name: str, dtype):
    """As it was when every published score was made: a sum over the pixels over their number, not a mean of means."""
    target = random_target("segmentation")
    output = 5 * noise(B, K, SIDE, SIDE)
    mine, theirs = output.clone().requires_grad_(), output.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = KINDS[name].loss(mine, target)
        total = F.cross_entropy(theirs, target, ignore_index=-1, reduction="sum")
        reference = total / (target >= 0).sum().clamp(min=1)
    loss.backward()
    reference.backward()
    assert torch.equal(loss, reference) and torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]
    assert torch.equal(KINDS[name].observe(output, target, K), confusion(output.argmax(1), target, K))


def test_the_loss_of_a_regression_is_the_mean_square_in_deviations():
    target = torch.tensor([[[10.0, 16.0, math.nan]]])
    kind = Regression("regression", ("rmse",), offset=10.0, scale=2.0)
    output = torch.tensor([[[[1.0, 1.0, 9.0]]]])
    assert float(kind.loss(output, target)) == pytest.approx((1**2 + 2**2) / 2)
    assert kind.decide(output).tolist() == [[[12, 12, 28]]]  # in the target's unit
    total = kind.observe(output, target, 1).sum(0)
    assert float(METRICS["rmse"].of(total)) == pytest.approx(math.sqrt((2**2 + 4**2) / 2))


def test_places_are_judged_by_the_mean_of_their_pixels():
    output = torch.tensor([[[[4.0, -1.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2): class 0 has the larger mean, 1.5
    assert KINDS["scene"].decide(output).tolist() == [0]
    assert float(KINDS["scene"].loss(output, torch.tensor([0]))) == pytest.approx(math.log(1 + math.exp(-1.5)))
    several = KINDS["multilabel"].loss(output, torch.tensor([[1.0, math.nan]]))
    assert float(several) == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_the_target_of_a_regression_is_standardised_by_its_training_labels():
    task = Task("height", {}, "height", kind="regression", metric="rmse")
    parts = [random_target("regression", seed) for seed in range(3)]
    found = standardised(task, parts)
    values = torch.cat(parts)[~torch.cat(parts).isnan()]
    assert found.offset == pytest.approx(float(values.mean()), rel=1e-6)
    assert found.scale == pytest.approx(float(values.std(correction=0)), rel=1e-5)
    kind = kind_of(found)
    assert isinstance(kind, Regression) and (kind.offset, kind.scale) == (found.offset, found.scale)
    for nothing, held in ((math.nan, "nothing"), (0.1, "one value"), (0.0, "one value")):
        with pytest.raises(InputError, match=f"task height: the training labels of height hold {held}"):
            standardised(task, [torch.full((1, 9, 9), nothing)] * 2)


def test_tasks_of_classes_have_nothing_to_standardise():
    task = Task("water", {}, "label")
    assert standardised(task, iter(())) is task and kind_of(task) is KINDS["segmentation"]


# ------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("name", "how"), [(n, h) for n, k in KINDS.items() for h in k.losses])
def test_every_loss_falls_to_the_truth_and_ignores_what_is_not_labelled(name: str, how: str):
    target = random_target(name)
    kind = with_loss(KINDS[name], how, [target], K)
    output = noise(B, kind.channels(K), SIDE, SIDE).requires_grad_()
    kind.loss(output, target).backward()
    assert output.grad is not None and output.grad.isfinite().all()
    if target.ndim == 3:
        absent = target.isnan() if target.is_floating_point() else target < 0
        assert not output.grad.movedim(1, -1)[absent].any() and output.grad.movedim(1, -1)[~absent].any()
    right = kind.loss(output_for(kind, target), target)
    assert right < 0.2 * kind.loss(noise(B, kind.channels(K), SIDE, SIDE) * 3, target)
    nothing = torch.full_like(target, math.nan if target.is_floating_point() else -1)
    assert kind.loss(output, nothing) == 0


def test_losses_by_hand():
    logits = torch.tensor([[[[0.0, 0.0, 5.0]], [[0.0, 2.0, 0.0]]]])  # two classes, three pixels
    target = torch.tensor([[[0, 1, 0]]])
    p = logits.softmax(1)[0, :, 0]
    ce = -torch.stack([p[0, 0], p[1, 1], p[0, 2]]).log()
    loss = {h: float(class_loss(h, logits, target, (1.0, 3.0))) for h in CLASS_LOSSES}
    assert loss[""] == pytest.approx(float(ce.mean()))
    assert loss["weighted"] == pytest.approx(float((ce[0] + 3 * ce[1] + ce[2]) / 5))
    assert loss["focal"] == pytest.approx(float(((1 - (-ce).exp()) ** 2 * ce).mean()))
    dice = [2 * (p[0, 0] + p[0, 2]) / (p[0].sum() + 2), 2 * p[1, 1] / (p[1].sum() + 1)]
    assert loss["dice"] == pytest.approx(float(ce.mean() + 1 - sum(dice) / 2))
    assert class_weights([torch.tensor([0] * 100 + [1] * 25 + [-1] * 9)], 3) == (1.0, 2.0, 5.0)
