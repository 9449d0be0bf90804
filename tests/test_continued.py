"""Published encoders that go on learning here: their weights, what those cost, what is hidden from them, their rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_batch
from small import config
from test_pretrain import small

from gfm_objectives import compare, pretrain
from gfm_objectives.batch import Batch, Spec
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.rows import contenders, notes
from gfm_objectives.config import load_choice, save
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams
from gfm_objectives.models import build_encoder
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.costs import COSTS
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.pretrain.beginning import begin
from gfm_objectives.runs import segmenter
from gfm_objectives.runs.checkpoint import load_model, save_encoder
from gfm_objectives.runs.finished import Run, group_runs
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Store
from gfm_objectives.sensors import S2_TEN, Legend

SPEC = Spec({"s2": S2_TEN, "dem": ("elevation",)}, {"s2": 2, "dem": 1}, 32, 10.0, {"map": Legend("m", tuple("abc"))})
DOFA = "torchgeo:dofa_base_patch16_224"
OURS = {"size": 32, "dim": 16, "heads": 2, "cell_dim": 16, "width": 8}
OPTIONS = load_choice("encoder", "published") | OURS


@pytest.fixture(autouse=True)
def small_dofa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real class under the published name, as small as it comes."""
    import torchgeo.models as tg

    monkeypatch.setattr(
        tg, "dofa_base_patch16_224", lambda img_size: tg.DOFA(img_size=img_size, embed_dim=32, depth=1, num_heads=2)
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import torchgeo.models as tg

    torch.manual_seed(5)
    torch.save({"model": tg.dofa_base_patch16_224(img_size=32).state_dict()}, tmp_path / "dofa.pth")
    return tmp_path / "dofa.pth"


def published(folder: Path, *words: str) -> Any:
    """The config of a run; `small` has the encoder of the tests."""
    cfg = small(folder, "encoder=nano", *words)
    cfg.encoder, cfg.choices.encoder = {**OPTIONS}, "published"
    return cfg


def test_it_begins_with_the_published_file_and_names_what_that_cost(weights: Path, tmp_path: Path) -> None:
    encoder, initial = begin(published(tmp_path, f"init={weights}"), SPEC)
    theirs = torch.load(weights, weights_only=True)["model"]
    own = encoder.net.encoder.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[k], theirs[k]) for k in own) and len(own) > 10
    assert initial.name.startswith(f"{DOFA} dofa.pth@")
    assert initial.flops == COSTS["dofa_base_patch16_224"].flops
    fresh, nothing = begin(published(tmp_path), SPEC)
    assert (nothing.name, nothing.flops) == ("", 0.0)
    assert not torch.equal(fresh.state_dict()["net.encoder.model.pos_embed"], torch.zeros(()))


@pytest.mark.parametrize("name", ["masked_seg", "supervised"])
def test_objectives_teach_the_published_part(name: str) -> None:
    encoder = build_encoder(OPTIONS, SPEC)
    objective = build_objective(load_choice("objective", name), encoder, SPEC)
    batch = random_batch(SPEC, 2).pad_to(objective.multiple)
    objective(batch)["loss"].backward()
    gradients = {n: p.grad for n, p in encoder.named_parameters() if "encoder.model.blocks" in n}
    assert gradients and any(g is not None and bool(g.abs().sum() > 0) for g in gradients.values())


def test_what_is_hidden_has_no_say() -> None:
    encoder = build_encoder(OPTIONS, SPEC).eval()
    objective = build_objective(load_choice("objective", "masked_seg"), encoder, SPEC)
    assert isinstance(encoder, Continued)
    batch = random_batch(SPEC, 2)
    mask = objective.mask(batch, ())  # type: ignore[operator]
    hidden = mask.hidden.repeat_interleave(encoder.patch, 1).repeat_interleave(encoder.patch, 2)
    assert 0 < hidden.float().mean() < 1
    sensors = {k: s.replace(x=torch.where(hidden[:, None, None], 9.0, s.x)) for k, s in batch.sensors.items()}
    other = batch.replace(sensors=sensors)
    with torch.no_grad():
        assert torch.equal(encoder(batch, mask).dense, encoder(other, mask).dense)
        assert not torch.equal(encoder(batch).dense, encoder(other).dense)


def test_places_of_another_size_have_their_tokens_row_by_row() -> None:
    encoder = build_encoder(OPTIONS, SPEC).eval()
    wide = random_batch(replace(SPEC, size=64), 1)
    corner = Batch(
        {k: s.replace(x=s.x[..., :32, 32:], valid=s.valid[..., :32, 32:]) for k, s in wide.sensors.items()},
        {},
        wide.gsd,
    )
    with torch.no_grad():
        whole, part = encoder(wide), encoder(corner)
    side = 64 // encoder.patch
    torch.testing.assert_close(whole.dense[..., :32, 32:], part.dense)
    found = whole.tokens.unflatten(1, (side, side))[:, : side // 2, side // 2 :].flatten(1, 2)
    torch.testing.assert_close(found, part.tokens)


def test_a_run_is_charged_for_both_and_compared(weights: Path, tmp_path: Path) -> None:
    cfg = published(tmp_path, "objective=masked_seg", f"init={weights}", "budget.flops=3e10", "device=cpu")
    run = pretrain.run(cfg)
    ledger = Ledger.read(run / "ledger.json")
    assert ledger.flops_initial == COSTS["dofa_base_patch16_224"].flops
    assert ledger.parameters["objective"] > 0 and ledger.flops_spent == pytest.approx(3e10, rel=0.005)
    source = load_model(run)
    assert isinstance(source, Continued)
    ((one,),) = group_runs([str(run)]).values()
    assert (one.model, one.flops) == ("continued", 3e10 + ledger.flops_initial)
    (row,) = contenders(["pretrained"], [str(run)], 1, None)
    assert row.kind == "continued" and row.role == "pretrained"
    shown = Spec({"s2": S2_TEN[:3], "s1": ("VV",)}, {"s2": 1, "s1": 2}, 64, 10.0, {})
    network = row.build(shown, 2, HParams(1e-3), 0)
    for name, theirs in source.net.encoder.named_parameters():
        assert torch.equal(network.get_parameter(f"encoder.{name}"), theirs), "what was learned goes along"
    out = network.eval()(batch := random_batch(shown, 1))
    assert out.shape == (1, 2, 64, 64)
    options = json.loads(row.shape)
    told = segmenter.describe(network, {"name": options["of"], "size": options["size"]})
    again = segmenter.build(json.loads(json.dumps(told)), shown, 2)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(batch), out)


@pytest.mark.filterwarnings("ignore:.*no labelled pixel")
def test_a_comparison_charges_for_both_and_names_what_it_began_with(weights: Path, tmp_path: Path) -> None:
    """To the table; the run itself is left untrained."""
    cfg = published(tmp_path, "objective=supervised", f"init={weights}", "device=cpu")
    spec = Spec({"s2": S2_TEN[:4], "dem": ("elevation",)}, {"s2": 2, "dem": 1}, 16, 10.0, {})
    encoder, initial = begin(cfg, spec)
    (run := tmp_path / "demo").mkdir()
    save_encoder(encoder, run)
    Ledger("supervised", 0, "c", "d", "e", flops_spent=3e10, initial=initial.name, flops_initial=initial.flops).write(
        run / "ledger.json"
    )
    save(cfg, run / "config.yaml")
    about = {"finetune": {"flops": 3e9, "trials": 1}, "contenders": ["pretrained", "unet"], "seeds": 1}
    out = compare.run(config(tmp_path, checkpoint=[str(run)], **about))
    (score,) = (s for s in Store(out).load() if s.kind == "continued")
    assert score.pretrain_flops == 3e10 + COSTS["dofa_base_patch16_224"].flops and score.role == "pretrained"
    assert abs(score.finetune_flops / 3e9 - 1) < 0.1 and 0 <= score.value <= 1
    text = (out / "report.md").read_text()
    assert f"began with the weights of {initial.name}: 7.3e19 FLOPs of its P were spent on them." in text
    assert (
        "Pretrained: continued supervised (7.3e19 FLOPs, 1 run)" in text
        and "| continued supervised | 1 | 7.3e19" in text
    )
    (run,) = group_runs([str(run)])["continued supervised"]
    assert "nobody knows how many FLOPs were spent" in notes([replaced(run)])[0]


def replaced(run: Run) -> Contender:
    """The row of a run that began with a file of its own."""
    (row,) = contenders(["pretrained"], [run.folder], 1, None)
    return replace(row, runs=(replace(run, initial="mine.pth@1", initial_flops=float("nan")),))


def test_what_it_cannot_do_is_refused_in_one_line(weights: Path, tmp_path: Path) -> None:
    encoder = build_encoder(OPTIONS, SPEC)
    fit = [n for n, o in OBJECTIVES.items() if o.whole_positions or not o.needs_mask]
    assert {"masked_seg", "supervised"} <= {*fit}
    for name in ("mae", "latent", "cross_sensor", "temporal"):
        with pytest.raises(InputError, match=f"objective={name}: hides parts .* take masked_seg, supervised"):
            build_objective(load_choice("objective", name), encoder, SPEC)
    with pytest.raises(InputError, match=f"init={DOFA}: nothing is downloaded; encoder=published encoder.of={DOFA}"):
        begin(published(tmp_path, f"init={DOFA}"), SPEC)
    torch.save({"cls_token": torch.zeros(1, 1, 7)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"init=.*other.pth: do not fit"):
        begin(published(tmp_path, f"init={tmp_path / 'other.pth'}"), SPEC)
    (run := tmp_path / "run").mkdir()
    (run / "ledger.json").write_text("{}")
    (run / "encoder.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(InputError, match="weights of a run that trained here; give its folder"):
        begin(published(tmp_path, f"init={run / 'encoder.safetensors'}"), SPEC)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"of": "torchgeo:dofa_bas"}, "encoder.of=torchgeo:dofa_bas: give timm:<a ViT of timm> or one of torchgeo:"),
        ({"of": "timm:nothing"}, "encoder.of=timm:nothing: timm has no such model"),
        ({"of": "timm:vit_tiny_patch16_224", "size": 50}, "encoder.size=50: "),
    ],
)
def test_a_wrong_encoder_is_told_in_the_keys_that_were_typed(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as error:
        build_encoder(OPTIONS | change, SPEC)
    assert str(error.value).startswith(told)
