"""What a run accounts for, over its resumptions and its processes: nothing twice, nothing forgotten, nothing that only
looked on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_pretrain_decisions import COSTS, alone

from gfm_objectives.batch import Batch
from gfm_objectives.pretrain import measuring, module
from gfm_objectives.pretrain.measuring import Measuring
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.pretrain.states import restore, state_of
from gfm_objectives.pretrain.steps import Step
from gfm_objectives.training.energy import Counter, Energy


class Joules(Counter):
    """Five more at every look."""

    def __init__(self) -> None:
        self.total = 0.0

    def read(self) -> float:
        self.total += 5
        return self.total


def sourced(run: Pretraining) -> Pretraining:
    run.optimiser, run.source = torch.optim.SGD(run.objective.parameters()), SimpleNamespace(fingerprint="f")
    return run


def left(run: Pretraining) -> dict[str, Any]:
    """The state that it leaves after 50 s, 7 of them waiting, and 5 J."""
    run.meter, run.loader = SimpleNamespace(seconds=50.0), SimpleNamespace(wait=7.0)
    run.used = Energy(Joules(), run.energy)
    run.used.start()
    return state_of(sourced(run), Measuring(torch.float32))


def test_a_run_that_goes_on_has_spent_what_it_had_and_no_more(batch: Batch, tmp_path: Path) -> None:
    """However often it goes on."""
    run = alone(1234.0, batch, steps=5)
    run.count, run.energy = run.count | {"tokens": 20, "visible": 10, "merged": 5}, None
    before = run.count | {"spent": run.budget.spent}
    for times in (1, 2):
        torch.save(left(run), tmp_path / "last.ckpt")
        run = sourced(alone(1234.0, batch, steps=0))
        restore(run, Measuring(torch.float32), tmp_path / "last.ckpt")
        assert run.count | {"spent": run.budget.spent} == before | {"seconds": 50.0 * times, "wait": 7.0 * times}
        assert run.energy == {"joules": 5.0 * times}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> Pretraining:
    """The second of two processes with 11 J behind it, as `fit` leaves it where nothing is left to do."""
    run = alone(1000.0, batch, rank=1, world=2, steps=0)
    monkeypatch.setattr(module, "restore", lambda run, _: vars(run).update(energy={"joules": 11.0}))
    monkeypatch.setattr(module, "peak", lambda _: ("of one", 4.0))
    monkeypatch.setattr(module, "counter_of", lambda _: Joules())
    run.prepare, run.opened = lambda _: None, lambda: ()  # type: ignore[method-assign, assignment]
    run.trunk = SimpleNamespace(begin=lambda _: None)  # type: ignore[assignment]
    run.done = True
    run.fit(SimpleNamespace(begin=lambda _: None))  # type: ignore[arg-type]
    return run


def test_utilisation_is_of_the_peak_of_all_processes(begun: Pretraining) -> None:
    assert begun.peak == ("of one", 4.0) and begun.meter.peak == 8.0


def test_energy_begins_with_what_the_run_had_used(begun: Pretraining) -> None:
    assert begun.used.joules == 16.0


def test_seconds_of_the_yardstick_are_not_the_runs(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(100.0, 10.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    run = alone(1000.0, batch, steps=0)
    run.objective.set_patch, run.tell, run.meter = lambda: None, lambda _: None, Meter(None, 1)
    run.cfg.name, run.done = "demo", True
    monkeypatch.setattr(measuring, "alarm", lambda _: "")
    beside = Measuring(torch.float32)
    beside.yardstick = SimpleNamespace(flops=3.0)  # type: ignore[assignment]
    beside.times, beside.passed, beside.table = 10, 0, SimpleNamespace(add=lambda _: None)  # type: ignore[assignment]
    monkeypatch.setattr(beside, "_measured", lambda *_: {})
    run.meter.start()
    beside.after_step(run)
    assert (beside.seconds, beside.flops, run.meter.aside) == (10.0, 3.0, 10.0)
    assert run.meter.seconds == 20.0, "two looks at the clock before and after, and not the ten between"


def kinds(batch: Batch) -> list[Step]:
    """Of the first steps."""
    return [Step(v, 1, 32) for v, *_ in alone(1e5, batch, steps=9).objective.steps]


def test_who_is_left_nothing_of_the_last_step_looks_at_a_blank_place_and_learns_nothing(batch: Batch) -> None:
    drawn = [COSTS[k].total for k in kinds(batch)]
    flops = (
        sum(8 * c for c in drawn[:3]) + drawn[3]
    )  # two processes of four places each, and one place for the last step
    one, other = (alone(flops, batch, rank=rank, world=2) for rank in (0, 1))
    assert one.done and other.done and one.count == other.count and one.count["samples"] == 25
    assert [v != 0 for v in one.losses] == [True] * 4 and [v != 0 for v in other.losses] == [True] * 3 + [False]
    seen = [run.objective.steps[-1][1] for run in (one, other)]
    assert len(seen[0].unique()) > 1 and len(seen[1]) == len(seen[1].unique()) == 1


def test_a_cut_batch_is_not_compiled_for(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another size than all others, it would be compiled for alone, which takes minutes."""
    asked: list[bool] = []

    @contextmanager
    def eager(really: bool) -> Iterator[None]:
        asked.append(really)
        yield

    monkeypatch.setattr(module, "eager", eager)
    for compiled in (True, False):
        asked.clear()
        run = alone(1234.0, batch, compiled=compiled)
        sizes = [len(x) for _, x, _ in run.objective.steps]
        assert sizes[-1] < 4 and asked == [compiled and n < 4 for n in sizes]
