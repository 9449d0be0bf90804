"""The score store: every finished run's row and its per-tile confusion matrices, in two CSV files that only grow."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gfm_objectives.errors import InputError
from gfm_objectives.metrics import iou, miou

SEEDLESS = ("map", "index")  # rows that need no training: one run (seed 0), valid for every label fraction


class Key(NamedTuple):
    """What makes a run the same run. A changed task (fingerprint) or another encoder (pretrain_run) is another."""

    task: str
    fraction: float
    contender: str
    seed: int
    fingerprint: str
    pretrain_run: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """One finished run: contender x task x label fraction x seed.

    mIoU and IoU in 0..1 on the test split, val_miou on validation; labels: training tiles used; FLOPs are model FLOPs
    (pretraining; given to fine-tuning on top of F; fine-tuning, extra included; tuning trials; inference per sample);
    confusion (tiles, K, K) int32 and groups (the area of each tile) are kept in confusions.csv, the rest in scores.csv.
    """

    task: str
    fraction: float
    contender: str
    seed: int
    pretrain_run: str
    pretrain_seed: int | None
    miou: float
    val_miou: float
    iou: tuple[float, ...]
    labels: int
    tiles: int
    pretrain_flops: float
    extra_flops: float
    finetune_flops: float
    tuning_flops: float
    inference_flops: float
    parameters: int
    trainable_parameters: int
    seconds: float
    peak_memory_mib: float
    device: str
    hparams: dict[str, Any]
    world: str
    synthetic: bool
    fingerprint: str
    commit: str
    confusion: np.ndarray = dataclasses.field(compare=False, repr=False)
    groups: tuple[str, ...] = dataclasses.field(compare=False, repr=False)

    @property
    def key(self) -> Key:
        return Key(self.task, self.fraction, self.contender, self.seed, self.fingerprint, self.pretrain_run)

    @classmethod
    def measured(
        cls,
        confusion: torch.Tensor | np.ndarray,
        groups: Sequence[str] | None,
        *,
        task: str,
        fraction: float,
        contender: str,
        seed: int,
        val_miou: float = float("nan"),
        labels: int = 0,
        pretrain_run: str = "",
        pretrain_seed: int | None = None,
        pretrain_flops: float = 0.0,
        extra_flops: float = 0.0,
        finetune_flops: float = 0.0,
        tuning_flops: float = 0.0,
        inference_flops: float = 0.0,
        parameters: int = 0,
        trainable_parameters: int = 0,
        seconds: float = 0.0,
        peak_memory_mib: float = 0.0,
        device: str = "cpu",
        hparams: dict[str, Any] | None = None,
        world: str = "",
        synthetic: bool = False,
        fingerprint: str = "",
        commit: str = "",
    ) -> Score:
        """A row whose miou, iou and tiles come from its own test confusion matrices (tiles, K, K)."""
        cm = np.asarray(confusion, dtype=np.int32)
        if groups is None:
            groups = [str(i) for i in range(len(cm))]
        assert cm.ndim == 3 and len(groups) == len(cm), (cm.shape, len(groups))
        total = torch.from_numpy(cm.astype(np.int64)).sum(0)
        return cls(
            task=task,
            fraction=float(fraction),
            contender=contender,
            seed=int(seed),
            pretrain_run=pretrain_run,
            pretrain_seed=pretrain_seed,
            miou=miou(total),
            val_miou=float(val_miou),
            iou=tuple(iou(total).tolist()),
            labels=int(labels),
            tiles=len(cm),
            pretrain_flops=float(pretrain_flops),
            extra_flops=float(extra_flops),
            finetune_flops=float(finetune_flops),
            tuning_flops=float(tuning_flops),
            inference_flops=float(inference_flops),
            parameters=int(parameters),
            trainable_parameters=int(trainable_parameters),
            seconds=float(seconds),
            peak_memory_mib=float(peak_memory_mib),
            device=device,
            hparams=dict(hparams or {}),
            world=world,
            synthetic=bool(synthetic),
            fingerprint=fingerprint,
            commit=commit,
            confusion=cm,
            groups=tuple(str(g) for g in groups),
        )


_TYPES = {f.name: str(f.type) for f in dataclasses.fields(Score)}
SCORE_COLUMNS = tuple(n for n in _TYPES if n not in ("confusion", "groups"))
CONFUSION_COLUMNS = (*Key._fields, "tiles", "classes", "confusion", "groups")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, default=str)
    if isinstance(value, tuple):
        return ";".join(str(v) for v in value)
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
        case "tuple[float, ...]":
            return tuple(float(v) for v in text.split(";")) if text else ()
        case "dict[str, Any]":
            return json.loads(text)
    return text


class Store:
    """`folder`/scores.csv and `folder`/confusions.csv. One process writes; any may read.

    `add` writes the matrices first and the score row last, each flushed to disk, so a run is done exactly when its
    score row ends in a newline; the torn line a kill leaves is ignored by readers and cut off by the next `add`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._done: set[Key] | None = None

    def add(self, score: Score) -> None:
        """Append one finished run. A second run of the same key replaces the first for every reader."""
        assert not any(";" in g or "\n" in g for g in score.groups), "area names must hold neither ';' nor line breaks"
        self.folder.mkdir(parents=True, exist_ok=True)
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(score.confusion, "<i4").tobytes(), 9)).decode()
        shape = (score.confusion.shape[0], score.confusion.shape[1])
        row = [*score.key, *shape, packed, ";".join(score.groups)]
        _append(self.folder / "confusions.csv", CONFUSION_COLUMNS, row)
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
        version = {s.task: s.fingerprint for s in rows}  # the last one written wins
        last = {(s.task, s.fraction, s.contender, s.seed): s for s in rows if s.fingerprint == version[s.task]}
        chosen = {id(s) for s in last.values()}
        return [s for s in rows if id(s) in chosen], [s for s in rows if id(s) not in chosen]

    def _rows(self) -> list[Score]:
        matrices: dict[Key, tuple[np.ndarray, tuple[str, ...]]] = {}
        for r in _read(self.folder / "confusions.csv", CONFUSION_COLUMNS):
            tiles, classes = int(r["tiles"]), int(r["classes"])
            flat = np.frombuffer(zlib.decompress(base64.b64decode(r["confusion"])), dtype="<i4")
            groups = tuple(r["groups"].split(";")) if tiles else ()
            matrices[_key(r)] = (flat.reshape(tiles, classes, classes), groups)
        path = self.folder / "scores.csv"
        rows = []
        for r in _read(path, SCORE_COLUMNS):
            if _key(r) not in matrices:
                raise InputError(f"{path}: no confusion matrices for {_key(r)}; delete that row and run it again")
            cm, groups = matrices[_key(r)]
            rows.append(Score(**{n: _value(r[n], _TYPES[n]) for n in SCORE_COLUMNS}, confusion=cm, groups=groups))
        return rows


def _key(r: dict[str, str]) -> Key:
    return Key(r["task"], float(r["fraction"]), r["contender"], int(r["seed"]), r["fingerprint"], r["pretrain_run"])


def _append(path: Path, columns: Sequence[str], values: Sequence[Any]) -> None:
    texts = [_text(v) for v in values]
    assert not any("\n" in t or "\r" in t for t in texts), f"{path.name}: a line break inside a value"
    with open(path, "ab+") as f:
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


def _whole(f: io.BufferedIOBase | Any) -> int:
    """Bytes up to and including the last newline: what was written completely."""
    f.seek(0)
    return f.read().rfind(b"\n") + 1


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    data = path.read_bytes()
    csv.field_size_limit(sys.maxsize)  # a row of matrices is longer than csv's 128 KiB
    lines = list(csv.reader(io.StringIO(data[: data.rfind(b"\n") + 1].decode(), newline="")))
    if lines and tuple(lines[0]) != tuple(columns):
        raise InputError(f"{path}: its columns are not this version's; move the folder away and run again")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            raise InputError(f"{path}, line {number}: {len(line)} values where {len(columns)} belong; delete the line")
    return [dict(zip(columns, line, strict=True)) for line in lines[1:]]
