"""contrastive, latent and jepa: InfoNCE, look-alikes, frozen targets, the teacher."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_batch
from test_objectives import build

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.flops import measure
from gfm_objectives.models.masking import Mask
from gfm_objectives.objectives.contrastive import cell_statistics, rms_distance, turn
from gfm_objectives.objectives.info_nce import info_nce


def test_info_nce_by_hand() -> None:
    query = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    key = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])  # cosines 1, 1, 0 / 0, 0, 1 / .7, .7, .7
    rivals = torch.tensor([[False, False, True], [True, True, True], [False, False, False]])
    loss = info_nce(query, key, rivals, 0.5)
    by_hand = [math.log(1 + math.exp(-2)), math.log(2 + math.exp(2)), 0.0]
    torch.testing.assert_close(loss, torch.tensor(by_hand))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(query.bfloat16(), key.bfloat16(), rivals, 0.5), loss, rtol=0, atol=0)


def test_cells_that_look_the_same_are_no_rivals(spec: Spec, batch: Batch) -> None:
    """Two copies of a place, one of them at other days: each cell's twin is alike, other cells are rivals."""
    place = random_batch(spec, 1)
    levels = torch.linspace(-4, 4, 16).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    sensors = {
        k: Series((levels + 0.1 * s.x) * s.valid[:, :, None], s.valid, s.day, s.bands) for k, s in place.sensors.items()
    }
    place = place.replace(sensors=sensors)
    later = place.replace(
        sensors={k: Series(s.x + 0.05 * s.valid[:, :, None], s.valid, s.day + 30, s.bands) for k, s in sensors.items()}
    )
    both = collate([place, later])
    alike = rms_distance(cell_statistics(both, 8).flatten(0, 1)) <= 0.2
    torch.testing.assert_close(alike, torch.eye(16, dtype=torch.bool).repeat(2, 2))
    assert build("contrastive", spec, duplicate=0.2)(both)["rivals"] == 30
    assert build("contrastive", spec, duplicate=0.0)(both)["rivals"] == 31
    assert build("contrastive", spec)(batch.first(1))["loss"] > 0  # the last batch of a run may hold one place


def test_statistics_of_a_cell_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0], [5.0, 99.0]]).expand(1, 2, 1, 2, 2)
    valid = torch.tensor([[[[True, True], [True, False]], [[False] * 2] * 2]])
    batch = Batch({"s1": Series(x, valid, torch.zeros(1, 2), ("VV",))}, {}, torch.ones(1))
    torch.testing.assert_close(cell_statistics(batch, 2), torch.tensor([[[3.0, math.sqrt(8 / 3)]]]))


@pytest.mark.parametrize("size", [(32, 32), (16, 32)])
def test_the_two_looks_share_no_cell_and_see_everything(size: tuple[int, int], spec: Spec, batch: Batch) -> None:
    """The second is turned, and so is what hides it, whatever the shape."""
    batch = batch.map_grids(lambda t, _: t[..., : size[0], : size[1]])
    objective = build("contrastive", spec)
    shown: list[tuple[Batch, Mask]] = []
    objective.encoder.register_forward_pre_hook(lambda _, args: shown.append(args))
    for seed in range(4):
        shown.clear()
        torch.manual_seed(seed)
        objective(batch)
        (plain, one), (turned, other) = shown
        assert torch.equal(plain.sensors["s2"].x, batch.sensors["s2"].x)
        quarters = [k for k in (1, 2, 3) if torch.equal(turn(batch, k).sensors["s2"].x, turned.sensors["s2"].x)]
        assert len(quarters) == 1
        assert torch.equal(other.seen.rot90(-quarters[0], (2, 3)), ~one.seen)
        assert torch.equal(other.valid.rot90(-quarters[0], (2, 3)), one.valid)
        assert (one.seen.flatten(1).sum(1) * 2 == one.seen[0].numel()).all()


def test_random_projections_are_frozen(spec: Spec, batch: Batch) -> None:
    objective = build("latent", spec)
    before = {k: v.clone() for k, v in objective.named_buffers() if k.startswith(("weight_", "bias_"))}
    assert before.keys() == {f"{w}_8_{s}" for w in ("weight", "bias") for s in spec.bands}
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-2)
    for _ in range(2):
        objective(batch)["loss"].backward()
        optimiser.step()
    saved = objective.state_dict()
    assert all(torch.equal(saved[k], v) for k, v in before.items())


def test_projections_tell_brightness_apart(spec: Spec) -> None:
    objective = build("latent", spec)
    x = torch.ones(1, 1, 64, 10)
    dark, bright = (objective.project("s2", x * k) for k in (0.5, 2.0))
    assert torch.cosine_similarity(dark, bright, dim=-1) < 0.95


def test_the_teacher_moves_by_the_running_mean_alone(spec: Spec, batch: Batch) -> None:
    objective = build("jepa", spec, ema=0.75).train()
    teacher, encoder = objective.teacher, objective.encoder
    start = {k: v.clone() for k, v in teacher.state_dict().items()}
    torch.testing.assert_close(start, encoder.state_dict(), rtol=0, atol=0)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-2, weight_decay=0.1)
    objective(batch)["loss"].backward()
    optimiser.step()
    torch.testing.assert_close(dict(teacher.state_dict()), start, rtol=0, atol=0)
    objective.after_step(0.5)
    own = {n for n, _ in teacher.named_parameters()}
    for name, value in teacher.state_dict().items():
        now = encoder.state_dict()[name]
        assert name not in own or not torch.equal(now, start[name]), name
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * now if name in own else now)


def test_the_teacher_is_paid_for(spec: Spec) -> None:
    objective = build("jepa", spec)
    whole = measure(objective.encoder, spec.dummy(2), step=lambda e, b: e.features(b).sum())
    cost = measure(objective, spec.dummy(2), parts=["encoder", "teacher"])
    assert cost.parts["teacher"] == whole.forward > 0
