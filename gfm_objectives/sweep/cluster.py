"""The same runs as a SLURM array, by submitit (the extra `slurm`)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gfm_objectives.errors import InputError
from gfm_objectives.sweep.pool import command


def submit(runs: Sequence[DictConfig], home: Path, options: Mapping[str, Any], dry_run: bool) -> str:
    """Submit one array of all runs, at most `options['at_once']` at a time; returns what was, or would be, submitted.

    A run that the cluster ends goes on from its checkpoint when the sweep is submitted again.
    """
    try:
        import submitit
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise InputError(
            "executor=slurm: needs submitit; install the extra: pip install 'gfm-objectives[slurm]'"
        ) from None
    commands = [command(c, home) for c in runs]
    folder = home / "slurm"
    parameters = {
        "job_name": home.name,
        "time": round(60 * options["hours"]),
        "gpus_per_node": options["gpus"] or None,
        "cpus_per_task": options["cpus"],
        "mem": options["memory"],
        "partition": options["partition"],
        "account": options["account"],
        "setup": list(options["setup"]) or None,
        "array_parallelism": options["at_once"],
    }
    given = {k: v for k, v in parameters.items() if v is not None}
    if dry_run:
        from submitit.slurm.slurm import _make_sbatch_string

        shown = " ".join(commands[0][:-2]) + " config=<one of the runs below>"
        script = _make_sbatch_string(command=shown, folder=folder, map_count=len(runs), **given)
        return "\n".join([script, *(f"# run {i}: {' '.join(c)}" for i, c in enumerate(commands))])
    if SlurmExecutor.affinity() < 0:
        raise InputError("executor=slurm: no sbatch here; submit from a login node, or show the job with dry_run=true")
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(**{f"slurm_{k}": v for k, v in given.items()})
    jobs = executor.map_array(subprocess.check_call, commands)
    return f"submitted {len(jobs)} runs as job {jobs[0].job_id.split('_')[0]}; logs in {folder}"
