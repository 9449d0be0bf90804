"""Fine-tuning: the budget is met, results depend on (seed, step) alone, labels of -1 teach nothing, what is frozen
stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from held import Held
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.chance import mix, order
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import Diverged, HParams, evaluate, finetune, loss, step_cost
from gfm_objectives.finetune.loop import schedule
from gfm_objectives.metrics import miou
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.sensors import Legend
from gfm_objectives.tasks.kinds import KINDS

SEGMENTATION = KINDS["segmentation"]


class Pixelwise(nn.Module):
    """Two 1 x 1 convolutions with dropout between them."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(2, 16, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Conv2d(16, outputs, 1)

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
    return samples * step_cost(build(), places(2), SEGMENTATION, "label").total


def tune(model: nn.Module, batch: Batch, samples: float, hparams: HParams, seed: int = 0, **options):
    return finetune(model, Held(batch), SEGMENTATION, "label", flops(samples), hparams, seed, **options)


def quality(model: nn.Module, val: Batch) -> float:
    return miou(evaluate(model, Held(val), SEGMENTATION, "label", 3, 16)[0])


@pytest.mark.parametrize("length", [0.25, 1.0])
def test_budget_is_met_and_the_task_learned(length):
    model = build()
    result = tune(model, places(24), 4001, HParams(0.01, length=length))
    assert abs(result.flops / (length * flops(4001)) - 1) < 0.005
    assert result.samples == round(4001 * length) and result.steps == -(-result.samples // 8)
    assert result.epochs == result.samples / 24
    assert quality(model, places(8, seed=1)) > (0.9 if length == 1 else 0.7)
    assert result.seconds > 0 and result.peak_memory_mib > 10


def test_places_are_read_in_the_order_of_the_seed():
    train = Held(places(10))
    finetune(build(), train, SEGMENTATION, "label", flops(29), HParams(0.01, batch_size=4), seed=3)
    expected = order(mix(3, "order"), 10, np.arange(32))
    # the first two lent their shapes to the count of FLOPs, and of small places many steps are read at a time
    assert train.asked[2:34] == expected.tolist()


def test_the_last_batch_is_cut():
    class Counting(Pixelwise):
        def forward(self, b: Batch) -> Tensor:
            seen.append(len(b))
            return super().forward(b)

    seen: list[int] = []
    torch.manual_seed(0)
    result = tune(Counting(), places(10), 29, HParams(0.01, batch_size=4))
    assert seen[1:] == [4] * 7 + [1]  # the first was on the meta device, to count FLOPs
    assert (result.samples, result.steps, result.epochs) == (29, 8, 2.9)


def test_result_is_a_function_of_its_arguments():
    budget = flops(400)

    def run(seed: int) -> Tensor:
        model = build()
        torch.manual_seed(torch.randint(1000, ()).item())  # whatever was drawn before must not matter
        before = torch.random.get_rng_state()
        finetune(model, Held(places(10)), SEGMENTATION, "label", budget, HParams(0.01, head_first=True), seed)
        assert torch.equal(before, torch.random.get_rng_state()), "and nothing is drawn from it"
        return torch.cat([p.flatten() for p in model.parameters()])

    first = run(3)
    torch.rand(5)
    assert torch.equal(first, run(3)) and not torch.equal(first, run(4))


def test_unlabelled_pixels_teach_nothing():
    b = places(2)
    none = b.replace(targets={"label": torch.full_like(b.targets["label"], -1)})
    assert loss(build(), none, SEGMENTATION, "label") == 0
    other = b.targets["label"].clone()
    model = build().eval()
    whole = loss(model, b, SEGMENTATION, "label")
    other[0] = -1
    part = loss(model, b.replace(targets={"label": other}), SEGMENTATION, "label")
    torch.testing.assert_close(part, loss(model, b.take(torch.tensor([1])), SEGMENTATION, "label"))
    assert part != whole


@pytest.mark.parametrize("hparams", [HParams(0.01, freeze="encoder"), HParams(0.01, encoder_factor=0.1)])
def test_a_frozen_encoder_stays_and_a_slow_one_moves_little(hparams):
    model, start = build(), build()
    full = tune(model, places(8), 64, hparams)
    moved = (model.encoder.weight - start.encoder.weight).abs().max()
    assert (moved == 0) == (hparams.freeze == "encoder")
    assert (model.head.weight - start.head.weight).abs().max() > 5 * moved
    assert (full.samples > 64) == (hparams.freeze == "encoder"), "frozen layers cost no gradient: it pays for more"


@pytest.mark.parametrize("head_first", [False, True])
def test_a_frozen_encoder_keeps_its_running_statistics(head_first):
    model = build()
    model.encoder = nn.Sequential(model.encoder, nn.BatchNorm2d(16))
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    tune(model, places(8), 400, HParams(0.01, freeze="encoder", head_first=head_first))
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


@pytest.mark.parametrize("depth", [2, 0])
def test_frozen_tokens_leave_the_way_back_to_learn(depth: int, spec: Spec, batch: Batch):
    spec.legends["label"] = Legend("three", ("a", "b", "c"))
    train = Held(batch.replace(targets={"label": batch.targets["map"] % 3}), spec)

    def model() -> Segmenter:
        torch.manual_seed(0)
        return Segmenter(Encoder(spec.bands, cell_dim=16, dim=32, depth=depth, heads=2, patch=8, width=8), 3)

    def run(freeze: str) -> tuple[set[str], float]:
        net, start = model(), model().state_dict()
        result = finetune(net, train, SEGMENTATION, "label", 1e9, HParams(0.01, batch_size=2, freeze=freeze), 0)
        moved = {n for n, t in net.state_dict().items() if not torch.equal(t, start[n])}
        return moved, result.cost.total

    everything, dear = run("")
    dense, cheap = run("tokens")
    part = {n for n in everything if n.startswith(("encoder.way_back.", "head."))}
    assert dense == part and len(part) < len(everything) and cheap < 0.85 * dear
    head, _ = run("encoder")
    assert head == {n for n in everything if n.startswith("head.")}


def test_mistakes(spec):
    with pytest.raises(InputError, match=r"FLOPs of fine-tuning, pay for 0.3 samples"):
        tune(build(), places(4), 0.3, HParams(0.01))
    with pytest.raises(InputError, match=r"the head took .*, pay for 0.0 samples .* finetune\.flops"):
        tune(build(), places(4), 0.3, HParams(0.01, head_first=True))
    bad = places(4)
    bad.sensors["s2"].x[:] = float("nan")
    with pytest.raises(Diverged, match="at step 0"):
        tune(build(), bad, 40, HParams(0.01))
    with pytest.raises(InputError, match="freeze=head: choose from tokens, encoder"):
        HParams(0.01, freeze="head")
    with pytest.raises(InputError, match="encoder_factor=0"):
        HParams(0.01, encoder_factor=0)
    with pytest.raises(InputError, match="freeze=tokens: a UNet has no such part"):
        tune(UNet(spec, 3, 8), places(4), 40, HParams(0.01, freeze="tokens"))
    with pytest.raises(InputError, match="freeze=encoder: a PixelMLP has no such part"):
        tune(PixelMLP(spec, 3, 8), places(4), 40, HParams(0.01, freeze="encoder"))


def test_settings_that_are_not_used_are_not_written():
    assert HParams(0.01).as_dict() == {"lr": 0.01, "encoder_factor": 1.0, "length": 1.0, "batch_size": 8}
    assert (
        HParams(0.01, head_first=True, freeze="tokens").as_dict().items()
        >= {"head_first": True, "freeze": "tokens"}.items()
    )


def test_schedule():
    assert schedule(0.05) == 0.5 and schedule(0.1) == 1.0
    assert schedule(0.55) == pytest.approx(0.5) and schedule(1.0) == pytest.approx(0.0)
