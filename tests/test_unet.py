"""The U-Net: shapes, cost by hand, invalid pixels, every date and sensor used, and that it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.unet import FIRST, UNet, by_date, planes, stack
from gfm_objectives.runs.checkpoint import load_encoder, load_model, save_encoder

SPEC = Spec(
    {"s2": ("B02", "B03", "B04"), "s1": ("VV",), "dem": ("elevation",)}, {"s2": 3, "s1": 2, "dem": 1}, 32, 10, {}
)


def random_batch(n: int, spec: Spec = SPEC, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    b = spec.dummy(n, "cpu")

    def fill(s: Series, last: float) -> Series:
        valid = torch.rand(s.valid.shape, generator=g) > 0.1
        x = torch.where(valid[:, :, None], torch.randn(s.x.shape, generator=g), 0)
        return Series(x, valid, torch.linspace(0, last, s.x.shape[1]).expand(n, -1), s.bands)

    return b.replace(sensors={k: fill(s, 200.0 + i) for i, (k, s) in enumerate(b.sensors.items())})


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_logits_and_gradients_reach_every_sensor_and_date(mode):
    torch.manual_seed(0)
    model, b = UNet(SPEC, 5, width=8, mode=mode), random_batch(2)
    xs = {k: s.x.clone().requires_grad_() for k, s in b.sensors.items()}
    b = b.replace(sensors={k: Series(xs[k], s.valid, s.day, s.bands) for k, s in b.sensors.items()})
    out = model(b)
    assert out.shape == (2, 5, 32, 32) and out.dtype == torch.float32
    out.square().sum().backward()
    for x in xs.values():
        assert (x.grad.abs().sum((2, 3, 4)) > 0).all()


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_bfloat16_autocast_agrees(mode):
    torch.manual_seed(0)
    model, b = UNet(SPEC, 4, width=8, mode=mode).eval(), random_batch(2)
    with torch.no_grad():
        full = model(b)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(b)
    assert half.dtype == torch.float32
    assert (full - half).abs().mean() < 0.05 * full.abs().mean()


def test_step_cost_by_hand():
    spec = Spec({"s2": ("B02", "B03")}, {"s2": 1}, 16, 10.0, {})
    w, k, full, half = 8, 3, 16 * 16, 8 * 8
    first = 2 * full * 9 * 5 * w  # two bands, validity, cosine, sine
    rest = full * 9 * w * w + half * 9 * (w * 2 * w + 4 * w * w)  # encoder, two levels
    rest += full * 9 * (3 * w * w + w * w)  # decoder: joined with the skip
    rest = 2 * (rest + full * 9 * w * k)  # head
    cost = measure(UNet(spec, k, width=w), spec.dummy(2), lambda m, b: m(b).sum())
    assert cost.forward == first + rest
    assert cost.total == 2 * first + 3 * rest  # the image needs no gradient


def test_inputs_by_hand():
    b = random_batch(2)
    assert stack(b).shape[1] == 3 * (3 + 3) + 2 * (1 + 3) + (1 + 3)
    frames, seen = by_date(b)
    assert frames.shape == (2, 3, (3 + 1) + (1 + 1) + (1 + 1) + 2, 32, 32)
    assert torch.equal(frames[:, :, :3], b.sensors["s2"].x)
    assert torch.equal(frames[:, 0, 4], b.sensors["s1"].x[:, 0, 0]) and torch.equal(
        frames[:, 2, 4], b.sensors["s1"].x[:, 1, 0]
    )
    assert torch.equal(frames[:, 2, 6], b.sensors["dem"].x[:, 0, 0])
    assert torch.equal(seen[:, 0], b.sensors["s2"].valid[:, 0] | b.sensors["s1"].valid[:, 0])


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_dates_that_share_a_day_are_all_read(mode):
    spec = Spec({"s2": ("B02",)}, {"s2": 2}, 16, 10.0, {})
    torch.manual_seed(0)
    model, s = UNet(spec, 2, width=8, mode=mode).eval(), random_batch(1, spec).sensors["s2"]
    series = Series(s.x, torch.ones_like(s.valid), torch.zeros(1, 2), s.bands)
    other = Series(s.x * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1), series.valid, series.day, s.bands)
    with torch.no_grad():
        one, two = (model(Batch({"s2": v}, {}, torch.tensor([10.0]))) for v in (series, other))
    assert (one - two).abs().max() > 1e-4


def test_a_date_without_a_valid_pixel_changes_nothing():
    torch.manual_seed(0)
    spec = Spec({"s2": ("B02",)}, {"s2": 3}, 32, 10.0, {})
    model, b = UNet(spec, 3, width=8, mode="shared").eval(), random_batch(2, spec)
    s = b.sensors["s2"]
    valid = torch.ones_like(s.valid)
    valid[:, 1] = False
    x = torch.where(valid[:, :, None], s.x, 0)
    blind = b.replace(sensors={"s2": Series(x, valid, s.day, s.bands)})
    moved = b.replace(sensors={"s2": Series(x, valid, s.day + torch.tensor([0.0, 40.0, 0.0]), s.bands)})
    with torch.no_grad():
        assert torch.equal(model(blind), model(moved))
        assert not torch.equal(model(blind), model(b))


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_it_learns(mode):
    torch.manual_seed(0)
    model, b = UNet(SPEC, 2, width=8, mode=mode), random_batch(4)
    label = (b.sensors["s2"].x[:, 1, 0] > 0).long()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(model(b), label).backward()
        optimiser.step()
    valid = b.sensors["s2"].valid[:, 1]
    assert (model(b).argmax(1) == label)[valid].float().mean() > 0.9


@pytest.mark.parametrize(("size", "levels"), [(32, 3), (64, 4), (128, 5), (256, 5)])
def test_levels_follow_the_grid(size, levels):
    spec = Spec(SPEC.bands, SPEC.dates, size, 10.0, {})
    assert len(UNet(spec, 2, width=8).encoder.channels) == levels


def test_resnet_weights(tmp_path):
    from segmentation_models_pytorch.encoders import get_encoder

    with pytest.raises(InputError, match=r"unet\.weights"):
        UNet(SPEC, 2, weights=tmp_path / "no.pth")
    torch.save(get_encoder("resnet34", weights=None).state_dict(), tmp_path / "resnet34.pth")
    for mode in ("stack", "shared"):
        model = UNet(SPEC, 2, mode=mode, weights=tmp_path / "resnet34.pth")
        assert model(random_batch(2)).shape == (2, 2, 32, 32)


def test_the_per_pixel_baseline_sees_no_neighbour():
    torch.manual_seed(0)
    model, b = PixelMLP(SPEC, 5, width=16).eval(), random_batch(2)
    with torch.no_grad():
        before = model(b)
        s = b.sensors["s2"]
        x = s.x.clone()
        x[:, 1, 0, 7, 9] += 3.0
        after = model(b.replace(sensors={**b.sensors, "s2": Series(x, s.valid, s.day, s.bands)}))
    moved = (after != before).any(1)
    assert before.shape == (2, 5, 32, 32) and moved[:, 7, 9].all() and moved.sum() == 2


def headless(spec: Spec, mode: str = "stack") -> UNet:
    torch.manual_seed(0)
    return UNet(spec, 0, width=8, mode=mode)


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_the_list_of_planes_is_that_of_the_input(mode):
    b = random_batch(2)
    image = stack(b) if mode == "stack" else by_date(b)[0][:, 1]
    names = planes(SPEC.bands, SPEC.dates, mode)
    assert len(names) == image.shape[1]
    s2, last = b.sensors["s2"], 1.0 if mode == "stack" else 0.0
    date = 2 if mode == "stack" else 1
    assert torch.equal(image[:, names.index(("s2", "B04", last))], s2.x[:, date, 2])
    assert torch.equal(image[:, names.index(("s2", "valid", last))], s2.valid[:, date].float())


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_refit_to_the_same_data_changes_nothing(mode):
    model, b = headless(SPEC, mode).eval(), random_batch(2)
    torch.manual_seed(1)
    with torch.no_grad():
        assert torch.equal(model.refit(SPEC).eval().features(b), model.features(b))
    assert model.features(b).shape == (2, model.width, 32, 32)


def test_refit_to_other_bands_dates_and_sizes_keeps_what_it_knows():
    old = headless(SPEC)
    new = old.refit(Spec({"s2": ("B03", "B8A"), "hls": ("blue",)}, {"s2": 2, "hls": 1}, 64, 10.0, {}))
    before, after = old.state_dict(), new.state_dict()
    mine, theirs = planes(old.bands, old.dates, "stack"), planes(new.bands, new.dates, "stack")

    def same(now: tuple, then: tuple) -> bool:
        return torch.equal(after[FIRST][:, theirs.index(now)], before[FIRST][:, mine.index(then)])

    assert same(("s2", "B03", 1.0), ("s2", "B03", 1.0)), "the last date keeps the weights of the last"
    assert same(("s2", "B8A", 0.0), ("s2", "B04", 0.0)) and same(("hls", "blue", 0.0), ("s2", "B02", 0.0))
    rest = [k for k in before if k != FIRST]
    assert all(torch.equal(before[k], after[k]) for k in rest) and new.options == old.options
    assert new.features(random_batch(2, Spec(new.bands, new.dates, 64, 10.0, {}))).shape == (2, 8, 64, 64)


def test_export(tmp_path):
    model = headless(SPEC, "shared").eval()
    save_encoder(model, tmp_path)
    again, b = load_model(tmp_path), random_batch(2)
    with torch.no_grad():
        assert torch.equal(again.features(b), model.features(b))
    with pytest.raises(InputError, match="holds a pretrained U-Net"):
        load_encoder(tmp_path)
