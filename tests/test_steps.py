"""The kinds of step of a run: variants, patches and sides of places; what each costs, and what it sees of a place."""

from __future__ import annotations

import pytest
import torch
from conftest import NANO
from test_objectives import build, options

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.unet import UNet
from gfm_objectives.objectives import build_objective
from gfm_objectives.pretrain.steps import Step, cost_of, crop, kinds_of_step


def test_every_variant_comes_with_every_patch_and_side(spec: Spec) -> None:
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "patches": [16]}, spec)
    objective = build_objective(options("cross_sensor"), encoder, spec)
    kinds = kinds_of_step(objective, spec, [16, 32])
    assert kinds == [Step(v, p, s) for v in objective.variants() for p in (8, 16) for s in (16, 32)]
    assert kinds_of_step(build("mae", spec), spec, None) == [Step((), 8, 32)]
    unet = build_objective(options("supervised"), UNet(spec, 0, 8), spec)
    assert kinds_of_step(unet, spec, None) == [Step((), 1, 32)]
    for side in (0, 33):
        with pytest.raises(InputError, match=rf"augment\.sides: {side}: places have 32 pixels a side"):
            kinds_of_step(objective, spec, [32, side])


def test_a_step_costs_what_its_padded_side_costs(spec: Spec) -> None:
    objective = build("supervised", spec)
    cost = {side: cost_of(objective, spec, Step((), 8, side), 2) for side in (16, 20, 24, 32)}
    assert cost[20] == cost[24], "of whole patches"
    assert cost[16].total < cost[24].total < cost[32].total
    assert cost[16].parts["head"] * 4 == cost[32].parts["head"]
    assert set(cost[16].parts) == {"encoder.stem", "encoder.vit", "encoder.way_back", "head"}


def test_a_window_is_cut_of_all_that_a_place_has(batch: Batch) -> None:
    """The same of every sensor and target, another each time, and any is as likely."""
    generator = torch.Generator().manual_seed(0)
    assert crop(batch, 32, generator) is batch
    number = torch.arange(32 * 32).view(32, 32)
    marked = batch.replace(targets={"map": number.expand(4, -1, -1), "place": torch.arange(4)})
    corners = set()
    for _ in range(200):
        cut = crop(marked, 30, generator)
        top, left = divmod(int(cut.targets["map"][0, 0, 0]), 32)
        rows, columns = slice(top, top + 30), slice(left, left + 30)
        assert torch.equal(cut.targets["map"], marked.targets["map"][:, rows, columns])
        assert torch.equal(cut.targets["place"], torch.arange(4))
        for name, s in batch.sensors.items():
            assert torch.equal(cut.sensors[name].x, s.x[..., rows, columns])
            assert torch.equal(cut.sensors[name].valid, s.valid[..., rows, columns])
        corners.add((top, left))
    assert corners == {(r, c) for r in range(3) for c in range(3)}
