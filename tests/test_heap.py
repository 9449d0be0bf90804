"""Freed memory: kept for the next step of training, or handed back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from gfm_objectives import heap
from gfm_objectives.training import stepping
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.stepping import Stepper

PROGRAM = """
import ctypes, resource, sys
import torch
from gfm_objectives import heap

torch.set_num_threads(1)
ctypes.CDLL(None).mallopt(heap.MMAP_THRESHOLD, 1 << 17)  # its default does as it likes
if sys.argv[1] == "kept":
    heap.keep_freed()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20

def step():
    blocks = [torch.ones(6 << 20) for _ in range(6)]  # of 24 MiB

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
faults, held = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident()
heap.give_back()
print(faults, held - resident())
"""


def faults_and_given(how: str) -> tuple[int, int]:
    """Pages asked for by four steps that ask for what the step before freed; MiB that giving back gives."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults, given = done.stdout.split()
    return int(faults), int(given)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    default, _ = faults_and_given("freed")
    faults, given = faults_and_given("kept")
    assert faults < default / 100, (faults, default)
    assert given > 100, "144 MiB were free"


def test_a_step_on_a_cpu_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(stepping, "keep_freed", lambda: told.append(1))
    weight = torch.nn.Parameter(torch.zeros(1))
    for device in ("cpu", "meta"):
        finite = Finite(torch.device(device), lambda step, value: None)
        Stepper(torch.optim.SGD([weight]), [weight], 1.0, torch.device(device), torch.float32, finite)
    assert told == [1]


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.keep_freed.__wrapped__()  # not what it remembers
    heap.give_back()
