"""Joules used by the device: a GPU's own counter (NVML), or that of the CPU's packages (RAPL)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
MILLI, MICRO = 1e-3, 1e-6


class Counter(ABC):
    """Counts joules up from some past moment; `read` is None where the device does not tell."""

    @abstractmethod
    def read(self) -> float | None:
        """Joules so far."""


class NVML(Counter):
    """One GPU, its memory included: nvmlDeviceGetTotalEnergyConsumption, in millijoules since the driver was loaded,
    from Volta on (docs.nvidia.com/deploy/nvml-api). The package nvidia-ml-py; torch's numbers of GPUs are not NVML's
    where CUDA_VISIBLE_DEVICES chooses, so the GPU is found by its UUID.
    """

    def __init__(self, uuid: str) -> None:
        self.handle: Any = None
        try:
            self.nvml = import_module("pynvml")
            self.nvml.nvmlInit()
            self.handle = self.nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        except ModuleNotFoundError:
            return
        except self.nvml.NVMLError:
            self.handle = None

    def read(self) -> float | None:
        if self.handle is None:
            return None
        try:
            return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) * MILLI
        except self.nvml.NVMLError:  # before Volta, a partition of a GPU, or lost
            return None


class RAPL(Counter):
    """All packages of the CPU, whoever used them: intel-rapl:<n>/energy_uj, in microjoules, on Intel's and AMD's.

    A counter starts again at max_energy_range_uj, after minutes of hard work: it must be read more often than that, and
    a fall is taken to be one turn. Subzones (intel-rapl:0:1) are parts of a package, and intel-rapl-mmio counts the
    same once more. Where only root may read it, as is usual (CVE-2020-8694), it does not tell.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = sorted(z for z in root.glob("intel-rapl:*") if z.name.count(":") == 1 and _is_package(z))
        self.zones = {z: _number(z / "max_energy_range_uj") for z in zones}
        self.total = 0.0
        self.last = {z: _number(z / "energy_uj") for z in zones}

    def read(self) -> float | None:
        if not self.zones or None in self.last.values():
            return None
        for zone, turn in self.zones.items():
            now, before = _number(zone / "energy_uj"), self.last[zone]
            if now is None or before is None or (now < before and turn is None):
                return None
            self.total += now - before + (turn or 0) * (now < before)
            self.last[zone] = now
        return self.total * MICRO


def _is_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int | None:
    """The number in a file; None where it cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


class Energy:
    """Joules that a run used on this process's device, over its resumptions; None once any part of it is not known.

        energy = Energy(counter_of(device), kept=checkpoint.get("energy"))
        energy.start()
        ...
        checkpoint["energy"] = energy.state()
        ledger.energy_joules = energy.joules

    kept: the `state` of the run so far. Read `joules` now and then, as when logging: see RAPL.
    """

    def __init__(self, counter: Counter | None, kept: Mapping[str, float | None] | None = None) -> None:
        self.counter = counter
        self.before: float | None = kept["joules"] if kept is not None else 0.0
        self.begun: float | None = None

    def start(self) -> None:
        """From here on it counts."""
        self.begun = self.counter.read() if self.counter is not None else None

    @property
    def joules(self) -> float | None:
        now = self.counter.read() if self.counter is not None else None
        if now is None or self.begun is None or self.before is None:
            return None
        return self.before + now - self.begun

    def state(self) -> dict[str, float | None]:
        """For a checkpoint; plain numbers."""
        return {"joules": self.joules}


def counter_of(device: torch.device | str) -> Counter | None:
    """What counts the energy of a device; None where nothing does. A GPU's leaves out the CPU beside it."""
    device = torch.device(device)
    if device.type == "cuda":
        return NVML(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return RAPL() if device.type == "cpu" else None
