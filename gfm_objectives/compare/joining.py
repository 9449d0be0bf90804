"""Further labelled places for a task: chips that somebody has drawn since, beside the training data there was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gfm_objectives.batch import Batch, collate
from gfm_objectives.compare.bench import Bench
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.places import Kept, Places, Subset
from gfm_objectives.errors import InputError


class Joined:
    """The places of several, one after the other, for training; all of one make-up. They have the layers of the first:
    where others lack one, such as a map that nobody draws, nothing is known of it."""

    def __init__(self, parts: Sequence[Places]) -> None:
        self.parts, self.spec = tuple(parts), parts[0].spec
        self.index = [(part, k) for part in self.parts for k in range(len(part))]
        first = parts[0].read([0]).targets
        self.unknown = {k: torch.full_like(t, float("nan") if t.is_floating_point() else -1) for k, t in first.items()}

    def __len__(self) -> int:
        return len(self.index)

    def read(self, indices: Sequence[int]) -> Batch:
        places = [part.read([k]) for part, k in (self.index[i] for i in indices)]
        return collate([p.replace(targets={k: p.targets.get(k, t) for k, t in self.unknown.items()}) for p in places])

    def tiles(self) -> int:
        return len(self)

    def tile(self, k: int) -> Batch:
        return self.read([k])


def labelled(places: Places, layer: str) -> Subset:
    """Those with a label."""
    return Subset(places, [k for k in range(len(places)) if _has_label(places.read([k]), layer)])


def join(bench: Bench, files: Sequence[str]) -> Bench:
    """The bench, which learns from the labelled chips of `files` (yaml of chips) too; validation and test stay as they
    are. InputError where a file's chips are not of the task's make-up, or none has a label."""
    parts: list[Places] = [bench.source("train")]
    prints = [bench.fingerprint]
    for file in files:
        try:
            source = build_source(load_choice("data", file), "pretrain")  # without splits all chips are there
        except InputError as error:
            raise InputError(f"also={file}: {str(error).removeprefix(f'data={file}: ')}") from None
        _check(bench, source.spec, file)
        kept = Kept(source, len(source), (bench.task.layer,))
        mine = labelled(kept, bench.task.layer)
        if not len(mine):
            raise InputError(f"also={file}: no chip has a label yet; draw into {Path(file).parent / 'labels'}")
        print(f"also={file}: {len(mine)} of {len(source)} chips are labelled", flush=True)
        parts.append(mine)
        prints.append(source.fingerprint)
    train = Joined(parts)
    fingerprint = hashlib.sha256("/".join(prints).encode()).hexdigest()[:16]
    sources = {**bench.sources, "train": train}
    return replace(bench, sources=sources, sizes={**bench.sizes, "train": len(train)}, fingerprint=fingerprint)  # type: ignore[arg-type]


def _check(bench: Bench, spec: object, file: str) -> None:
    mine = bench.spec
    for what in ("bands", "dates", "size"):
        ours, theirs = getattr(mine, what), getattr(spec, what)
        if ours != theirs:
            raise InputError(f"also={file}: its {what} are {theirs}, those of task {bench.task.name} {ours}")
    layer = bench.task.layer
    legends = getattr(spec, "legends", {})
    if layer not in legends or legends[layer].classes != mine.legends[layer].classes:
        raise InputError(f"also={file}: no layer {layer} with the classes {', '.join(mine.legends[layer].classes)}")


def _has_label(batch: Batch, layer: str) -> bool:
    target = batch.targets[layer]
    return bool((~target.isnan() if target.is_floating_point() else target >= 0).any())
