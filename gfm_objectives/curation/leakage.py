"""Leakage: ground that pretraining, or the training split of a task, shares with what a task is scored on.

By the fingerprints of `gfm curate`, and by coordinates where both have them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import disk
from gfm_objectives.config import read_yaml, task_name
from gfm_objectives.curation.describing import describe_batch
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.fingerprints import CHUNK, Channel, Points, channels
from gfm_objectives.curation.keep import COPY, Rules, relations
from gfm_objectives.curation.neighbours import Pairs, find_pairs
from gfm_objectives.data import build_source
from gfm_objectives.data.source import Source
from gfm_objectives.data.telling import Telling
from gfm_objectives.data.torchgeo.leakage import shared
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.tasks import build_task

FILE = "leakage.json"
EARTH = 6_371_000.0  # metres
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Leak:
    """What `of` shows of the places of `into`: touched, places of which it shows some ground; half, at least half of
    it; copies, in the same picture; near: places whose centre lies within a place's side of one of its centres, None
    without coordinates. fingerprint: of `into`; named: its places that are touched."""

    of: str
    into: str
    places: int
    touched: int
    half: int
    copies: int
    near: int | None
    fingerprint: str
    named: Sequence[str] = ()

    @property
    def leaks(self) -> bool:
        return bool(self.touched or self.near)

    def line(self) -> str:
        near = "" if self.near is None else f", {self.near / self.places:.1%} within one place's side"
        return (
            f"{self.of} -> {self.into}: {self.touched / self.places:.1%} of {self.places:,} places share ground, "
            f"{self.half / self.places:.1%} half of it or more, {self.copies / self.places:.1%} the same picture{near}"
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A source's points in the channels it is compared by, and its coordinates."""

    name: str
    source: Source
    points: Points
    lonlat: np.ndarray


def run(cfg: DictConfig) -> list[Leak]:
    """Compare a run's data (or cfg.data) with every split of cfg.task, and the splits with each other; print, and write
    what is found beside the run, where gfm eval looks for it."""
    options = _pretraining_data(cfg)
    task_options: dict[str, Any] = OmegaConf.to_container(cfg.task)  # type: ignore[assignment]
    task = build_task(task_name(cfg.choices.task, task_options), task_options)
    corpus = build_source(options, "pretrain")
    splits = {split: build_source(task.data, split) for split in SPLITS}
    of = f"pretraining of {Path(cfg.run).name}" if cfg.run else f"pretraining on {cfg.name}"
    found = leaks(of, corpus, {f"{task.name} {k}": s for k, s in splits.items()})
    for leak in found:
        print(leak.line())
    for line in described(task.data, options, splits):
        print(line)
    folder = Path(cfg.run) if cfg.run else Path(cfg.out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    known = disk.read_json(path, "delete it, and run gfm leakage again") if path.is_file() else {}
    disk.write(path, json.dumps(known | {task.name: [asdict(leak) for leak in found]}, indent=2) + "\n")
    print(f"  -> {path}")
    scored = [leak for leak in found if leak.into.endswith(" test") and leak.leaks]
    if scored and cfg.strict:
        raise InputError(f"strict=true: {scored[0].line()}; leave those places out of what is learned from")
    return found


def described(task: Mapping[str, Any], pretraining: Mapping[str, Any], splits: Mapping[str, Source]) -> list[str]:
    """What needs no pixels: places that both sides' makers describe, and areas that a task's own splits share."""
    how = shared(task, pretraining)
    lines = [f"by its makers' description: {how}"] if how else []
    areas = [set(s.tile_groups()) for s in splits.values() if s.tile_groups() != [str(i) for i in range(s.tiles())]]
    if twice := sum(sum(a in held for held in areas) > 1 for a in set().union(*areas)):
        every = len(set().union(*areas))
        lines.append(f"{task['name']}: {twice} of {every} areas are in more than one of its own splits")
    return lines


def told(runs: Sequence[str], tasks: Mapping[str, str], strict: bool) -> list[str]:
    """What `gfm leakage` found of each run's data in the test split of each task (name -> fingerprint of its test), as
    lines for a report; InputWarning where ground is shared. InputError with strict, also where nobody has looked.
    """
    out = []
    for run in runs:
        path = Path(run) / FILE
        known = disk.read_json(path, "delete it, and run gfm leakage again") if path.is_file() else {}
        for task, fingerprint in tasks.items():
            into = [Leak(**leak) for leak in known.get(task, []) if leak["into"] == f"{task} test"]
            into = [leak for leak in into if leak.fingerprint == fingerprint]
            leaking = [leak for leak in into if leak.leaks]
            lines = [f"{run}: {leak.line()}" for leak in leaking]
            if not into:
                lines = [f"{run}: leakage into {task} is not known; gfm leakage {run} task={task}"]
            if strict and lines:
                raise InputError(f"strict=true: {lines[0]}")
            if leaking:
                warnings.warn(lines[0], InputWarning, stacklevel=2)
            out += lines or [f"{run}: no ground shared with the test split of {task}"]
    return out


def leaks(of: str, corpus: Source, splits: Mapping[str, Source]) -> list[Leak]:
    """The corpus against every split, and every split against those after it.

    InputError where they have no band in common; InputWarning where their pixels differ in size, for fingerprints know
    one scale only.
    """
    first = next(iter(splits.values()))
    if abs(np.log(corpus.spec.gsd / first.spec.gsd)) > np.log(1.1):
        warnings.warn(
            f"pixels of {corpus.spec.gsd:g} m and {first.spec.gsd:g} m: fingerprints do not see across scales; "
            "only coordinates tell",
            InputWarning,
            stacklevel=2,
        )
    mine, theirs = shared_channels(corpus, first)
    known = [_known(of, corpus, mine), *(_known(name, source, theirs) for name, source in splits.items())]
    return [_leak(known[i], known[j], theirs) for i in range(len(known)) for j in range(i + 1, len(known))]


def shared_channels(a: Source, b: Source) -> tuple[list[Channel], list[Channel]]:
    """The channels of the bands that both have, as places of each."""
    both = {
        sensor: [name for name in names if name in b.spec.bands[sensor]]
        for sensor, names in a.spec.bands.items()
        if sensor in b.spec.bands
    }
    out: tuple[list[Channel], list[Channel]] = ([], [])
    for source, chosen in zip((a, b), out, strict=True):
        for channel in channels(source.spec):
            names = source.spec.bands[channel.sensor]
            bands = tuple(k for k in channel.bands if names[k] in both.get(channel.sensor, ()))
            if bands:
                chosen.append(Channel(channel.sensor, channel.group, bands, channel.static))
    order = {c.name: k for k, c in enumerate(out[0])}
    out[1].sort(key=lambda c: order[c.name])
    if not out[0]:
        raise InputError(f"no band in common: {', '.join(a.spec.bands)} here and {', '.join(b.spec.bands)} there")
    return out


def _known(name: str, source: Source, chosen: list[Channel]) -> Known:
    parts = []
    with Telling(f"places of {name}", len(source)) as telling:
        for k in range(0, len(source), CHUNK):
            some = range(k, min(k + CHUNK, len(source)))
            parts.append(describe_batch(source.read(some), k, chosen, None, Limits()))
            telling.done(some.stop)
    return Known(name, source, Points.join([p.points for p in parts]), np.concatenate([p.lonlat for p in parts]))


def _leak(a: Known, b: Known, chosen: list[Channel]) -> Leak:
    pairs = between(a.points, b.points, len(a.source), chosen)
    size = min(a.source.spec.size, b.source.spec.size)
    relation, _ = relations(pairs, size, Rules())
    half, copy = pairs.overlap(size) >= 0.5, relation == COPY
    near = nearby(a.lonlat, b.lonlat, size * b.source.spec.gsd)
    touched, halves, copies = (len(np.unique(pairs.b[which])) for which in (slice(None), half, copy))
    names = b.source.names()
    named = [names[k] for k in np.unique(pairs.b)]
    return Leak(a.name, b.name, len(b.source), touched, halves, copies, near, b.source.fingerprint, named)


def between(a: Points, b: Points, places: int, chosen: list[Channel]) -> Pairs:
    """Pairs of one of the `places` places of a and one of b, which are numbered as in b."""
    moved = Points(b.code, b.place + places, b.channel, b.date, b.y, b.x)
    pairs = find_pairs(Points.join([a, moved]), chosen, across=places)
    return Pairs(pairs.a, pairs.b - places, pairs.dy, pairs.dx, pairs.votes, pairs.share, pairs.repeated)


def nearby(a: np.ndarray, b: np.ndarray, metres: float) -> int | None:
    """How many of the places b (N, 2), degrees, lie within `metres` of one of a; None where either has none."""
    from scipy.spatial import cKDTree

    a, b = (points[np.isfinite(points).all(1)] for points in (a, b))
    if not len(a) or not len(b):
        return None
    distance, _ = cKDTree(on_sphere(a)).query(on_sphere(b))
    return int((2 * EARTH * np.arcsin(np.minimum(1, distance / 2)) <= metres).sum())


def on_sphere(lonlat: np.ndarray) -> np.ndarray:
    """(N, 2) degrees -> (N, 3) on the unit sphere, where chords compare as distances do, at the date line too."""
    lon, lat = np.deg2rad(lonlat.astype(np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def _pretraining_data(cfg: DictConfig) -> dict[str, Any]:
    if not cfg.run:
        return OmegaConf.to_container(cfg.data)  # type: ignore[return-value]
    if not (Path(cfg.run) / "config.yaml").is_file():
        raise InputError(
            f"run={cfg.run}: no run folder; write gfm leakage runs/demo, or data= for what is not trained on yet"
        )
    saved = read_yaml(Path(cfg.run) / "config.yaml")
    if "data" not in saved:
        raise InputError(f"{cfg.run}/config.yaml: says nothing of data; give the folder of a pretraining run")
    options = dict(saved["data"])
    return options | {"seed": saved["seed"]} if options.get("seed", 0) is None else options
