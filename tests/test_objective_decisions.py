"""What objectives hide, how they weigh what they predict, and by what they divide it: by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch
from test_models import altered
from test_objectives import build, options
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.errors import InputError
from gfm_objectives.models import masking
from gfm_objectives.models.heads import MapHead, SeriesHead, ShareHead
from gfm_objectives.models.masking import Mask
from gfm_objectives.models.positions import day_features, metres
from gfm_objectives.models.unet import UNet
from gfm_objectives.objectives import build_objective, contrastive
from gfm_objectives.objectives.contrastive import Contrastive, cell_statistics

MASKED = ["mae", "latent", "jepa", "masked_seg", "map_contrast", "cross_sensor", "temporal", "mix", "thor"]


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_the_share_that_is_hidden_is_the_one_asked_for(name: str, ratio: float, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec, mask_ratio=ratio)
    shown: list[float] = []
    objective.encoder.register_forward_pre_hook(
        lambda _, args: shown.extend(args[1].seen.flatten(1).float().mean(1).tolist())
    )
    for variant in objective.variants()[-2:]:
        objective(batch, variant)
    assert len(shown) >= 4 and set(shown) == {1 - ratio}


@pytest.mark.parametrize("name", MASKED)
def test_a_share_that_hides_nothing_is_refused(name: str, spec: Spec, batch: Batch) -> None:
    """Else the loss is that of what is seen, or of nothing, and no word is said."""
    objective = build(name, spec, mask_ratio=0.004)
    with pytest.raises(InputError, match=r"^objective\.mask_ratio: 0\.004 of the cells of a place, \d+, hides none"):
        objective(batch, objective.variants()[-1])


def test_cells_that_are_shown_are_one_at_least_and_never_all_unless_asked_for() -> None:
    for share, n, cells in ((0.75, 16, 12), (0.01, 16, 1), (0.5, 2, 1), (1.0, 1, 1), (1.0, 16, 16)):
        assert masking.shown(share, n) == cells
    for share, n in ((0.5, 1), (0.01, 1), (0.98, 16)):
        with pytest.raises(InputError, match="hides none"):
            masking.shown(share, n)


def test_supervised_sees_everything(spec: Spec, batch: Batch) -> None:
    objective, shown = build("supervised", spec), []
    objective.encoder.stem.register_forward_pre_hook(lambda _, args: shown.append(args[1:]))
    objective(batch)
    assert shown == [(None,)]


@pytest.mark.parametrize("name", ["masked_seg", "map_contrast", "cross_sensor", "temporal"])
def test_positions_are_hidden_whole(name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec)
    shown, _ = objective.withhold(batch, objective.variants()[0])
    mask = objective.mask(shown, objective.variants()[0])
    assert torch.equal(mask.seen.any(1), mask.seen.all(1)) and mask.keep is None


@pytest.mark.parametrize("name", ["masked_seg", "map_contrast", "cross_sensor", "temporal", "mix", "thor"])
def test_hidden_positions_never_reach_the_features(name: str, spec: Spec, batch: Batch) -> None:
    """Nor, through them, the prediction; what is hidden is the target of some."""
    objective = build(name, spec).eval()
    for variant in objective.variants():
        shown, _ = objective.withhold(batch, variant)
        mask = objective.mask(shown, variant)
        before, after = (objective.encoder(b, mask).dense for b in (shown, altered(shown, mask)))
        assert torch.equal(before, after), variant


# -- masks


@pytest.fixture
def full(spec: Spec) -> Batch:
    """64 places where all is valid: six slots of 16 cells, three of them of s2, two of s1."""
    return spec.dummy(64, "cpu")


def seen(full: Batch, keep: int, *kinds: str) -> Tensor:
    return masking.scattered(full, 8, keep / 96, kinds).seen  # (B, slots, h, w)


def test_a_mask_by_sensor_cuts_one_sensor_at_most(full: Batch) -> None:
    by_slot = seen(full, 32, "sensor").flatten(2).sum(2)
    by_sensor = torch.stack([by_slot[:, :3].sum(1), by_slot[:, 3:5].sum(1), by_slot[:, 5]], 1)
    whole = torch.tensor([48, 32, 16])
    assert (((by_sensor > 0) & (by_sensor < whole)).sum(1) <= 1).sum() > 60  # but where two draws are a hair apart
    assert all((by_sensor[:, k] > 0).any() and (by_sensor[:, k] == 0).any() for k in range(3))


@pytest.mark.parametrize("kind", masking.WHOLE)
def test_a_mask_by_position_is_the_same_at_all_dates_of_all_sensors(kind: str, full: Batch) -> None:
    visible = seen(full, 48, kind).float().mean(1)  # share of slots that see a cell
    assert ((visible == 0) | (visible == 1)).float().mean() > 0.9


def test_each_place_draws_a_kind_of_its_own(full: Batch) -> None:
    whole_dates = seen(full, 32, "random", "date").flatten(2).any(2).sum(1) == 2
    assert 16 < whole_dates.sum() < 48
    same = seen(full, 32, "date").flatten(2).any(2)
    assert len({tuple(row.tolist()) for row in same}) > 5  # and, of that kind, slots of its own


def test_positions_are_hidden_in_blocks_or_one_by_one(full: Batch) -> None:
    """By default either: with 8 of 16 cells kept, neighbours agree more often than by chance alone."""

    def agree(*kinds: str) -> float:
        gone = masking.positions(full, 8, 0.5, *([kinds] if kinds else [])).hidden
        return (gone[:, :, 1:] == gone[:, :, :-1]).float().mean().item()

    assert agree("cell") + 0.05 < agree() < agree("block") - 0.05


def test_positions_that_show_nothing_are_hidden_first(batch: Batch) -> None:
    for s in batch.sensors.values():
        s.valid[:, :, :8] = False  # the first row of cells
    gone = masking.positions(batch, 8, 12 / 16).hidden
    assert gone[:, 0].all() and not gone[:, 1:].any()


def test_masks_of_any_grid(spec: Spec) -> None:
    """Rows are not columns: 2 x 5 cells of 8 pixels, 4 x 10 of 4."""
    batch = random_batch(Spec(spec.bands, spec.dates, 40, 10.0, spec.legends), 2).map_grids(lambda t, _: t[..., :16, :])
    for patch, grid in ((8, (2, 5)), (4, (4, 10))):
        for mask in (masking.scattered(batch, patch, 0.5), masking.positions(batch, patch, 0.5, encode="seen")):
            assert mask.seen.shape == (2, 6, *grid)
            assert (mask.seen.flatten(1).sum(1) == 3 * grid[0] * grid[1]).all()


# -- places and days


def test_cells_know_where_they_are_in_metres() -> None:
    """Of a place's centre, whatever the size of its pixels: 2 x 3 cells of 8 pixels, each wave's mean over a cell."""
    code = metres((2, 3), 8, torch.tensor([10.0, 30.0]), 24)
    wave = 4 * 25000 ** (torch.arange(6).double() / 5)  # 4 m to 100 km
    for b, gsd in enumerate((10.0, 30.0)):
        for row in range(2):
            for column in range(3):
                parts = []
                for cell in (row - 0.5, column - 1.0):
                    at = (cell + (torch.arange(4000).double() + 0.5) / 4000 - 0.5) * 8 * gsd  # metres, all over it
                    angle = 2 * math.pi * at[:, None] / wave
                    parts += [angle.sin().mean(0), angle.cos().mean(0)]
                by_hand = torch.cat(parts).float() / 2
                torch.testing.assert_close(code[b, 3 * row + column], by_hand, atol=1e-3, rtol=1e-3)
    point = metres((2, 3), 8, torch.tensor([0.01]), 24)[0]  # cells of 8 cm: a plain sine and cosine
    angles = [2 * math.pi * 0.08 * at / wave for at in (-0.5, 1.0)]
    by_hand = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)]).float() / 2
    torch.testing.assert_close(point[2], by_hand, atol=1e-3, rtol=0)


@pytest.mark.parametrize("gsd", [0.3, 10.0, 100.0])
def test_waves_too_short_for_a_cell_fade_instead_of_aliasing(gsd: float) -> None:
    """The code of a large cell is the mean of those of the cells it consists of, so no wave shows as a longer one."""
    fine, coarse = (metres((n, n), 64 // n, torch.tensor([gsd]), 64)[0] for n in (16, 4))
    mean = fine.view(4, 4, 4, 4, 64).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(coarse, mean, atol=1e-4, rtol=1e-3)
    wave = torch.logspace(math.log10(4), 5, 16)
    for axis in coarse.unflatten(1, (2, 2, 16)).abs().amax((0, 2)):
        assert (axis <= 0.5 * wave / (math.pi * 16 * gsd) + 1e-6).all()
        assert axis[-1] > 0.49, "long waves stay"


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


def test_tokens_tell_the_shares_of_classes_in_their_patch_by_hand() -> None:
    head = ShareHead(3, 4)
    tokens = torch.randn(2, 2 * 3, 3)  # of 2 x 3 patches of 4 pixels
    target = torch.randint(-1, 4, (2, 8, 12))
    log_share = (tokens @ head.logits.weight.T + head.logits.bias).log_softmax(-1)
    each = [
        -log_share[b, row // 4 * 3 + column // 4, target[b, row, column]]
        for b, row, column in (target >= 0).nonzero().tolist()
    ]
    torch.testing.assert_close(head.loss(tokens, target, 4), torch.stack(each).mean())
    assert head.loss(tokens, torch.full_like(target, -1), 4) == 0


@pytest.mark.parametrize("name", ["masked_seg", "supervised"])
def test_tokens_are_asked_beside_the_features(name: str, spec: Spec, batch: Batch) -> None:
    losses, asked = [], []
    for weight in (0.0, 0.5):
        objective = build(name, spec, token_weight=weight)
        if weight:
            loss = objective.shares.loss
            objective.shares.loss = lambda *args, loss=loss: asked.append(loss(*args)) or asked[-1]
        torch.manual_seed(1)
        losses.append(objective(batch)["loss"])
    torch.testing.assert_close(losses[1], losses[0] + 0.5 * asked[0])
    assert build(name, spec).shares is None
    with pytest.raises(InputError, match=r"objective\.token_weight: a U-Net has no tokens; set it to 0"):
        build_objective(options("supervised") | {"token_weight": 1.0}, UNet(spec, 0, 8), spec)


def test_a_series_is_read_by_a_linear_map_that_the_day_draws_up() -> None:
    """Of each pixel's features, for each date of each place another."""
    torch.manual_seed(0)
    head = SeriesHead(5, {"s1": 2, "s2": 3}, decay=0.9)
    dense, when = torch.randn(2, 5, 4, 6), torch.randn(2, 3, 5)
    out = head(dense, "s2", when)
    assert out.shape == (2, 3, 3, 4, 6) and out.dtype == torch.float32
    maps = head.out["s2"].weight.detach().view(3, 6, 5)  # of each band: one by itself, and one for each day feature
    for b in range(2):
        for t in range(3):
            weight = maps[:, 0] + sum(when[b, t, k] * maps[:, k + 1] for k in range(5))
            bias = head.out["s2"].bias + head.day["s2"].weight @ when[b, t] + head.day["s2"].bias
            by_hand = (weight @ dense[b].flatten(1) + bias[:, None]).view(3, 4, 6)
            torch.testing.assert_close(out[b, t], by_hand)
    torch.testing.assert_close(head(2 * dense, "s2", when) - out, out - head(0 * dense, "s2", when))  # linear


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
    shown, rest = build("temporal", spec, dates=0.3, future=0.0).withhold(batch, ())
    s2 = (shown.sensors["s2"].day[:, :, None] == batch.sensors["s2"].day[:, None]).any(1)
    assert (s2.sum(1) == 2).all() and len({tuple(row) for row in s2.tolist()}) == 3
    assert not (shown.sensors["s2"].day[:, :, None] == rest["s2"].day[:, None]).any()
    assert shown.sensors["s1"].x.shape[1] == rest["s1"].x.shape[1] == 1  # one of two is hidden and one is seen
    torch.testing.assert_close(shown.sensors["dem"].x, batch.sensors["dem"].x, rtol=0, atol=0)


@pytest.mark.parametrize("seen_weight", [0.0, 0.25, 1.0])
def test_pixels_that_are_seen_weigh_what_is_asked_for(seen_weight: float, spec: Spec, batch: Batch) -> None:
    """By hand, where every class weighs the same; labels of what is seen teach nothing where that weighs 0."""
    objective = build("masked_seg", spec, seen_weight=seen_weight, mask_ratio=0.5, label_smoothing=0.0).eval()
    said: list[Tensor] = []
    objective.head.register_forward_hook(lambda *args: said.append(args[-1].detach()))

    def step(target: Tensor) -> dict[str, float]:
        torch.manual_seed(1)
        return {k: float(v.detach()) for k, v in objective(batch.replace(targets={"map": target})).items()}

    target = batch.targets["map"]
    before = step(target)
    torch.manual_seed(1)
    hidden = objective.mask(batch, ()).hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)
    weight = torch.where(hidden, 1.0, seen_weight) * (target >= 0)
    each = F.cross_entropy(said[0], target.clamp(min=0), reduction="none")
    assert before["loss"] == pytest.approx(float((each * weight).sum() / weight.sum()), rel=1e-5)
    fourth = (slice(None), slice(None, None, 4), slice(None, None, 4))
    asked = (hidden & (target >= 0))[fourth]
    right = (said[0].argmax(1) == target)[fourth]
    assert before["accuracy_hidden"] == pytest.approx(float(right[asked].float().mean()))
    other = (target + 1) % 5
    assert (step(torch.where(hidden, target, other))["loss"] == before["loss"]) == (seen_weight == 0)
    assert step(torch.where(hidden, other, target))["loss"] != before["loss"]


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

    def raw(self: Contrastive, shown: Batch, _: Mask) -> Tensor:
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
