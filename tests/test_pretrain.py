"""Pretraining whole: budget, outputs, schedule, resume after kill -9, refusals."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NANO
from omegaconf import DictConfig

import gfm_objectives
from gfm_objectives import config, pretrain
from gfm_objectives.batch import Batch
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.runs.checkpoint import load_encoder, load_model
from gfm_objectives.runs.folder import is_finished

SMALL = [
    *(f"encoder.{k}={v}" for k, v in NANO.items() if k != "name"),
    "data.size=32",
    "data.dates=2",
    "optim.batch_size=4",
    "loader.workers=0",
    "budget.flops=1e10",
    "budget.warmup=16",
    "threads=1",
    "yardstick=false",
]


def small(tmp_path: Path, *words: str) -> DictConfig:
    keys = dict(w.split("=", 1) for w in (f"runs={tmp_path}", "name=demo", *SMALL, *words))
    (cfg,) = config.compose("train", [f"{k}={v}" for k, v in keys.items()])
    return cfg


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain.run(small(tmp_path_factory.mktemp("runs"), "objective=cross_sensor", "log_every=1"))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as f:
        return list(csv.DictReader(f))


def test_a_run_leaves_everything(finished: Path) -> None:
    for name in ("config.yaml", "ledger.json", "metrics.csv", "encoder.safetensors", "encoder.json", "checkpoints"):
        assert (finished / name).exists(), name
    assert any((finished / "tensorboard").iterdir())


def test_the_budget_is_spent_within_half_a_percent(finished: Path) -> None:
    ledger = json.loads((finished / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(1e10, rel=0.005)
    assert ledger["samples"] * ledger["flops_per_sample"] == pytest.approx(ledger["flops_spent"])
    assert sum(ledger["flops_per_sample_by_part"].values()) == pytest.approx(ledger["flops_per_sample"], rel=0.1)


def test_the_ledger_has_every_field(finished: Path) -> None:
    ledger = json.loads((finished / "ledger.json").read_text())
    absent_here = {"energy_joules", "commit"}
    for key in (
        "objective seed config_hash data_fingerprint encoder precision parameters flops_per_sample samples tokens "
        "visible_tokens tokens_per_parameter six_nd seconds device peak_name mfu data_wait_share"
    ).split():
        assert key in ledger and (ledger[key] not in (None, "") or key in absent_here), key
    assert ledger["visible_tokens"] < ledger["tokens"]
    assert set(ledger["parameters"]) == {"stem", "vit", "way_back", "objective"}


def test_metrics_follow_the_schedule(finished: Path) -> None:
    table = rows(finished)
    lr = [float(r["lr"]) for r in table]
    assert lr[0] == pytest.approx(1.2e-2 * 4 / 16, rel=1e-3)  # 4 of 16 samples of warm-up
    assert max(lr) == pytest.approx(1.2e-2, rel=1e-3)
    assert lr[-1] < 4e-3  # cool-down
    assert all(math.isfinite(float(r["loss"])) for r in table)
    assert {k for r in table for k in r if k.startswith("l1_")} >= {"l1_s2_dem_to_s1", "l1_s2_s1_to_dem"}


def test_the_export_gives_the_encoder_back(finished: Path) -> None:
    encoder = gfm_objectives.load_encoder(str(finished))
    batch: Batch = Synthetic("test", size=32, dates=2).read([0, 1])
    torch.manual_seed(0)
    logits = Segmenter(encoder, 3)(batch)
    assert logits.shape == (2, 3, 32, 32) and torch.isfinite(logits).all()
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[f"encoder.{name}"], rtol=0, atol=0)


def test_exports_that_are_missing_or_damaged_say_so(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        load_encoder(tmp_path)
    for name in ("encoder.json", "encoder.safetensors"):
        (tmp_path / name).write_bytes((finished / name).read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        load_encoder(tmp_path)


def test_a_finished_run_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(InputError, match=r"finished run; choose another name=, or overwrite=true"):
        pretrain.run(small(finished.parent, "objective=cross_sensor"))
    assert is_finished(small(finished.parent, "objective=cross_sensor")), "or a sweep would not skip it"
    assert is_finished(small(finished.parent, "objective=cross_sensor", "optim.lr=0.012")), "the encoder's own"
    with pytest.raises(InputError, match="a finished run of another config"):
        is_finished(small(finished.parent, "objective=cross_sensor", "optim.lr=0.01"))


def test_the_saved_config_trains_the_same_thing(finished: Path, tmp_path: Path) -> None:
    (again,) = config.compose("train", [f"config={finished / 'config.yaml'}", f"runs={tmp_path}"])
    weights = load_encoder(pretrain.run(again)).state_dict()
    for name, value in load_encoder(finished).state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="loggers=wandb: the package wandb is not installed"):
        pretrain.run(small(tmp_path, "loggers=[csv,wandb]"))
    assert not list(tmp_path.iterdir())


def test_an_impossible_budget_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"budget\.flops=1e\+06"):
        pretrain.run(small(tmp_path, "budget.flops=1e6"))
    assert not (tmp_path / "demo").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small(tmp_path, "objective=mae", "checkpoint_every=0.05")
    read = Synthetic.read

    def poisoned(self: Synthetic, indices: list[int]) -> Batch:
        batch = read(self, indices)
        poisoned.calls += 1
        return batch.map(lambda t: t * float("inf") if t.ndim == 5 and poisoned.calls > 1 else t)

    poisoned.calls = 0
    monkeypatch.setattr(Synthetic, "read", poisoned)
    with pytest.raises(
        InputError, match=r"loss is (nan|inf) at step 17 \(sensors s2, s1, dem\); the checkpoint before"
    ):
        pretrain.run(cfg)
    state = torch.load(tmp_path / "demo" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["run"]["step"] <= 16, "sixteen steps are read at a time"
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values())
    assert not is_finished(cfg)


def test_an_unfinished_run_of_another_config_is_not_touched(tmp_path: Path) -> None:
    cfg = small(tmp_path)
    (tmp_path / "demo" / "checkpoints").mkdir(parents=True)
    config.save(cfg, tmp_path / "demo" / "config.yaml")
    with pytest.raises(InputError, match=r"unfinished run of another config \(optim\.lr differ"):
        pretrain.run(small(tmp_path, "optim.lr=0.1"))


def test_resume_after_kill_9_is_bit_identical(tmp_path: Path) -> None:
    """From another process, with loader workers, weights equal those of an unbroken run.

    cross_sensor has the most to restore: kinds of step of different cost, and a running loss for each target.
    """
    changes = {"loader.workers": "2", "budget.flops": "3e10"}
    words = [w for w in SMALL if w.split("=")[0] not in changes] + [f"{k}={v}" for k, v in changes.items()]
    words += ["objective=cross_sensor", "checkpoint_every=0.1"]
    command = [sys.executable, "train.py", *words]
    root = Path(__file__).parent.parent
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}

    def start(runs: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, f"runs={runs}", "name=demo"],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    broken = start(tmp_path / "broken")
    last = tmp_path / "broken" / "demo" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists():
        assert broken.poll() is None and time.monotonic() < deadline, broken.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.02)
    os.killpg(broken.pid, signal.SIGKILL)
    broken.communicate()
    assert not (tmp_path / "broken" / "demo" / "ledger.json").exists(), "it had finished already: nothing was tested"
    step = torch.load(last, weights_only=True)["run"]["step"]
    resumed, whole = start(tmp_path / "broken"), start(tmp_path / "whole")
    told = resumed.communicate(timeout=400)[0]
    assert resumed.returncode == 0, told
    assert f"goes on from step {step}" in told
    assert whole.wait(timeout=400) == 0
    whole.communicate()
    one, other = (tmp_path / r / "demo" / "encoder.safetensors" for r in ("broken", "whole"))
    assert one.read_bytes() == other.read_bytes()
    steps = [r["step"] for r in rows(tmp_path / "broken" / "demo")]
    assert steps == [r["step"] for r in rows(tmp_path / "whole" / "demo")]


def test_a_teacher_is_resumed_and_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("objective=jepa", "checkpoint_every=0.1")
    whole = pretrain.run(small(tmp_path / "whole", *words))
    read = Synthetic.read
    calls = iter(range(100))

    def cut(self: Synthetic, indices: list[int]) -> Batch:
        if next(calls) == 1:  # sixteen steps are read at a time
            raise OSError("power cut")
        return read(self, indices)

    broken = small(tmp_path / "broken", *words)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(Synthetic, "read", cut)
        pretrain.run(broken)
    last = tmp_path / "broken" / "demo" / "checkpoints" / "last.ckpt"
    assert 0 < torch.load(last, weights_only=True)["run"]["step"] <= 16
    resumed = pretrain.run(broken)
    one, other = (
        torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (whole, resumed)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    teacher = {k: v for k, v in one.items() if k.startswith("teacher.")}
    assert any(not torch.equal(v, one[k.replace("teacher.", "encoder.", 1)]) for k, v in teacher.items())
    assert load_encoder(resumed).state_dict().keys() == {k.removeprefix("teacher.") for k in teacher}
    ledger = json.loads((resumed / "ledger.json").read_text())
    owned = sum(v.numel() for k, v in one.items() if k.startswith(("token_head", "dense_head")))
    assert ledger["parameters"]["objective"] == owned and ledger["flops_per_sample_by_part"]["teacher"] > 0


def test_the_unet_is_pretrained_on_the_map_and_on_nothing_else(tmp_path: Path) -> None:
    words = (
        [w for w in SMALL if not w.startswith(("encoder.", "budget.flops"))]
        + ["budget.flops=1e10"]
        + ["encoder=unet", "runs=" + str(tmp_path), "name=u"]
    )
    (cfg,) = config.compose("train", ["objective=supervised", *words])
    run = pretrain.run(cfg)
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["flops_spent"] == pytest.approx(1e10, rel=0.005) and ledger["tokens"] == 0
    assert ledger["parameters"].keys() == {"encoder", "objective"} and ledger["parameters"]["encoder"] > 0
    assert ledger["flops_per_sample_by_part"]["encoder"] > 0
    assert load_model(run).options == {"width": 8, "mode": "stack", "levels": 2}
    (cfg,) = config.compose("train", ["objective=mae", *words, "overwrite=true"])
    with pytest.raises(InputError, match="with encoder=unet take supervised"):
        pretrain.run(cfg)
