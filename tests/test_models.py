"""Encoder, stem and masks: shapes, exact shares, invalid and hidden pixels, bands and sensors it was not trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import NANO, random_batch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import masking
from gfm_objectives.models.bands import BandWeights
from gfm_objectives.models.encoder import Encoded, Encoder
from gfm_objectives.models.heads import MapHead
from gfm_objectives.models.masking import Mask
from gfm_objectives.models.positions import day_features
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.stem import COMPOSITES, Stem, date_shares, spread
from gfm_objectives.models.vit import Dilated

SLOTS = ("s2",) * 3 + ("s1",) * 2 + ("dem",)


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


def altered(batch: Batch, mask: Mask, value: float | None = None, seen: bool = False) -> Batch:
    """The same batch with other pixels, noise or `value`, where the mask hides them (seen: where it shows them), other
    validity too."""
    sensors, slot = {}, 0
    for name, s in batch.sensors.items():
        t = s.x.shape[1]
        here = spread(mask.seen[:, slot : slot + t], batch.size[0] // mask.seen.shape[2]) == seen
        x = torch.where(here[:, :, None], torch.randn_like(s.x) if value is None else value, s.x)
        valid = s.valid if seen else torch.where(here, torch.rand(s.valid.shape) > 0.5, s.valid)
        sensors[name] = Series(x, valid, s.day, s.bands)
        slot += t
    return batch.replace(sensors=sensors)


@pytest.mark.parametrize(
    "size", [{"dim": 60}, {"heads": 3}, {"heads": 0}, {"cell_dim": 20}, {"cell_dim": 0}, {"width": 0}]
)
def test_sizes_that_do_not_fit_are_refused(size: dict[str, int], spec: Spec) -> None:
    ((name, value),) = size.items()
    with pytest.raises(InputError, match=rf"^encoder: .*{name}={value}.* do not fit: cell_dim and dim must be mult"):
        Encoder.from_config({**NANO, **size}, spec)


@pytest.mark.parametrize("size", [{"patch": 7}, {"patch": 1}, {"patch": 0}, {"patches": [16, 6]}])
def test_patches_that_do_not_fit_are_refused(size: dict, spec: Spec) -> None:
    wrong = size["patch"] if "patch" in size else 6
    with pytest.raises(InputError, match=rf"^encoder.patch={wrong}: must be a multiple of 4 pixels"):
        Encoder.from_config({**NANO, **size}, spec)


def test_shapes(encoder: Encoder, batch: Batch) -> None:
    encoded = encoder(batch)
    assert encoded.tokens.shape == (4, 16, 64)  # of 8 x 8 pixels, whatever the dates and sensors
    assert encoded.dense.shape == (4, 16, 32, 32)
    assert torch.equal(encoder.features(batch), encoded.dense)
    assert Segmenter(encoder, 7)(batch).shape == (4, 7, 32, 32)
    merged = encoder.stem(batch)
    assert merged.cells.shape == (4, 64, 32) and merged.grid == (8, 8)
    assert merged.pixels["s2"].shape == (4, 64, COMPOSITES, 10 + 1, 16)


@pytest.mark.parametrize("patch", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(16, 16), (16, 40), (36, 20), (17, 31)])
def test_any_height_and_width_will_do_and_every_valid_pixel_counts(
    patch: int, size: tuple[int, int], spec: Spec
) -> None:
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "patch": patch}, spec)
    large = random_batch(Spec(spec.bands, spec.dates, 40, 10.0, spec.legends), 2)
    batch = large.map_grids(lambda t, _: t[..., : size[0], : size[1]].clone())
    for s in batch.sensors.values():
        s.x.requires_grad_()
    encoded = encoder(batch)
    rows, columns = (-(-n // patch) for n in size)
    assert encoded.tokens.shape == (2, rows * columns, 64) and encoded.dense.shape == (2, 16, *size)
    (encoded.dense.square().sum() + encoded.tokens[:, 0].sum()).backward()
    for name, s in batch.sensors.items():
        assert s.x.grad is not None and torch.equal(s.x.grad.abs().sum(2) > 0, s.valid), name


def test_one_encoder_is_asked_for_several_patches_of_different_cost(spec: Spec, batch: Batch) -> None:
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "patches": [16, 4]}, spec).eval()
    assert encoder.patches == (4, 8, 16) and encoder.patch == 8
    cost, dense = [], []
    for patch, tokens in ((4, 64), (8, 16), (16, 4)):
        encoder.patch = patch
        encoded = encoder(batch)
        assert encoded.tokens.shape == (4, tokens, 64) and encoded.dense.shape == (4, 16, 32, 32)
        dense.append(encoded.dense)
        cost.append(measure(encoder, spec.dummy(2), lambda m, b: m.features(b).sum()).total)
    assert cost[0] > cost[1] > cost[2]
    assert not torch.equal(dense[0], dense[1]) and not torch.equal(dense[1], dense[2])
    grown = {n for n, _ in encoder.named_parameters()} - {
        n for n, _ in Encoder(spec.bands, **OPTIONS).named_parameters()
    }
    assert {n.rpartition(".")[0] for n in grown} == {f"{p}.{k}" for p in ("vit.merge", "way_back.up") for k in (4, 16)}


OPTIONS = {k: v for k, v in NANO.items() if k != "name"}


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


# -- the stem


def test_cells_are_merged_by_hand(spec: Spec, batch: Batch) -> None:
    """Of one cell: each date's pixels by a linear map, told day and sensor; heads pick dates; sensors add up."""
    torch.manual_seed(0)
    stem = Stem(spec.bands, 32, 0.0).eval()
    stem.validity.data.normal_()
    place, row, column = 1, 2, 5
    rows, columns = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
    total, composite = torch.zeros(32), {}
    for name, s in batch.sensors.items():
        scores, found, shown = [], [], []
        for t in range(s.x.shape[1]):
            x, ok = s.x[place, t, :, rows, columns].flatten(1), s.valid[place, t, rows, columns].flatten()
            y = torch.einsum("cp,cpd->d", x * ok, stem.embed[name].weight) + ok.float() @ stem.validity
            y = F.gelu(y + stem.day(day_features(s)[place, t]) + stem.sensor[name])
            if ok.any():
                scores.append(stem.score(y).exp())
                found.append(y)
                shown.append(torch.cat([x * ok, ok[None].float()]))  # (C + 1, 16)
        total_score = 1 + sum(scores)  # of nothing: exp(0)
        composite[name] = torch.zeros(2, len(s.bands) + 1, 16)
        for e, x in zip(scores, shown, strict=True):
            composite[name] += (e / total_score)[8:, None, None] * x
        total = total + sum(y * (e / total_score)[:8].repeat_interleave(4) for e, y in zip(scores, found, strict=True))
    merged = stem(batch)
    torch.testing.assert_close(merged.cells[place, row * 8 + column], stem.norm(total), rtol=1e-4, atol=1e-5)
    for name, by_hand in composite.items():
        torch.testing.assert_close(merged.pixels[name][place, row * 8 + column], by_hand, rtol=1e-4, atol=1e-5)


def test_shares_of_dates_by_hand() -> None:
    score = torch.tensor([[[[0.0], [1.0], [2.0]], [[5.0], [-1.0], [0.0]]]])  # two cells of three dates
    alive = torch.tensor([[[True, True, False], [False, False, False]]])
    e = torch.tensor(1.0).exp()
    by_hand = torch.tensor([[1 / (2 + e), e / (2 + e), 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(date_shares(score, alive)[0, :, :, 0], by_hand)


def test_a_hidden_date_weighs_nothing(spec: Spec, batch: Batch) -> None:
    """Its pixels are zeroed, but its bias, day and sensor would still reach the cells and the composites."""
    torch.manual_seed(0)
    stem = Stem(spec.bands, 32, 0.0).eval()
    s2 = batch.sensors["s2"]
    absent = stem(batch.replace(sensors={"s2": s2.map(lambda t: t[:, :2])}))
    seen = torch.ones(4, 3, 1, 1, dtype=torch.bool)  # of whole dates
    seen[:, 2] = False
    hidden = stem(batch.replace(sensors={"s2": s2}), seen)
    torch.testing.assert_close(hidden.cells, absent.cells, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden.pixels["s2"], absent.pixels["s2"], rtol=1e-4, atol=1e-5)
    nothing = stem(batch.replace(sensors={"s2": s2}), torch.zeros_like(seen))
    assert nothing.pixels["s2"].abs().max() == 0
    assert torch.equal(nothing.cells, stem.norm.bias.expand_as(nothing.cells)), "the mask token"


# -- masks


@pytest.mark.parametrize("kind", masking.KINDS)
@pytest.mark.parametrize("keep", [1, 13, 48])
def test_masks_show_exactly_their_share_and_prefer_what_is_valid(batch: Batch, kind: str, keep: int) -> None:
    mask = masking.scattered(batch, 8, keep / 96, (kind,))
    assert mask.seen.shape == mask.valid.shape == (4, 6, 4, 4) and mask.keep is None
    assert (mask.seen.flatten(1).sum(1) == keep).all()
    fewer = mask.valid.flatten(1).sum(1) < keep
    assert ((mask.valid | ~mask.seen).flatten(1).all(1) | fewer).all()
    assert torch.equal(mask.hidden, (~mask.seen).all(1))


def test_a_cell_is_valid_where_one_of_its_pixels_is(batch: Batch) -> None:
    assert masking.slots(batch) == SLOTS
    for patch in (4, 8, 16):
        valid = masking.valid_cells(batch, patch)
        for slot, (name, t) in enumerate([("s2", 0), ("s2", 1), ("s2", 2), ("s1", 0), ("s1", 1), ("dem", 0)]):
            pixels = F.max_pool2d(batch.sensors[name].valid[:, t].float(), patch) > 0
            assert torch.equal(valid[:, slot], pixels), (patch, slot)


def test_masks_have_the_structure_they_claim(spec: Spec) -> None:
    full = spec.dummy(64, "cpu")

    def slots_touched(kind: str) -> float:
        seen = masking.scattered(full, 8, 1 / 3, (kind,)).seen
        return seen.flatten(2).any(2).float().sum(1).mean().item()

    assert slots_touched("date") == 2  # a third of six slots of 16
    assert slots_touched("random") > 5.5
    assert slots_touched("cell") == slots_touched("block") == 6

    def neighbours(kind: str) -> float:
        gone = masking.positions(full, 8, 0.5, (kind,)).hidden
        return (gone[:, :, 1:] == gone[:, :, :-1]).float().mean().item()

    assert neighbours("block") > neighbours("cell") + 0.1


@pytest.mark.parametrize("encode", ["all", "seen"])
def test_positions_are_hidden_at_all_dates_of_all_sensors(encode: str, batch: Batch) -> None:
    mask = masking.positions(batch, 8, 5 / 16, encode=encode)
    assert (mask.seen == ~mask.hidden[:, None]).all() and mask.seen.shape == (4, 6, 4, 4)
    assert mask.hidden.flatten(1).sum(1).eq(11).all()
    if encode == "all":
        assert mask.keep is None
    else:
        kept = torch.zeros(4, 16, dtype=torch.bool).scatter(1, mask.keep, True)
        assert mask.keep.shape == (4, 5) and torch.equal(kept, ~mask.hidden.flatten(1))


def test_hidden_of_counts_hidden_valid_cells_only(batch: Batch) -> None:
    mask = masking.scattered(batch, 8, 90 / 96, ("random",))  # six hidden at most: fewer than asked of any sensor
    where, weight = masking.hidden_of(mask, SLOTS, "s1", 20)
    assert where.shape == weight.shape == (4, 20)
    truth = (mask.valid & ~mask.seen)[:, 3:5].flatten(1)  # s1's two dates
    assert (weight.sum(1) == truth.sum(1)).all()
    assert torch.equal(truth.gather(1, where).float(), weight)
    assert all(len(set(row.tolist())) == 20 for row in where) and where.max() < 32


# -- what is hidden


def encode(encoder: Encoder, batch: Batch, mask: Mask) -> Encoded:
    with torch.no_grad():
        return encoder(batch, mask)


@pytest.mark.parametrize("kind", masking.KINDS)
@pytest.mark.parametrize("patch", [4, 16])
def test_what_is_hidden_before_the_merge_leaks_nowhere(kind: str, patch: int, spec: Spec, batch: Batch) -> None:
    """By cell, date or sensor: neither its pixels nor their validity reach tokens or features; what is seen does."""
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "patch": patch}, spec).eval()
    encoder.stem.validity.data.normal_()
    encoder.way_back.validity.data.normal_()
    mask = masking.scattered(batch, patch, 0.4, (kind,))
    before = encode(encoder, batch, mask)
    for value in (None, float("nan"), 1e6):
        after = encode(encoder, altered(batch, mask, value), mask)
        assert torch.equal(after.tokens, before.tokens) and torch.equal(after.dense, before.dense)
    after = encode(encoder, altered(batch, mask, seen=True), mask)
    assert not torch.equal(after.tokens, before.tokens) and not torch.equal(after.dense, before.dense)


def test_a_mask_that_shows_all_is_none(encoder: Encoder, batch: Batch) -> None:
    mask = masking.positions(batch, 8, 1.0)
    torch.testing.assert_close(encode(encoder, batch, mask).dense, encoder(batch).dense, rtol=0, atol=0)


def test_encode_seen_reads_the_kept_cells_alone_and_costs_less(spec: Spec, encoder: Encoder, batch: Batch) -> None:
    mask = masking.positions(batch, 8, 0.25, encode="seen")
    assert mask.keep is not None
    read: list[Tensor] = []
    hook = encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    some = encode(encoder, batch, mask)
    whole = encode(encoder, batch, Mask(mask.seen, mask.valid))
    hook.remove()
    index = mask.keep[..., None].expand(-1, -1, 64)
    assert torch.equal(read[0], read[1].gather(1, index)), "the same cells"
    assert torch.equal(some.tokens.abs().sum(2) > 0, ~mask.hidden.flatten(1)), "hidden ones come out as 0"
    after = encode(encoder, altered(batch, mask), mask)
    assert torch.equal(after.tokens, some.tokens) and torch.equal(after.dense, some.dense)
    assert not torch.equal(whole.dense, some.dense)

    def blocks(mask: Mask) -> float:
        shown = Mask(*(None if t is None else t.to("meta") for t in (mask.seen, mask.valid, mask.keep)))
        return measure(encoder, batch, lambda m, b: m(b, shown).dense.sum(), ["vit.blocks"]).parts["vit.blocks"]

    def by_hand(n: int, dim: int = 64) -> float:  # queries, keys and values, their products, output, MLP: and backward
        return 3 * 2 * 2 * (n * 3 * dim * dim + 2 * n * n * dim + n * dim * dim + 8 * n * dim * dim)

    assert (blocks(mask), blocks(Mask(mask.seen, mask.valid))) == (by_hand(4), by_hand(16))


# -- variants of the ViT and the way back


@pytest.mark.parametrize("options", [{"mixer": "convolution"}, {"registers": 3}, {"depth": 0, "registers": 2}])
def test_mixers_and_registers_are_read_by_the_blocks_alone(options: dict, spec: Spec, batch: Batch) -> None:
    """Tokens stand for places and nothing else; what is hidden stays hidden, on any grid."""
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, **options}, spec).eval()
    flat = batch.map_grids(lambda t, _: t[..., :16, :])
    mask = masking.scattered(flat, 8, 0.4)
    before, after = (encode(encoder, b, mask) for b in (flat, altered(flat, mask)))
    assert before.tokens.shape == (4, 2 * 4, 64) and before.dense.shape == (4, 16, 16, 32)
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.dense, after.dense)
    seen = encode(encoder, altered(flat, mask, seen=True), mask)
    assert not torch.equal(before.tokens, seen.tokens)
    with pytest.raises(InputError, match=r"encoder\.mixer=pooling: choose from attention, convolution"):
        Encoder.from_config({**NANO, "mixer": "pooling"}, spec)


def test_registers_matter_and_kept_cells_are_read_with_them(spec: Spec, batch: Batch) -> None:
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "registers": 3}, spec).eval()
    mask = masking.positions(batch, 8, 0.25, encode="seen")
    read: list[int] = []
    encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    some = encode(encoder, batch, mask)
    encoder.vit.registers.data.normal_()
    other = encode(encoder, batch, mask)
    assert read == [4 + 3] * 2 and some.tokens.shape == (4, 16, 64)
    assert torch.equal(some.tokens.abs().sum(2) > 0, ~mask.hidden.flatten(1))
    assert not torch.equal(some.tokens, other.tokens)


def test_convolutions_cost_by_hand_and_reach_by_their_steps(spec: Spec) -> None:
    """7 x 7 tokens of each channel, 1, 2 and 4 apart; an MLP."""
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "mixer": "convolution", "depth": 3}, spec)
    cost = measure(encoder, spec.dummy(2), lambda m, b: m.features(b).sum(), ["vit.blocks"])
    assert cost.parts["vit.blocks"] == 3 * 3 * 2 * 16 * (49 * 64 + 8 * 64 * 64)
    for step, block in zip((1, 2, 4), encoder.vit.blocks, strict=True):
        x = torch.zeros(1, 29 * 27, 64, requires_grad=True)
        block(x, (29, 27)).unflatten(1, (29, 27))[0, 14, 13].sum().backward()
        row, column = (x.grad[0].abs().sum(1).view(29, 27) > 0).nonzero().T
        assert set(row.tolist()) == set(range(14 - 3 * step, 15 + 3 * step, step))
        assert set(column.tolist()) == set(range(13 - 3 * step, 14 + 3 * step, step))


def test_a_dilated_block_adds_what_its_mlp_makes_of_normed_neighbours() -> None:
    block = Dilated(8, 2).eval()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(2, 5 * 4, 8)
    near = F.conv2d(x.mT.unflatten(2, (5, 4)), block.near.weight, block.near.bias, padding=6, dilation=2, groups=8)
    normed = F.layer_norm(near.flatten(2).mT, (8,), block.norm.weight, block.norm.bias)
    torch.testing.assert_close(block(x, (5, 4)), x + block.mlp(normed))


def test_composites_come_back_to_their_own_pixels(spec: Spec, batch: Batch) -> None:
    """Where tokens and cells are silent and dates weigh the same, a pixel moves itself and those around it."""
    torch.manual_seed(0)
    encoder = Encoder.from_config(NANO, spec).eval()
    torch.nn.init.zeros_(encoder.way_back.shuffle.weight)
    torch.nn.init.zeros_(encoder.stem.score.weight)
    s2 = batch.sensors["s2"]
    valid, x = torch.ones_like(s2.valid), s2.x.clone()
    x[..., 13, 22] += 1.0
    before, after = (encoder.features(batch.replace(sensors={"s2": s2.replace(x=t, valid=valid)})) for t in (s2.x, x))
    changed = ((after - before).abs().amax((0, 1)) > 0).nonzero()
    assert (changed.amin(0).tolist(), changed.amax(0).tolist()) == ([12, 21], [14, 23])


def test_pixel_dropout_leaves_the_tokens_alone_and_rests_in_eval(spec: Spec, batch: Batch) -> None:
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "pixel_dropout": 1.0}, spec)
    plain = Encoder.from_config(NANO, spec).train()
    plain.load_state_dict(encoder.state_dict())
    merged = encoder.stem(batch)
    z = torch.randn(4, 16, 64)
    nothing = type(merged)(merged.cells + 1, {k: 2 * x for k, x in merged.pixels.items()}, merged.bands, merged.grid)
    assert torch.equal(encoder.way_back(z, merged, 8), encoder.way_back(z, nothing, 8)), "tokens alone"
    assert not torch.equal(plain.way_back(z, merged, 8), plain.way_back(z, nothing, 8))
    plain.load_state_dict(encoder.state_dict())  # statistics of batch norm too
    assert torch.equal(encoder.eval().features(batch), plain.eval().features(batch))
    half = Encoder.from_config({**NANO, "pixel_dropout": 0.5}, spec).way_back.train()
    for m in half.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eval()  # or places would meet there
    many = [(half(z, merged, 8) - half(z, nothing, 8)).flatten(1).abs().amax(1) == 0 for _ in range(50)]
    assert 0.15 < torch.stack(many).float().mean() < 0.35  # of each place for itself: a quarter twice without


def test_skips_start_at_their_scale(spec: Spec) -> None:
    torch.manual_seed(0)
    whole = Encoder.from_config(NANO, spec).way_back
    torch.manual_seed(0)
    tenth = Encoder.from_config({**NANO, "skip_scale": 0.1}, spec).way_back
    scaled = {"skip.weight", *(f"composite.{s}.weight" for s in spec.bands)}
    for name, p in whole.named_parameters():
        other = dict(tenth.named_parameters())[name]
        torch.testing.assert_close(other, 0.1 * p if name in scaled else p)


# -- bands and sensors


def test_fewer_bands_select_blocks(encoder: Encoder, batch: Batch) -> None:
    s = batch.sensors["s2"]
    pick = [1, 2, 6]
    few = Series(s.x[:, :, pick], s.valid, s.day, tuple(s.bands[i] for i in pick))
    assert Segmenter(encoder, 3)(batch.replace(sensors={"s2": few})).shape == (4, 3, 32, 32)
    weights: BandWeights = encoder.stem.embed["s2"]  # type: ignore[assignment]
    torch.testing.assert_close(weights(few.bands), weights.weight[pick] * (10 / 3))


def test_band_dropout_keeps_the_scale_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    w = BandWeights("s2", ("B02", "B03", "B04", "B08"), 9, 4, drop=0.5)
    dropped = torch.stack([w(w.bands) for _ in range(200)])
    assert (dropped.flatten(2).abs().amax(2) == 0).float().mean() > 0.2
    for blocks in dropped:
        stays = blocks.flatten(1).abs().amax(1) > 0
        torch.testing.assert_close(blocks[stays], w.weight[stays] * (4 / stays.sum()))
    w.eval()
    torch.testing.assert_close(w(w.bands), w.weight)


def test_new_bands_and_sensors_start_from_the_nearest_wavelength(encoder: Encoder, batch: Batch, spec: Spec) -> None:
    tables = [encoder.stem.embed, encoder.way_back.composite]
    before = [t["s2"].weight.detach().clone() for t in tables]
    sensors = torch.stack([encoder.stem.sensor[s] for s in spec.bands])
    hls = Spec({"hls": ("blue", "nir"), "s2": ("B02", "B01")}, {"hls": 1, "s2": 1}, 32, 30.0, {})
    encoder.extend(hls)
    assert encoder.bands["s2"][-1] == "B01"
    for table, old in zip(tables, before, strict=True):
        torch.testing.assert_close(table["s2"].weight[:10], old)
        torch.testing.assert_close(table["s2"].weight[10], old[0])  # 443 nm is nearest to B02
        torch.testing.assert_close(table["hls"].weight[1], old[7] * 5)  # 865 nm is B8A, of 10 for 2
    torch.testing.assert_close(encoder.stem.sensor["hls"], sensors.mean(0))
    assert Segmenter(encoder, 3)(random_batch(hls, 2)).shape == (2, 3, 32, 32)


# -- heads


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


def test_attention_whose_backward_gives_nan_is_never_chosen() -> None:
    """cuDNN's, with 64 tokens (https://github.com/pytorch/pytorch/issues/196678); sdpa_kernel puts the switch back."""
    with sdpa_kernel(SDPBackend.MATH):
        pass
    assert not torch.backends.cuda.cudnn_sdp_enabled()
