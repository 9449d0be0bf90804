"""What a step of pretraining does: places, augmentation, learning rate, decay and clipping, and the teacher's turn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from test_pretrain import small
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from gfm_objectives import pretrain
from gfm_objectives.batch import Batch
from gfm_objectives.budget import Budget
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.flops import Cost
from gfm_objectives.models import build_encoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.jepa import JEPA
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain import measuring, module
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.pretrain.steps import Step, cost_of
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.training.energy import Energy
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.stepping import Stepper

CLIP, LR, BATCH, WARMUP, COOLDOWN = 1e-3, 1e-2, 8, 24, 0.25
SAMPLES = 108.4  # that the budget pays for


@dataclass
class Watched:
    """What one run did, step by step."""

    read: list[list[int]] = field(default_factory=list)
    stored: list[Tensor] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)  # as the objective was given them
    chance: list[float] = field(default_factory=list)  # a draw of the objective's own
    groups: list[list[dict]] = field(default_factory=list)  # of the optimiser, as it stepped
    norm: list[float] = field(default_factory=list)  # of the gradient then
    progress: list[float] = field(default_factory=list)  # as after_step was told
    teacher: list[dict[str, Tensor]] = field(default_factory=list)  # before each step
    saved: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    price: float = 0.0  # FLOPs of a sample


def watch(folder: Path, seed: int) -> Watched:
    out = Watched()
    read, forward, after = Synthetic.read, JEPA.forward, JEPA.after_step

    def reading(self: Synthetic, indices: list[int]) -> Batch:
        batch = read(self, indices)
        for first in range(0, len(indices), BATCH):  # several steps are read at once
            out.read.append(list(indices[first : first + BATCH]))
            out.stored.append(batch.sensors["s2"].x[first : first + BATCH])
        return batch

    def forwarding(self: JEPA, batch: Batch, variant: tuple[str, ...] = ()) -> dict[str, Tensor]:
        if batch.gsd.device.type != "meta":
            out.seen.append(batch.sensors["s2"].x)
            out.chance.append(float(torch.rand(())))
            out.teacher.append({k: v.clone() for k, v in self.teacher.state_dict().items()})
        return forward(self, batch, variant)

    def told(self: JEPA, progress: float) -> None:
        out.progress.append(progress)
        after(self, progress)

    def stepped(optimiser: torch.optim.Optimizer, *_: object) -> None:
        out.groups.append([dict(g) for g in optimiser.param_groups])
        grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        out.norm.append(float(torch.stack([g.norm() for g in grads]).norm()))

    words = ["objective=jepa", "data.size=16", f"budget.warmup={WARMUP}", f"budget.cooldown={COOLDOWN}"]
    words += [f"seed={seed}", f"optim.clip={CLIP}", f"optim.lr={LR}", f"optim.batch_size={BATCH}"]
    cfg = small(folder, *words)
    source, whole = pretrain.open_source(cfg)
    objective = build_objective(cfg.objective, build_encoder(cfg.encoder, whole), whole)
    price = cost_of(objective, source.spec, Step((), 8, 16), BATCH)
    words.append(f"budget.flops={SAMPLES * price.total}")
    hook = register_optimizer_step_post_hook(stepped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Synthetic, "read", reading)
        patch.setattr(JEPA, "forward", forwarding)
        patch.setattr(JEPA, "after_step", told)
        patch.setattr(module, "peak", lambda _: ("none", None))  # measured on a CPU, which takes seconds
        run = pretrain.run(small(folder, *words))
    hook.remove()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    out.saved, out.counts, out.price = last["state_dict"], last["run"], price.total
    assert len(out.seen) == len(out.norm) > 10
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Watched]:
    """Two seeds."""
    return [watch(tmp_path_factory.mktemp(f"s{seed}"), seed) for seed in (0, 1)]


def test_the_seed_decides_the_order_of_places(runs: list[Watched]) -> None:
    one, other = runs
    assert one.read[0] != other.read[0] and one.read[5] != other.read[5]
    assert len({tuple(r) for r in one.read}) == len(one.read)


def test_places_are_turned_before_they_are_seen(runs: list[Watched]) -> None:
    """Values only move, and to other places in another step: each of the eight orientations is as likely."""
    for run in runs:
        pairs = [(a[: len(b)], b) for a, b in zip(run.stored, run.seen, strict=False)]
        assert all(torch.equal(a.flatten(3).sort().values, b.flatten(3).sort().values) for a, b in pairs)
        moved = [not torch.equal(a, b) for stored, seen in pairs for a, b in zip(stored, seen, strict=True)]
        assert 0.75 < sum(moved) / len(moved) < 1


def test_the_learning_rate_of_every_group_follows_samples_up_and_flops_down(runs: list[Watched]) -> None:
    for run in runs:
        samples = progress = 0.0
        for groups, seen, after in zip(run.groups, run.seen, run.progress, strict=True):
            samples += len(seen)
            by_hand = LR * min(1, samples / WARMUP) * min(1, (1 - progress) / COOLDOWN)
            assert [g["lr"] for g in groups] == pytest.approx([by_hand] * 2)
            progress = after


def test_weights_are_decayed_and_biases_norms_and_teachers_are_not(runs: list[Watched]) -> None:
    groups = runs[0].groups[0]
    assert all(g["betas"] == (0.9, 0.95) for g in groups)
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert [{p.ndim > 1 for p in g["params"]} for g in groups] == [{True}, {False}]
    trained = [k for k, v in runs[0].saved.items() if "teacher" not in k and v.is_floating_point()]
    assert sum(len(g["params"]) for g in groups) == len([k for k in trained if "running_" not in k])


def test_every_step_has_a_chance_of_its_own(runs: list[Watched]) -> None:
    draws = [d for run in runs for d in run.chance]
    assert len(set(draws)) == len(draws)


def test_places_and_tokens_are_counted(runs: list[Watched]) -> None:
    for run in runs:
        samples, slots = sum(map(len, run.seen)), 5  # two dates of s2 and of s1, and the relief: of 4 cells each
        assert abs(samples - SAMPLES) <= 0.5 and run.counts["spent"] == pytest.approx(samples * run.price)
        assert (run.counts["samples"], run.counts["step"]) == (samples, len(run.seen))
        assert (run.counts["tokens"], run.counts["visible"]) == (samples * slots * 4, samples * slots)
        assert run.counts["merged"] == samples * 4  # once dates and sensors are one


def test_gradients_are_clipped(runs: list[Watched]) -> None:
    assert all(n == pytest.approx(CLIP, rel=1e-3) for run in runs for n in run.norm)


def test_the_teacher_follows_after_every_step(runs: list[Watched]) -> None:
    for run in runs:
        assert len(run.progress) == len(run.seen)
        assert run.progress == sorted(run.progress) and run.progress[-1] == pytest.approx(1, abs=0.005)
        states = [
            *run.teacher,
            {k.removeprefix("teacher."): v for k, v in run.saved.items() if "teacher" in k},
        ]
        for before, after in pairwise(states):
            assert any(not torch.equal(v, after[k]) for k, v in before.items() if "running" not in k)


def test_patches_are_drawn_and_the_yardstick_keeps_the_encoders_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of each patch at its own cost; what is measured, and exported, is the encoder that tasks will read."""
    drawn, judged, forward = [], [], JEPA.forward

    class Watching:
        cost, flops, places = 1.0, 0.0, "here"

        def __init__(self, source: object, encoder: Encoder, dtype: torch.dtype) -> None:
            judged.append(encoder.patch)

        def __call__(self, encoder: Encoder) -> dict[str, float]:
            judged.append(encoder.patch)
            return {"rankme": 9.0, "std": 1.0, "cosine": 0.0}

        def bands(self) -> dict[str, float]:
            return {"rankme": 9.0}

    def forwarding(self: JEPA, batch: Batch, variant: tuple[str, ...] = ()) -> dict[str, Tensor]:
        if batch.gsd.device.type != "meta":
            assert self.encoder.patch == self.teacher.patch
            drawn.append((self.encoder.patch, len(batch)))
        return forward(self, batch, variant)

    monkeypatch.setattr(JEPA, "forward", forwarding)
    monkeypatch.setattr(measuring, "Yardstick", Watching)
    monkeypatch.setattr(module, "peak", lambda _: ("none", None))
    words = ["objective=jepa", "data.size=16", "encoder.patches=[4,16]", "yardstick=true", "budget.flops=4e9"]
    run = pretrain.run(small(tmp_path, *words))
    assert {p for p, _ in drawn} == {4, 8, 16} and len(judged) > 5 and set(judged) == {8}
    cfg = small(tmp_path, *words)
    source, whole = pretrain.open_source(cfg)
    objective = build_objective(cfg.objective, build_encoder(cfg.encoder, whole), whole)
    price = {p: cost_of(objective, source.spec, Step((), p, 16), 4).total for p in (4, 8, 16)}
    assert len(set(price.values())) == 3
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(sum(n * price[p] for p, n in drawn))
    mean = sum(price.values()) / 3
    assert sum(ledger["flops_per_sample_by_part"].values()) == pytest.approx(mean)
    encoder = load_encoder(run)
    assert encoder.patch == 8 and encoder.patches == (4, 8, 16)


# -- steps without a trainer


class Recording(Objective):
    """Three kinds of step; says what it is given. No ViT, so it has one patch."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.encoder = torch.nn.Linear(1, 1)
        self.steps: list[tuple[tuple[str, ...], Tensor, float]] = []

    def variants(self) -> tuple[tuple[str, ...], ...]:
        return ("a",), ("b",), ("c",)

    def forward(self, batch: Batch, variant: tuple[str, ...] = ()) -> dict[str, Tensor]:
        self.steps.append((variant, batch.sensors["s2"].x, float(torch.rand(()))))
        return {"loss": self.encoder.weight.sum()}


COSTS = {Step((name,), 1, 32): Cost(cost, 0.0) for name, cost in (("a", 10.0), ("b", 20.0), ("c", 30.0))}
OPTIONS = """
{name: demo, seed: 0, log_every: 1, optim: {lr: 0.5}, augment: {zoom: 1.0}, budget: {warmup: 100, cooldown: 0.5}}
"""


def alone(
    flops: float,
    batch: Batch,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    steps: int = 200,
    compiled: bool = False,
) -> Pretraining:
    """Steps of one process of `world`, all with the same batch, until the budget is spent."""
    cfg = OmegaConf.merge(OmegaConf.create(OPTIONS), {"seed": seed})
    fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=world, is_global_zero=False)
    out = Pretraining(Recording(), COSTS, Budget(flops), cfg, None, Path(), fabric)  # type: ignore[arg-type]
    out.meter, out.used, out.model = Meter(None, world), Energy(None), out.objective
    optimiser = torch.optim.SGD(out.objective.parameters(), lr=cfg.optim.lr)
    out.stepper = Stepper(
        optimiser, out.objective.parameters(), 1.0, out.device, torch.float32, Finite(out.device, print)
    )
    out._log = lambda *_: None  # type: ignore[method-assign]
    out.compiled, out.rates, out.losses = compiled, [], []
    while not out.done and len(out.rates) < steps:
        out.losses.append(float(out.step(batch)))
        out.rates.append(optimiser.param_groups[0]["lr"])
    return out


def test_kinds_of_step_are_drawn_equally_often_and_paid_at_their_price(batch: Batch) -> None:
    one, other = (alone(1e5, batch, seed) for seed in (0, 1))
    kinds = [v for v, *_ in one.objective.steps]
    assert len(kinds) == 200 and all(45 < kinds.count(v) < 90 for v, _, _ in COSTS)
    assert kinds != [v for v, *_ in other.objective.steps]
    assert one.budget.spent == sum(COSTS[Step(v, 1, 32)].total * 4 for v in kinds)


def test_the_last_batch_is_cut_to_the_budget(batch: Batch) -> None:
    run = alone(1234.0, batch)
    sizes = [len(x) for _, x, _ in run.objective.steps]
    assert sizes[:-2] == [4] * (len(sizes) - 2) and run.done
    assert abs(run.budget.spent - 1234) <= 15  # half a sample of the dearest kind
    assert run.count["samples"] == sum(sizes)


def test_processes_share_the_schedule_and_one_chance_of_which_each_takes_its_places(batch: Batch) -> None:
    one, other = (alone(4000.0, batch, rank=rank, world=2) for rank in (0, 1))
    assert one.rates == other.rates and one.budget.spent == other.budget.spent == pytest.approx(4000, abs=30)
    assert one.rates[0] == 0.5 * 8 / 100  # warm-up counts the samples of both
    turned = 0
    for (kind, x, draw), (same, y, another) in zip(one.objective.steps, other.objective.steps, strict=True):
        assert kind == same and len(x) == len(y) and draw == another
        turned += not torch.equal(x, y)
    assert turned > len(one.rates) / 2  # each for itself
    spent = sum(2 * len(x) * COSTS[Step(v, 1, 32)].total for v, x, _ in one.objective.steps)
    assert one.budget.spent == spent and one.count["samples"] == 2 * sum(len(x) for _, x, _ in one.objective.steps)
