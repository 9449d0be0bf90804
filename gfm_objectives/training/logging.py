"""Loggers by name: tensorboard and csv, and wandb, mlflow and trackio where they are installed."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gfm_objectives import disk
from gfm_objectives.config.values import leaves
from gfm_objectives.errors import InputError


class Logger(ABC):
    """Takes the scalars of a run. Made and called in one process of a run, that of rank 0.

    What it keeps lies in or below `folder`, or where its package was told to send it. A run that goes on makes its
    loggers anew with the same folder and name, and they go on with what is there.
    """

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Scalars by name, as they were after `step` steps; steps ascend."""

    @abstractmethod
    def finalize(self, status: str) -> None:
        """The run ends, in `status` "success" or anything else, such as "aborted"; nothing is logged after."""


class TensorBoard(Logger):
    """Event files in folder/tensorboard; the config is a text among them."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        board = _package("torch.utils.tensorboard", "tensorboard")
        self.writer = board.SummaryWriter(folder / "tensorboard")
        lines = [f"    {key}: {value}" for key, value in leaves(config)]
        self.writer.add_text("config", "\n".join([name, "", *lines]))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def finalize(self, status: str) -> None:
        self.writer.close()


class CSV(Logger):
    """folder/log.csv, a row (step, name, value) for each scalar: what is logged may change from step to step."""

    COLUMNS = ("step", "name", "value")

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self.path = folder / "log.csv"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._append([self.COLUMNS])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._append([(step, key, f"{value:.8g}") for key, value in metrics.items()])

    def _append(self, rows: Sequence[Sequence[Any]]) -> None:
        with self.path.open("a", newline="") as file:  # opened each time: the rows are on disk if the run is killed
            csv.writer(file, lineterminator="\n").writerows(rows)

    def finalize(self, status: str) -> None:
        pass


class WandB(Logger):
    """Weights & Biases: account, project and mode by its own environment variables (WANDB_PROJECT, WANDB_MODE)."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        wandb, known = _package("wandb"), Known(folder / "wandb_run.txt")
        self.run = wandb.init(name=name, id=known.id, dir=str(folder), config=dict(config), resume="allow")
        known.keep(self.run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "success" else 1)


class MLflow(Logger):
    """MLflow: the server by its own environment variable MLFLOW_TRACKING_URI, else folder/mlflow.db."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self.mlflow, known = _package("mlflow"), Known(folder / "mlflow_run.txt")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self.mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        run = self.mlflow.start_run(run_id=known.id, run_name=name)
        known.keep(run.info.run_id)
        params = [(key, str(value)[:250]) for key, value in leaves(config)]  # the least that any version takes
        for start in range(0, len(params), 100):  # the most that one request takes
            self.mlflow.log_params(dict(params[start : start + 100]))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self.mlflow.end_run("FINISHED" if status == "success" else "FAILED")


class Trackio(Logger):
    """Trackio: kept on this machine, or in the space of TRACKIO_SPACE_ID; the project is gfm-objectives."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        trackio, known = _package("trackio"), Known(folder / "trackio_run.txt")
        resume = "allow" if known.id else "never"
        self.run = trackio.init(project="gfm-objectives", name=known.id or name, config=dict(config), resume=resume)
        known.keep(self.run.name)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        self.run.finish()


class Known:
    """What a service calls the run, kept in the run folder: a run that goes on, goes on there too, and one that begins
    anew in an emptied folder, anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.read_text().strip() if path.exists() else None

    def keep(self, number: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(self.path, f"{number}\n")


LOGGERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "csv": CSV,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def build_loggers(names: Sequence[str], folder: Path, name: str, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers of those names, for the run `name` in `folder`; config: the run's, plain values in sections.

    InputError as of `check_loggers`: before the first is made, so that none is left half begun.
    """
    check_loggers(names)
    return [LOGGERS[key](Path(folder), name, config) for key in names]


def check_loggers(names: Sequence[str]) -> None:
    """InputError for a name that is not in LOGGERS or comes twice, and for one whose package is not installed."""
    for key in names:
        if key not in LOGGERS:
            raise InputError(f"loggers={key}: no such logger; choose from {', '.join(LOGGERS)}")
        if key in EXTRAS:
            _package(key)
    if twice := next((key for key in names if list(names).count(key) > 1), None):
        raise InputError(f"loggers: {twice} is listed twice; once is enough")


EXTRAS = ("wandb", "mlflow", "trackio")  # of pyproject.toml, by their packages' names


def _package(module: str, package: str = "") -> Any:
    """The module; InputError says what to install where it is not there."""
    package = package or module
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        if e.name and e.name.split(".")[0] not in (package, module.split(".")[0]):
            raise InputError(f"loggers={package}: its own part {e.name} is missing; install {package} again") from None
        wanted = f"'gfm-objectives[{package}]'" if package in EXTRAS else package
        raise InputError(
            f"loggers={package}: the package {package} is not installed; pip install {wanted}, or leave {package} out"
        ) from None
