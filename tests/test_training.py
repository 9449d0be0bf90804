"""What all training shares: the step, losses that are no numbers, parts compiled, places kept on the device, ranks."""

from __future__ import annotations

import copy
import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_pretrain import SMALL, small
from torch import Tensor, nn

from gfm_objectives import device, pretrain, ranks
from gfm_objectives.batch import Batch
from gfm_objectives.chance import order, seed_of
from gfm_objectives.config import load_choice
from gfm_objectives.data import pool
from gfm_objectives.data.pool import STEP, Pool, PoolLoader, kept, tensors
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.device import resolve
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.models.norm import SharedNorm, count_norms, share_norms
from gfm_objectives.objectives import build_objective
from gfm_objectives.pretrain import module, pretraining
from gfm_objectives.pretrain.steps import Step
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.training import launching
from gfm_objectives.training.compiling import compile_parts, eager, wanted
from gfm_objectives.training.finite import EVERY, Finite
from gfm_objectives.training.optimiser import adamw
from gfm_objectives.training.stepping import Stepper

CPU = torch.device("cpu")
NANO_SIZED = load_choice("encoder", "nano") | {"cell_dim": 16, "dim": 16, "depth": 1, "width": 8}


class Refused(Exception):
    pass


ONE = torch.tensor(1.0)


def refuse(step: int, value: float) -> None:
    raise Refused(step, value)


# -- losses that are no numbers


def test_one_cpu_learns_nothing_from_a_loss_that_is_no_number() -> None:
    weight = nn.Parameter(torch.ones(2))
    stepper = Stepper(adamw([([weight], 0.1)], 0.0), [weight], 1.0, CPU, torch.float32, Finite(CPU, refuse))
    stepper(0, 1.0, lambda: weight.sum())
    before = weight.detach().clone()
    assert not torch.equal(before, torch.ones(2))
    with pytest.raises(Refused):
        stepper(1, 1.0, lambda: weight.sum() * float("nan"))
    assert torch.equal(weight, before)


def test_one_cpu_learns_nothing_from_a_gradient_that_is_no_number() -> None:
    """The root of 0 is a number, and its slope is none: weights would be lost, of the last step in the export."""
    weight = nn.Parameter(torch.zeros(2))
    stepper = Stepper(adamw([([weight], 0.1)], 0.0), [weight], 1.0, CPU, torch.float32, Finite(CPU, refuse))
    with pytest.raises(Refused) as told:
        stepper(3, 1.0, lambda: weight.sum().sqrt())
    assert told.value.args == (3, 0.0) and torch.equal(weight, torch.zeros(2))


def test_others_name_a_bad_gradient_too() -> None:
    finite = Finite(CPU, refuse, worst=lambda t: t)
    for step, norm in enumerate((1.0, float("inf"), float("nan"))):
        finite.add(step, ONE, torch.tensor(norm))
    with pytest.raises(Refused) as told:
        finite.ask()
    assert told.value.args == (1, 1.0)


def test_others_are_asked_now_and_then_and_name_the_first_bad_step() -> None:
    """As on a GPU, which is not made to wait at every step."""
    finite = Finite(CPU, refuse, worst=lambda t: t)
    for step in range(3, EVERY - 1):
        finite.add(step, torch.tensor(float("inf") if step == 5 else float("nan") if step == 7 else 1.0), ONE)
    with pytest.raises(Refused) as told:
        finite.add(EVERY - 1, ONE, ONE)
    assert told.value.args == (5, float("inf"))
    with pytest.raises(Refused):
        finite.ask()


def test_a_bad_loss_of_another_process_stops_this_one() -> None:
    finite = Finite(CPU, refuse, worst=lambda t: t.clamp(min=-4.0))  # the largest of what all give, here -4
    finite.add(0, ONE, ONE)
    with pytest.raises(Refused) as told:
        finite.ask()
    assert told.value.args[0] == 4


# -- precision


def test_auto_is_bf16_where_it_is_faster_and_never_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: (1.0, 1.0), torch.bfloat16: (0.6, 2.0)}  # of the process, and of the clock
    monkeypatch.setattr(device, "products", lambda *_: seconds)
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert resolve("cpu") == (CPU, torch.bfloat16)
    seconds[torch.bfloat16] = (1.5, 0.5)
    assert resolve("cpu") == (CPU, torch.float32) and resolve("cpu", "bf16") == (CPU, torch.bfloat16)
    assert device.gains_by_bf16(torch.device("cuda")), "a GPU that has it is not asked"
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    monkeypatch.setattr(device, "products", lambda *_: pytest.fail("emulated, it takes seconds"))
    assert resolve("cpu") == (CPU, torch.float32)


def test_the_peak_of_a_cpu_is_its_fastest_product_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: (0.1, 4.0), torch.bfloat16: (9.0, 2.0)}
    monkeypatch.setattr(device, "products", lambda *_: seconds)
    threads = f"{torch.get_num_threads()} threads"
    assert device.peak("cpu") == (f"measured GEMM bf16, {threads}", 1024**3)
    seconds[torch.float32] = (9.0, 1.0)
    assert device.peak("cpu") == (f"measured GEMM fp32, {threads}", 2 * 1024**3)


def test_products_are_timed_at_best_and_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clocks of each dtype; in bf16 only where it is not emulated."""
    looks = iter([0, 5, 0, 7, 0, 4, 0, 9])  # begun and done: two rounds of two dtypes
    wall = iter([0, 50, 0, 70, 0, 60, 0, 30])
    monkeypatch.setattr(device, "time", SimpleNamespace(process_time=looks.__next__, perf_counter=wall.__next__))
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert device.products.__wrapped__(8, 1, 2) == {torch.float32: (4, 50), torch.bfloat16: (7, 30)}
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    monkeypatch.setattr(device, "time", time)
    assert list(device.products.__wrapped__(8, 1, 1)) == [torch.float32]


# -- compiled parts


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of tracing
def test_compiled_parts_give_the_losses_of_eager_ones_and_copies_are_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Synthetic("pretrain", size=16, dates=2)
    batch = source.read(range(2))
    objective = build_objective(load_choice("objective", "mae"), build_encoder(NANO_SIZED, source.spec), source.spec)

    def loss(model: nn.Module = objective) -> float:
        torch.manual_seed(0)
        return model(batch, model.variants()[-1])["loss"].item()  # type: ignore[operator]

    plain = loss()
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]):  # type: ignore[no-untyped-def]
        made.append(1)
        return graph

    compile_parts(objective, backend)  # type: ignore[arg-type]
    with eager(True):
        assert loss() == plain and not made
    assert loss() == pytest.approx(plain, rel=1e-5) and made
    made.clear()
    torch._dynamo.reset()
    assert loss(copy.deepcopy(objective)) == plain and not made


def test_what_compile_comes_to() -> None:
    assert [wanted(c, CPU) for c in ("auto", "on", "off")] == [False, True, False]
    assert wanted("auto", torch.device("cuda"))
    with pytest.raises(InputError, match="compile=maybe"):
        wanted("maybe", CPU)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_run_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last batch is cut, and is not compiled for; the yardstick measures the same encoder."""
    monkeypatch.setattr(module, "compile_parts", partial(compile_parts, backend="eager"))
    words = ("objective=supervised", "data.size=16", "yardstick=true", "budget.flops=2e9", "precision=fp32")
    plain, compiled = (pretrain.run(small(tmp_path / c, *words, f"compile={c}")) for c in ("off", "on"))
    for a, b in zip(load_encoder(plain).parameters(), load_encoder(compiled).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# -- places kept on the device


@pytest.fixture(scope="module")
def source() -> Synthetic:
    return Synthetic("pretrain", size=16, dates=2)


def test_a_pool_gives_the_places_of_its_source_but_for_rounding(source: Synthetic) -> None:
    made = Pool(source, 64, CPU, workers=0)
    batch = made.take(np.arange(64))
    places = source.read(order(seed_of("pool"), len(source), np.arange(64)).tolist()).replace(lonlat=None)
    number = {tuple(t.flatten().tolist()): k for k, t in enumerate(places.targets["map"])}
    assert len(number) == 64, "places are told apart by their map"
    index = torch.tensor([number[tuple(t.flatten().tolist())] for t in batch.targets["map"]])
    assert index.sort().values.equal(torch.arange(64)), "each once"
    for a, b in zip(tensors(batch), tensors(places.take(index)), strict=True):
        off = (a - b.clamp(-32, 32)).abs().max() if a.is_floating_point() and a.ndim == 5 else (a != b).sum()
        assert off <= (STEP / 2 + 1e-6 if a.ndim == 5 else 0)
    assert batch.targets["map"].dtype == torch.long and batch.sensors["s2"].valid.dtype == torch.bool


def test_the_batches_of_a_pool_depend_on_seed_and_step_alone(source: Synthetic) -> None:
    made = kept(source, 64, CPU)
    assert kept(source, 64, CPU) is made, "runs of a sweep share it"

    def first(n: int, **of: int) -> list[Batch]:
        flow = iter(PoolLoader(made, 4, **({"seed": 0} | of)))  # type: ignore[arg-type]
        return [next(flow) for _ in range(n)]

    one, later, other = first(3), first(1, start=2), first(3, seed=1)
    assert torch.equal(one[2].sensors["s2"].x, later[0].sensors["s2"].x)
    assert not torch.equal(one[0].sensors["s2"].x, other[0].sensors["s2"].x)
    both = [first(1, rank=r, world_size=2)[0].sensors["s2"].x for r in (0, 1)]
    assert torch.equal(torch.cat(both), torch.cat([b.sensors["s2"].x for b in one[:2]])), "whatever the number of ranks"


@pytest.mark.parametrize("count", [0, 65, 10**6 // 64 * 64])
def test_a_pool_of_another_size_is_refused(source: Synthetic, count: int) -> None:
    with pytest.raises(InputError, match=f"pool={count}: must be a multiple of 64"):
        pool.Pool(source, count, CPU, workers=0)


# -- several processes


def test_a_shared_norm_is_a_batch_norm_where_there_is_one_process() -> None:
    norm, x = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(4, 3, 5, 5)
    plain = norm(x)
    share_norms(norm)
    assert type(norm[0]) is SharedNorm and torch.equal(norm(x), plain)


def test_a_process_with_nothing_to_learn_has_no_part_in_shared_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, the other one of which has `other` places: what this one looks at, blank, changes nothing."""
    other = torch.randn(3, 2, 4, 4)
    of_other = torch.cat([other.sum((0, 2, 3)), other.square().sum((0, 2, 3)), torch.tensor([48.0])])
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "summed", lambda t: t + of_other)
    norm, plain = nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm2d(2)
    share_norms(norm)
    count_norms(norm, False)
    norm(torch.ones(1, 2, 4, 4))
    plain(other)
    for a, b in zip(norm.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    count_norms(norm, True)
    norm(torch.ones(1, 2, 4, 4))
    assert not torch.allclose(norm[0].running_mean, plain.running_mean)


FABRIC = SimpleNamespace(device=CPU, global_rank=0, world_size=1, is_global_zero=True)


def train(runs: Path, *words: str, script: str = "train.py") -> subprocess.Popen:
    keys = dict(w.split("=", 1) for w in (*SMALL, "device=cpu", "log_every=1", f"runs={runs}", "name=demo", *words))
    return subprocess.Popen(
        [sys.executable, script, *(f"{k}={v}" for k, v in keys.items())],
        cwd=Path(__file__).parent.parent,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parent.parent), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """At the same number of places a step: places, turns, statistics of norms and losses are those of one process, held
    one at a time too. The
    budget leaves the last step one place, so that one process looks on."""
    left = 301
    cfg = small(tmp_path, "objective=supervised", "data.size=16")
    price = pretraining.assembled(cfg, FABRIC, torch.float32).costs[Step((), 8, 16)].total  # type: ignore[arg-type]
    words = ("objective=supervised", "data.size=16", "optim.lr=1e-3", f"budget.flops={left * price}")
    whole = ("optim.batch_size=null", "batch.global=4", "batch.micro=1")
    two = train(tmp_path / "two", *words, *whole, "devices=2")
    one = pretrain.run(small(tmp_path / "one", "log_every=1", "device=cpu", *words))
    told = two.communicate(timeout=300)[0]
    assert two.returncode == 0 and "arning" not in told, told
    a, b = rows(one), rows(tmp_path / "two" / "demo")
    assert [r["samples"] for r in a] == [r["samples"] for r in b] and int(a[-1]["samples"]) == left
    assert [float(r["loss"]) for r in a] == pytest.approx([float(r["loss"]) for r in b], abs=2e-3)
    for x, y in zip(load_encoder(one).buffers(), load_encoder(tmp_path / "two" / "demo").buffers(), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=0.02, atol=0.02)
    assert not list((tmp_path / "two").rglob("*.tmp"))


STARTED = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"},
    "srun": {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"},
}


@pytest.mark.parametrize("by", STARTED)
def test_processes_that_others_started_are_not_left_to_train_alone(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take itself for the first, and write into the one folder."""
    made: list[dict[str, Any]] = []
    fabric = SimpleNamespace(launch=lambda: None)
    monkeypatch.setattr(launching.L, "Fabric", lambda **options: made.append(options) or fabric)
    for k, v in STARTED[by].items():
        monkeypatch.setenv(k, v)
    with pytest.raises(
        InputError, match=rf"{by} started 2 processes on each of 2 machines; give devices=2 num_nodes=2"
    ):
        launching.launched(CPU)
    with pytest.raises(InputError, match="devices=1 num_nodes=2"):
        launching.launched(CPU, 1, 2)
    launching.launched(CPU, None, 2)
    assert (made[0]["devices"], made[0]["num_nodes"]) == (2, 2)


def test_machines_on_which_nobody_starts_anything_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.L, "Fabric", lambda **_: pytest.fail("started"))
    with pytest.raises(InputError, match=r"num_nodes=2: nobody started .* by srun or torchrun"):
        launching.launched(CPU, 1, 2)


def test_far_more_processes_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.L, "Fabric", lambda **_: pytest.fail("started"))
    with pytest.raises(InputError, match="devices=300: so many processes"):
        launching.launched(CPU, 300)


@pytest.mark.slow
def test_a_killed_process_is_told_of_in_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    words = ("objective=supervised", "devices=2", "optim.batch_size=2", "budget.flops=3e10", "checkpoint_every=0.1")
    broken = train(tmp_path, *words)
    last = tmp_path / "demo" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists():
        assert broken.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(broken.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    told = broken.communicate(timeout=300)[0]
    assert broken.returncode == 2 and "processes is gone" in told and "Traceback" not in told, told
    again = train(tmp_path, *words)
    told = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and "goes on from step" in told, told
