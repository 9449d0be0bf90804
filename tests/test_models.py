"""Tokens, encoder, dense path and masks: shapes, exact k, invalid pixels, bands and sensors it was not trained on."""

from __future__ import annotations

import pytest
import torch
from conftest import NANO, random_batch

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models import masking
from gfm_objectives.models.bands import BandWeights
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.tokens import Tokens


@pytest.fixture
def encoder(spec: Spec) -> Encoder:
    torch.manual_seed(0)
    return Encoder.from_config(NANO, spec).eval()


def spoiled(batch: Batch, value: float = float("nan")) -> Batch:
    """The same batch with rubbish where nothing is valid."""
    sensors = {
        k: Series(s.x.masked_fill(~s.valid[:, :, None], value), s.valid, s.day, s.bands)
        for k, s in batch.sensors.items()
    }
    return batch.replace(sensors=sensors)


@pytest.mark.parametrize(
    "size", [{"dim": 60}, {"heads": 3}, {"heads": 0}, {"patch": 7}, {"patch": 1}, {"dense_width": 2}]
)
def test_sizes_that_do_not_fit_are_refused(size: dict[str, int], spec: Spec) -> None:
    ((name, value),) = size.items()
    with pytest.raises(InputError, match=rf"^encoder: .*{name}={value}.* do not fit: dim must be a multiple of 8"):
        Encoder.from_config({**NANO, **size}, spec)


def test_shapes(encoder: Encoder, batch: Batch) -> None:
    tokens = encoder.tokenize(batch)
    assert tokens.x.shape == (4, (3 + 2 + 1) * 16, 64)
    assert tokens.slots == ("s2",) * 3 + ("s1",) * 2 + ("dem",)
    z = encoder(tokens)
    assert z.shape == tokens.x.shape
    assert encoder.dense(batch, tokens, z).shape == (4, 16, 32, 32)
    assert Segmenter(encoder, 7)(batch).shape == (4, 7, 32, 32)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_invalid_pixels_change_nothing(encoder: Encoder, batch: Batch, value: float) -> None:
    model = Segmenter(encoder, 3)
    torch.testing.assert_close(model(spoiled(batch, value)), model(batch), rtol=0, atol=0)


def test_every_sensor_and_date_matters(encoder: Encoder, batch: Batch) -> None:
    model = Segmenter(encoder, 3)
    before = model(batch)
    for name, s in batch.sensors.items():
        for t in range(s.x.shape[1]):
            x = s.x.clone()
            x[:, t] += s.valid[:, t, None] * 0.5
            after = model(batch.replace(sensors=batch.sensors | {name: Series(x, s.valid, s.day, s.bands)}))
            assert (after - before).abs().max() > 1e-6, (name, t)


def test_the_order_of_dates_does_not_matter_but_their_days_do(encoder: Encoder, batch: Batch) -> None:
    """Series are sets of dated images: permuting images with their days is the same input, without them another."""
    model = Segmenter(encoder, 3)
    s = batch.sensors["s2"]
    turned = Series(s.x.flip(1), s.valid.flip(1), s.day.flip(1), s.bands)
    same = model(batch.replace(sensors=batch.sensors | {"s2": turned}))
    torch.testing.assert_close(same, model(batch), rtol=1e-4, atol=1e-5)
    other = model(batch.replace(sensors=batch.sensors | {"s2": Series(turned.x, turned.valid, s.day, s.bands)}))
    assert (other - same).abs().max() > 1e-4


def test_a_place_without_any_valid_pixel_is_finite(encoder: Encoder, batch: Batch) -> None:
    none = {k: Series(s.x * 0, torch.zeros_like(s.valid), s.day, s.bands) for k, s in batch.first(2).sensors.items()}
    assert torch.isfinite(Segmenter(encoder, 3)(batch.first(2).replace(sensors=none))).all()


def test_take_and_visible(encoder: Encoder, batch: Batch) -> None:
    tokens = encoder.tokenize(batch)
    index = torch.stack([torch.randperm(96)[:10] for _ in range(4)])
    taken = tokens.take(index)
    assert taken.x.shape == (4, 10, 64)
    assert taken.visible().sum().item() == 40
    assert taken.visible().flatten(1)[torch.arange(4)[:, None], taken.id].all()
    assert encoder(taken).shape == (4, 10, 64)
    torch.testing.assert_close(taken.x[2, 3], tokens.x[2, index[2, 3]])


@pytest.mark.parametrize("kind", masking.KINDS)
@pytest.mark.parametrize("keep", [1, 13, 48])
def test_masks_keep_exactly_k_and_prefer_valid_tokens(encoder: Encoder, batch: Batch, kind: str, keep: int) -> None:
    tokens = encoder.tokenize(batch)
    kept, hidden = masking.split(tokens, keep, (kind,))
    assert kept.shape == (4, keep) and hidden.shape == (4, 96 - keep)
    assert torch.cat([kept, hidden], 1).sort(1).values.eq(torch.arange(96)).all()
    fewer = tokens.valid.sum(1) < keep
    assert (tokens.valid.gather(1, kept).all(1) | fewer).all()


def test_masks_have_the_structure_they_claim(encoder: Encoder, spec: Spec) -> None:
    full = spec.dummy(64, "cpu")
    tokens = encoder.tokenize(full)

    def slots_touched(kind: str) -> float:
        kept, _ = masking.split(tokens, 32, (kind,))
        return tokens.take(kept).visible().flatten(2).any(2).float().sum(1).mean().item()

    assert slots_touched("date") == 2  # 32 tokens are two whole slots of 16
    assert slots_touched("random") > 5.5

    def neighbours(kind: str) -> float:
        _, gone = masking.split_cells(tokens, 8, (kind,))
        return (gone[:, :, 1:] == gone[:, :, :-1]).float().mean().item()

    assert neighbours("block") > neighbours("random") + 0.1


def test_cells_are_hidden_at_all_dates_of_all_sensors(encoder: Encoder, batch: Batch) -> None:
    tokens = encoder.tokenize(batch)
    kept, hidden = masking.split_cells(tokens, 5)
    assert kept.shape == (4, 5 * 6)
    seen = tokens.take(kept).visible()
    assert (seen == ~hidden[:, None]).all()
    assert hidden.flatten(1).sum(1).eq(11).all()


def test_hidden_of_counts_hidden_valid_tokens_only(encoder: Encoder, batch: Batch) -> None:
    tokens = encoder.tokenize(batch)
    kept, hidden = masking.split(tokens, 90, ("random",))  # six hidden at most: fewer than asked of any sensor
    where, weight = masking.hidden_of(hidden, tokens, "s1", 20)
    assert where.shape == weight.shape == (4, 20)
    truth = torch.zeros(4, 96, dtype=torch.bool).scatter(1, hidden, True) & tokens.valid
    assert (weight.sum(1) == truth[:, 48:80].sum(1)).all()
    assert (where >= 48).all() and (where < 80).all()
    assert not (kept[:, :, None] == where.masked_fill(weight == 0, -1)[:, None]).any()


def test_hidden_pixels_do_not_leak_through_the_dense_path(encoder: Encoder, batch: Batch) -> None:
    tokens = encoder.tokenize(batch)
    kept, hidden = masking.split_cells(tokens, 6)
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)
    other = {
        k: Series(torch.where(pixels[:, None, None], torch.randn_like(s.x), s.x), s.valid, s.day, s.bands)
        for k, s in batch.sensors.items()
    }
    changed = batch.replace(sensors=other)

    def features(b: Batch) -> torch.Tensor:
        visible: Tokens = encoder.tokenize(b).take(kept)
        return encoder.dense(b, visible, encoder(visible))

    torch.testing.assert_close(features(changed), features(batch), rtol=0, atol=0)


def test_fewer_bands_select_blocks(encoder: Encoder, batch: Batch) -> None:
    s = batch.sensors["s2"]
    pick = [1, 2, 6]
    few = Series(s.x[:, :, pick], s.valid, s.day, tuple(s.bands[i] for i in pick))
    assert Segmenter(encoder, 3)(batch.replace(sensors={"s2": few})).shape == (4, 3, 32, 32)
    weights: BandWeights = encoder.tokenizer.embed["s2"]  # type: ignore[assignment]
    torch.testing.assert_close(weights(few.bands), weights.weight[pick] * (10 / 3))


def test_band_dropout_keeps_the_scale_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    w = BandWeights("s2", ("B02", "B03", "B04", "B08"), 9, 4, drop=0.5)
    dropped = torch.stack([w(w.bands) for _ in range(200)])
    assert (dropped.flatten(2).abs().amax(2) == 0).float().mean() > 0.2
    w.eval()
    torch.testing.assert_close(w(w.bands), w.weight)


def test_new_bands_and_sensors_start_from_the_nearest_wavelength(encoder: Encoder, batch: Batch, spec: Spec) -> None:
    before = encoder.tokenizer.embed["s2"].weight.detach().clone()
    hls = Spec({"hls": ("blue", "nir"), "s2": ("B02", "B01")}, {"hls": 1, "s2": 1}, 32, 30.0, {})
    encoder.extend(hls)
    assert encoder.bands["s2"][-1] == "B01"
    torch.testing.assert_close(encoder.tokenizer.embed["s2"].weight[:10], before)
    torch.testing.assert_close(encoder.tokenizer.embed["s2"].weight[10], before[0])  # 443 nm is nearest to B02
    torch.testing.assert_close(encoder.tokenizer.embed["hls"].weight[1], before[7] * 5)  # 865 nm is B8A, of 10 for 2
    assert Segmenter(encoder, 3)(random_batch(hls, 2)).shape == (2, 3, 32, 32)


def test_map_head_ignores_unlabelled_and_unwanted_pixels() -> None:
    head = MapHead(4, 3).eval()
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    where = torch.rand(2, 8, 8) > 0.5
    a = head.loss(logits, target, where)
    b = head.loss(logits, torch.where(where, target, -1))
    torch.testing.assert_close(a, b)
    assert head.loss(logits, torch.full((2, 8, 8), -1)) == 0


def test_map_head_weighs_by_inverse_root_frequency_up_to_five() -> None:
    head = MapHead(1, 2, label_smoothing=0.0).eval()
    head.counts.copy_(torch.tensor([400.0, 100.0]))
    logits = torch.tensor([[2.0, -1.0], [0.0, 0.0]]).T[None, :, None]  # (1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    w0, w1 = (0.5 / 0.8) ** 0.5, (0.5 / 0.2) ** 0.5
    each = -logits.log_softmax(1)[0, :, 0]
    by_hand = (w0 * each[0, 0] + w1 * each[1, 1]) / (w0 + w1)
    torch.testing.assert_close(head.loss(logits, target), by_hand)
    head.counts.copy_(torch.tensor([1e9, 1.0]))
    w0 = 0.5**0.5
    torch.testing.assert_close(head.loss(logits, target), (w0 * each[0, 0] + 5 * each[1, 1]) / (w0 + 5))


def test_what_is_not_valid_may_as_well_be_absent(encoder: Encoder, batch: Batch) -> None:
    """A date without a valid pixel, and a sensor without any, are read as if they were not there."""
    s2, s1 = batch.sensors["s2"], batch.sensors["s1"]
    clouded = Series(s2.x, s2.valid.clone(), s2.day, s2.bands)
    clouded.valid[:, -1] = False
    absent = batch.replace(sensors={"s2": s2.map(lambda t: t[:, :-1]), "dem": batch.sensors["dem"]})
    silent = Series(s1.x, torch.zeros_like(s1.valid), s1.day, s1.bands)
    present = absent.replace(sensors=batch.sensors | {"s2": clouded, "s1": silent})
    model = Segmenter(encoder, 3)
    torch.testing.assert_close(model(present), model(absent), rtol=1e-4, atol=1e-5)


def test_invalid_tokens_are_nobodys_keys(encoder: Encoder, batch: Batch) -> None:
    one = encoder.tokenize(batch.first(1))
    assert not one.valid.all()
    valid = one.valid[0].nonzero()[None, :, 0]
    torch.testing.assert_close(encoder(one)[:, valid[0]], encoder(one.take(valid)), rtol=1e-4, atol=1e-5)


def test_a_hidden_date_weighs_nothing(spec: Spec) -> None:
    """Its pixels are zeroed, but its bias and day would still reach the pooled features."""
    torch.manual_seed(0)
    path = Encoder.from_config(NANO, spec).dense_path
    y = torch.randn(2, 3, 2 * path.width, 8, 8)
    alive = torch.ones(2, 3, 8, 8, dtype=torch.bool)
    alive[:, 2] = False
    assert torch.allclose(path.pool(y, alive), path.pool(y[:, :2], alive[:, :2]), atol=1e-6)
    assert path.pool(y, torch.zeros_like(alive)).abs().max() == 0
