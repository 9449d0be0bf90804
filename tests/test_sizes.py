"""Any height and width: padded inside to what a model needs, as invalid pixels, and cut back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from conftest import NANO, random_batch
from test_foreign import SPEC as FOREIGN_SPEC
from test_foreign import segmenter
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.map_context import MapContext
from gfm_objectives.models.map_input import WithMap, spec_with_map
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.sensors import S2_TEN, Legend

SPEC = Spec(
    {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)},
    {"s2": 2, "s1": 2, "dem": 1},
    32,
    10.0,
    {"map": Legend("letters", tuple("abcde"))},
)
# What is built for 32 x 32 pixels, and the multiple it needs.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (lambda: Segmenter(Encoder.from_config(NANO, SPEC), 3), 8),
    "conv": (lambda: Segmenter(Encoder.from_config({**NANO, "depth": 0}, SPEC), 3, kernel=3), 8),
    "unet": (lambda: UNet(SPEC, 3, 8), 4),
    "shared unet": (lambda: UNet(SPEC, 3, 8, "shared"), 4),
    "pretrained unet": (lambda: Segmenter(UNet(SPEC, 0, 8), 3, kernel=3), 4),
    "with map": (lambda: WithMap(Segmenter(Encoder.from_config(NANO, spec_with_map(SPEC)), 3), 5), 8),
    "pixel": (lambda: PixelMLP(SPEC, 3, 16), 1),
    "context": (lambda: MapContext(SPEC, 3, 16), 1),
    "foreign": (lambda: segmenter("timm"), 32),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def scene(height: int, width: int, spec: Spec = SPEC) -> Batch:
    """Two places of this size."""
    whole = random_batch(dataclasses.replace(spec, size=64), 2)
    return crop(whole, height, width)


def crop(batch: Batch, bottom: int, right: int, top: int = 0, left: int = 0) -> Batch:
    def cut(t: Tensor) -> Tensor:
        return t[..., top:bottom, left:right]

    sensors = {k: Series(cut(s.x), cut(s.valid), s.day, s.bands) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={k: cut(t) for k, t in batch.targets.items()})


@pytest.mark.parametrize("name", MODELS)
def test_a_size_that_does_not_fit_is_that_of_a_padded_batch_cut_back(name: str) -> None:
    model, multiple = build(name), MODELS[name][1]
    batch = scene(43, 21, FOREIGN_SPEC if name == "foreign" else SPEC)
    padded = batch.pad_to(multiple)
    assert padded.size == (-(-43 // multiple) * multiple, -(-21 // multiple) * multiple)
    with torch.no_grad():
        out, whole = model(batch), model(padded)
    assert out.shape == (2, 3, 43, 21) and whole.shape[2:] == padded.size
    inner = (..., slice(42), slice(20))  # a head of 3 x 3 sees the edge of what was cut back
    torch.testing.assert_close(out[inner], whole[inner], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_edge_is_trained_too(name: str) -> None:
    model = build(name).train()
    model(scene(33, 35, FOREIGN_SPEC if name == "foreign" else SPEC))[:, :, 32:, 32:].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_pad_to_by_hand() -> None:
    batch = random_batch(dataclasses.replace(SPEC, size=32), 2)
    batch = crop(batch, 30, 32)
    height = torch.rand(2, 30, 32)
    batch = batch.replace(targets={**batch.targets, "height": height, "scene": torch.tensor([1, 2])})
    padded = batch.pad_to(16)
    assert batch.pad_to(2) is batch and padded.size == (32, 32)
    for name, s in padded.sensors.items():
        assert torch.equal(s.x[..., :30, :], batch.sensors[name].x) and not s.x[..., 30:, :].any()
        assert torch.equal(s.valid[..., :30, :], batch.sensors[name].valid) and not s.valid[..., 30:, :].any()
        assert s.valid.dtype == torch.bool and torch.equal(s.day, batch.sensors[name].day)
    assert (padded.targets["map"][:, 30:] == -1).all() and padded.targets["map"].shape == (2, 32, 32)
    assert padded.targets["height"][:, 30:].isnan().all() and torch.equal(padded.targets["height"][:, :30], height)
    assert torch.equal(padded.targets["scene"], torch.tensor([1, 2]))


def test_windows_of_a_foreign_encoder_are_places_of_its_own_size() -> None:
    model, batch = build("foreign"), scene(64, 64, FOREIGN_SPEC)
    with torch.no_grad():
        out = model(batch)
        for top in (0, 32):
            for left in (0, 32):
                part = crop(batch, top + 32, left + 32, top, left)
                torch.testing.assert_close(
                    out[..., top : top + 32, left : left + 32], model(part), rtol=1e-4, atol=1e-5
                )


def test_cells_at_the_edge_see_what_is_there() -> None:
    """The last cell of 36 pixels has four rows of its own: a change in them must be seen, in all of it."""
    model, batch = build("vit"), scene(36, 32)
    s = batch.sensors["s2"]
    x = s.x.clone()
    x[..., 35, 5] += s.valid[:, :, None, 35, 5] * 1.0
    with torch.no_grad():
        moved = model(batch.replace(sensors={**batch.sensors, "s2": Series(x, s.valid, s.day, s.bands)}))
        assert not torch.equal(moved[:, :, 32:], model(batch)[:, :, 32:])
