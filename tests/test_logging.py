"""Loggers by name: the real tensorboard and csv, stand-ins for packages that are not installed."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import pytest

from gfm_objectives.errors import InputError
from gfm_objectives.training import logging
from gfm_objectives.training.logging import LOGGERS, build_loggers

CONFIG = {"name": "demo", "optim": {"lr": 0.01, "betas": [0.9, 0.95]}, "data": {"keep": None}}


class Service:
    """A stand-in for wandb and trackio, whose runs have the same verbs, and for mlflow, which has them itself."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def init(self, **words):
        self.calls.append(("init", words))
        number = words.get("id") or f"number{len(self.calls)}"
        return types.SimpleNamespace(
            id=number,
            name=words["name"],
            log=lambda metrics, step: self.calls.append(("log", metrics, step)),
            finish=lambda **words: self.calls.append(("finish", words)),
        )

    def start_run(self, run_id, run_name):
        self.calls.append(("start", run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or f"number{len(self.calls)}"))

    def __getattr__(self, verb):
        if verb.startswith("__"):
            raise AttributeError(verb)
        return lambda *words, **named: self.calls.append((verb, *words, *named.values()))


@pytest.fixture
def service(monkeypatch) -> Service:
    one = Service()
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return one


def run(names, folder: Path, status="success", steps=(1, 2)) -> None:
    loggers = build_loggers(names, folder, "demo", CONFIG)
    for logger in loggers:
        for step in steps:
            logger.log_metrics({"loss": 1.0 / step, "lr": 0.01}, step)
        logger.finalize(status)


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(["tensorboard"], tmp_path)
    run(["tensorboard"], tmp_path, steps=(3,))  # the run goes on
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.333)]
    assert [round(e.value, 3) for e in events.Scalars("lr")] == [0.01] * 3
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "demo" in text and "optim.lr: 0.01" in text


def test_csv_is_on_disk_at_once_and_goes_on(tmp_path):
    (logger,) = build_loggers(["csv"], tmp_path / "run", "demo", CONFIG)
    logger.log_metrics({"loss": 0.5}, 1)
    build_loggers(["csv"], tmp_path / "run", "demo", CONFIG)[0].log_metrics({"loss": 0.25, "new": 3.0}, 2)
    rows = list(csv.reader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert rows == [["step", "name", "value"], ["1", "loss", "0.5"], ["2", "loss", "0.25"], ["2", "new", "3"]]


def test_wandb_goes_on_with_its_run_and_tells_a_failure(tmp_path, service):
    run(["wandb"], tmp_path)
    run(["wandb"], tmp_path, "failed", steps=())
    first, *logged, done, again, failed = service.calls
    assert first[1]["id"] is None and first[1]["name"] == "demo" and first[1]["config"] == CONFIG
    assert logged == [("log", {"loss": 1.0, "lr": 0.01}, 1), ("log", {"loss": 0.5, "lr": 0.01}, 2)]
    assert done == ("finish", {"exit_code": 0}) and failed == ("finish", {"exit_code": 1})
    assert again[1]["id"] == "number1" and again[1]["resume"] == "allow"


def test_mlflow_keeps_itself_in_the_run_folder_unless_told_where(tmp_path, service, monkeypatch):
    run(["mlflow"], tmp_path, "failed")
    uri, start, params, *logged, end = service.calls
    assert uri == ("set_tracking_uri", f"sqlite:///{tmp_path}/mlflow.db") and start == ("start", None, "demo")
    assert params[1]["optim.betas"] == "[0.9, 0.95]" and params[1]["data.keep"] == "None"
    assert logged[1] == ("log_metrics", {"loss": 0.5, "lr": 0.01}, 2) and end == ("end_run", "FAILED")
    service.calls.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    run(["mlflow"], tmp_path, steps=())
    assert service.calls[0] == ("start", "number2", "demo") and service.calls[-1] == ("end_run", "FINISHED")


def test_trackio_begins_anew_in_an_emptied_folder(tmp_path, service):
    run(["trackio"], tmp_path, steps=(1,))
    run(["trackio"], tmp_path, steps=())
    (tmp_path / "trackio_run.txt").unlink()
    run(["trackio"], tmp_path, steps=())
    assert [c[1]["resume"] for c in service.calls if c[0] == "init"] == ["never", "allow", "never"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["tensorbord"], "loggers=tensorbord: no such logger; choose from tensorboard, csv, wandb, mlflow, trackio"),
        (["csv", "csv"], "loggers: csv is listed twice; once is enough"),
        (
            ["csv", "wandb"],
            "loggers=wandb: the package wandb is not installed; pip install 'gfm-objectives[wandb]', or leave wandb "
            "out",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_begun(tmp_path, names, told, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(InputError) as error:
        build_loggers(names, tmp_path, "demo", CONFIG)
    assert str(error.value) == told and not list(tmp_path.iterdir())


def test_every_optional_logger_is_an_extra():
    import tomllib

    root = Path(__file__).resolve().parent.parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in logging.EXTRAS:
        assert name in LOGGERS and extras[name][0].startswith(name)


def test_no_loggers_is_fine(tmp_path):
    assert build_loggers([], tmp_path, "demo", CONFIG) == []
