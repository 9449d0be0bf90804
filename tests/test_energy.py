"""Joules by a fake NVML and a fake powercap folder: units, turns of a counter, resumption, and what does not tell."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_pretrain import small

from gfm_objectives import pretrain, ranks
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.training import energy
from gfm_objectives.training.energy import NVML, RAPL, Energy

TURN = 1_000_000_000  # microjoules


def zone(root: Path, name: str, called: str, joules: float, turn: int | None = TURN) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    if turn:
        (folder / "max_energy_range_uj").write_text(f"{turn}\n")
    return folder


@pytest.fixture
def cpu(tmp_path) -> Path:
    """Two packages, a part of the first, and the first once more."""
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:1", "package-1", 990)
    zone(tmp_path, "intel-rapl:0:0", "core", 50)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    return tmp_path


def test_packages_are_added_and_nothing_counted_twice(cpu):
    used = Energy(RAPL(cpu))
    used.start()
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl-mmio:0", "intel-rapl:2"):
        zone(cpu, name, (cpu / name / "name").read_text().strip(), 130)
    assert used.joules == pytest.approx(30)


def test_a_counter_that_starts_again_is_one_turn(cpu):
    used = Energy(RAPL(cpu))
    used.start()
    zone(cpu, "intel-rapl:1", "package-1", 20)
    assert used.joules == pytest.approx(30), "10 to the end of its range, then 20"
    zone(cpu, "intel-rapl:1", "package-1", 5)
    assert used.joules == pytest.approx(1015), "and around once more"


def test_what_was_used_before_the_start_is_not_the_runs(cpu):
    counter = RAPL(cpu)
    zone(cpu, "intel-rapl:0", "package-0", 400)
    used = Energy(counter)
    assert used.joules is None, "not begun"
    used.start()
    assert used.joules == 0


def test_a_run_that_goes_on_adds_to_what_it_used(cpu):
    first = Energy(RAPL(cpu))
    first.start()
    zone(cpu, "intel-rapl:0", "package-0", 110)
    kept = first.state()
    zone(cpu, "intel-rapl:0", "package-0", 500)  # used by others
    second = Energy(RAPL(cpu), kept)
    second.start()
    zone(cpu, "intel-rapl:0", "package-0", 507)
    assert second.joules == pytest.approx(17)
    silent = Energy(None, second.state())
    silent.start()
    assert silent.joules is None and silent.state() == {"joules": None}
    lost = Energy(RAPL(cpu), silent.state())
    lost.start()
    assert lost.joules is None, "a part of the run is not known, so the whole is not"


def test_a_cpu_that_does_not_tell(cpu, tmp_path_factory, monkeypatch):
    assert RAPL(tmp_path_factory.mktemp("empty")).read() is None
    read = Path.read_text

    def refused(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    used = Energy(RAPL(cpu))
    used.start()
    assert used.joules is None


def test_a_counter_without_a_range_is_not_guessed(tmp_path):
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 100, turn=None)
    counter = RAPL(tmp_path)
    (folder / "energy_uj").write_text("120000000")
    assert counter.read() == pytest.approx(20)
    (folder / "energy_uj").write_text("1000000")
    assert counter.read() is None


class Fault(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """A stand-in for pynvml with one GPU, of 5 kJ so far."""
    fake = types.SimpleNamespace(NVMLError=Fault, millijoules=5_000_000, told=True)

    def handle(uuid):
        if uuid != b"GPU-1-2":
            raise Fault("not found")
        return "handle"

    def consumed(handle):
        if not fake.told:
            raise Fault("not supported")
        return fake.millijoules

    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByUUID = handle
    fake.nvmlDeviceGetTotalEnergyConsumption = consumed
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_a_gpu_counts_millijoules(nvml):
    used = Energy(NVML("GPU-1-2"))
    used.start()
    nvml.millijoules += 2500
    assert used.joules == pytest.approx(2.5)


def test_a_gpu_that_does_not_tell(nvml, monkeypatch):
    assert NVML("GPU-other").read() is None
    nvml.told = False
    assert NVML("GPU-1-2").read() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NVML("GPU-1-2").read() is None


def test_devices_have_the_counter_that_fits(nvml, monkeypatch, tmp_path):
    properties = types.SimpleNamespace(uuid="1-2")
    monkeypatch.setattr(energy.torch.cuda, "get_device_properties", lambda device: properties)
    counter = energy.counter_of("cuda:0")
    assert isinstance(counter, NVML) and counter.read() == 5000
    assert isinstance(energy.counter_of("cpu"), RAPL) and energy.counter_of("mps") is None


def test_all_devices_of_a_run_are_told(monkeypatch):
    mine = SimpleNamespace(energy={"joules": 3.0}, device=torch.device("cpu"), world=2)
    monkeypatch.setattr(ranks, "mean", lambda t: (t + 5.0) / 2)  # the other one used 5 J
    assert Pretraining.joules(mine) == 8.0
    mine.energy = None
    assert Pretraining.joules(mine) is None


def test_a_run_keeps_its_joules_in_the_ledger(cpu, tmp_path_factory, monkeypatch):
    runs = tmp_path_factory.mktemp("runs")
    times = [0]

    def rising() -> RAPL:
        class Working(RAPL):
            def read(self) -> float | None:
                zone(cpu, "intel-rapl:0", "package-0", 100 + 2 * times[0])
                times[0] += 1
                return super().read()

        return Working(cpu)

    monkeypatch.setattr(energy, "RAPL", rising)
    out = pretrain.run(small(runs, "objective=supervised"))
    told = json.loads((out / "ledger.json").read_text())["energy_joules"]
    assert times[0] > 8 and told == pytest.approx(2 * (times[0] - 1), abs=4), "2 J from one look to the next"
