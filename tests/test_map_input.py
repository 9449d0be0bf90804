"""The noisy map as an input: its planes, which disturb nothing at first; names of parts; its neighbourhood alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import NANO
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import build_encoder, shape_of
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.map_context import WINDOWS, MapContext, shares, window_sums
from gfm_objectives.models.map_input import WithMap, spec_with_map, with_map
from gfm_objectives.models.masking import positions, slots
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import FIRST, UNet, planes
from gfm_objectives.runs.checkpoint import load_encoder, save_encoder
from gfm_objectives.sensors import Legend

CLASSES = 5  # of the fixture's map
CONV = {**NANO, "depth": 0}


def scratch(name: str, spec: Spec) -> nn.Module:
    """Of what is told with the map."""
    torch.manual_seed(0)
    shown = spec_with_map(spec)
    model = {
        "vit": lambda: Segmenter(Encoder.from_config(NANO, shown), 3),
        "conv": lambda: Segmenter(Encoder.from_config(CONV, shown), 3),
        "unet": lambda: UNet(shown, 3, 8),
        "shared": lambda: UNet(shown, 3, 8, "shared"),
        "pixel": lambda: PixelMLP(shown, 3, 16),
    }[name]()
    return WithMap(model, CLASSES)


NAMES = ("vit", "conv", "unet", "shared", "pixel")


def another_map(batch: Batch, where: Tensor) -> Batch:
    """Other classes at `where` (B, H, W) bool; what has no label keeps none."""
    label = batch.targets["map"]
    return batch.replace(targets={"map": torch.where(where & (label >= 0), (label + 1) % CLASSES, label)})


def test_the_map_as_planes_by_hand(spec: Spec, batch: Batch) -> None:
    shown = with_map(batch, CLASSES)
    s, label = shown.sensors["map"], batch.targets["map"]
    assert s.bands == ("0", "1", "2", "3", "4") and s.x.shape == (4, 1, 5, 32, 32) and s.day.shape == (4, 1)
    assert torch.equal(s.valid[:, 0], label >= 0) and (label < 0).any()
    assert torch.equal(s.x[:, 0].sum(1), (label >= 0).float())
    assert torch.equal(s.x[:, 0].argmax(1)[label >= 0], label[label >= 0])
    described = spec_with_map(spec)
    assert described.dummy(4, "cpu").signature == shown.signature
    assert list(shown.sensors) == [*batch.sensors, "map"] and described.legends == spec.legends


def test_refusals(spec: Spec) -> None:
    none = Spec(spec.bands, spec.dates, 32, 10.0, {"crop": Legend("c", ("a", "b"))})
    with pytest.raises(InputError, match="no layer 'map', but crop"):
        spec_with_map(none)
    with pytest.raises(InputError, match="no layer 'map', but crop"):
        MapContext(none, 2)
    many = Spec(spec.bands, spec.dates, 32, 10.0, {"map": Legend("m", tuple(map(str, range(33))))})
    with pytest.raises(InputError, match="33 classes; as an input it may have 32"):
        spec_with_map(many)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_reads_the_map_and_is_counted(name: str, spec: Spec, batch: Batch) -> None:
    model = scratch(name, spec).eval()
    everywhere = torch.ones(4, 32, 32, dtype=torch.bool)
    with torch.no_grad():
        before, after = model(batch), model(another_map(batch, everywhere))
        none = model(batch.replace(targets={"map": torch.full((4, 32, 32), -1)}))
    assert before.shape == (4, 3, 32, 32) and not torch.equal(before, after)
    assert none.isfinite().all() and not torch.equal(before, none)
    cost = measure(model, batch.first(2), lambda m, b: m(b).sum())
    assert cost.total > cost.forward > 0


@pytest.mark.parametrize("name", ["vit", "conv"])
def test_a_pixel_without_a_class_adds_nothing_to_the_pixels_path(name: str, spec: Spec, batch: Batch) -> None:
    """Whatever stands in planes that are marked as invalid."""
    model, shown = scratch(name, spec).get_submodule("model").eval(), with_map(batch, CLASSES)
    s = shown.sensors["map"]
    x = s.x.masked_fill(~s.valid[:, :, None], float("nan"))
    spoiled = shown.replace(sensors={**shown.sensors, "map": Series(x, s.valid, s.day, s.bands)})
    assert torch.equal(model(spoiled), model(shown))


@pytest.mark.parametrize("options", [NANO, CONV], ids=["vit", "conv"])
def test_a_pretrained_encoder_is_not_disturbed_at_first_and_learns_to_read_it(
    options: dict, spec: Spec, batch: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pretrained = Encoder.from_config(options, spec)
    for part in (pretrained.stem, pretrained.way_back):  # as training leaves them; a map's validity is none of theirs
        torch.nn.init.normal_(part.validity)
    save_encoder(pretrained, tmp_path)
    plain, told = load_encoder(tmp_path), load_encoder(tmp_path).extend(spec_with_map(spec))
    shown = with_map(batch, CLASSES)
    assert torch.equal(told.features(shown), plain.features(batch))
    assert slots(shown) == slots(batch), "a map is not hidden"
    mask = positions(batch, 8, 0.5)
    assert torch.equal(told(shown, mask).dense, plain(batch, mask).dense)
    told.features(shown).square().sum().backward()
    for table in (told.stem.embed, told.way_back.composite):
        grad = table["map"].weight.grad
        assert isinstance(grad, Tensor) and (grad.abs().sum((1, 2)) > 0).all(), "every class"
    assert "map" not in told.stem.sensor, "it has neither day nor brightness"
    (tmp_path / "again").mkdir()
    save_encoder(told, tmp_path / "again")
    assert torch.equal(load_encoder(tmp_path / "again").features(shown), told.eval().features(shown))


@pytest.mark.parametrize("mode", ["stack", "shared"])
def test_a_pretrained_unet_is_not_disturbed_at_first(mode: str, spec: Spec, batch: Batch) -> None:
    torch.manual_seed(0)
    plain = UNet(spec, 0, 8, mode).eval()
    told = plain.refit(spec_with_map(spec)).eval()
    with torch.no_grad():
        torch.testing.assert_close(told.features(with_map(batch, CLASSES)), plain.features(batch))
    mine = [i for i, p in enumerate(planes(told.bands, told.dates, mode)) if p.sensor == "map"]
    assert len(mine) >= CLASSES and not told.state_dict()[FIRST][:, mine].any()


@pytest.mark.parametrize("name", NAMES)
def test_parts_have_the_names_of_the_model_itself(name: str, spec: Spec, batch: Batch) -> None:
    wrapped = scratch(name, spec)
    inner = wrapped.get_submodule("model")
    mine = [id(p) for n, p in wrapped.named_parameters() if n.startswith("encoder.")]
    assert mine == [id(p) for n, p in inner.named_parameters() if n.startswith("encoder.")]
    assert len(list(wrapped.parameters())) == len(list(inner.parameters())) and wrapped.head is inner.head
    if name != "pixel":
        assert wrapped.get_submodule("encoder") is inner.get_submodule("encoder")


def by_hand(label: Tensor, size: int, row: int, column: int) -> Tensor:
    r = size // 2
    window = label[max(0, row - r) : row + r + 1, max(0, column - r) : column + r + 1].flatten()
    seen = window[window >= 0]
    return torch.bincount(seen, minlength=CLASSES) / max(1, len(seen))


def test_shares_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    label = torch.randint(-1, CLASSES, (2, 40, 70), generator=g)
    label[1, :10, :10] = -1
    found = shares(label, CLASSES)
    assert found.shape == (2, len(WINDOWS) * CLASSES, 40, 70)
    for row, column in ((0, 0), (3, 4), (20, 33), (39, 69), (39, 2)):
        for place in (0, 1):
            want = torch.cat([by_hand(label[place], n, row, column) for n in WINDOWS])
            torch.testing.assert_close(found[place, :, row, column], want, rtol=1e-6, atol=0)
    assert found[1, : 3 * CLASSES, 3, 4].sum() == 0, "nothing is labelled within 7 pixels"


def test_window_sums_are_exact_on_a_large_scene() -> None:
    ones = torch.ones(1, 1, 600, 600)
    assert (window_sums(ones, 63)[0, 0, 31:-31, 31:-31] == 63 * 63).all() and window_sums(ones, 63)[
        0, 0, 0, 0
    ] == 32 * 32


def test_the_maps_neighbourhood_alone_sees_no_imagery_and_learns(spec: Spec, batch: Batch) -> None:
    torch.manual_seed(0)
    model = MapContext(spec, 2, width=16).eval()
    blank = batch.replace(sensors={k: Series(s.x * 0, s.valid, s.day, s.bands) for k, s in batch.sensors.items()})
    corner = torch.zeros(4, 32, 32, dtype=torch.bool)
    corner[:, :2, :2] = True
    with torch.no_grad():
        assert torch.equal(model(blank), model(batch))
        assert not torch.equal(model(another_map(batch, corner))[..., 31, 31], model(batch)[..., 31, 31]), "63 pixels"
    full = 32 * 32
    cost = measure(model, batch, lambda m, b: m(b).sum())
    assert cost.forward == 2 * full * (len(WINDOWS) * CLASSES * 16 + 2 * 16 * 16 + 16 * 2)
    model.train()
    near = shares(batch.targets["map"], CLASSES)[:, 2 * CLASSES]  # of the first class in 7 x 7 pixels
    target, optimiser = (near > near.median()).long(), torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch), target).backward()
        optimiser.step()
    assert (model(batch).argmax(1) == target).float().mean() > 0.9


def test_shapes_of_networks(spec: Spec) -> None:
    encoder = Encoder.from_config({**NANO, "band_dropout": 0.1}, spec)
    shape = shape_of(encoder)
    plain = {"mixer": "attention", "registers": 0, "skip_scale": 1.0}
    assert json.loads(shape) == {"model": "vit", **{k: v for k, v in NANO.items() if k != "name"}, **plain}
    again = build_encoder(json.loads(shape), spec_with_map(spec))
    assert shape_of(Segmenter(again, 3)) == shape_of(WithMap(Segmenter(again, 3), CLASSES)) == shape
    unet = UNet(spec, 4, 16, "shared")
    assert json.loads(shape_of(unet)) == {"model": "unet", "width": 16, "mode": "shared", "levels": 2}
    larger = Spec(spec.bands, spec.dates, 128, 10.0, spec.legends)
    assert (
        shape_of(build_encoder(json.loads(shape_of(unet)), larger))
        == shape_of(WithMap(unet, CLASSES))
        == shape_of(unet)
    )
    assert json.loads(shape_of(PixelMLP(spec, 3, 16))) == {"model": "pixel", "width": 16, "depth": 3}
    assert json.loads(shape_of(MapContext(spec, 3, 16))) == {"model": "context", "width": 16, "depth": 3}
