"""Fine-tuning: the budget is met, results depend on (seed, step) alone, labels of -1 teach nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import Diverged, HParams, finetune, fit_head, loss, predict, schedule, score, step_cost
from gfm_objectives.metrics import miou


class Pixelwise(nn.Module):
    """Two 1 x 1 convolutions with dropout between them."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(2, 16, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, b: Batch) -> Tensor:
        return self.head(self.drop(self.encoder(b.sensors["s2"].x[:, 0]).relu())).float()


def places(n: int, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 2, 16, 16, generator=g)
    label = (x[:, 0, 0] > 0).long() + (x[:, 0, 1] > 0.5).long()
    label[:, :2] = -1
    valid = torch.ones(n, 1, 16, 16, dtype=torch.bool)
    series = Series(x, valid, torch.zeros(n, 1), ("B02", "B03"))
    return Batch({"s2": series}, {"label": label}, torch.full((n,), 10.0))


def build(seed: int = 0) -> Pixelwise:
    torch.manual_seed(seed)
    return Pixelwise()


def flops(samples: float) -> float:
    return samples * step_cost(build(), places(2), "label").total


@pytest.mark.parametrize("length", [0.25, 1.0])
def test_budget_is_met_and_the_task_learned(length):
    model, train = build(), places(24)
    total = flops(4001)
    result = finetune(model, train, "label", total, HParams(0.01, length=length), seed=0)
    assert abs(result.flops / (length * total) - 1) < 0.005
    assert result.samples == round(4001 * length) and result.steps == -(-result.samples // 8)
    val = places(8, seed=1)
    cm = score(predict(model, val, size=3), val, "label", 3)
    assert cm.shape == (8, 3, 3) and cm.sum() == 8 * 14 * 16
    assert miou(cm) > (0.9 if length == 1 else 0.7)
    assert result.seconds > 0 and result.peak_memory_mib > 10


def test_result_is_a_function_of_its_arguments():
    def run(seed: int) -> Tensor:
        model = build()
        torch.manual_seed(torch.randint(1000, ()).item())  # whatever was drawn before must not matter
        finetune(model, places(10), "label", flops(100), HParams(0.01), seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    before = torch.random.get_rng_state()
    first = run(3)
    torch.rand(5)
    assert torch.equal(first, run(3)) and not torch.equal(first, run(4))
    torch.random.set_rng_state(before)


def test_unlabelled_pixels_teach_nothing():
    b = places(2)
    none = b.replace(targets={"label": torch.full_like(b.targets["label"], -1)})
    assert loss(build(), none, "label") == 0
    other = b.targets["label"].clone()
    model = build().eval()
    whole = loss(model, b, "label")
    other[0] = -1
    part = loss(model, b.replace(targets={"label": other}), "label")
    torch.testing.assert_close(part, loss(model, b.take(torch.tensor([1])), "label"))
    assert part != whole


def test_encoder_factor():
    for factor in (0.0, 0.1):
        model, start = build(), build()
        full = finetune(model, places(8), "label", flops(64), HParams(0.01, encoder_factor=factor), 0)
        moved = (model.encoder.weight - start.encoder.weight).abs().max()
        assert (moved == 0) == (factor == 0)
        assert (model.head.weight - start.head.weight).abs().max() > 5 * moved
        if factor == 0:
            assert full.samples > 64  # frozen layers cost no gradient, so the budget pays for more


def test_a_frozen_encoder_keeps_its_running_statistics():
    model = build()
    model.encoder = nn.Sequential(model.encoder, nn.BatchNorm2d(16))
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    finetune(model, places(8), "label", flops(64), HParams(0.01, encoder_factor=0.0), 0)
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


def test_the_head_is_fitted_before_features_are_distorted():
    model, train, val = build(), places(24), places(8, seed=1)
    frozen = model.encoder.weight.clone()

    def quality() -> float:
        return miou(score(predict(model, val), val, "label", 3))

    before = quality()
    spent = fit_head(model, train, "label", flops(4000), seed=0)
    assert quality() > max(0.6, before + 0.2)  # what a linear head can tell from 16 random features
    assert torch.equal(frozen, model.encoder.weight)
    assert 0 < spent < 0.6 * flops(4000)

    hparams = HParams(0.01, head_first=True)
    result = finetune(build(), train, "label", flops(4001), hparams, seed=0)
    assert abs(result.flops / flops(4001) - 1) < 0.005  # the head is paid from the same budget
    assert result.samples < 4001
    assert hparams.as_dict()["head_first"] and "head_first" not in HParams(0.01).as_dict()


def test_a_head_cannot_be_fitted_without_labels():
    model, train = build(), places(4)
    none = train.replace(targets={"label": torch.full_like(train.targets["label"], -1)})
    before = model.head.weight.clone()
    fit_head(model, none, "label", flops(100), seed=0)
    assert torch.equal(before, model.head.weight)


def test_mistakes():
    with pytest.raises(InputError, match="pays for 0"):
        finetune(build(), places(4), "label", flops(0.3), HParams(0.01), 0)
    bad = places(4)
    bad.sensors["s2"].x[:] = float("nan")
    with pytest.raises(Diverged, match="at step 0"):
        finetune(build(), bad, "label", flops(40), HParams(0.01), 0)


def test_schedule():
    assert schedule(0.05) == 0.5 and schedule(0.1) == 1.0
    assert schedule(0.55) == pytest.approx(0.5) and schedule(1.0) == pytest.approx(0.0)
