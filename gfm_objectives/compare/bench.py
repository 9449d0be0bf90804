"""Bench: a task with the sources of its splits, which workers read without reading the data anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.chance import mix, order
from gfm_objectives.compare.labels import strata, stratified
from gfm_objectives.data import build_source
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.guards import watch
from gfm_objectives.data.kept import check_read
from gfm_objectives.data.places import CHUNK, Kept, Places, Subset, spread
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import SENSORS, Legend
from gfm_objectives.tasks import build_task
from gfm_objectives.tasks.kinds import Kind, kind_of, standardised, with_loss
from gfm_objectives.tasks.task import Task

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Bench:
    """A task on one Earth: what its data looks like, and the sources that hold it.

    fingerprint changes with the task and with the content of its data; sizes: places of train, whole tiles of val and
    test; groups: the area of each test tile, named as no other area of any data; val_groups: that of each validation
    tile; earths: of a synthetic task that was opened for several Earths, the bench of each, this one first; labels: how
    a share of them is drawn.
    """

    task: Task
    spec: Spec
    fingerprint: str
    sizes: dict[str, int]
    groups: tuple[str, ...]
    sources: dict[str, Kept] = field(repr=False, compare=False)
    world: str = ""
    synthetic: bool = False
    license: str = ""
    earths: tuple[Bench, ...] = field(default=(), repr=False, compare=False)
    val_groups: tuple[str, ...] = field(default=(), repr=False, compare=False)
    labels: str = "random"

    def at(self, seed: int) -> Bench:
        """The bench of the Earth on which `seed` is run: of its own number, 0 for tuning. Real data has one Earth."""
        if not self.earths:
            return self
        earth = self.earths[max(seed, 0)]
        return earth if earth.labels == self.labels else replace(earth, labels=self.labels)

    @property
    def legend(self) -> Legend:
        return self.spec.legends[self.task.layer]

    @property
    def classes(self) -> int:
        return len(self.legend)

    @property
    def kind(self) -> Kind:
        """What is counted and reported; what a model learns is `kind_for` its labels."""
        return kind_of(self.task)

    def kind_for(self, train: Places, loss: str = "") -> Kind:
        """The kind whose targets, where they are numbers, are learned in deviations from the mean of these labels, with
        one of its losses."""
        targets = (part.targets[self.task.layer] for part in _chunks(train)) if self.task.kind == "regression" else ()
        kind = kind_of(standardised(self.task, targets))
        return with_loss(kind, loss, (part.targets[self.task.layer] for part in _chunks(train)), self.classes)

    @property
    def outputs(self) -> int:
        """Channels of a model's output."""
        return self.kind.channels(self.classes)

    def source(self, split: str) -> Kept:
        """The places of train, to learn from; the whole tiles of val and test, to be scored."""
        return self.sources[split]

    def labelled(self, fraction: float) -> int:
        """How many training places a fraction of the labels is; at least one."""
        return max(1, round(fraction * self.sizes["train"]))

    def subset(self, fraction: float, seed: int) -> Places:
        """A fraction of the training places, drawn by `seed`; a larger fraction holds all of a smaller one."""
        train = self.source("train")
        if fraction == 1:
            return train
        n = self.sizes["train"]
        if self.labels == "stratified":
            of = strata((part.targets[self.task.layer] for part in _chunks(train)), self.classes)
            return Subset(train, stratified(of, self.labelled(fraction), seed))
        index = order(mix(seed, "labels"), n, np.arange(n))[: self.labelled(fraction)]
        return Subset(train, np.sort(index).tolist())

    def unseen(self, fraction: float, seed: int) -> list[str]:
        """Classes of which this fraction of the labels shows nothing, not one pixel."""
        if self.task.kind == "regression":
            return []
        seen: set[int] = set()
        for part in _chunks(self.subset(fraction, seed)):
            target = part.targets[self.task.layer]
            seen |= set((target.nan_to_num().amax(0).nonzero()[:, 0] if target.ndim == 2 else target.unique()).tolist())
        return [name for k, name in enumerate(self.legend.classes) if k not in seen]


def _chunks(places: Places) -> Iterator[Batch]:
    """All places, some at a time."""
    return (places.read(range(k, min(k + CHUNK, len(places)))) for k in range(0, len(places), CHUNK))


def check_roots(tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """InputError where the folder of some task's data is missing, which is better known before others are read."""
    for options in tasks.values():
        if (data := options.get("data")) and isinstance(data, Mapping) and data.get("root"):
            find_folder(data["root"])


def beyond(bench: Bench) -> list[str]:
    """A line where a task asks for more places than its data has, which then are all used."""
    asked = {s: n for s in SPLITS if (n := getattr(bench.task, s)) and n > bench.sizes[s]}
    told = ", ".join(f"{s}={n}" for s, n in asked.items())
    there = ", ".join(str(bench.sizes[s]) for s in asked)
    return [f"{bench.task.name}: {told}: there are {there}, and all are used."] if asked else []


def open_bench(name: str, options: Mapping[str, Any], world: str | None = None, earths: int = 1) -> Bench:
    """The task `name` (its options as in configs/task) with its data, which is read when it is first needed.

    Of synthetic data `world` replaces the world, and it is opened on the Earths 0 to earths - 1: see `Bench.at`.
    """
    task = build_task(name, options)
    if task.data.get("name") != "synthetic":
        return _open(task)
    data = {**task.data, "world": world} if world else task.data
    benches = [_open(replace(task, data={**data, "seed": earth})) for earth in range(earths)]
    return replace(benches[0], earths=tuple(benches))


def _open(task: Task) -> Bench:
    sources = {s: build_source(task.data, s) for s in SPLITS}
    check_read(task.data.get("keep"), sources, "gfm curate split=train makes one that a task reads")
    train, test = sources["train"], sources["test"]
    watch(train, str(task.data.get("name")))
    _check(task, train.spec)
    there = {s: len(source) if s == "train" else source.tiles() for s, source in sources.items()}
    sizes = {s: min(getattr(task, s) or n, n) for s, n in there.items()}
    if empty := [s for s in SPLITS if not sizes[s]]:
        raise InputError(f"task {task.name}: its data has no place for {' and '.join(empty)}")
    areas = {s: source.groups() if s == "train" else source.tile_groups() for s, source in sources.items()}
    # Of made-up places the first are as good as any; of a folder they may all be of one area.
    which = {s: range(sizes[s]) if test.synthetic else _whole(spread(areas[s], sizes[s])) for s in SPLITS}
    return Bench(
        task,
        train.spec,
        _fingerprint(task, train.spec, sizes, sources, {s: list(w) for s, w in which.items() if w != range(len(w))}),
        sizes,
        tuple(f"{_identity(task)}:{areas['test'][k]}" for k in which["test"]),
        {s: Kept(source, which[s], (task.layer, "map"), whole=s != "train") for s, source in sources.items()},
        str(getattr(test, "world", "")),
        test.synthetic,
        test.license,
        val_groups=tuple(areas["val"][k] for k in which["val"]),
    )


def _whole(index: list[int]) -> Sequence[int]:
    """A range, where it is one: all places then have the fingerprint they always had."""
    return range(len(index)) if index == list(range(len(index))) else index


def _check(task: Task, spec: Spec) -> None:
    """InputError where a task asks what its data does not have."""
    if task.layer not in spec.legends:
        raise InputError(f"task {task.name}: no layer {task.layer!r} in its data; there are {', '.join(spec.legends)}")
    if task.kind == "change" and max(spec.dates.values()) < 2:
        raise InputError(f"task {task.name}: kind=change needs a sensor with two dates; its data has one date of each")
    classes = len(spec.legends[task.layer].classes)
    if beyond := [k for k in task.recode.values() if k >= classes]:
        raise InputError(f"task {task.name}: recode names label {beyond[0]}, but {task.layer} has 0 to {classes - 1}")
    if task.index:
        _check_index(task, task.index, spec, classes)


def _check_index(task: Task, index: Mapping[str, Any], spec: Spec, classes: int) -> None:
    """InputError where the spectral index of a task names a sensor, band or label that is not there."""
    sensor = index["sensor"]
    if sensor not in spec.bands:
        told = f"index.sensor={sensor}: not in its data, which has {', '.join(spec.bands)}"
        raise InputError(f"task {task.name}: {told}; remove index, or add the sensor to data.sensors")
    for key in ("plus", "minus"):
        if index[key] not in spec.bands[sensor]:
            told = f"index.{key}={index[key]}: no band of {sensor}, which has {', '.join(spec.bands[sensor])}"
            raise InputError(f"task {task.name}: {told}")
    for key in ("above", "below"):
        if not (isinstance(label := index[key], int) and 0 <= label < classes):
            told = f"index.{key}={label}: no label of {task.layer}, which has 0 to {classes - 1}"
            raise InputError(f"task {task.name}: {told}")
    if index.get("only") and "map" not in spec.legends:
        raise InputError(f"task {task.name}: index.only names labels of a map, and its data has no layer map")


def _fingerprint(
    task: Task, spec: Spec, sizes: Mapping[str, int], sources: Mapping[str, Source], some: Mapping[str, list[int]]
) -> str:
    """Of what is asked, of the content of every split, and of the figures values are normalised by. some: the places
    used of splits of which they are not the first."""
    asked = [
        task.kind,
        task.layer,
        dict(sizes),
        sorted(task.recode.items()),
        task.index,
        *([dict(some)] if some else []),
    ]
    look = [spec.bands, spec.dates, spec.size, spec.gsd, spec.legends[task.layer].classes]
    figures = [repr(SENSORS[s]) for s in spec.bands if not SENSORS[s].own]  # those of others are in the sources'
    content = [asked, look, figures, [sources[s].fingerprint for s in SPLITS]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _identity(task: Task) -> str:
    """What areas are named after: the source of made-up data, the folder of real data, told apart from others of its
    name by its path. Tasks on the same data share their areas."""
    if not (root := task.data.get("root")):
        return str(task.data["name"])
    path = find_folder(root).resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
