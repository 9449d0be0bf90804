"""Several processes that train together: one chance, one order of places, one line of them all; sharded or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_pretrain import small
from test_pretrain_decisions import alone
from test_training import CPU, STARTED, rows, train

from gfm_objectives import pretrain, ranks
from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import load_choice
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import MapHead
from gfm_objectives.models.masking import hidden_of, positions, scattered
from gfm_objectives.objectives import build_objective
from gfm_objectives.pretrain.steps import every_weight_learns, kinds_of_step
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.training import launching
from gfm_objectives.training.finite import EVERY, Finite

# -- one chance


def of_each(draw: Callable[[Batch], torch.Tensor], batch: Batch, sizes: tuple[int, ...]) -> torch.Tensor:
    """What processes of so many places of the batch draw, joined."""
    found, first = [], 0
    for n in sizes:
        torch.manual_seed(5)
        with ranks.part(first, n, len(batch)):
            found.append(draw(batch.map(lambda t, a=first, b=first + n: t[a:b])))  # type: ignore[misc]
        first += n
    return torch.cat(found)


@pytest.mark.parametrize(
    "draw",
    [
        lambda b: scattered(b, 8, 0.5).seen,
        lambda b: positions(b, 8, 0.5, ("block", "cell")).seen,
        lambda b: hidden_of(scattered(b, 8, 0.5, ("random",)), ("s2", "s2", "dem"), "s2", 9)[0],
    ],
)
def test_processes_draw_together_the_masks_that_one_draws(draw: Callable[[Batch], torch.Tensor], batch: Batch) -> None:
    six = batch.map(lambda t: torch.cat([t, t[:2]]))
    torch.manual_seed(5)
    whole = draw(six)
    assert len({tuple(m.flatten().tolist()) for m in whole}) > 1
    for sizes in ((6,), (3, 3), (2, 2, 2), (4, 2)):
        assert torch.equal(of_each(draw, six, sizes), whole), sizes


def test_two_views_of_the_places_are_drawn_as_one_process_draws_them() -> None:
    torch.manual_seed(1)
    whole = torch.rand(8, 3).view(2, 4, 3)
    for first in (0, 2):
        torch.manual_seed(1)
        with ranks.part(first, 2, 4):
            mine = ranks.rand(4, 3, device=CPU)
        assert torch.equal(mine, whole[:, first : first + 2].flatten(0, 1))


def test_the_last_step_has_the_places_of_one_process(batch: Batch) -> None:
    """The first in the order, whoever has them; not a few of each process's."""
    for world in (1, 2, 3):
        runs = [alone(1e5, batch, rank=r, world=world, steps=0) for r in range(world)]
        most = 6 // world
        for left in (*range(1, 7), 100):
            dealt = [run.shares(left, most) for run in runs]
            numbers = [r * most + k for r, (_, _, n, counts) in enumerate(dealt) if counts for k in range(n)]
            assert numbers == [*range(min(left, 6))] and {d[0] for d in dealt} == {len(numbers)}
            assert all(d[1] == r * most for r, d in enumerate(dealt) if d[3]), "turned as that place is"
            assert all(d[2] >= 1 for d in dealt), "one that looks on sees a blank place"


def test_classes_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed, as one process counts them: else classes that nobody has seen weigh more the more processes there are."""
    target = torch.tensor([[[0, 0, 1, -1]], [[1, 1, 1, 0]]])
    one, other = MapHead(2, 3), MapHead(2, 3)
    one.loss(torch.zeros(2, 3, 1, 4), target)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    both = (target.flatten() == torch.arange(3)[:, None]).sum(1).float()

    def all_reduce(t: torch.Tensor) -> None:
        t.copy_(both if t.ndim else t)

    monkeypatch.setattr(ranks.dist, "all_reduce", all_reduce)
    other.loss(torch.zeros(1, 3, 1, 4), target[:1])
    assert torch.equal(one.counts, other.counts) and one.counts.tolist() == [4, 5, 1]


# -- one line


def test_the_first_step_that_any_process_has_no_number_for_is_told() -> None:
    """Not the last: a weight that is no number makes everybody's next loss none."""
    told: list[tuple[int, float]] = []
    finite = Finite(CPU, lambda step, value: told.append((step, value)), worst=lambda t: t.clamp(min=-3.0))
    for step in range(EVERY):
        finite.add(step, torch.tensor(float("inf") if step >= 4 else 1.0), torch.ones(()))
    assert told[0][0] == 3 and told[0][1] != told[0][1], "of another process, whose loss is not known here"
    told.clear()
    finite = Finite(CPU, lambda step, value: told.append((step, value)), worst=lambda t: t)
    for step in range(EVERY):
        finite.add(step, torch.tensor(float("inf") if step == 4 else 1.0), torch.ones(()))
    assert told == [(4, float("inf"))]


@pytest.mark.parametrize("first", [True, False])
def test_where_a_loss_is_no_number_the_first_process_alone_tells_of_it(
    first: bool, tmp_path: Path, batch: Batch
) -> None:
    run = alone(1e5, batch, world=2, steps=1)
    run.fabric.is_global_zero, run.folder = first, tmp_path  # type: ignore[misc]
    run.cfg.seed, run.cfg.pool, run.cfg.batch = 0, 64, {"global": 8}  # type: ignore[assignment]
    run.source = SimpleNamespace(fingerprint="")  # type: ignore[assignment]
    with pytest.raises(InputError if first else SystemExit) as left:
        run._refuse(7, float("nan"))
    assert (tmp_path / "fault.json").exists() is first
    if first:
        assert "fault.json" in str(left.value) and "gfm replay" not in str(left.value), "which is for one process"
        assert json.loads((tmp_path / "fault.json").read_text())["step"] == 7
    else:
        assert left.value.code == 0, "another one would have Fabric kill the first"


@pytest.mark.parametrize(
    ("rank", "mine", "others", "ends"),
    [
        (0, None, [None, None], None),
        (0, "full", ["full", None], InputError),
        (1, None, ["full", None], SystemExit),
        (0, None, [None, "no data"], InputError),
        (1, "no data", [None, "no data"], SystemExit),
    ],
)
def test_what_one_process_is_refused_ends_all_with_one_line(
    rank: int, mine: str | None, others: list[str | None], ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "first", lambda: rank == 0)
    asked: list[str | None] = []
    monkeypatch.setattr(ranks, "gathered", lambda value: asked.append(value) or others)

    def begin() -> None:
        with launching.agreed():
            if mine:
                raise InputError(mine)

    if ends is None:
        begin()
    else:
        with pytest.raises(ends) as left:
            begin()
        assert left.value.code == 0 if ends is SystemExit else str(left.value) in ("full", "no data")
    assert asked == [mine], "everybody asks, or the others would wait for ever"


# -- who starts whom


@pytest.mark.parametrize("by", [*STARTED, "an sbatch file", ""])
def test_processes_are_started_by_whoever_does_and_by_us_else(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an sbatch file runs without srun has the variables of the job's tasks, and waited for them for ever."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        launching.L, "Fabric", lambda **options: made.append(options) or SimpleNamespace(launch=lambda: None)
    )
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "base", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
    for k, v in {**STARTED.get(by, {}), **(job if by in ("srun", "an sbatch file") else {})}.items():
        monkeypatch.setenv(k, v)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    launching.launched(CPU, 2, 2 if by in STARTED else 1)
    name = {"torchrun": "TorchElasticEnvironment", "srun": "SLURMEnvironment"}.get(by, "LightningEnvironment")
    assert [type(p).__name__ for p in made[0]["plugins"]] == [name]


def test_uneven_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="srun started 3 processes on 2 machines; start as many on each"):
        launching.started({"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"})


@pytest.mark.parametrize(("name", "every"), [("mae", True), ("supervised", True), ("jepa", True), ("mix", False)])
def test_ddp_looks_for_weights_without_a_gradient_where_a_step_has_some(name: str, every: bool, spec: Spec) -> None:
    objective = build_objective(
        load_choice("objective", name), build_encoder(load_choice("encoder", "nano"), spec), spec
    )
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    assert every_weight_learns(objective, spec, kinds_of_step(objective, spec, None)) is every
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())


# -- really several


def test_weights_are_shared_out_among_several_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard=true: one process has nobody"):
        pretrain.run(small(tmp_path, "objective=mae", "shard=true", "devices=1", "device=cpu"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_refused_folder_is_told_of_once(tmp_path: Path) -> None:
    """By the first process alone, which opens it; the others have no traceback."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.yaml").write_text("a: 1\n")
    process = train(tmp_path, "objective=supervised", "devices=2")
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and told.count("holds a config.yaml and no run") == 1, told
    assert "Traceback" not in told and "rank1" not in told, told
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["config.yaml"]


STOPPED = """
import os, sys
from gfm_objectives.cli import train
from gfm_objectives.pretrain.module import Pretraining
step = Pretraining.step
def stopped(self, batch):
    if self.count["step"] == 9:
        os._exit(9)
    return step(self, batch)
Pretraining.step = stopped
if __name__ == "__main__":
    raise SystemExit(train())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", "masked_seg"])
def test_sharded_over_two_processes_a_run_is_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses to rounding, masks included; killed, it goes on in one process, and what it exports is whole."""
    words = (f"objective={name}", "data.size=16", "optim.batch_size=null", "batch.global=4", "budget.flops=3e9")
    words = (*words, "checkpoint_every=0.1", "device=cpu", "optim.lr=1e-3")
    one = pretrain.run(small(tmp_path / "one", "log_every=1", *words))
    two = train(tmp_path / "two", *words, "devices=2", "shard=true")
    told = two.communicate(timeout=300)[0]
    assert two.returncode == 0 and "arning" not in told, told
    (tmp_path / "stopped.py").write_text(STOPPED)
    broken = train(tmp_path / "broken", *words, "devices=2", "shard=true", script=str(tmp_path / "stopped.py"))
    broken.communicate(timeout=300)
    state = torch.load(tmp_path / "broken" / "demo" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["run"]["step"] <= 9
    assert {k: v.shape for k, v in state["state_dict"].items()} == {
        k: v.shape for k, v in torch.load(one / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"].items()
    }
    again = pretrain.run(small(tmp_path / "broken", "log_every=1", *words))
    a = rows(one)
    for other in (tmp_path / "two" / "demo", again):
        b = rows(other)
        assert [(r["samples"], r["flops"]) for r in a] == [(r["samples"], r["flops"]) for r in b]
        assert [float(r["loss"]) for r in a] == pytest.approx([float(r["loss"]) for r in b], abs=2e-3)
        assert isinstance(load_encoder(other), Encoder)
        for x, y in zip(load_encoder(one).parameters(), load_encoder(other).parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0.05, atol=0.02)
    ledgers = [Ledger.read(f / "ledger.json") for f in (one, tmp_path / "two" / "demo", again)]
    for key in ("flops_spent", "samples", "tokens", "visible_tokens", "merged_tokens", "config_hash", "parameters"):
        assert len({str(getattr(x, key)) for x in ledgers}) == 1, key
