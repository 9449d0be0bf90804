"""The same runs as a SLURM array, by submitit (the extra `slurm`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gfm_objectives.errors import InputError
from gfm_objectives.sweep.pool import command
from gfm_objectives.sweep.trunks import Share


class Run:
    """The command of a run as submitit calls it. Asked by a signal to leave (#SBATCH --signal=USR2@90), that calls
    `checkpoint` and puts what it returns back into the queue; at the limit of time at most three times."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = [*command]
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        self.process = subprocess.Popen(self.command)
        if code := self.process.wait():
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> Any:
        """The same run once more, when it has written its checkpoint and gone."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            with suppress(ChildProcessError):  # `wait` would wait for the lock of the one that the signal broke into
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Run(self.command))


def submit(runs: Sequence[Share], home: Path, options: Mapping[str, Any], dry_run: bool) -> str:
    """Submit an array of the runs, at most `options['at_once']` at a time, and one of those that branch from them,
    which begins when it has ended; returns what was, or would be, submitted.

    A run that is preempted, or whose time is up, is put back into the queue with its checkpoint; one that the cluster
    ends all the same goes on from it when the sweep is submitted again.
    """
    try:
        import submitit
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise InputError(
            "executor=slurm: needs submitit; install the extra: pip install 'gfm-objectives[slurm]'"
        ) from None
    tasks = max(1, options["gpus"])  # one a GPU, as SLURM and Lightning want it
    arrays = [[command(s.cfg, home) for s in runs if bool(s.after) == late] for late in (False, True)]
    folder = home / "slurm"
    parameters = {
        "job_name": home.name,
        "time": round(60 * options["hours"]),
        "gpus_per_node": options["gpus"] or None,
        "ntasks_per_node": tasks if tasks > 1 else None,
        "cpus_per_task": max(1, options["cpus"] // tasks),
        "mem": options["memory"],
        "partition": options["partition"],
        "account": options["account"],
        "setup": list(options["setup"]) or None,
        "array_parallelism": options["at_once"],
    }
    given = {k: v for k, v in parameters.items() if v is not None}
    if dry_run:
        from submitit.slurm.slurm import _make_sbatch_string

        lines: list[str] = []
        for commands in filter(None, arrays):
            more = {"requeue": True} | ({"dependency": "afterany:JOB_ABOVE"} if lines else {})
            shown = " ".join(commands[0][:-2]) + " config=<one of the runs below>"
            lines.append(
                _make_sbatch_string(
                    command=shown, folder=folder, map_count=len(commands), additional_parameters=more, **given
                )
            )
            lines += [f"# run {i}: {' '.join(c)}" for i, c in enumerate(commands)]
        return "\n".join(lines)
    if SlurmExecutor.affinity() < 0:
        raise InputError("executor=slurm: no sbatch here; submit from a login node, or show the job with dry_run=true")
    told: list[str] = []
    for commands in filter(None, arrays):
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
        more = {"requeue": True} | ({"dependency": f"afterany:{told[-1]}"} if told else {})
        executor.update_parameters(slurm_additional_parameters=more, **{f"slurm_{k}": v for k, v in given.items()})
        told.append(executor.submit_array([Run(c) for c in commands])[0].job_id.split("_")[0])
    return f"submitted {len(runs)} runs as {' and '.join(f'job {t}' for t in told)}; logs in {folder}"
