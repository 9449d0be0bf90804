"""A step that is run again is that step, and what made its loss no number is named."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from test_trunk import LESS, run

from gfm_objectives.batch import Batch
from gfm_objectives.cli import main
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain import module
from gfm_objectives.pretrain.states import dtype_of


@pytest.fixture(autouse=True)
def peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peak", lambda _: ("none", None))  # measured on a CPU, which takes seconds


def replay(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    code = main(["replay", str(path), *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before, "nothing is written"
    return said.out


def test_any_step_gives_the_loss_of_metrics_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the start, and from the state before the run began to cool; jepa's teacher moves with every step."""
    path = run(tmp_path, "objective=jepa", LESS)
    with (path / "metrics.csv").open(newline="") as file:
        rows = {int(r["step"]): r for r in csv.DictReader(file)}
    capsys.readouterr()
    for step, start in ((2, 0), (13, 11)):
        said = replay(path, capsys, f"step={step}")
        assert f"step {step} of metrics.csv, run again from step {start}," in said
        (line,) = (x for x in said.splitlines() if x.startswith("  loss "))
        terms = dict(re.findall(r"(\w+) ([-+.e\d]+)", line))
        for term in ("loss", "tokens", "pixels", "spread", "apart"):
            assert terms[term] == rows[step][term], (step, term)
        assert "none: every output is finite" in said and "encoder.stem" in said.split("gradient norm")[1]
    assert main(["replay", str(path), "step=99"]) == 2 and "step=99: the run ends with step" in capsys.readouterr().err
    assert main(["replay", str(path)]) == 2 and "every loss was a number; name a step=" in capsys.readouterr().err


def test_what_made_a_loss_no_number_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, bad = Synthetic.read, []

    def poisoned(self: Synthetic, indices: list[int]) -> Batch:
        """A place that holds an infinite value, whenever it is read."""
        if len(indices) > 40 and not bad:
            bad.append(indices[40])  # in the sixth batch of eight
        batch = read(self, indices)
        hurt = [k for k, i in enumerate(indices) if i in bad]
        batch.sensors["s1"].x[hurt, 0, 0, 3, 3] = float("inf")
        batch.sensors["s1"].valid[hurt, 0, 3, 3] = True
        return batch

    monkeypatch.setattr(Synthetic, "read", poisoned)
    with pytest.raises(InputError, match=r"loss is \w+ at step 6 .*; gfm replay .*demo shows where"):
        run(tmp_path, "objective=jepa", LESS, "checkpoint_every=0.2")
    path = tmp_path / "demo"
    fault = json.loads((path / "fault.json").read_text())
    assert fault["step"] == 5 and fault["seed"] == 0 and fault["places"][0] == bad[0] and len(fault["places"]) == 8
    capsys.readouterr()
    said = replay(path, capsys)
    assert re.search(r"step 6 of metrics.csv, run again from step [345], seed 0", said), "from the last checkpoint"
    assert f"places {bad[0]}, " in said
    ranges = {line.split()[0]: line for line in said.splitlines() if " valid; " in line}
    assert "1 values are not finite" in ranges["s1"] and "all finite" in ranges["s2"]
    assert re.search(r"first module whose output is not finite: teacher\.stem\.\S+ \(\w+\)", said), "it looks first"
    assert "loss nan" in said or "loss inf" in said


def test_data_that_changed_since_is_told_also_before_the_first_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"loss is .* at step"):
        run(tmp_path, "objective=mae", LESS, "optim.lr=1000", "checkpoint_every=1")
    path = tmp_path / "demo"
    assert not list(path.glob("checkpoints/*")) and replay(path, capsys)
    fault = json.loads((path / "fault.json").read_text())
    assert fault["precision"] == "float32"
    (path / "fault.json").write_text(json.dumps(fault | {"data_fingerprint": "of other data"}))
    assert main(["replay", str(path)]) == 2
    assert "demo: the data, or what its targets are made with, changed since" in capsys.readouterr().err


def test_a_step_is_run_again_in_the_precision_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """precision=auto may come to another one by now, or elsewhere: of a replay, and of a run that goes on."""
    path = run(tmp_path, "objective=mae", LESS)
    capsys.readouterr()
    plain = replay(path, capsys, "step=13")
    ledger = json.loads((path / "ledger.json").read_text())
    (path / "ledger.json").write_text(json.dumps(ledger | {"precision": "bfloat16"}))
    assert replay(path, capsys, "step=13") != plain
    last = path / "checkpoints" / "last.ckpt"
    assert dtype_of(last, torch.bfloat16) == torch.float32
    torch.save(torch.load(last, weights_only=True) | {"precision": "bfloat16"}, last)
    assert dtype_of(last, torch.float32) == torch.bfloat16
    assert dtype_of(tmp_path / "none", torch.float32) == torch.float32
