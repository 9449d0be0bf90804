"""The rival conv, encoder.depth=0: the dense path alone. Its cost by hand, what can pretrain it, what stays hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import NANO
from test_models import spoiled
from test_objectives import NAMES, options
from test_pretrain import small

from gfm_objectives import pretrain
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder, parameter_parts, parameters
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.runs.checkpoint import load_encoder

CONV = {**NANO, "depth": 0}


@pytest.fixture
def conv(spec: Spec) -> Encoder:
    torch.manual_seed(0)
    return Encoder.from_config(CONV, spec).eval()


def test_it_has_no_parameter_of_tokens(conv: Encoder, spec: Spec) -> None:
    names = [n for n, _ in conv.named_parameters()]
    parts = {n.split(".")[1] for n in names if n.startswith("dense_path.")}
    assert all(n.startswith("dense_path.") for n in names)
    assert parts == {"stem", "when", "score", "mix", "first", "down", "lateral", "up"}
    assert parameter_parts(conv) == {"encoder": 0, "dense": parameters(conv)}
    whole = Encoder.from_config(NANO, spec)
    assert {n for n in names if n not in dict(whole.named_parameters())} == set(), "a part of the whole network"


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
    """A dense path of patch 8 has three levels; nothing is booked under the encoder's other parts."""
    spec, k = Spec({"s2": ("B02", "B03")}, {"s2": 3}, 16, 10.0, {}), 5
    w, full = NANO["dense_width"], 16 * 16
    stem = 3 * full * 2 * 2 * w + 3 * 5 * 2 * w  # every date's bands, and its day
    pool = 3 * full * 2 * w * 8 + full * 2 * w * w  # eight scores a date; then the mix
    down = 9 * (full * w * w + full / 4 * w * 2 * w + full / 16 * 2 * w * 4 * w)
    up = 9 * (full / 16 * (4 * w) ** 2 + full / 4 * (2 * w) ** 2 + full * w * w)
    lateral = full / 16 * 4 * w * 2 * w + full / 4 * 2 * w * w
    dense = 2 * (stem + pool + down + up + lateral)
    model = Segmenter(Encoder.from_config(CONV, spec), k)
    cost = measure(model, spec.dummy(2), lambda m, b: m(b).sum(), ["encoder", "encoder.dense_path", "head"])
    assert cost.forward == dense + 2 * full * w * k
    assert cost.parts == {
        "encoder.dense_path": 3 * dense - 2 * stem,  # images and days need no gradient
        "head": 3 * 2 * full * w * k,
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_hides_cells_alone_can_pretrain_it(name: str, conv: Encoder, spec: Spec, batch: Batch) -> None:
    if OBJECTIVES[name].needs == "tokens":
        with pytest.raises(InputError, match=r"encoder's tokens, which encoder.depth=0 has not; .* take contrastive, "):
            build_objective(options(name), conv, spec)
        return
    objective = build_objective(options(name) | ({"duplicate": 0.0} if name == "contrastive" else {}), conv, spec)
    reached: set[str] = set()
    for variant in objective.variants():
        objective.zero_grad()
        loss = objective(batch, variant)["loss"]
        loss.backward()
        assert torch.isfinite(loss) and objective.visible(batch, variant) == 0
        cost = measure(objective, spec.dummy(2), lambda m, b, v=variant: m(b, v)["loss"])
        assert cost.total > cost.forward > 0
        reached |= {n for n, p in conv.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {n for n, _ in conv.named_parameters()}


def test_the_objectives_that_need_tokens_are_these() -> None:
    assert {n for n, o in OBJECTIVES.items() if o.needs == "tokens"} == {"mae", "latent", "jepa"}
    assert {n for n, o in OBJECTIVES.items() if o.needs == "features"} == {"supervised"}


def test_hidden_pixels_are_not_seen(conv: Encoder, batch: Batch) -> None:
    every = conv.tokenize(batch)
    assert every.x.shape == (4, 6 * 16, 0) and every.slots == ("s2",) * 3 + ("s1",) * 2 + ("dem",)
    kept, hidden = masking.split_cells(every, 6)
    tokens = every.take(kept)
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, None]

    def features(where: torch.Tensor) -> torch.Tensor:
        moved = {k: Series(s.x + where, s.valid, s.day, s.bands) for k, s in batch.sensors.items()}
        return conv.dense(batch.replace(sensors=moved), tokens, conv(tokens))

    assert torch.equal(features(pixels.float()), features(torch.zeros(())))
    assert not torch.equal(features((~pixels).float()), features(torch.zeros(())))


def test_a_run_of_it_is_measured_exported_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("objective=supervised", "encoder.depth=0", "budget.flops=1e10", "yardstick=true")
    run = pretrain.run(small(tmp_path, *words))
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(1e10, rel=0.005)
    assert ledger["tokens"] == ledger["visible_tokens"] == ledger["parameters"]["encoder"] == 0
    assert ledger["flops_per_sample_by_part"].keys() == {"encoder.dense_path", "head"}
    assert "map_nll" in ledger["yardstick"] and "token_std" not in ledger["yardstick"]
    assert "encoder 0%, dense path" in capsys.readouterr().out
    encoder = load_encoder(run)
    assert encoder.depth == 0 and not encoder.training
