"""The score store: every finished run's row and its per-tile statistics, in two CSV files that only grow."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gfm_objectives.disk import naming, replacing
from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS

ROLES = ("pretrained", "part", "scratch", "saw_map", "untrained")
DTYPES = {"confusion": "<i4", "moments": "<f8", "scores": "<i4"}  # statistic -> how it is kept


class Key(NamedTuple):
    """What makes a run the same run. A changed task (fingerprint) or another encoder (pretrain_run) is another."""

    task: str
    fraction: float
    contender: str
    seed: int
    fingerprint: str
    pretrain_run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One finished run: contender x task x label fraction x seed.

    contender is a name for people; what the row is, is said by role (one of ROLES: pretrained; part = an encoder with a
    part reset or frozen; scratch = never saw the map; saw_map = rivals that did; untrained = needs no training, holds
    for every fraction), kind (of contender: unet, pixel, ...), recipe (objective and what sets it apart; "" = nothing
    pretrained) and shape (options of the network, JSON). pretrain_run is the encoder's run, with the seed it had.

    value: the figure `metric` (a key of METRICS) of the sum of the test tiles' statistics; val: on validation. labels:
    training places used; labels_hash: of which they are, by number; of a row that learns of none, that of no place; ''
    in files older than it. FLOPs are model FLOPs: of pretraining, of its trials, given to fine-tuning on top of F, of
    fine-tuning (extra included), of tuning trials, of inference per sample. epochs: passes over the labelled places.
    fingerprint changes with the task and its data; where a seed is an Earth of its own (synthetic data), it may differ
    from seed to seed. stats (tiles, *shape) and groups (the area of each tile) lie in statistics.csv, the rest in
    scores.csv.
    """

    task: str
    fraction: float
    contender: str
    seed: int
    role: str
    kind: str
    recipe: str = ""
    shape: str = ""
    pretrain_run: str = ""
    pretrain_seed: int | None = None
    metric: str
    value: float
    val: float = float("nan")
    labels: int = 0
    labels_hash: str = ""
    tiles: int
    pretrain_flops: float = 0.0
    search_flops: float = 0.0
    extra_flops: float = 0.0
    finetune_flops: float = 0.0
    tuning_flops: float = 0.0
    inference_flops: float = 0.0
    epochs: float = 0.0
    parameters: int = 0
    trainable_parameters: int = 0
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    device: str = "cpu"
    hparams: dict[str, Any] = dataclasses.field(default_factory=dict)
    world: str = ""
    synthetic: bool = False
    fingerprint: str = ""
    commit: str = ""
    stats: np.ndarray = dataclasses.field(compare=False, repr=False)
    groups: tuple[str, ...] = dataclasses.field(compare=False, repr=False)

    @property
    def key(self) -> Key:
        return Key(self.task, self.fraction, self.contender, self.seed, self.fingerprint, self.pretrain_run)

    @classmethod
    def measured(
        cls, stats: torch.Tensor | np.ndarray, groups: Sequence[str] | None, *, metric: str, role: str, **about: Any
    ) -> Score:
        """A row whose value and tiles come from its own test statistics (tiles, *shape); `about`: its other fields.

        Without `groups` every tile is an area.
        """
        assert role in ROLES, role
        stats = np.asarray(stats, dtype=DTYPES[METRICS[metric].statistic])
        groups = tuple(str(i) for i in range(len(stats))) if groups is None else tuple(groups)
        assert len(groups) == len(stats), (len(groups), stats.shape)
        value = float(METRICS[metric].of(_total(stats)))
        about = {n: _CASTS[_TYPES[n]](v) if _TYPES[n] in _CASTS else v for n, v in about.items()}
        return cls(stats=stats, groups=groups, metric=metric, role=role, value=value, tiles=len(stats), **about)

    @property
    def total(self) -> torch.Tensor:
        """The sum over tiles (*shape), float64: what METRICS and CLASSWISE take."""
        return _total(self.stats)

    def figure(self, metric: str) -> float:
        """Another figure of the test tiles, of the same statistic."""
        assert METRICS[metric].statistic == METRICS[self.metric].statistic, (metric, self.metric)
        return float(METRICS[metric].of(self.total))


def _total(stats: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(stats.sum(0, dtype=np.float64))


_TYPES = {f.name: str(f.type) for f in dataclasses.fields(Score)}
_CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "bool": bool}  # what is written can be read
SCORE_COLUMNS = tuple(n for n in _TYPES if n not in ("stats", "groups"))
ADDED = ("labels_hash",)  # columns that files of earlier versions lack
STATISTICS_COLUMNS = (*Key._fields, "dtype", "shape", "stats", "groups")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, default=str)
    return "" if value is None else str(value)


def _value(text: str, kind: str) -> Any:
    """Inverse of `_text` for a field annotated `kind`."""
    match kind:
        case "int":
            return int(text)
        case "float":
            return float(text)
        case "bool":
            return {"True": True, "False": False}[text]
        case "int | None":
            return int(text) if text else None
        case "dict[str, Any]":
            return json.loads(text)
    return text


class Store:
    """`folder`/scores.csv and `folder`/statistics.csv. One process writes; any may read.

    `add` writes the statistics first and the score row last, each flushed to disk, so a run is done exactly when its
    score row ends in a newline; the torn line a kill leaves is ignored by readers and cut off by the next `add`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._done: set[Key] | None = None

    def add(self, score: Score) -> None:
        """Append one finished run. A second run of the same key replaces the first for every reader."""
        assert not any(";" in g or "\n" in g for g in score.groups), "area names must hold neither ';' nor line breaks"
        self.folder.mkdir(parents=True, exist_ok=True)
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(score.stats).tobytes(), 9)).decode()
        shape = ";".join(str(n) for n in score.stats.shape)
        row = [*score.key, score.stats.dtype.str, shape, packed, ";".join(score.groups)]
        _append(self.folder / "statistics.csv", STATISTICS_COLUMNS, row)
        _append(self.folder / "scores.csv", SCORE_COLUMNS, [getattr(score, n) for n in SCORE_COLUMNS])
        if self._done is not None:
            self._done.add(score.key)

    def done(self, key: Key) -> bool:
        """Whether this very run (task fingerprint and pretraining run included) is finished."""
        if self._done is None:
            self._done = {s.key for s in self._rows()}
        return Key(*key) in self._done

    def load(self) -> list[Score]:
        """The scores that may be compared: the last run of each cell, of each task's latest fingerprint."""
        return self._split()[0]

    def stale(self) -> list[Score]:
        """What `load` leaves out: rows of an earlier version of their task, and rows that a later run replaced."""
        return self._split()[1]

    def _split(self) -> tuple[list[Score], list[Score]]:
        rows = self._rows()
        version = {_ground(s): s.fingerprint for s in rows}  # the last one written wins
        last = {(s.task, s.fraction, s.contender, s.seed): s for s in rows if s.fingerprint == version[_ground(s)]}
        chosen = {id(s) for s in last.values()}
        return [s for s in rows if id(s) in chosen], [s for s in rows if id(s) not in chosen]

    def _rows(self) -> list[Score]:
        path, other = self.folder / "scores.csv", self.folder / "statistics.csv"
        table = _read(path, SCORE_COLUMNS)
        kept: dict[Key, tuple[np.ndarray, tuple[str, ...]]] = {}
        for number, r in enumerate(_read(other, STATISTICS_COLUMNS), start=2):
            with _line(other, number):
                shape = [int(n) for n in r["shape"].split(";")]
                flat = np.frombuffer(zlib.decompress(base64.b64decode(r["stats"])), dtype=r["dtype"])
                kept[_key(r)] = flat.reshape(shape), tuple(r["groups"].split(";")) if shape[0] else ()
        rows = []
        for number, r in enumerate(table, start=2):
            with _line(path, number):
                values = {n: _value(r[n], _TYPES[n]) for n in SCORE_COLUMNS}
                if _key(r) not in kept:
                    raise InputError(f"{path}: no statistics for {_key(r)}; delete that row and run it again")
            stats, groups = kept[_key(r)]
            rows.append(Score(**values, stats=stats, groups=groups))
        return rows


@contextmanager
def _line(path: Path, number: int) -> Iterator[None]:
    """InputError where what stands in a line cannot be read as what was written."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        first = (str(error).splitlines() or ["?"])[0]
        raise InputError(
            f"{path}, line {number}: damaged ({first}); delete the line, and the same command runs what it held again"
        ) from None


def _ground(s: Score) -> tuple[str, int | None]:
    """Rows on the same ground have the same fingerprint, or some are stale: a task, or its Earth of that seed."""
    return s.task, s.seed if s.synthetic else None


def _key(r: dict[str, str]) -> Key:
    return Key(r["task"], float(r["fraction"]), r["contender"], int(r["seed"]), r["fingerprint"], r["pretrain_run"])


def _append(path: Path, columns: Sequence[str], values: Sequence[Any]) -> None:
    texts = [_text(v) for v in values]
    assert not any("\n" in t or "\r" in t for t in texts), f"{path.name}: a line break inside a value"
    _renew(path, columns)
    with naming(path), open(path, "ab+") as f:
        end = _whole(f)
        f.truncate(end)
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if end == 0:
            writer.writerow(columns)
        writer.writerow(texts)
        f.write(line.getvalue().encode())
        f.flush()
        os.fsync(f.fileno())


def _renew(path: Path, columns: Sequence[str]) -> None:
    """Give a file of an earlier version the columns it lacks, empty."""
    with naming(path), open(path, "ab+") as f:
        f.seek(0)
        header = f.readline().decode(errors="replace").rstrip("\n").split(",")
    if header == _earlier(columns) != list(columns):
        rows = _read(path, columns)
        with replacing(path) as scratch, open(scratch, "w", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([row[c] for c in columns] for row in rows)


def _earlier(columns: Sequence[str]) -> list[str]:
    """As they were before some were added."""
    return [c for c in columns if c not in ADDED]


def _whole(f: io.BufferedIOBase | Any) -> int:
    """Bytes up to and including the last newline: what was written completely."""
    f.seek(0)
    return f.read().rfind(b"\n") + 1


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    data = path.read_bytes()
    csv.field_size_limit(sys.maxsize)  # a row of statistics is longer than csv's 128 KiB
    try:
        lines = list(csv.reader(io.StringIO(data[: data.rfind(b"\n") + 1].decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: damaged, no text; bring it back from a copy, or give another name=") from None
    held = _earlier(columns) if lines and lines[0] == _earlier(columns) else list(columns)
    if lines and lines[0] != held:
        raise InputError(f"{path}: its columns are not this version's; move the folder away and run again")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(held):
            raise InputError(f"{path}, line {number}: {len(line)} values where {len(held)} belong; delete the line")
    return [dict.fromkeys(columns, "") | dict(zip(held, line, strict=True)) for line in lines[1:]]
