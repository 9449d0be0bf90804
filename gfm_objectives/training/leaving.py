"""Leaving on request: a signal asks, the next step boundary obeys, and the same command goes on where it was left.

SIGUSR1 is what a SLURM job asks for ahead of its time limit (#SBATCH --signal=USR1@120); the job is then put back into
the queue from here, as Lightning's Trainer does. SIGUSR2 is what submitit asks for, which does that by itself
(sweep/cluster.py). SIGTERM is what SLURM sends where it preempts or cancels: who preempts requeues by himself, and what
was cancelled is not to come back.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import torch

from gfm_objectives import ranks
from gfm_objectives.signals import Asked
from gfm_objectives.training.finite import EVERY

if TYPE_CHECKING:
    import lightning as L

AGAIN = 75  # the exit code: EX_TEMPFAIL of sysexits.h, a failure that is none and asks to be tried again


def due(asked: Asked, step: int, device: torch.device) -> bool:
    """Whether any process was asked to leave by now, after so many steps; of several all are told at once, and look
    every EVERY steps alone, since asking makes a GPU wait."""
    if ranks.count() > 1:
        if step % EVERY:
            return False
        asked.signal = int(ranks.worst(torch.tensor(asked.signal, device=device)))
    return asked.signal != 0


def leave(fabric: L.Fabric, asked: Asked, told: str) -> NoReturn:
    """End this process, once the first has written its checkpoint, and say so; told: a line with {} for who asked."""
    fabric.barrier()
    if not fabric.is_global_zero:
        raise SystemExit(0)  # Fabric takes another code for a fault
    line = told.format(f"asked to leave by {signal.Signals(asked.signal).name}")
    print(f"{line}; {requeued(asked.signal)}", flush=True)
    raise SystemExit(AGAIN)


def requeued(number: int, environment: Mapping[str, str] = os.environ) -> str:
    """Put this SLURM job back into the queue where SIGUSR1 asked to leave; returns what became of it, in words.

    A task of an array is named by array and task: its own number would mean all of them to scontrol where it is the
    first.
    """
    job = environment.get("SLURM_JOB_ID")
    if job is None or number != signal.SIGUSR1:
        return "the same command goes on"
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return f"scontrol requeue {job} failed ({why[0] if why else '?'}); submit it again, and it goes on"
    return f"job {job} is back in the queue and goes on when it starts"
