"""The loader: its order is a function of seed and position, a step of seed, step and rank, with or without workers."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.chance import mix, order, seed_of
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.signals import SIGNALS


class Numbers(Source):
    """Places that show their own number; place `broken` cannot be read."""

    spec = Spec({"dem": ("elevation",)}, {"dem": 1}, 256, 30.0, {})  # so large that a step is read by itself
    fingerprint = "numbers"

    def __init__(self, n: int, broken: int | None = None, seconds: float = 0.0) -> None:
        self.n, self.broken, self.seconds = n, broken, seconds
        self.reads: list[int] = []  # how many places at a time

    def __len__(self) -> int:
        return self.n

    def read(self, indices: Sequence[int]) -> Batch:
        time.sleep(self.seconds)
        self.reads.append(len(indices))
        if self.broken in indices:
            raise InputError(f"place {self.broken}: cannot be read")
        x = torch.tensor(indices).float().view(-1, 1, 1, 1, 1).expand(-1, 1, 1, 2, 2)
        valid = torch.ones(len(indices), 1, 2, 2, dtype=torch.bool)
        series = Series(x.clone(), valid, torch.zeros(len(indices), 1), ("elevation",))
        return Batch({"dem": series}, {}, torch.full((len(indices),), 30.0))


def places(batch: Batch) -> list[int]:
    return batch.sensors["dem"].x[:, 0, 0, 0, 0].long().tolist()


def test_an_epoch_holds_each_place_once_and_epochs_and_seeds_differ():
    first, second = order(0, 1000, np.arange(1000)), order(0, 1000, np.arange(1000, 2000))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(1000))
    assert not np.array_equal(first, second) and not np.array_equal(first, order(1, 1000, np.arange(1000)))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15 and abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.15


def test_order_depends_on_position_alone():
    whole = order(3, 7, np.arange(50))
    assert np.array_equal(order(3, 7, np.arange(20, 50)), whole[20:])  # batches may straddle epochs
    assert np.array_equal(order(3, 7, np.array([41, 2])), whole[[41, 2]])


def test_order_is_the_same_in_every_version():
    assert order(0, 10, np.arange(10)).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]


def test_seeds_depend_on_every_part_and_stay_the_same_in_every_version():
    assert mix(0, "order") == 5_618_756_638_689_033_999
    assert seed_of("synthetic", 0) == 4_088_526_325_269_454_006
    parts = [(0, 1), (1, 0), (0, 1, "a"), ("0", "1a"), (1, "a", 0), (11, 1), (1, 11), (111,)]
    for draw in (mix, seed_of):
        assert len({draw(*p) for p in parts}) == len(parts) and all(0 <= draw(*p) < 2**63 for p in parts)


def test_a_later_start_gives_the_same_steps():
    whole = [places(b) for b in StepLoader(Numbers(23), 4, seed=5, stop=20)]
    assert [places(b) for b in StepLoader(Numbers(23), 4, seed=5, start=13, stop=20)] == whole[13:]
    assert [places(b) for b in StepLoader(Numbers(23), 4, seed=6, stop=20)] != whole


def test_places_are_read_in_rows_of_steps_that_a_later_start_shares():
    """Sixteen places of 64 x 64 at a time, whatever the batch; steps and their content are the same."""
    source = Numbers(23)
    one_by_one = [places(b) for b in StepLoader(source, 3, seed=5, start=2, stop=13)]
    assert source.reads == [3] * 11
    source = Numbers(23)
    source.spec = dataclasses.replace(source.spec, size=64)
    assert [places(b) for b in StepLoader(source, 3, seed=5, start=2, stop=13)] == one_by_one
    assert source.reads == [9, 15, 9]  # steps 2..4, 5..9, 10..12: rows of five end at multiples of five


def test_ranks_share_an_epoch_without_overlap():
    loaders = [StepLoader(Numbers(24), 3, seed=1, stop=4, rank=r, world_size=2) for r in (0, 1)]
    seen = Counter(p for loader in loaders for b in loader for p in places(b))
    assert seen == Counter(range(24))
    alone = [places(b) for b in StepLoader(Numbers(24), 6, seed=1, stop=4)]
    pairs = [places(a) + places(b) for a, b in zip(*loaders, strict=True)]
    assert pairs == alone  # two devices with half the batch see what one sees


def test_workers_change_nothing_but_who_waits():
    source = Numbers(23, seconds=0.05)
    alone, helped = (StepLoader(source, 4, seed=5, start=3, stop=15, workers=w) for w in (0, 1))
    assert [places(b) for b in alone] == [places(b) for b in helped]
    assert alone.batches == helped.batches == 12
    assert alone.wait >= 11 * 0.05 and alone.first_wait >= 0.05  # what the source sleeps


def test_an_endless_loader_has_no_end():
    steps = iter(StepLoader(Numbers(5), 2, seed=0, start=10**9))
    assert [len(next(steps)) for _ in range(7)] == [2] * 7


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_place_is_told_in_one_line(workers: int):
    with pytest.raises(InputError) as error:
        for _ in StepLoader(Numbers(6, broken=4), 2, seed=0, stop=3, workers=workers):
            pass
    assert str(error.value) == "place 4: cannot be read"


def test_a_fault_of_the_disk_keeps_its_path():
    class Gone(Numbers):
        def read(self, indices: Sequence[int]) -> Batch:
            raise FileNotFoundError(2, "No such file or directory", "chips/4.tif")

    steps = iter(StepLoader(Gone(6), 2, seed=0, stop=3))
    with pytest.raises(FileNotFoundError) as error:
        next(steps)
    assert error.value.filename == "chips/4.tif"


def test_a_worker_outlives_the_signals_that_ask_a_job_to_leave():
    """Clusters send them to every process of a job, and the trainer still has a step to finish."""
    loader = StepLoader(Numbers(8), 2, seed=0, workers=1, prefetch=1)
    steps = iter(loader)
    next(steps)
    (worker,) = loader._loader._iterator._workers
    for asking in SIGNALS:
        os.kill(worker.pid, asking)
    assert len([next(steps) for _ in range(4)]) == 4, "of which it had one or two ready"


KILLED = """
import multiprocessing, os, signal
from tests.test_loader import Numbers, StepLoader
if __name__ == "__main__":
    steps = iter(StepLoader(Numbers(8), 2, seed=0, workers=1))
    next(steps)
    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc")
def test_workers_of_a_killed_run_end(tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, script], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300
    )
    pids = run.stdout.decode().split()
    assert run.returncode == -9 and len(pids) == 1

    def alive(pid: str) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"

    deadline = time.monotonic() + 300
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))
