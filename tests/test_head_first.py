"""The head first: it fits what training then reads, for every kind of task and model with or without batch norm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from held import Held
from test_finetune import build, flops, places, quality, tune
from torch import nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.chance import mix, order
from gfm_objectives.data import build_source
from gfm_objectives.data.augment import augment
from gfm_objectives.finetune import HParams, finetune, fit_head, loss
from gfm_objectives.finetune.head import examples
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.tasks.kinds import KINDS, kind_of, standardised
from gfm_objectives.tasks.task import Task

SEGMENTATION = KINDS["segmentation"]
TWO = HParams(0.01, batch_size=2, head_first=True)


@pytest.fixture(scope="module")
def earth() -> tuple[Batch, Spec]:
    source = build_source(
        {"name": "synthetic", "size": 64, "dates": 2, "sensors": ["s2"], "layers": ["map", "landcover"]}, "train"
    )
    return source.read(range(12)), source.spec


def vit(spec: Spec, depth: int) -> Segmenter:
    return Segmenter(Encoder(spec.bands, cell_dim=32, dim=32, depth=depth, heads=2, patch=8, width=16), 10)


MODELS = {
    "unet": lambda spec: UNet(spec, 10, 8, "stack"),
    "vit": lambda spec: vit(spec, 2),
    "conv": lambda spec: vit(spec, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_step_of_training_does_not_undo_it(name, earth):
    """The loss of the first training batch after the fit, in training mode, is below that before it and as low as
    where the head was fitted. Fitted in evaluation mode on statistics of an untrained network it was 20 times as high.
    """
    data, spec = earth
    torch.manual_seed(0)
    model, train = MODELS[name](spec), Held(data, spec)
    index = order(mix(0, "order"), len(data), np.arange(2))
    first = augment(data.take(torch.from_numpy(index)), torch.Generator().manual_seed(mix(0, 0, "augment")))

    @torch.no_grad()
    def start(batch: Batch) -> float:
        return float(loss(copy.deepcopy(model).train(), batch, SEGMENTATION, "landcover"))

    before = start(first)
    fit_head(model, train, SEGMENTATION, "landcover", 1e12, TWO, seed=0)
    after = start(first)
    pairs = [data.take(torch.tensor([k, k + 1])) for k in range(0, len(data), 2)]
    fitted = np.mean([start(pair) for pair in pairs])
    assert max(after, fitted) < before and after < 1.2 * fitted, (before, after, fitted)
    with torch.no_grad():
        evaluated = float(loss(model.eval(), data, SEGMENTATION, "landcover"))
    assert evaluated < 1.1 * fitted, (evaluated, fitted)  # its running statistics are those of what passed


def test_running_statistics_are_those_of_the_batches_that_passed():
    model = build()
    model.encoder = nn.Sequential(model.encoder, nn.BatchNorm2d(16, momentum=0.3))
    norm = model.encoder[1]
    norm.running_mean.fill_(5.0)  # as pretraining left it
    norm.num_batches_tracked.fill_(1000)
    fit_head(model, Held(places(8)), SEGMENTATION, "label", flops(4000), HParams(0.01, batch_size=4), seed=0)
    x = model.encoder[0](places(8).sensors["s2"].x[:, 0])  # two batches of four: every place once
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)), atol=1e-2, rtol=5e-2)
    assert norm.momentum == 0.3


def test_the_head_is_fitted_before_features_are_distorted():
    model, val = build(), places(8, seed=1)
    frozen, before = model.encoder.weight.clone(), quality(model, val)
    spent = fit_head(model, Held(places(24)), SEGMENTATION, "label", flops(4000), HParams(0.01), seed=0)
    assert quality(model, val) > max(0.6, before + 0.2)  # what a linear head can tell from 16 random features
    assert torch.equal(frozen, model.encoder.weight)
    assert 0 < spent < 0.6 * flops(4000)
    result = tune(build(), places(24), 4001, HParams(0.01, head_first=True))
    assert abs(result.flops / flops(4001) - 1) < 0.005  # the head is paid from the same budget
    assert result.samples < 4001


def test_it_is_fitted_to_places_turned_as_in_training():
    seen: list[torch.Tensor] = []
    model, train = build(), Held(places(8))
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].sensors["s2"].x))
    fit_head(model, train, SEGMENTATION, "label", flops(4000), HParams(0.01), seed=0)
    (read,) = [x for x in seen if x.device.type == "cpu"]
    stored = train.batch.sensors["s2"].x[train.asked[-8:]]
    assert torch.equal(read.flatten(3).sort(3).values, stored.flatten(3).sort(3).values)
    assert 0 < sum(torch.equal(a, b) for a, b in zip(read, stored, strict=True)) < 8, "turned, each its own way"


def test_a_head_cannot_be_fitted_without_labels():
    model, batch = build(), places(4)
    none = batch.replace(targets={"label": torch.full_like(batch.targets["label"], -1)})
    before = model.head.weight.clone()
    fit_head(model, Held(none), SEGMENTATION, "label", flops(100), HParams(0.01), seed=0)
    assert torch.equal(before, model.head.weight)


def targets(kind: str, b: Batch) -> torch.Tensor:
    x = b.sensors["s2"].x[:, 0]  # (B, 2, H, W)
    if kind == "regression":
        y = x[:, 0] - 0.5 * x[:, 1]
        return 50 + 7 * y.index_fill(1, torch.arange(3), float("nan"))  # metres, say
    mean = x.mean((2, 3))
    return (mean[:, 0] > 0).long() if kind == "scene" else (mean > 0).float()


@pytest.mark.parametrize("kind", ["regression", "scene", "multilabel"])
def test_other_kinds_are_fitted_and_trained(kind):
    g = torch.Generator().manual_seed(2)
    b = places(32)
    b.sensors["s2"].x.add_(torch.randn(32, 1, 2, 1, 1, generator=g))  # so that places differ as a whole
    b = b.replace(targets={"label": targets(kind, b)})
    torch.manual_seed(0)
    learned = kind_of(standardised(Task("t", {}, "label", kind=kind), [b.targets["label"]]))
    model = type(build())(learned.channels(2))
    before = float(loss(model, b, learned, "label").detach())
    fit_head(model, Held(b), learned, "label", 1e10, HParams(0.01), seed=0)
    fitted = float(loss(model.eval(), b, learned, "label").detach())
    assert fitted < 0.5 * before
    result = finetune(model, Held(b), learned, "label", flops(2000), HParams(0.01), seed=0)
    assert result.last_loss < 1.1 * fitted


def test_what_the_head_reads_is_what_its_convolution_reads():
    """A linear map of the examples is the convolution, at the labelled pixels and where the grid is padded."""
    g = torch.Generator().manual_seed(0)
    features, head = torch.randn(2, 3, 8, 8, generator=g), nn.Conv2d(3, 5, 3, padding=1)
    target = torch.randint(-1, 5, (2, 7, 6), generator=g)
    x, y = examples(features, target, head, (7, 6))
    out = head(features)[:, :, :7, :6].movedim(1, -1)[target >= 0]
    torch.testing.assert_close(x @ head.weight.flatten(1).T + head.bias, out)
    assert torch.equal(y, target[target >= 0])
    x, y = examples(features, torch.tensor([-1, 4]), head, (7, 6))
    torch.testing.assert_close(x @ head.weight.flatten(1).T + head.bias, head(features)[1:, :, :7, :6].mean((2, 3)))
    assert y.tolist() == [4]
