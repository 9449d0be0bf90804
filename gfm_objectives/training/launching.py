"""One process, or several that train together: on the GPUs or cores of a machine, under SLURM or torchrun."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gfm_objectives.errors import InputError
from gfm_objectives.signals import held

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L
    from lightning.fabric.strategies import DDPStrategy


def launched(device: torch.device, devices: int | None = None, nodes: int = 1) -> L.Fabric:
    """Fabric with its processes running: this one, and, by the same command line, the others.

    devices: how many of this machine; None = all GPUs for device=cuda without a number, else one. InputError where
    there are fewer GPUs.
    """
    for chatty in ("lightning.fabric", "lightning.pytorch", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    gpu = device.type == "cuda"
    here = torch.cuda.device_count() if gpu else 1
    if devices is None:
        devices = here if gpu and device.index is None else 1
    if gpu and devices > (1 if device.index is not None else here):
        raise InputError(f"devices={devices}: device={device} has {1 if device.index is not None else here}")
    several = devices * nodes > 1
    backend = "nccl" if gpu else "gloo"
    fabric = L.Fabric(
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index] if gpu and device.index is not None else devices,
        num_nodes=nodes,
        # steps of cross_sensor and mix leave the heads of other directions without a gradient
        strategy=DDPStrategy(find_unused_parameters=True, process_group_backend=backend) if several else "auto",
    )
    with held():  # an early signal ends none of the processes that begin here
        fabric.launch()
    return fabric


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
