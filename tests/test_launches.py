"""What makes a host wait for its device is seen without one, and no step of any training does it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launches import FAR, Asked, asked, pretraining
from small import LANDCOVER, make_conv_run, make_run, make_unet_run
from test_pretrain import small
from torch import Tensor

from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders
from gfm_objectives.data.places import OnDevice
from gfm_objectives.finetune import HParams, finetune, step_cost
from gfm_objectives.models import norm
from gfm_objectives.objectives import OBJECTIVES
from gfm_objectives.runs.provenance import settled
from gfm_objectives.tasks.kinds import KINDS
from gfm_objectives.training.finite import EVERY

X = torch.zeros(4, 5, device=FAR)
WAIT = {
    "a value": lambda: X.sum().item(),
    "a truth": lambda: bool(X.sum() > 0),
    "a list": lambda: X.tolist(),
    "a copy here": lambda: X.cpu(),
    "an index by a mask": lambda: X[X > 0],
    "numbers of what is there": lambda: X.nonzero(),
    "an index by a list": lambda: X[:, [0, 1]],
    "an index of the host": lambda: X[torch.tensor([0, 1])],
    "a list that is sent": lambda: torch.tensor([1.0, 2.0], device=FAR),
    "a tensor that is sent": lambda: torch.zeros(3).to(FAR),
    "a tensor that is written over": lambda: X.copy_(torch.zeros(4, 5)),
    "counts": lambda: torch.bincount(X[0].long()),
    "repeats": lambda: X.repeat_interleave(X[:, 0].long(), 0),
    "a comparison": lambda: torch.equal(X, X),
}
NO_WAIT = {
    "an index by numbers": lambda: X[torch.zeros(4, dtype=torch.long, device=FAR)],
    "a tensor that is sent meanwhile": lambda: torch.zeros(3).to(FAR, non_blocking=True),
    "a number of the host": lambda: torch.where(X > 0, 3.0, X) * torch.tensor(2.0),
    "what is masked is filled": lambda: X.clone().__setitem__(X > 0, 1.0),
    "repeats of one number": lambda: X.repeat_interleave(2, 0),
}


@pytest.mark.parametrize("what", WAIT)
def test_a_wait_is_seen(what: str) -> None:
    with Asked() as found:
        try:
            WAIT[what]()
        except (NotImplementedError, RuntimeError):  # the meta device cannot, and was asked all the same
            pass
    assert found.waits.total() == 1 and "test_launches.py" in next(iter(found.waits))


@pytest.mark.parametrize("what", NO_WAIT)
def test_nothing_else_is_taken_for_a_wait(what: str) -> None:
    with Asked() as found:
        NO_WAIT[what]()
    assert not found.waits


def test_kernels_are_counted_and_views_are_not() -> None:
    with Asked() as found:
        y = (X.view(20)[:10] + 1).unsqueeze(0).relu()
        torch.empty_like(y)
    assert found.launches == {"add": 1, "relu": 1}
    with Asked() as found:
        torch.zeros(3) + 1
    assert not found.launches, "what is done here is no launch"


# -- pretraining


def steps(tmp_path: Path, count: int, *words: str) -> Asked:
    cfg = settled(small(tmp_path, "data.size=24", "log_every=1000000", "budget.flops=1e15", *words))
    module = pretraining(cfg)
    flow = iter(module.opened())

    def take() -> None:
        for _ in range(count):
            module.step(next(flow))
            module.objective.after_step(module.budget.progress)

    return asked(take)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_step_of_pretraining_waits(tmp_path: Path, name: str) -> None:
    """Read, sent, normalised, cut, turned, magnified, learned from, clipped."""
    found = steps(tmp_path, 3, f"objective={name}", "augment.zoom=1.5", "augment.sides=[16,24]")
    assert not found.waits and found.launches.total() > 300


def test_losses_are_asked_for_now_and_then(tmp_path: Path) -> None:
    """Whether they are numbers; a step that is logged asks once more."""
    (where,) = steps(tmp_path, EVERY, "objective=supervised").waits.items()
    assert where[0].startswith("_local_scalar_dense at finite.py") and where[1] == 1


def test_the_norms_of_several_processes_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm.ranks, "count", lambda: 2)
    monkeypatch.setattr(norm.ranks, "summed", lambda t: t * 2)
    shared = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).to(FAR)
    norm.share_norms(shared)
    assert not asked(lambda: shared(torch.zeros(2, 3, 4, 4, device=FAR)).sum().backward()).waits


# -- fine-tuning


def waits_of_finetuning(model: torch.nn.Module, kind: object, places: int, **how: object) -> Counter[str]:
    train = open_bench("landcover", LANDCOVER).source("train")
    flops = places * step_cost(model.to(FAR), train.read([0, 1]), kind, "landcover").total
    held = OnDevice(train, FAR)
    budget = HParams(1e-3, batch_size=2, **how)
    found = asked(lambda: finetune(model, held, kind, "landcover", flops, budget, 0, FAR)).waits
    return Counter({where: n for where, n in found.items() if "finite.py" not in where})  # asked now and then, as above


def test_no_step_of_fine_tuning_waits(tmp_path: Path) -> None:
    """Of any contender; the last loss is told, once."""
    bench = open_bench("landcover", LANDCOVER)
    runs = [make_run(tmp_path / "a"), make_unet_run(tmp_path / "u"), make_conv_run(tmp_path / "c")]
    rows = contenders(["all"], runs, 1, None, published(["timm:vit_tiny_patch16_224"], [], 16))
    seen = set()
    for c in rows:
        if c.trained and not c.extra_flops:
            start = c.space(bench.spec, 2).start
            short, long = (
                waits_of_finetuning(
                    c.build(bench.spec, bench.outputs, start, 0), bench.kind, n, freeze=start.freeze, head_first=False
                )
                for n in (4, 12)
            )
            assert short == long and short.total() == 1, (c.kind, long)
            seen.add(c.kind)
    assert len(seen) > 12


@pytest.mark.parametrize("how", ["", "weighted", "dice", "focal"])
def test_no_loss_of_classes_waits(tmp_path: Path, how: str) -> None:
    kind = replace(KINDS["segmentation"], how=how, weights=(1.0, 2.0) if how == "weighted" else ())
    logits, target = torch.zeros(2, 2, 4, 4, device=FAR), torch.zeros(2, 4, 4, dtype=torch.long, device=FAR)

    def take() -> Tensor:
        return kind.loss(logits, target)

    assert not asked(take).waits
