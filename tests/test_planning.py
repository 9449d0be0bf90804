"""gfm plan: arithmetic to check by hand, where the MFU comes from, and memory against what a process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import NANO, random_batch
from torch import nn

from gfm_objectives import cli
from gfm_objectives.allocations import ROUNDED, Alive, Autocast, Fused
from gfm_objectives.batch import Spec
from gfm_objectives.config import compose, load_choice
from gfm_objectives.config.files import read_entry
from gfm_objectives.data.pool import Pool
from gfm_objectives.data.source import Source
from gfm_objectives.device import has_bf16
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.planning.cards import NAMES, card
from gfm_objectives.planning.memory import WORKSPACE, Memory, fitting, forecast, pool_bytes
from gfm_objectives.planning.program import reckon, text
from gfm_objectives.planning.speed import ASSUMED, speed_of
from gfm_objectives.pretrain.steps import kinds_of_step
from gfm_objectives.runs.provenance import settled

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["data.size=32", "data.dates=2", "encoder.depth=1"]


def plan(*words, flops="1e12"):
    (cfg,) = compose("plan", [*SMALL, "measured=null", f"budget.flops={flops}", *words])
    return reckon(settled(cfg)), cfg


# ---------------------------------------------------------------- the reckoning


def test_time_energy_and_money_are_arithmetic():
    p, cfg = plan("device=a100", "devices=4", "mfu=0.5", "watts=300", "euro=0.5", flops="1e18")
    assert p.seconds == pytest.approx(1e18 / (0.5 * 312e12 * 4))
    assert p.device_hours == pytest.approx(p.seconds * 4 / 3600)
    assert p.kwh == pytest.approx(p.device_hours * 0.3) and p.euro == pytest.approx(p.kwh / 2)
    assert p.samples * p.flops_per_sample == pytest.approx(1e18)
    assert (p.steps - 1) * p.batch * 4 < p.samples <= p.steps * p.batch * 4
    assert p.memory.buckets == p.memory.gradients > 0, "several devices exchange gradients in buckets"
    told = text(p, cfg)
    assert "26.71 minutes, 1.781 GPU hours" in told and "0.5342 kWh at 300 W a device, of yours; 0.2671 euro" in told
    assert "50.0% of A100 dense bf16 (312 TFLOP/s), given" in told


def test_what_a_plan_says_of_samples_and_tokens_is_what_a_run_does(tmp_path, capsys):
    words = [*SMALL, "budget.flops=2e10", "objective=mae", "yardstick=false"]
    words += ["device=cpu", "loader.workers=0", "threads=1", f"runs={tmp_path}", "name=run", "overwrite=true"]
    assert cli.train(words) == 0, capsys.readouterr().err
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    p, _ = plan("objective=mae", flops="2e10")
    assert p.samples == pytest.approx(ledger["samples"], abs=0.5)
    assert p.flops_per_sample == pytest.approx(ledger["flops_per_sample"])
    assert p.parameters == sum(ledger["parameters"].values())
    assert p.tokens / p.parameters == pytest.approx(ledger["tokens_per_parameter"], rel=0.5 / ledger["samples"])


def test_a_batch_that_does_not_fit_is_told_with_one_that_does(capsys):
    words = ["optim.batch_size=60000", "device=l4"]
    p, cfg = plan(*words)
    assert p.fits < p.batch and p.fits % 8 == 0
    line = text(p, cfg).splitlines()[-1]
    assert line.startswith("  does not fit: 60000 places take ") and f"optim.batch_size={p.fits} does" in line
    better, cfg = plan(f"optim.batch_size={p.fits}", "device=l4")
    assert better.fits == p.fits and "does not fit" not in text(better, cfg)
    more, _ = plan(f"optim.batch_size={int(p.fits * 1.02) + 8}", "device=l4")
    assert more.fits < more.batch, "and it is about the largest"


def test_a_global_batch_is_dealt_out_to_the_devices():
    p, cfg = plan("batch.global=240000", "devices=4", "device=l4", flops="1e15")
    each, _ = plan("optim.batch_size=60000", "devices=4", "device=l4", flops="1e15")
    assert (p.batch, p.steps, p.fits, p.memory) == (each.batch, each.steps, each.fits, each.memory)
    assert f"batch.global={4 * p.fits} does" in text(p, cfg)
    with pytest.raises(InputError, match=r"batch\.global=6: 4 processes cannot share it evenly"):
        plan("batch.global=6", "devices=4")
    with pytest.raises(InputError, match="say the same twice"):
        plan("batch.global=8", "optim.batch_size=8")


def test_the_command_prints_it(capsys):
    assert cli.main(["plan", *SMALL, "measured=null", "device=cpu", "optim.batch_size=2"]) == 0
    told = capsys.readouterr().out
    assert "CPU hours" in told and "ASSUMED: nothing was measured; mfu= sets it" in told
    assert "energy  not known" in told and "watts= sets it" in told
    assert cli.main(["plan", "device=a1000"]) == 2
    assert "device=a1000: must be one of b200, h200, h100" in capsys.readouterr().err
    assert cli.main(["plan", *SMALL, "budget.flops=1e6"]) == 2
    assert "pays for" in capsys.readouterr().err


def test_devices_of_the_yaml_are_those_of_the_table():
    _, (_, ranges) = read_entry("plan")
    assert ranges["device"].choices == NAMES
    for name in set(NAMES) - {"cpu"}:
        assert card(name).peak > 5e13 and 2e10 < card(name).memory < 3e11 and 50 < (card(name).watts or 0) < 1500


# ---------------------------------------------------------------- where the MFU comes from

ROW = {"encoder": "tiny", "objective": "mae", "batch": 64, "compiled": True, "device": "NVIDIA A100-SXM4-80GB"}


def rows(tmp_path, *changes) -> str:
    made = [ROW | {"flops_per_s": 31.2e12} | change for change in changes]
    (tmp_path / "steps.json").write_text(json.dumps(made))
    return str(tmp_path)


def test_a_measured_row_that_fits_is_taken_and_named(tmp_path):
    where = rows(tmp_path, {}, {"batch": 256, "flops_per_s": 62.4e12}, {"encoder": "base", "flops_per_s": 1e14})
    (tmp_path / "other.json").write_text('{"of": "another kind"}')
    speed = speed_of(card("a100"), "tiny", "mae", 300, None, where)
    assert speed.mfu == pytest.approx(0.2) and speed.source == "measured"
    assert speed.about == f"mae in batches of 256, compiled, NVIDIA A100-SXM4-80GB ({tmp_path}/steps.json)"
    assert speed_of(card("a100"), "tiny", "mae", 60, None, where).mfu == pytest.approx(0.1)
    assert speed_of(card("a100"), "tiny", "mae", 60, 0.4, where).source == "given"


@pytest.mark.parametrize(
    ("device", "objective", "encoder", "source", "mfu"),
    [
        ("a100", "jepa", "tiny", "measured with another objective", 0.1),
        ("h100", "mae", "tiny", "measured on another card", 0.1),
        ("h100", "jepa", "tiny", "measured on another card with another objective", 0.1),
        ("a100", "mae", "large", "ASSUMED", ASSUMED),
        ("cpu", "mae", "tiny", "ASSUMED", ASSUMED),
    ],
)
def test_what_was_not_measured_says_so(tmp_path, device, objective, encoder, source, mfu):
    where = rows(tmp_path, {}, {"device": "NVIDIA GeForce GTX 1080"})
    speed = speed_of(card(device), encoder, objective, 64, None, where)
    assert (speed.source, speed.mfu) == (source, pytest.approx(mfu))


def test_among_equals_the_compiled_row(tmp_path):
    where = rows(tmp_path, {"compiled": False, "flops_per_s": 15.6e12}, {})
    assert speed_of(card("a100"), "tiny", "mae", 64, None, where).mfu == pytest.approx(0.1)


def test_a_page_of_the_gpu_benchmark_is_read(tmp_path):
    speeds = [{k: ROW[k] for k in ("encoder", "objective", "batch", "compiled")} | {"FLOP/s": 31.2e12}]
    failed = {"encoder": "tiny", "objective": "mae", "compiled": False, "failed": "out of memory"}
    sections = {"ceilings": [{"matmul FLOP/s": 2e14}], "speed": [*speeds, failed]}
    (tmp_path / "a100.json").write_text(json.dumps({"device": ROW["device"], "sections": sections}))
    speed = speed_of(card("a100"), "tiny", "mae", 64, None, str(tmp_path))
    assert speed.mfu == pytest.approx(0.1) and speed.source == "measured"


def test_tables_that_are_none(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[{")
    with pytest.raises(InputError, match=r"measured=.*a\.json: no JSON; bring it back, or give measured=null"):
        speed_of(card("a100"), "tiny", "mae", 64, None, str(tmp_path))
    path.write_text('[{"encoder": "tiny"}]')
    with pytest.raises(InputError, match=r"expected a list of rows with batch, device, encoder"):
        speed_of(card("a100"), "tiny", "mae", 64, None, str(path))
    path.write_text(json.dumps([ROW | {"flops_per_s": None}]))
    with pytest.raises(InputError, match="must be positive numbers"):
        speed_of(card("a100"), "tiny", "mae", 64, None, str(tmp_path))
    missing = speed_of(card("a100"), "tiny", "mae", 64, None, str(tmp_path / "none"))
    assert missing.source == "ASSUMED" and missing.about == f"there is no {tmp_path}/none here; mfu= sets it"


# ---------------------------------------------------------------- memory

MB = 2**20


def test_what_is_alive_is_counted_once_and_until_it_is_gone():
    with Alive() as alive:
        a = torch.empty(MB, device="meta")
        b = a.view(2, -1)[0]
        assert alive.now == 4 * MB, "a view is no memory"
        c = b + 1
        assert alive.now == 6 * MB
        del a
        assert alive.now == 6 * MB, "b holds all of it"
        del b
        assert alive.now == 2 * MB
        del c
        torch.empty(1, device="meta")
    assert (alive.now, alive.peak) == (0, 6 * MB)
    alive.hold(one := torch.empty(1, device="meta"))
    alive.hold(one)
    assert alive.now == ROUNDED


def test_a_linear_layer_by_hand():
    """In float32: the input, the product before GELU and after it; in bfloat16 those at half, and copies of weights."""
    layer = nn.Sequential(nn.Linear(256, 512), nn.GELU()).to("meta")
    x = torch.empty(1024, 256, device="meta")
    with Alive() as alive:
        for tensor in (*layer.parameters(), x):
            alive.hold(tensor)
        held = alive.now
        y = layer(x)
        assert alive.now - held == 2 * 1024 * 512 * 4, "what GELU reads, and what it gives"
        del y
        assert alive.now == held
        with Autocast():
            y = layer(x)
            assert y.dtype == torch.bfloat16
            assert alive.now - held == (1024 * 256 + 256 * 512 + 512 + 2 * 1024 * 512) * 2
            assert torch.nn.functional.layer_norm(y, (512,)).dtype == torch.float32
            before = alive.now
            layer[0](x.new_empty(1, 256))
            assert alive.now - before < 4 * ROUNDED, "weights are cast once"


def test_attention_keeps_a_matrix_of_weights_only_where_it_is_not_fused():
    q = torch.empty(2, 4, 256, 16, device="meta", requires_grad=True)
    sizes = {}
    for fused in (True, False):
        with Alive() as alive, Fused() if fused else nullcontext():
            y = torch.nn.functional.scaled_dot_product_attention(q, q, q)
            sizes[fused] = alive.now
            del y
    assert sizes[False] - sizes[True] > 2 * 4 * 256 * 256 * 4 * 0.9


def on_meta(spec: Spec, name: str = "masked_seg") -> Objective:
    with torch.device("meta"):
        return build_objective(load_choice("objective", name), build_encoder(NANO, spec), spec)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_forecast_that_grows_with_the_batch(name, spec):
    objective = on_meta(spec, name)
    kind = kinds_of_step(objective, spec, None)[-1]
    few, many = (forecast(objective, spec, kind, n) for n in (2, 6))
    assert few.weights == many.weights >= few.gradients == many.gradients and few.optimiser == 2 * few.gradients
    assert 2 < (many.activations - WORKSPACE["cuda"]) / (few.activations - WORKSPACE["cuda"]) < 9
    assert all(p.grad is None for p in objective.parameters())


def test_precision_sides_and_devices_matter(spec):
    objective = on_meta(spec)
    whole, half = kinds_of_step(objective, spec, [32, 16])
    fp32 = forecast(objective, spec, whole, 64)
    bf16 = forecast(objective, spec, whole, 64, torch.bfloat16)
    part = forecast(objective, spec, half, 64)
    assert 0.4 < (bf16.activations - WORKSPACE["cuda"]) / (fp32.activations - WORKSPACE["cuda"]) < 0.9
    assert part.activations < fp32.activations / 2
    several = forecast(objective, spec, whole, 64, several=True)
    assert several.total == fp32.total + fp32.gradients
    assert forecast(objective, spec, whole, 64, device="cpu").activations == fp32.activations - WORKSPACE["cuda"]


def test_the_largest_of_the_kinds_of_step_counts():
    whole, both = (plan(f"augment.sides={s}")[0].memory for s in ("32", "16,32"))
    assert whole == both


def test_the_largest_batch_that_fits():
    assert fitting(99, lambda n: 10 + 10 * n, 1000) == 8
    assert fitting(1000, lambda n: 10 + 10 * n, 1000) == 96, "99, in eights"
    assert fitting(19, lambda n: 10 + 10 * n, 9) == 0 and fitting(20, lambda n: 10 + 10 * n, 9) == 1
    assert fitting(1000, lambda n: 10 + n * n, 5000) == 24, "31: where samples are compared with each other"


def test_the_total_is_the_sum():
    assert Memory(1, 2, 3, 4, 5, 6).total == 21


class Places(Source):
    fingerprint = "places"

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __len__(self) -> int:
        return 64

    def read(self, indices):
        return random_batch(self.spec, len(indices))


def test_a_pool_is_counted_as_it_is_kept(spec):
    places = Places(spec)
    assert pool_bytes(spec, 64) == Pool(places, 64, torch.device("cpu"), workers=0).nbytes
    assert plan("pool=128")[0].memory.pool == 2 * plan("pool=64")[0].memory.pool > 0


@pytest.mark.parametrize(
    ("encoders", "batches", "precision"),
    [
        ("nano", "4,16", "auto"),
        pytest.param("nano,tiny", "4,16", "auto", marks=pytest.mark.slow),
        pytest.param(
            "nano",
            "4,16",
            "bf16",
            marks=pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="NOT TESTED: no bf16 here"),
        ),
    ],
)
def test_the_forecast_is_within_15_percent_of_what_a_process_takes(encoders, batches, precision):
    """On a CPU, by its resident memory; benchmarks/memory.py does so on a GPU, too."""
    script = ROOT / "benchmarks" / "memory.py"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, script, encoders, "masked_seg", batches, precision]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    table = [
        line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith(("| nano", "| tiny"))
    ]
    assert len(table) == len(encoders.split(",")) * len(batches.split(","))
    for *_, told, seen, _, _ in table:
        assert 0.85 < float(told) / float(seen) < 1.15, done.stdout
