"""One process, or several that train together: on the GPUs or cores of a machine, under SLURM or torchrun."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from gfm_objectives import ranks
from gfm_objectives.errors import InputError
from gfm_objectives.signals import held

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
    from lightning.fabric.strategies import DDPStrategy


def launched(device: torch.device, devices: int | None = None, nodes: int = 1) -> L.Fabric:
    """Fabric with its processes running: this one, and, by the same command line, the others.

    devices: how many of this machine; None = as many as torchrun or srun started, else all GPUs for device=cuda without
    a number, else one. InputError where there are fewer GPUs, or far fewer cores, where torchrun or srun started
    another number, each of which would train alone, and where neither started those of other machines.
    """
    for chatty in ("lightning.fabric", "lightning.pytorch", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    gpu = device.type == "cuda"
    here = torch.cuda.device_count() if gpu else 1
    by, each, machines = started(os.environ)
    if devices is None:
        devices = each or (here if gpu and device.index is None else 1)
    if by and (devices, nodes) != (each, machines):
        raise InputError(
            f"devices={devices} num_nodes={nodes}: {by} started {each} processes on each of {machines} machines; give "
            f"devices={each} num_nodes={machines}"
        )
    if not by and nodes > 1:  # it would wait for them without a word
        raise InputError(
            f"num_nodes={nodes}: nobody started processes on the other machines; start this command on each by srun or "
            "torchrun (docs/training.md)"
        )
    if gpu and devices > (1 if device.index is not None else here):
        raise InputError(f"devices={devices}: device={device} has {1 if device.index is not None else here}")
    if not gpu and devices > 2 * (cores := os.cpu_count() or 1):
        raise InputError(f"devices={devices}: so many processes would wait for each other on {cores} cores")
    if by == "srun":  # Lightning refuses what --ntasks= has started, and asks for this
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each))
    several = devices * nodes > 1
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # nothing that a user could mend
    backend = "nccl" if gpu else "gloo"
    fabric = L.Fabric(
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index] if gpu and device.index is not None else devices,
        num_nodes=nodes,
        plugins=[ENVIRONMENTS[by]()],  # Lightning would take what an sbatch file starts for a task of srun
        strategy=DDPStrategy(process_group_backend=backend) if several else "auto",
    )
    with held():  # an early signal ends none of the processes that begin here
        fabric.launch()
    return fabric


def look_for_unused(fabric: L.Fabric, wanted: bool) -> None:
    """Whether DDP goes through every step's graph for weights without a gradient, as steps of cross_sensor and mix have
    them in the heads of other directions; before the model is set up."""
    assert isinstance(fabric.strategy, DDPStrategy)
    fabric.strategy._ddp_kwargs["find_unused_parameters"] = wanted


def started(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Who started this process, how many on each machine, and on how many machines; ('', 0, 0) = nobody but a user."""
    if "TORCHELASTIC_RUN_ID" in environment:
        each = int(environment["LOCAL_WORLD_SIZE"])
        return "torchrun", each, int(environment["WORLD_SIZE"]) // each
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":  # one alone may be a shell, whose user starts what he likes
        machines, tasks = int(environment["SLURM_STEP_NUM_NODES"]), int(environment["SLURM_STEP_NUM_TASKS"])
        if tasks % machines:
            raise InputError(
                f"srun started {tasks} processes on {machines} machines; start as many on each, by --ntasks-per-node"
            )
        return "srun", tasks // machines, machines
    return "", 0, 0


ENVIRONMENTS = {"torchrun": TorchElasticEnvironment, "srun": SLURMEnvironment, "": LightningEnvironment}


@contextmanager
def agreed() -> Iterator[None]:
    """What is refused in it, of one process or of all, ends all of them, and the first tells why, in one line; nobody
    goes on before all are through."""
    if ranks.count() == 1:
        yield
        return
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        fault = error
    why = ranks.gathered(None if fault is None else f"{fault}")
    if fault and (ranks.first() or not isinstance(fault, InputError)):
        raise fault
    if told := next((w for w in why if w is not None), None):
        if ranks.first():
            raise InputError(told)
        raise SystemExit(0)  # Fabric takes another code for a fault of this process, and kills the first


@contextmanager
def together(processes: int, out: Path) -> Iterator[None]:
    """Where one of several processes is gone, the others say so in one line."""
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL, whose own errors are RuntimeErrors too
        lost = any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "peer", "timeout"))
        if processes == 1 or not lost:
            raise
        raise InputError(
            f"{out}: one of {processes} processes is gone (killed, or out of memory); the same command goes on from "
            f"the last checkpoint: {str(error).splitlines()[0][:160]}"
        ) from None
