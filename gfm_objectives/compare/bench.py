"""Bench: a task with its data read once, kept in files that every worker process maps into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.chance import mix, order
from gfm_objectives.data import build_source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import Legend
from gfm_objectives.tasks import build_task
from gfm_objectives.tasks.task import Task

SPLITS = ("train", "val", "test")
CHUNK = 64  # places read at a time


@dataclass(frozen=True, slots=True)
class Bench:
    """A task, what its data looks like, and where it lies.

    fingerprint changes with the task and with the content of its data; sizes: places of each split; groups: the area
    of each test place.
    """

    task: Task
    spec: Spec
    fingerprint: str
    sizes: dict[str, int]
    groups: tuple[str, ...]
    folder: Path
    world: str = ""
    synthetic: bool = False
    license: str = ""

    @property
    def legend(self) -> Legend:
        return self.spec.legends[self.task.layer]

    @property
    def classes(self) -> int:
        return len(self.legend)

    def split(self, name: str) -> Batch:
        """All places of train, val or test; memory-mapped."""
        return _read(self.folder / f"{name}.safetensors", tuple(self.spec.bands.items()))

    def labelled(self, fraction: float) -> int:
        """How many training places a fraction of the labels is; at least one."""
        return max(1, round(fraction * self.sizes["train"]))

    def subset(self, fraction: float, seed: int) -> Batch:
        """A fraction of the training places, drawn by `seed`; a larger fraction holds all of a smaller one."""
        if fraction == 1:
            return self.split("train")
        n = self.sizes["train"]
        index = order(mix(seed, "labels"), n, np.arange(n))[: self.labelled(fraction)]
        return self.split("train").take(torch.from_numpy(np.sort(index)))


def open_bench(name: str, options: Mapping[str, Any], cache: Path, world: str | None = None) -> Bench:
    """Read the data of the task `name` (its options as in configs/task) into `cache`, unless they lie there already.

    `world` replaces the world of synthetic data.
    """
    task = build_task(name, options)
    if world and task.data.get("name") == "synthetic":
        task = replace(task, data={**task.data, "world": world})
    sources = {s: build_source(task.data, s) for s in SPLITS}
    spec, test = sources["train"].spec, sources["test"]
    if task.layer not in spec.legends:
        raise InputError(f"task {name}: no layer {task.layer!r} in its data; there are {', '.join(spec.legends)}")
    if task.kind == "change" and max(spec.dates.values()) < 2:
        raise InputError(f"task {name}: kind=change needs a sensor with two dates; its data has one date of each")
    classes = len(spec.legends[task.layer].classes)
    if beyond := [k for k in task.recode.values() if k >= classes]:
        raise InputError(f"task {name}: recode names label {beyond[0]}, but {task.layer} has 0 to {classes - 1}")
    sizes = {s: min(getattr(task, s) or len(sources[s]), len(sources[s])) for s in SPLITS}
    if empty := [s for s in SPLITS if not sizes[s]]:
        raise InputError(f"task {name}: its data has no place for {' and '.join(empty)}")
    content = [task.layer, sizes, dict(task.recode), task.index, [sources[s].fingerprint for s in SPLITS]]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{name}-{fingerprint}"
    folder.mkdir(parents=True, exist_ok=True)
    for split, source in sources.items():
        path = folder / f"{split}.safetensors"
        if not path.exists():
            n = sizes[split]
            parts = [source.read(range(i, min(i + CHUNK, n))) for i in range(0, n, CHUNK)]
            _write(collate(parts), (task.layer, "map"), path)
    return Bench(
        task,
        spec,
        fingerprint,
        sizes,
        tuple(test.groups()[: sizes["test"]]),
        folder,
        str(getattr(test, "world", "")),
        test.synthetic,
        test.license,
    )


def _write(batch: Batch, layers: tuple[str, ...], path: Path) -> None:
    tensors: dict[str, Tensor] = {"gsd": batch.gsd}
    for name, s in batch.sensors.items():
        tensors |= {f"sensors.{name}.x": s.x, f"sensors.{name}.valid": s.valid, f"sensors.{name}.day": s.day}
    tensors |= {f"targets.{k}": t for k, t in batch.targets.items() if k in layers}
    save_file({k: t.contiguous() for k, t in tensors.items()}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


@lru_cache(maxsize=8)
def _read(path: Path, bands: tuple[tuple[str, tuple[str, ...]], ...]) -> Batch:
    t = load_file(path)
    sensors = {
        s: Series(t[f"sensors.{s}.x"], t[f"sensors.{s}.valid"], t[f"sensors.{s}.day"], names) for s, names in bands
    }
    targets = {k.removeprefix("targets."): v for k, v in t.items() if k.startswith("targets.")}
    return Batch(sensors, targets, t["gsd"])
