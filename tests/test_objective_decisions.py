"""What objectives hide, how they weigh what they predict, and by what they divide it: by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch
from test_objectives import build
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.models import masking
from gfm_objectives.models.heads import MapHead, SeriesHead
from gfm_objectives.models.tokens import Tokens, day_features, metres
from gfm_objectives.objectives import contrastive
from gfm_objectives.objectives.contrastive import Contrastive, cell_statistics

MASKED = ["mae", "latent", "jepa", "masked_seg", "cross_sensor", "temporal", "mix"]


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_the_share_that_is_hidden_is_the_one_asked_for(name: str, ratio: float, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec, mask_ratio=ratio)
    shown: list[float] = []
    objective.encoder.register_forward_pre_hook(
        lambda _, args: shown.append(args[0].x.shape[1] / len(args[0].slots) / args[0].cells)
    )
    for variant in objective.variants()[-2:]:
        objective(batch, variant)
    assert set(shown) == {1 - ratio}


def test_supervised_sees_everything(spec: Spec, batch: Batch) -> None:
    objective, shown = build("supervised", spec), []
    objective.encoder.register_forward_pre_hook(lambda _, args: shown.append(args[0].visible().all()))
    objective(batch)
    assert shown == [True]


# -- masks


@pytest.fixture
def full(spec: Spec) -> Tokens:
    """Every token of 64 places where all is valid: six slots of 16 cells, three of them of s2, two of s1."""
    return build("mae", spec).encoder.tokenize(spec.dummy(64, "cpu"))


def seen(full: Tokens, keep: int, *kinds: str) -> Tensor:
    kept, _ = masking.split(full, keep, kinds)
    return full.take(kept).visible()  # (B, slots, h, w)


def test_a_mask_by_sensor_cuts_one_sensor_at_most(full: Tokens) -> None:
    by_slot = seen(full, 32, "sensor").flatten(2).sum(2)
    by_sensor = torch.stack([by_slot[:, :3].sum(1), by_slot[:, 3:5].sum(1), by_slot[:, 5]], 1)
    whole = torch.tensor([48, 32, 16])
    assert (((by_sensor > 0) & (by_sensor < whole)).sum(1) <= 1).sum() > 60  # but where two draws are a hair apart
    assert all((by_sensor[:, k] > 0).any() and (by_sensor[:, k] == 0).any() for k in range(3))


def test_a_mask_by_block_is_the_same_at_all_dates_of_all_sensors(full: Tokens) -> None:
    visible = seen(full, 48, "block").float().mean(1)  # share of slots that see a cell
    assert ((visible == 0) | (visible == 1)).float().mean() > 0.9


def test_each_place_draws_a_kind_of_its_own(full: Tokens) -> None:
    whole_dates = seen(full, 32, "random", "date").flatten(2).any(2).sum(1) == 2
    assert 16 < whole_dates.sum() < 48
    same = seen(full, 32, "date").flatten(2).any(2)
    assert len({tuple(row.tolist()) for row in same}) > 5  # and, of that kind, slots of its own


def test_cells_are_hidden_in_blocks_or_one_by_one(full: Tokens) -> None:
    """By default either: with 8 of 16 cells kept, neighbours agree more often than by chance alone."""

    def agree(*kinds: str) -> float:
        _, gone = masking.split_cells(full, 8, *([kinds] if kinds else []))
        return (gone[:, :, 1:] == gone[:, :, :-1]).float().mean().item()

    assert agree("random") + 0.05 < agree() < agree("block") - 0.05


def test_cells_that_show_nothing_are_hidden_first(spec: Spec, batch: Batch) -> None:
    for s in batch.sensors.values():
        s.valid[:, :, :8] = False  # the first row of cells
    tokens = build("mae", spec).encoder.tokenize(batch)
    _, gone = masking.split_cells(tokens, 12)
    assert gone[:, 0].all() and not gone[:, 1:].any()


# -- places and days


def test_cells_know_where_they_are_in_metres() -> None:
    """Of a place's centre, whatever the size of its pixels: 2 x 3 cells of 8 pixels."""
    code = metres((2, 3), 8, torch.tensor([10.0, 30.0]), 16)  # 4 waves: 40 m, 400 m, 4 km, 40 km
    wave = torch.tensor([40.0, 400.0, 4000.0, 40000.0])
    for b, gsd in enumerate((10.0, 30.0)):
        for row in range(2):
            for column in range(3):
                angles = [2 * math.pi * at * 8 * gsd / wave for at in (row - 0.5, column - 1.0)]
                by_hand = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)]) / 2
                torch.testing.assert_close(code[b, 3 * row + column], by_hand, atol=1e-4, rtol=1e-4)


def test_a_day_is_two_harmonics_of_the_year_and_the_time_since_the_first_date() -> None:
    year = 365.25
    day = torch.tensor([[20 * year + year / 8, 20 * year + 3 * year / 8]])
    series = Series(torch.zeros(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1).bool(), day, ("VV",))
    half = math.sqrt(0.5)
    by_hand = torch.tensor([[half, half, 1, 0, 0], [half, -half, -1, 0, 0.25]])
    torch.testing.assert_close(day_features(series)[0], by_hand, atol=1e-3, rtol=0)
    shown = Series(series.x, series.valid, day + year, ("VV",))
    torch.testing.assert_close(day_features(series, shown)[0, :, 4], torch.tensor([-1.0, -0.75]), atol=1e-3, rtol=0)


# -- losses


def test_a_sensor_is_divided_by_the_running_mean_of_its_own_loss() -> None:
    head = SeriesHead(4, {"s1": 2, "s2": 3}, decay=0.9)
    g = torch.Generator().manual_seed(0)
    target, weight = torch.randn(2, 2, 3, 4, 4, generator=g), (torch.rand(2, 2, 1, 4, 4, generator=g) > 0.4).float()
    errors = [e for b, t, _, h, w in weight.nonzero().tolist() for e in (0.25 - target[b, t, :, h, w]).abs().tolist()]
    l1 = sum(errors) / len(errors)
    loss, plain = head.train().loss("s2", torch.full_like(target, 0.25), target, weight)
    ema = 0.9 + 0.1 * l1
    assert (float(plain), float(loss)) == pytest.approx((l1, l1 / ema), rel=1e-5)
    assert (float(head.ema_s2), float(head.ema_s1)) == pytest.approx((ema, 1.0), rel=1e-5)
    loss, _ = head.eval().loss("s2", torch.full_like(target, 0.25), target, weight)
    assert (float(loss), float(head.ema_s2)) == pytest.approx((l1 / ema, ema), rel=1e-5)
    head.ema_s2.fill_(1e-9)
    assert float(head.loss("s2", target + 1e-3, target, weight)[0]) == pytest.approx(1, rel=1e-3)
    assert head.loss("s2", target + 1, target, 0 * weight)[1] == 0


def test_every_sensor_of_several_dates_weighs_the_same(spec: Spec, batch: Batch) -> None:
    out = build("temporal", spec, ema=0.9)(batch)
    assert set(out) == {"loss", "l1_s2", "l1_s1"}
    each = [float(out[k]) / (0.9 + 0.1 * float(out[k])) for k in ("l1_s2", "l1_s1")]
    assert float(out["loss"].detach()) == pytest.approx(sum(each) / 2, rel=1e-5)


def test_each_place_hides_dates_of_its_own(spec: Spec) -> None:
    batch = random_batch(spec, 16)
    shown, rest = build("temporal", spec, dates=0.3).hide(batch, ())
    s2 = (shown.sensors["s2"].day[:, :, None] == batch.sensors["s2"].day[:, None]).any(1)
    assert (s2.sum(1) == 2).all() and len({tuple(row) for row in s2.tolist()}) == 3
    assert not (shown.sensors["s2"].day[:, :, None] == rest["s2"].day[:, None]).any()
    assert shown.sensors["s1"].x.shape[1] == rest["s1"].x.shape[1] == 1  # one of two is hidden and one is seen
    torch.testing.assert_close(shown.sensors["dem"].x, batch.sensors["dem"].x, rtol=0, atol=0)


@pytest.mark.parametrize("loss_on", ["hidden", "all"])
def test_labels_of_what_is_seen_teach_nothing_where_the_loss_is_on_the_hidden(
    loss_on: str, spec: Spec, batch: Batch
) -> None:
    objective = build("masked_seg", spec, loss_on=loss_on, mask_ratio=0.5).eval()
    gone: list[Tensor] = []
    predict = objective.predict
    objective.predict = lambda *args: gone.append(args[-1]) or predict(*args)

    def loss(target: Tensor) -> float:
        torch.manual_seed(1)
        return float(objective(batch.replace(targets={"map": target}))["loss"].detach())

    target = batch.targets["map"]
    before = loss(target)
    pixels = gone[0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    other = (target + 1) % 5
    assert (loss(torch.where(pixels, target, other)) == before) == (loss_on == "hidden")
    assert loss(torch.where(pixels, other, target)) != before


def test_smoothing_and_rare_classes_by_hand() -> None:
    """0.1 of each label is spread over all classes; the weight is that of the label alone."""
    head = MapHead(1, 3, label_smoothing=0.1).eval()
    head.counts.copy_(torch.tensor([600.0, 300.0, 100.0]))
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, -1]]])
    share = torch.tensor([0.6, 0.3, 0.1])
    weight = (share.mean() / share).sqrt()
    nll = -logits.log_softmax(1)[0].flatten(1)  # (3, 4)
    each = torch.stack([0.9 * nll[k, i] + 0.1 * nll[:, i].mean() for i, k in enumerate((0, 1, 2))])
    torch.testing.assert_close(head.loss(logits, target), (weight * each).sum() / weight.sum())


# -- contrastive


def test_a_cell_is_compared_with_itself_in_the_other_look(
    spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had both looks seen the raw means of cells, they would be equal: what was turned is turned back."""

    def raw(self: Contrastive, shown: Batch, _: Tokens) -> Tensor:
        return F.avg_pool2d(shown.sensors["s2"].x.flatten(1, 2)[:, :16], 8)

    monkeypatch.setattr(Contrastive, "look", raw)
    objective, heard = build("contrastive", spec), []
    objective.head.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    for seed in range(4):  # of turns
        torch.manual_seed(seed)
        objective(batch)
    for one, other in zip(heard[::2], heard[1::2], strict=True):
        torch.testing.assert_close(one, other)


def test_contrastive_by_hand(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own cell against cells that are real and not alike, both ways, averaged over real cells."""
    place = random_batch(spec, 2)
    batch = collate([place, place.first(1)])  # the third place is the first once more
    for s in batch.sensors.values():
        s.valid[1, :, :8, :8] = False  # the first cell of the second shows nothing
    picks: list[Tensor] = []
    choose = contrastive.chosen
    monkeypatch.setattr(contrastive, "chosen", lambda x, pick: picks.append(pick) or choose(x, pick))
    objective, said = build("contrastive", spec, temperature=0.3, duplicate=1e-3), []
    objective.head.register_forward_hook(lambda *args: said.append(args[-1].detach().double()))
    torch.manual_seed(1)
    out = objective(batch)
    pick = picks[0]
    cell = [(b, int(c)) for b in range(3) for c in pick[b]]
    real = torch.tensor([c != (1, 0) for c in cell])
    statistics = cell_statistics(batch, 8)
    x = torch.stack([statistics[c] for c in cell]).double()
    alike = (x[:, None] - x[None]).square().mean(-1).sqrt() <= 1e-3
    assert alike.sum() == 3 * 16 + 2 * 16  # itself, and the twins of the first and third place
    a, b = (F.normalize(z, dim=1) for z in said)
    rivals = (real[None] & ~alike) | torch.eye(len(cell), dtype=torch.bool)
    losses = [
        F.cross_entropy((q @ k.T / 0.3).masked_fill(~rivals, -torch.inf), torch.arange(len(cell)), reduction="none")
        for q, k in ((a, b), (b, a))
    ]
    by_hand = ((losses[0] + losses[1]) / 2)[real].mean()
    assert float(out["loss"].detach()) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(out["rivals"]) == pytest.approx(float((real[None] & ~alike).sum(1)[real].double().mean()))
