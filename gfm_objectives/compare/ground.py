"""What of each real task's test tiles learning has seen: ground they share with its training and with pretraining.

By footprints, where both know where they lie; and by what `gfm leakage` found and left beside the runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.fitting import pretrained_on
from gfm_objectives.curation.leakage import FILE
from gfm_objectives.data import build_source
from gfm_objectives.data.footprints import Outline, met
from gfm_objectives.errors import InputError
from gfm_objectives.runs.finished import Run

Ground = dict[str, dict[str, Any]]


def shared_ground(benches: Sequence[Bench], rows: Sequence[Contender]) -> Ground:
    """Of each real task the share of its test tiles that share ground: {"training": with its training places,
    "pretraining": {row: with what it was pretrained on}}; None = not known. Of several runs of a row the most."""
    out: Ground = {}
    corpora: dict[str, list[Outline | None]] = {}
    runs = [r for c in rows for r in c.runs]
    for bench in (b for b in benches if not b.synthetic):
        test, train = bench.source("test"), bench.source("train")
        every = test.source.footprints()
        tiles = [every[k] for k in test.which]
        name, fingerprint = bench.task.name, test.source.fingerprint
        noted = [_noted(r, name, fingerprint, f"{name} train") for r in runs]
        pretraining = {
            c.name: _most([_of_run(r, tiles, corpora, name, fingerprint) for r in c.runs]) for c in rows if c.runs
        }
        training = _larger([share(tiles, train.source.footprints()), *noted])
        out[name] = {"training": training, "pretraining": pretraining}
    return out


def share(tiles: Sequence[Outline | None], of: Sequence[Outline | None]) -> float | None:
    """The share of tiles that share ground with one of others; None where it is not known where one of both lies."""
    if not len(tiles) or any(o is None for o in (*tiles, *of)):
        return None
    return float(np.mean(met(tiles, of)))


def _of_run(
    run: Run, tiles: Sequence[Outline | None], corpora: dict[str, list[Outline | None]], task: str, fingerprint: str
) -> float | None:
    found = [_noted(run, task, fingerprint, "pretraining")]
    if any(o is None for o in tiles) or run.model == "published":
        return _larger(found)
    options = pretrained_on(run.folder)
    if options.get("name") == "synthetic":
        return 0.0  # of no place on Earth
    key = json.dumps(options, sort_keys=True, default=str)
    if key not in corpora:
        try:
            corpora[key] = build_source(options, "pretrain").footprints()
        except InputError:  # its data is not here
            corpora[key] = [None]
    return _larger([*found, share(tiles, corpora[key])])


def _noted(run: Run, task: str, fingerprint: str, of: str) -> float | None:
    """What `gfm leakage` found of `of` in the test split of a task that is still the same."""
    path = Path(run.folder) / FILE
    known: Mapping[str, Any] = disk.read_json(path, "delete it, and run gfm leakage again") if path.is_file() else {}
    return _larger(
        leak["touched"] / leak["places"]
        for leak in known.get(task, ())
        if leak["into"] == f"{task} test" and leak["fingerprint"] == fingerprint and leak["of"].startswith(of)
    )


def _larger(shares: Iterable[float | None]) -> float | None:
    """The largest that is known: each way of looking misses some."""
    return max((s for s in shares if s is not None), default=None)


def _most(shares: Sequence[float | None]) -> float | None:
    """The largest of all runs; not known where one is not."""
    return None if None in shares else _larger(shares)
