"""The rival conv, encoder.depth=0: no attention. Its cost by hand, what can pretrain it, what stays hidden."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import NANO
from test_models import altered, spoiled
from test_objectives import RECIPES, options
from test_pretrain import small

from gfm_objectives import pretrain
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import PARTS, Encoder, parameter_parts, parameters
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.objectives import build_objective
from gfm_objectives.runs.checkpoint import load_encoder

CONV = {**NANO, "depth": 0}


@pytest.fixture
def conv(spec: Spec) -> Encoder:
    torch.manual_seed(0)
    return Encoder.from_config(CONV, spec).eval()


def test_it_has_no_block_and_is_a_part_of_the_whole_network(conv: Encoder, spec: Spec) -> None:
    parts = parameter_parts(conv)
    assert parts.keys() == {"stem", "vit", "way_back"} and sum(parts.values()) == parameters(conv)
    cells, dim = 4 * CONV["cell_dim"], CONV["dim"]
    assert parts["vit"] == cells * dim + dim + 2 * dim, "a linear map of four cells, and a norm"
    whole = Encoder.from_config(NANO, spec)
    own, more = dict(conv.named_parameters()), dict(whole.named_parameters())
    assert own.keys() <= more.keys()
    assert all(n.startswith("vit.blocks.") for n in more.keys() - own.keys())


@pytest.mark.parametrize("depth", [0, 2])
def test_it_is_local(depth: int, spec: Spec, batch: Batch) -> None:
    """A pixel moves the features of its patch, and of one cell and one pixel around it; with attention, all of them."""
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "depth": depth}, spec).eval()
    s2 = batch.sensors["s2"]
    x = s2.x.clone()
    x[:, :, :, 13, 22] += 1.0
    s2.valid[:, 0, 13, 22] = True
    moved = batch.replace(sensors=batch.sensors | {"s2": Series(x, s2.valid, s2.day, s2.bands)})
    changed = ((encoder.features(moved) - encoder.features(batch)).abs().amax((0, 1)) > 0).nonzero()
    low, high = changed.amin(0).tolist(), changed.amax(0).tolist()
    assert (low, high) == ([3, 11], [20, 28]) if depth == 0 else ([0, 0], [31, 31])


def test_every_pixel_and_parameter_counts_but_no_invalid_one(conv: Encoder, batch: Batch) -> None:
    model = Segmenter(conv.train(), 3)
    xs = {k: s.x.clone().requires_grad_() for k, s in batch.sensors.items()}
    shown = batch.replace(sensors={k: Series(xs[k], s.valid, s.day, s.bands) for k, s in batch.sensors.items()})
    logits = model(shown)
    assert logits.shape == (4, 3, 32, 32)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    for name, s in batch.sensors.items():
        grad = xs[name].grad
        assert grad is not None and torch.equal(grad.abs().sum(2) > 0, s.valid), name
    conv.eval()
    assert torch.equal(model(spoiled(batch)), model(batch))


def test_step_cost_by_hand() -> None:
    """16 cells of 16 pixels in 4 patches; nothing else is multiplied."""
    spec, k, dates, bands = Spec({"s2": ("B02", "B03")}, {"s2": 3}, 16, 10.0, {}), 5, 3, 2
    cells, pixels, patches = 16, 16, 4
    c, d, w = (CONV[key] for key in ("cell_dim", "dim", "width"))
    given = dates * 5 * c + cells * dates * pixels * (bands + 1) * c  # days; bands and validity of every date
    given += cells * 2 * dates * pixels * (bands + 1)  # two composites
    stem = given + cells * dates * c * (8 + 2)  # scores of eight heads and two composites
    vit = patches * 4 * c * d
    back = patches * d * 4 * c + cells * c * c + 9 * cells * c * c  # to cells, the skip, a 3 x 3 convolution
    back += cells * c * pixels * w + cells * pixels * 2 * (bands + 1) * w + 9 * cells * pixels * w * w  # to pixels
    head = cells * pixels * w * k
    model = Segmenter(Encoder.from_config(CONV, spec), k)
    parts = [*(f"encoder.{p}" for p in ("stem", "vit", "way_back")), "head"]
    cost = measure(model, spec.dummy(2), lambda m, b: m(b).sum(), parts)
    assert cost.forward == 2 * (stem + vit + back + head)
    assert cost.parts == {
        "encoder.stem": 2 * (3 * stem - given),  # images, their validity and their days need no gradient
        "encoder.vit": 2 * 3 * vit,
        "encoder.way_back": 2 * 3 * back,
        "head": 2 * 3 * head,
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_objective_can_pretrain_it(name: str, conv: Encoder, spec: Spec, batch: Batch) -> None:
    objective = build_objective(options(name) | ({"duplicate": 0.0} if name == "contrastive" else {}), conv, spec)
    reached: set[str] = set()
    for variant in objective.variants():
        objective.zero_grad()
        loss = objective(batch, variant)["loss"]
        loss.backward()
        assert torch.isfinite(loss) and objective.visible(batch, variant) == 0
        reached |= {n for n, p in conv.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {n for n, _ in conv.named_parameters()}
    variant = objective.variants()[0]
    cost = measure(objective, spec.dummy(2), lambda m, b: m(b, variant)["loss"])
    assert cost.total > cost.forward > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_unet_hides_nothing_so_it_is_pretrained_by_supervised_alone(name: str, spec: Spec) -> None:
    unet = UNet(spec, 0, 8)
    if name == "supervised":
        assert not build_objective(options(name), unet, spec).needs_mask
        return
    with pytest.raises(
        InputError, match=r"hides parts of the image, which a U-Net cannot; with encoder=unet take superv"
    ):
        build_objective(options(name), unet, spec)


@pytest.mark.parametrize("kind", masking.KINDS)
def test_hidden_pixels_are_not_seen(kind: str, conv: Encoder, batch: Batch) -> None:
    mask = masking.scattered(batch, 8, 0.4, (kind,))
    before, hidden, shown = (conv(b, mask) for b in (batch, altered(batch, mask), altered(batch, mask, seen=True)))
    assert torch.equal(hidden.dense, before.dense) and torch.equal(hidden.tokens, before.tokens)
    assert not torch.equal(shown.dense, before.dense)


def test_a_run_of_it_is_measured_exported_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("objective=supervised", "encoder.depth=0", "budget.flops=1e10", "yardstick=true")
    run = pretrain.run(small(tmp_path, *words))
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(1e10, rel=0.005)
    assert ledger["tokens"] == ledger["visible_tokens"] == 0
    assert ledger["parameters"].keys() == {"stem", "vit", "way_back", "objective"}
    assert ledger["flops_per_sample_by_part"].keys() == {*(f"encoder.{p}" for p in PARTS), "head"}
    assert "map_nll" in ledger["yardstick"] and "token_std" not in ledger["yardstick"]
    assert re.search(r"FLOPs per sample: stem \d+%, ViT \d%, way back \d+%, objective", capsys.readouterr().out)
    encoder = load_encoder(run)
    assert encoder.depth == 0 and not encoder.training
