"""Continued pretraining: a run that begins with weights that are there, and what those cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import make_run
from test_trunk import run, tiny

from gfm_objectives import pretrain
from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.pretrain import module
from gfm_objectives.pretrain.beginning import begin
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.runs.finished import group_runs
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import config_hash, recipe_hash

SPEC = Spec({"s2": ("B02", "B03"), "s1": ("VV",)}, {"s2": 2, "s1": 2}, 16, 10.0, {})


def made(folder: Path, bands: dict[str, tuple[str, ...]] = SPEC.bands, *words: str, flops: float = 3e9) -> Path:
    """A finished run, untrained, of the encoder of `tiny`."""
    torch.manual_seed(7)
    encoder = build_encoder(tiny(folder, *words).encoder, Spec(bands, SPEC.dates, 16, 10.0, {}))
    return Path(make_run(folder, seed=7, flops=flops, model=encoder))


def test_a_run_begins_with_the_weights_of_another_and_carries_what_they_cost(tmp_path: Path) -> None:
    theirs = made(tmp_path / "theirs")
    cfg = tiny(tmp_path, "objective=mae", f"init={theirs}")
    encoder, initial = begin(cfg, SPEC)
    fresh, nothing = begin(tiny(tmp_path, "objective=mae"), SPEC)
    weights = load_encoder(theirs).state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())
    assert not all(torch.equal(v, weights[k]) for k, v in fresh.state_dict().items())
    assert initial.flops == 3e9 and initial.name.startswith("theirs@") and (nothing.name, nothing.flops) == ("", 0.0)
    ledger = Ledger.read(theirs / "ledger.json")
    ledger.flops_initial = 5e9
    ledger.write(theirs / "ledger.json")
    assert begin(cfg, SPEC)[1].flops == 8e9, "theirs began with weights too"
    assert begin(tiny(tmp_path, f"init={theirs / 'encoder.safetensors'}"), SPEC)[1] == begin(cfg, SPEC)[1]


def test_sensors_and_bands_may_be_others(tmp_path: Path) -> None:
    """What both show keeps what was learned; what is new is there, too."""
    theirs = made(tmp_path / "theirs", {"s2": ("B02",), "dem": ("elevation",)})
    encoder, _ = begin(tiny(tmp_path, f"init={theirs}"), SPEC)
    assert set(encoder.bands["s2"]) == {"B02", "B03"} and {"s1", "dem"} <= encoder.bands.keys()
    weights = load_encoder(theirs).vit.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in encoder.vit.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_read_and_its_cost_is_unknown(tmp_path: Path, suffix: str) -> None:
    state = load_encoder(made(tmp_path / "theirs")).state_dict()
    file = tmp_path / f"weights{suffix}"
    as_part = {f"encoder.{k}": v for k, v in state.items()} | {"head.weight": torch.ones(2)}
    save_file(as_part, file) if suffix == ".safetensors" else torch.save(state, file)
    encoder, initial = begin(tiny(tmp_path, f"init={file}"), SPEC)
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    assert initial.flops is None and initial.name.startswith(f"weights{suffix}@")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda s: s | {"vit.norm.weight": torch.ones(3)}, "vit.norm.weight is 3 there and 32 here;"),
        (lambda s: {k: v for k, v in s.items() if k != "vit.norm.weight"}, "vit.norm.weight is not there;"),
        (
            lambda s: s | {"vit.blocks.1.x": torch.ones(3), "y": torch.ones(1)},
            "vit.blocks.1.x has no place here, and 1 ",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, changed, says: str) -> None:  # type: ignore[no-untyped-def]
    state = load_encoder(made(tmp_path / "theirs")).state_dict()
    assert "vit.norm.weight" in state
    torch.save(changed(state), tmp_path / "w.pth")
    with pytest.raises(InputError) as told:
        begin(tiny(tmp_path, f"init={tmp_path / 'w.pth'}"), SPEC)
    assert says in str(told.value) and "\n" not in str(told.value) and str(told.value).startswith("init=")


def test_a_run_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    theirs = made(tmp_path / "theirs")
    for words, says in (
        (("encoder.dim=64", f"init={theirs}"), r"another encoder: dim=32 there and 64 here;"),
        (("encoder.heads=4", f"init={theirs}"), r"another encoder: heads=2 there and 4 here;"),
        ((f"init={tmp_path}",), "not a run folder, or the run has not finished"),
        (("init=nowhere.pth",), "init=nowhere.pth: no such run folder or file"),
        (("init=torchgeo:dofa_base_patch16_224",), "init=torchgeo:.*: nothing is downloaded; encoder=published"),
    ):
        with pytest.raises(InputError, match=says):
            begin(tiny(tmp_path, *words), SPEC)


def test_a_fresh_run_is_the_run_it_was(tmp_path: Path) -> None:
    """Its hash lacks the key, as those of runs before it did; weights to begin with are another recipe."""
    fresh, begun = tiny(tmp_path), tiny(tmp_path, "init=runs/a")
    before = fresh.copy()
    del before["init"]
    assert config_hash(fresh) == config_hash(before) != config_hash(begun) and recipe_hash(fresh) != recipe_hash(begun)


def test_continued_pretraining_to_the_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is of the run alone; a comparison counts what both spent, and nothing where that is unknown."""
    monkeypatch.setattr(module, "peak", lambda _: ("none", None))  # measured on a CPU, which takes seconds
    words = ("objective=supervised", "data.dates=1", "optim.batch_size=32", "budget.flops=8e8")
    spec = pretrain.open_source(tiny(tmp_path, *words))[1]
    theirs = made(tmp_path / "theirs", spec.bands)
    path = run(tmp_path, *words, f"init={theirs}")
    ledger = Ledger.read(path / "ledger.json")
    assert ledger.flops_spent == pytest.approx(8e8, rel=0.01) and ledger.flops_initial == 3e9
    (runs,) = group_runs([str(path)]).values()
    assert runs[0].flops == pytest.approx(3.8e9)
    ledger.flops_initial = None
    ledger.write(path / "ledger.json")
    (runs,) = group_runs([str(path)]).values()
    assert math.isnan(runs[0].flops)


def test_what_begins_fresh_is_the_same_beside_a_run_and_beside_a_file_of_its_weights(tmp_path: Path) -> None:
    theirs = made(tmp_path / "theirs")
    save_file(load_encoder(theirs).state_dict(), tmp_path / "w.safetensors")
    drawn = []
    for init in (theirs, tmp_path / "w.safetensors"):
        begin(tiny(tmp_path, "objective=mae", f"init={init}"), SPEC)
        drawn.append(torch.rand(3))  # as the heads are, next
    assert torch.equal(*drawn)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    good = load_encoder(made(tmp_path / "theirs")).state_dict()
    name = "stem.embed.s1.weight"
    for bad, told in (
        (torch.full_like(good[name], float("nan")), f"{name} is not finite: weights of a run that diverged"),
        (good[name].int(), f"weights of another encoder: {name} holds int32"),
    ):
        save_file(good | {name: bad}, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=told):
            begin(tiny(tmp_path, "objective=mae", f"init={tmp_path / 'w.safetensors'}"), SPEC)


def test_a_run_that_goes_on_tells_whose_weights_it_began_with_not_what_lies_there_now(tmp_path: Path) -> None:
    theirs = made(tmp_path / "theirs")
    words = ("objective=mae", f"init={theirs}", "loggers=null")
    run(tmp_path, *words, "budget.flops=1.2e9")
    began = Ledger.read(tmp_path / "demo" / "ledger.json")
    ledger = Ledger.read(theirs / "ledger.json")
    ledger.flops_spent = 9e9
    ledger.write(theirs / "ledger.json")
    save_file({k: v + 1 for k, v in load_encoder(theirs).state_dict().items()}, theirs / "encoder.safetensors")
    run(tmp_path, *words, "budget.flops=1.8e9")
    after = Ledger.read(tmp_path / "demo" / "ledger.json")
    assert after.flops_spent > 1.5e9 and (after.initial, after.flops_initial) == (began.initial, began.flops_initial)
