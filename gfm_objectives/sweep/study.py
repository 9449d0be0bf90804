"""A study: its runs as resolved configs, what is done of them, and what they measured."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gfm_objectives import config, disk
from gfm_objectives.config.values import number, show
from gfm_objectives.errors import InputError
from gfm_objectives.runs.folder import folder, is_finished
from gfm_objectives.runs.ledger import Ledger

SECTIONS = ("name", "train", "eval")
Kind = tuple[str, ...]  # what decides a run's speed
POINTS = (
    *("run", "trunk", "objective", "encoder", "seed", "parameters", "encoder_parameters", "tokens", "visible_tokens"),
    *("flops", "loss", "seconds"),
)


@dataclass(frozen=True, slots=True)
class Study:
    """name; runs: every pretraining run; evaluation: the words of `gfm eval` that compare them, or None."""

    name: str
    runs: list[DictConfig]
    evaluation: list[str] | None

    @property
    def home(self) -> Path:
        """Where the runs lie, and the study's own files beside them."""
        return Path(self.runs[0].runs)

    def open(self) -> list[DictConfig]:
        """What is not finished. InputError where a finished run of another config has a run's name."""
        return [c for c in self.runs if not is_finished(c)]

    def ledgers(self) -> dict[str, Ledger]:
        """Run's name -> ledger, of finished runs."""
        return {c.name: Ledger.read(folder(c) / "ledger.json") for c in self.runs if is_finished(c)}


def read(path: str | Path, runs: str) -> Study:
    """The study in a yaml file, or a shipped one by its name. InputError names the file and the key.

    `train:` holds keys of `gfm train`, a list of values being varied, all combinations; a list of such sections is run
    one after the other, so that each objective may have settings of its own. `eval:` holds keys of `gfm eval`.
    """
    path = shipped(path)
    known = config.read_yaml(path)
    name = str(known.get("name") or path.stem)
    if not re.fullmatch(r"\w[\w .+()-]*", name):
        raise InputError(f"{path}: name: {name!r} is no folder name of letters, digits, spaces, . _ + - ( )")
    if odd := [k for k in known if k not in SECTIONS]:
        raise InputError(f"{path}: {odd[0]}: no such section; it has {', '.join(SECTIONS)}")
    blocks = known.get("train")
    blocks = blocks if isinstance(blocks, list) else [blocks]
    if not all(isinstance(b, dict) and b for b in blocks):
        raise InputError(f"{path}: train: expected keys of gfm train, such as objective: [mae, masked_seg]")
    made: list[DictConfig] = []
    for block in blocks:
        words = [*_words(path, "train", block), f"runs={Path(runs) / name}"]
        try:
            made += config.compose("train", words)
        except InputError as error:
            raise InputError(f"{path}: train: {error}") from None
    if twice := [n for n, times in Counter(c.name for c in made).items() if times > 1]:
        raise InputError(f"{path}: train: two sections make the run {twice[0]}; vary in each what tells them apart")
    evaluation = known.get("eval")
    if evaluation is not None and not isinstance(evaluation, dict):
        raise InputError(f"{path}: eval: expected keys of gfm eval, such as suite: core")
    return Study(name, made, None if evaluation is None else _words(path, "eval", evaluation))


def shipped(study: str | Path) -> Path:
    """The file of a study: a shipped one, where that is its name. InputError where there is none."""
    file = config.config_root() / "study" / f"{study}.yaml"
    path = file if str(study).isidentifier() and file.is_file() else Path(study)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in file.parent.glob("*.yaml")))
        why = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"study={study}: {why}; give the yaml of a study (docs/sweep.md), or a shipped one: {known}")
    return path


def _words(path: Path, section: str, block: Mapping[str, Any]) -> list[str]:
    """The section as words of a command line."""
    own = {"train": ("name", "runs"), "eval": ("name", "checkpoint")}[section]
    if taken := [k for k, _ in config.leaves(dict(block)) if k in own]:
        raise InputError(f"{path}: {section}.{taken[0]}: is set by the study")
    if empty := [k for k, v in config.leaves(dict(block)) if v == []]:
        raise InputError(f"{path}: {section}.{empty[0]}: an empty list; give at least one value")
    return [f"{k}={show(v)}" for k, v in config.leaves(dict(block))]


def kind(cfg: DictConfig) -> Kind:
    """Runs of a kind take the same seconds for a FLOP: all but budget, seed and learning rates are the same."""
    shape = {k: v for k, v in config.leaves({"o": dict(cfg.objective), "e": dict(cfg.encoder), "d": dict(cfg.data)})}
    return (
        *(f"{k}={v}" for k, v in shape.items()),
        f"batch={cfg.batch['global'] or cfg.optim.batch_size}",
        str(cfg.precision),
    )


def seconds_per_flop(study: Study) -> dict[Kind, float]:
    """Measured on the finished runs of each kind: the yardstick's time is in it, as it is in what is to come."""
    spent: dict[Kind, list[Ledger]] = {}
    ledgers = study.ledgers()
    for c in study.runs:
        if c.name in ledgers:
            spent.setdefault(kind(c), []).append(ledgers[c.name])
    return {
        k: sum(x.seconds + x.yardstick_seconds for x in found) / sum(x.flops_spent for x in found)
        for k, found in spent.items()
    }


def write_points(study: Study) -> list[Path]:
    """points-<objective>.csv of the finished runs, for `gfm fit`. Runs that differ in the budget alone began alike:
    they are a trunk."""
    ledgers = study.ledgers()
    rows: dict[str, list[dict[str, Any]]] = {}
    for c in study.runs:
        if (x := ledgers.get(c.name)) is not None:
            rows.setdefault(x.objective, []).append(_point(c, x))
    files = []
    for objective, own in rows.items():
        files.append(study.home / f"points-{objective}.csv")
        with disk.replacing(files[-1]) as scratch, scratch.open("w", newline="") as f:
            writer = csv.DictWriter(f, POINTS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(own)
    return files


def _point(c: DictConfig, x: Ledger) -> dict[str, Any]:
    parts = x.parameters
    return {
        "run": c.name,
        "trunk": _trunk(c),
        "objective": x.objective,
        "encoder": x.encoder,
        "seed": x.seed,
        "parameters": sum(parts.values()),
        "encoder_parameters": sum(v for k, v in parts.items() if k != "objective"),
        "tokens": x.tokens,
        "visible_tokens": x.visible_tokens,
        "flops": x.flops_spent,
        "loss": x.loss,
        "seconds": round(x.seconds, 1),
    }


def _trunk(c: DictConfig) -> str:
    return c.name.replace(f"-{number(c.budget.flops)}", "")


def smallest_first(runs: Iterable[DictConfig], measured: Iterable[Kind]) -> list[DictConfig]:
    """The smallest run of every kind that was not measured yet."""
    known, out = set(measured), []
    for c in sorted(runs, key=lambda c: c.budget.flops):
        if kind(c) not in known:
            known.add(kind(c))
            out.append(c)
    return out


def broken(runs: Sequence[DictConfig]) -> list[DictConfig]:
    """Runs that were begun and are not finished: they go on where they stopped."""
    return [c for c in runs if (folder(c) / "config.yaml").exists()]
