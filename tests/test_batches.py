"""Places of a step: dealt out to processes, held in slices that change nothing but rounding, found by trying."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import NANO, random_batch
from test_pretrain import SMALL, rows
from torch import Tensor

from gfm_objectives import config, pretrain
from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import load_choice
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.models.slices import cut, joined
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain import batches, pretraining
from gfm_objectives.pretrain.batches import hold, largest, micro_of, places_of
from gfm_objectives.pretrain.steps import Step
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import config_hash

CPU = torch.device("cpu")


def objective_of(name: str, spec: Spec, **encoder: object) -> Objective:
    torch.manual_seed(0)
    return build_objective(load_choice("objective", name), build_encoder(NANO | encoder, spec), spec)


def gradients(objective: Objective, batch: Batch, micro: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Loss, gradients and buffers after a step's forward and backward, from the state as it was."""
    hold(objective, micro)
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    torch.manual_seed(1)
    loss = objective(batch, objective.variants()[-1])["loss"]
    objective.zero_grad()
    loss.backward()
    found = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
    kept = [b.clone() for b in objective.buffers()]
    objective.load_state_dict(before)
    return loss.detach(), found, kept


@pytest.mark.parametrize("name", ["supervised", "masked_seg", "mae", "latent", "contrastive", "jepa", "mix"])
def test_slices_change_nothing_but_rounding(name: str, spec: Spec) -> None:
    """Loss, every gradient, statistics of norms, counts of classes; bands are dropped alike in every slice."""
    objective, batch = objective_of(name, spec, band_dropout=0.3), random_batch(spec, 6)
    whole, sliced = (gradients(objective, batch, micro) for micro in (0, 4))
    assert float(whole[0]) == pytest.approx(float(sliced[0]), rel=1e-5)
    for a, b in zip((*whole[1], *whole[2]), (*sliced[1], *sliced[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_slices_hold_what_they_say(spec: Spec) -> None:
    """Forward, and once more in backward: never more than `micro` places; all at once where nothing is learned."""
    objective, batch = objective_of("mae", spec), random_batch(spec, 6)
    seen: list[tuple[str, int]] = []
    objective.encoder.vit.register_forward_pre_hook(lambda _, given: seen.append(("vit", len(given[0].cells))))
    objective.decoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(("block", len(given[0]))))
    hold(objective, 2)
    objective(batch)["loss"].backward()
    assert sorted(seen) == [("block", 2)] * 6 + [("vit", 2)] * 6
    seen.clear()
    with torch.no_grad():
        objective(batch)
    assert sorted(seen) == [("block", 6), ("vit", 6)]


def test_what_is_cut_is_joined(spec: Spec) -> None:
    batch = random_batch(spec, 5)
    again = joined([cut(batch, slice(0, 3)), cut(batch, slice(3, 6))])
    assert again.sensors["s2"].bands == batch.sensors["s2"].bands
    assert torch.equal(again.sensors["s2"].x, batch.sensors["s2"].x) and torch.equal(again.gsd, batch.gsd)


def small(runs: Path, *words: str):  # type: ignore[no-untyped-def]
    keys = dict(w.split("=", 1) for w in (f"runs={runs}", "name=demo", *SMALL, "data.size=16", "log_every=1", *words))
    (cfg,) = config.compose("train", [f"{k}={v}" for k, v in keys.items()])
    return cfg


def test_a_run_in_slices_is_the_run(tmp_path: Path) -> None:
    """Four of sixteen places at a time: places, FLOPs and the last cut are the same, losses to 1e-3."""
    words = ("objective=mae", "optim.batch_size=null", "batch.global=16", "budget.flops=3e9", "optim.lr=1e-3")
    whole, sliced = (pretrain.run(small(tmp_path / n, *words, f"batch.micro={n}")) for n in ("null", "4"))
    a, b = rows(whole), rows(sliced)
    assert len(a) >= 8
    assert [r["samples"] for r in a] == [r["samples"] for r in b] and [r["flops"] for r in a] == [r["flops"] for r in b]
    assert [float(r["loss"]) for r in a] == pytest.approx([float(r["loss"]) for r in b], rel=1e-3)
    one, other = Ledger.read(whole / "ledger.json"), Ledger.read(sliced / "ledger.json")
    assert (one.batch, one.micro_batch, other.batch, other.micro_batch) == (16, 16, 16, 4)
    assert one.flops_spent == other.flops_spent and one.config_hash == other.config_hash


def test_a_whole_batch_is_dealt_out_evenly(tmp_path: Path) -> None:
    cfg = small(tmp_path, "optim.batch_size=null", "batch.global=12")
    assert [places_of(cfg, n) for n in (1, 2, 3)] == [12, 6, 4]
    with pytest.raises(InputError, match=r"batch.global=12: 5 processes cannot share it evenly"):
        places_of(cfg, 5)
    assert places_of(small(tmp_path), 5) == 4


def test_a_batch_that_cannot_be_shared_is_told_before_others_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "launched", lambda *_: pytest.fail("several processes, and a line of each"))
    cfg = small(tmp_path, "optim.batch_size=null", "batch.global=7", "devices=2", "device=cpu")
    with pytest.raises(InputError, match=r"batch.global=7: 2 processes"):
        pretrain.run(cfg)


def test_a_whole_batch_may_go_on_with_other_processes(tmp_path: Path) -> None:
    one, two, other = (
        config_hash(small(tmp_path, "optim.batch_size=null", f"batch.global={n}", f"devices={d}"))
        for n, d in ((12, 1), (12, 2), (24, 1))
    )
    assert one == two != other
    assert config_hash(small(tmp_path, "devices=2")) != config_hash(small(tmp_path, "devices=1"))
    with pytest.raises(InputError, match="say the same twice"):
        config_hash(small(tmp_path, "batch.global=12"))


def test_the_batch_section_changes_no_hash_of_before(tmp_path: Path) -> None:
    cfg = small(tmp_path)
    now = config_hash(cfg)
    del cfg["batch"]
    assert config_hash(cfg) == now


def test_what_a_unet_cannot_hold_is_refused(spec: Spec) -> None:
    unet = build_encoder(load_choice("encoder", "unet"), spec)
    objective = build_objective(load_choice("objective", "supervised") | {"token_weight": 0}, unet, spec)
    about = objective, spec, [Step((), 1, 32)], 8, CPU, torch.float32
    with pytest.raises(InputError, match=r"batch.micro=4: this encoder cannot be held in parts \(the norms of a U-Net"):
        micro_of(4, *about)
    assert micro_of(None, *about) == micro_of(8, *about) == 8


def test_on_a_gpu_what_fits_is_found(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on the device, halved; what no slice makes room for is one line."""
    room, tried = 3, []

    def attempt(*about: object) -> bool:
        tried.append(about[4])
        return about[4] <= room

    monkeypatch.setattr(batches, "attempt", attempt)
    objective = objective_of("mae", spec)
    about = objective, spec, [Step((), 8, 32)], 8, torch.device("cuda"), torch.float32
    assert micro_of(None, *about) == 2 and tried == [8, 4, 2]
    assert (objective.encoder.micro, objective.decoder.micro) == (2, 2)
    room = 8
    assert micro_of(None, *about) == 8 and objective.encoder.micro == 0, "all at once"
    room = 0
    with pytest.raises(InputError, match="8 places a step do not fit on cuda, however few"):
        micro_of(None, *about)


@pytest.mark.parametrize(("room", "found"), [(16, 16), (15, 8), (7, 4), (1, 1), (0, 0)])
def test_slices_are_halved_until_they_fit(room: int, found: int) -> None:
    assert largest(16, lambda n: n <= room) == found


def test_an_attempt_leaves_no_trace_and_tells_what_does_not_fit(spec: Spec) -> None:
    """Memory that runs out where more than two places are held is made up: there is no GPU."""
    objective = objective_of("supervised", spec)
    before, drawn = {k: v.clone() for k, v in objective.state_dict().items()}, torch.get_rng_state()

    def full(_: object, given: tuple[Batch, ...]) -> None:
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    objective.encoder.stem.register_forward_pre_hook(full)
    fits = [batches.attempt(objective, spec, [Step((), 8, 32)], 8, n, torch.float32, CPU) for n in (8, 4, 2)]
    assert fits == [False, False, True]
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert all(p.grad is None for p in objective.parameters()) and torch.equal(drawn, torch.get_rng_state())
