"""The one reading of all places: tests, fingerprints and figures of each, part by part on disk, so that it resumes."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from gfm_objectives import disk, lock
from gfm_objectives.batch import Batch
from gfm_objectives.curation.embedders import STATISTICS, Embedder
from gfm_objectives.curation.engines import Arrays, Engine, Local
from gfm_objectives.curation.examination import Limits, examine
from gfm_objectives.curation.fingerprints import CHUNK, Channel, Points, channels, fingerprint
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError

PART = 512  # places in a file
VERSION = 3  # raise it when what is described changes
MAP = "map"  # the layer whose balance is told; else the first


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of N places: points in order of their places; reason (N,) uint8; quality (N,); figures (N, D);
    classes (N, K) share of pixels of each class of the layer told of, K = 0 without; lonlat (N, 2), NaN without; spent
    (parts,) seconds of CPU that reading each part took, 0 where nobody counted."""

    points: Points
    reason: np.ndarray
    quality: np.ndarray
    figures: np.ndarray
    classes: np.ndarray
    lonlat: np.ndarray
    spent: np.ndarray

    def __len__(self) -> int:
        return len(self.reason)

    def arrays(self) -> Arrays:
        """By name, those of the points too: what goes to disk and between machines."""
        held = {f.name: getattr(self.points, f.name) for f in fields(Points)}
        return held | {f.name: getattr(self, f.name) for f in fields(Described) if f.name != "points"}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> Described:
        points = Points(*(arrays[f.name] for f in fields(Points)))
        return Described(points, *(arrays[f.name] for f in fields(Described) if f.name != "points"))

    @staticmethod
    def join(parts: list[Described]) -> Described:
        rest = [f.name for f in fields(Described) if f.name != "points"]
        return Described(
            Points.join([p.points for p in parts]),
            *(np.concatenate([getattr(p, name) for p in parts]) for name in rest),
        )


def describe(
    source: Source,
    limits: Limits,
    folder: Path | None,
    progress: Callable[[int], None] = lambda done: None,
    embedder: Embedder | None = None,
    engine: Engine | None = None,
) -> Described:
    """Every place of `source`; with a folder, parts that an earlier call of the same data has left there are read.

    progress is told how many places are done.
    """
    chosen, layer, embedder = channels(source.spec), layer_of(source), embedder or Embedder(STATISTICS)
    if folder is not None:
        _open(folder, [VERSION, source.fingerprint, len(source), PART, asdict(limits), embedder.digest])
    numbers = range(-(-len(source) // PART))
    paths = [folder / f"part-{n:06}.npz" for n in numbers] if folder is not None else []
    parts = {n: _load(path) for n, path in enumerate(paths) if path.is_file()}

    def read(number: int) -> Arrays:
        first = number * PART
        last = min(first + PART, len(source))
        return _part(source, first, last, chosen, layer, limits, embedder).arrays()

    for number, arrays in (engine or Local()).parts(read, [n for n in numbers if n not in parts]):
        if paths:
            _save(arrays, paths[number])
        parts[number] = Described.of(arrays)
        progress(min(len(parts) * PART, len(source)))
    return Described.join([parts[n] for n in numbers])


def describe_batch(
    batch: Batch,
    first: int,
    chosen: list[Channel],
    layer: tuple[str, int] | None,
    limits: Limits,
    embedder: Embedder | None = None,
) -> Described:
    """The places of a batch, numbered from `first`."""
    found = fingerprint(batch, chosen, first)
    found = found.take(np.argsort(found.place, kind="stable"))
    seen = examine(batch, chosen, limits)
    lonlat = batch.lonlat if batch.lonlat is not None else torch.full((len(batch), 2), torch.nan)
    classes = torch.zeros(len(batch), 0)
    if layer is not None and batch.targets[layer[0]].ndim == 3:
        y, k = batch.targets[layer[0]], layer[1]
        rows = torch.where(y >= 0, y, k).flatten(1) + torch.arange(len(batch))[:, None] * (k + 1)
        counts = torch.bincount(rows.flatten(), minlength=len(batch) * (k + 1)).view(len(batch), -1)[:, :k].float()
        classes = counts / y[0].numel()
    figures = embedder.figures(batch) if embedder and embedder.figures else seen.figures
    return Described(
        points=found,
        reason=seen.reason.numpy(),
        quality=seen.quality.numpy(),
        figures=figures.numpy(),
        classes=classes.numpy(),
        lonlat=lonlat.numpy(),
        spent=np.zeros(0),
    )


def layer_of(source: Source) -> tuple[str, int] | None:
    """The layer whose classes are counted, and how many it has; None where there are none, or numbers alone."""
    legends = {name: legend for name, legend in source.spec.legends.items() if len(legend) > 1}
    name = MAP if MAP in legends else next(iter(legends), None)
    return None if name is None else (name, len(legends[name]))


def _part(
    source: Source,
    first: int,
    last: int,
    chosen: list[Channel],
    layer: tuple[str, int] | None,
    limits: Limits,
    embedder: Embedder,
) -> Described:
    began, threads = time.process_time(), torch.get_num_threads()
    torch.set_num_threads(1)  # small pictures: threads cost more than they bring
    try:
        part = Described.join(
            [
                describe_batch(source.read(range(k, min(k + CHUNK, last))), k, chosen, layer, limits, embedder)
                for k in range(first, last, CHUNK)
            ]
        )
        return replace(part, spent=np.array([time.process_time() - began]))
    finally:
        torch.set_num_threads(threads)


def _open(folder: Path, what: list[object]) -> None:
    """An empty folder for parts, or one that holds parts of the same."""
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    note = folder / "of.txt"
    folder.mkdir(parents=True, exist_ok=True)
    found = [p for p in folder.iterdir() if p.name != lock.NAME and not p.name.startswith(disk.SCRATCH)]
    if found and not note.is_file():
        raise InputError(f"{folder}: holds files that gfm curate did not write; give another out=, or move them away")
    if found and note.read_text(errors="replace") != key:
        for pattern in ("part-*.npz", "pairs.npz", "alike-*.npz"):
            for path in folder.glob(pattern):
                path.unlink()
    disk.write(note, key)


def _save(arrays: Arrays, path: Path) -> None:
    with disk.replacing(path) as scratch:
        np.savez(scratch, **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> Described:
    try:
        with path.open("rb") as file, np.load(file) as f:
            return Described.of(f)
    except (ValueError, EOFError, KeyError, BadZipFile, zlib.error):
        raise InputError(f"{path}: damaged; delete it, and the same command reads those places again") from None
