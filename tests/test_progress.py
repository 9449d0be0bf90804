"""What a run tells of itself: rates, the last loss, and a table that a resumed run goes on with."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

import pytest

from gfm_objectives.errors import InputError
from gfm_objectives.pretrain.progress import Bar, Meter, Table, last_loss, read_table


def test_utilisation_is_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(4.0, 2)
    assert meter.seconds == 0.0  # not begun
    meter.start()
    for _ in range(2):
        meter.add(20.0, 3)
    meter.wait = 2.5
    assert meter.rates(8.0) == {"samples_per_s": 0.6, "flops_per_s": 4.0, "data_wait": 0.25, "mfu": 0.5, "eta_s": 2.0}


def test_the_last_loss_is_the_mean_over_the_last_tenth(tmp_path: Path) -> None:
    table = Table(tmp_path / "m.csv", 0)
    for progress, loss in ((0.5, 9.0), (0.8999, 7.0), (0.9, 3.0), (1.0, 2.0)):
        table.add({"step": 1, "progress": f"{progress:.4f}", "loss": loss})
    assert last_loss(tmp_path / "m.csv") == 2.5
    table = Table(tmp_path / "none.csv", 0)
    table.add({"step": 1, "progress": "0.5", "loss": 1.0})
    assert last_loss(tmp_path / "none.csv") is None


def test_a_resumed_table_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    table = Table(path, 0)
    for step in (1, 2, 3):
        table.add({"step": step, "loss": step / 2})
    with path.open("a") as file:
        file.write("half a li")
    table = Table(path, 2)
    table.add({"step": 3, "loss": 7.0, "l1_s1": 1.0})  # another kind of step has a column more
    table.add({"step": 4, "loss": 8.0})
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["step"], r["loss"], r["l1_s1"]) for r in rows] == [
        ("1", "0.5", ""),
        ("2", "1.0", ""),
        ("3", "7.0", "1.0"),
        ("4", "8.0", ""),
    ]


@pytest.mark.parametrize("line", ["\x00\x00", "2,0.5,7", "2", "two,0.5", "2,x", "2,0.5\n\udcff\udcfe,", ","])
def test_a_damaged_table_is_told_and_left_as_it_is(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,loss\n1,0.5\n{line}\n3,0.5\n", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"metrics\.csv, line [34]: damaged, .*; delete the line"):
        Table(path, 3)
    assert path.read_bytes() == before


def test_half_a_row_is_none_whatever_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n1")  # of step 17, cut short by a full disk
    assert read_table(path) == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
    Table(path, 1)
    assert path.read_text() == "step,loss\n1,0.5\n"


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    Table(path, 0).add({"step": 1, "loss": 0.5})
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    table = Table(path, 1)
    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match=r"No space.*metrics\.csv"):
        table.add({"step": 2, "loss": 0.4, "l1_s1": 1.0})
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_line_for_every_tenth_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(100.0, "demo")
    rates = {"samples_per_s": 1.25, "data_wait": 0.5, "mfu": 0.25, "eta_s": 3723.0}
    for spent in (9.0, 10.0, 12.0, 25.0, 29.0, 100.0):
        bar.update(spent, 0.5, rates)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["demo", "10%"], ["demo", "25%"], ["demo", "100%"]]
    told = "1.00e+01 of 1.00e+02 FLOPs  loss 0.500  1.2 samples/s  MFU 25%  wait 50.0%  1:02:03 left"
    assert lines[0].endswith(told)
    bar = Bar(1.0, "demo")
    bar.update(1.0, 0.5, {"samples_per_s": 1.0, "data_wait": 0.0, "yardstick_s": 7.0, "eta_s": float("nan")})
    assert capsys.readouterr().out.rstrip().endswith("yardstick 7 s  ? left")
