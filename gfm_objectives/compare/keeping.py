"""Keeping a fine-tuned model: it is trained once more, as its job says, judged, and written with all that it takes.

A run is a function of its arguments alone, so a model of the comparison need not be held until it is known to be best.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.compare.adapters import merge_low_rank
from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.plateau import Budgets
from gfm_objectives.compare.trials import Job
from gfm_objectives.device import device_name, resolve
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import Result, evaluate, finetune
from gfm_objectives.finetune.calibration import calibrate, familiar
from gfm_objectives.metrics import METRICS, total
from gfm_objectives.models.encoder import parameters, trained_parameters
from gfm_objectives.runs.provenance import commit
from gfm_objectives.runs.segmenter import Card, FineTuned, describe, save_segmenter
from gfm_objectives.scores import Score
from gfm_objectives.tasks.kinds import Regression, Segmentation

if TYPE_CHECKING:
    from gfm_objectives.compare.comparison import Comparison

ROLES = {  # of scores, in words
    "pretrained": "pretrained",
    "part": "with a part of an encoder",
    "scratch": "from scratch",
    "saw_map": "that saw the map",
    "untrained": "without training",
}
LOOK = 64  # training places whose days and levels are noted


@dataclass(frozen=True, slots=True)
class Verdict:
    """The contender that validation chose for a task, and the words that say why."""

    contender: str
    val: float
    words: str


def verdict(scores: Sequence[Score], task: str) -> Verdict:
    """Which row of a comparison to use for `task`: the best on validation in the mean of its seeds, with the most
    labels. InputError where the scores have no such task."""
    mine = [s for s in scores if s.task == task and s.val is not None and math.isfinite(s.val)]
    if not mine:
        there = ", ".join(sorted({s.task for s in scores})) or "none"
        raise InputError(f"task {task}: no score of it; the results have {there}")
    most = max(s.fraction for s in mine)
    mine = [s for s in mine if s.fraction == most or s.role == "untrained"]
    metric = METRICS[mine[0].metric]
    means = {c: fmean(s.val for s in mine if s.contender == c) for c in dict.fromkeys(s.contender for s in mine)}
    ranking = sorted(means, key=lambda c: -metric.better * means[c])
    roles = {s.contender: s.role for s in mine}
    best = ranking[0]

    def told(c: str) -> str:
        return f"{c} {metric.scale * means[c]:.1f}" if metric.scale == 100 else f"{c} {means[c]:.4g}"

    rivals = [next((c for c in ranking[1:] if roles[c] == r), None) for r in dict.fromkeys(roles.values())]
    others = "; ".join(f"best {ROLES[roles[c]]}: {told(c)}" for c in rivals if c) or "no other row"
    seeds = len([s for s in mine if s.contender == best])
    article = "the " if best.startswith("U-Net") else ""
    words = (
        f"{task}: use {article}{best}: {metric.title} on validation {told(best).removeprefix(best).strip()}, mean of "
    )
    return Verdict(best, means[best], f"{words}{seeds} seed{'s' * (seeds > 1)} ({others})")


def keep(job: Job, folder: Path, device: torch.device, dtype: torch.dtype, about: Mapping[str, Any]) -> Path:
    """Train the model of `job`, judge it, and write it to `folder`; about: further provenance. Raises as `finetune`."""
    bench, task = job.bench, job.bench.task
    model = job.contender.build(bench.spec, bench.outputs, job.hparams, job.seed)
    train, val, test = bench.subset(job.fraction, job.seed), bench.source("val"), bench.source("test")
    kind = bench.kind_for(train)
    result = finetune(model, train, kind, task.layer, job.flops, job.hparams, job.seed, device, dtype, shown=True)
    trained = trained_parameters(model)
    merge_low_rank(model)
    size = bench.spec.size
    where: dict[str, Any] = {"device": device, "dtype": dtype, "shown": True}
    about_task = (kind, task.layer, bench.classes, size)
    stats = {s: evaluate(model, bench.source(s), *about_task, **where)[0] for s in ("val", "test")}
    scores = {s: {m: total(METRICS[m], x) for m in kind.metrics} for s, x in stats.items()}
    temperature: float = 1.0
    calibration: dict[str, Any] = {}
    if type(kind) is Segmentation:
        temperature, calibration = calibrate(model, val, test, task.layer, bench.legend.classes, size, **where)
    known = familiar(model, train, val, task.layer, size, **where) if kind.dense else {}
    looked = train.read(range(min(LOOK, len(train))))
    offsets = {"offset": kind.offset, "scale": kind.scale} if isinstance(kind, Regression) else {}
    card = Card(
        replace(bench.spec, legends={k: v for k, v in bench.spec.legends.items() if k in (task.layer, "map")}),
        bench.outputs,
        describe(model, _foreign(job)),
        {"name": task.name, "kind": task.kind, "layer": task.layer, "metric": task.metric, **offsets},
        {s: v.level for s, v in looked.sensors.items() if v.level},
        _days(looked),
        dict(task.data.get("sensors", {})) if task.data.get("name") == "chips" else {},
        scores,
        temperature,
        calibration,
        {a: s.tolist() for a, s in _by_area(bench, stats["test"]).items()} if type(kind) is Segmentation else {},
        _provenance(job, result, device, parameters(model), trained) | dict(about),
    )
    model.cpu().eval()
    path = save_segmenter(FineTuned(model, card, known), folder)
    metric = METRICS[task.metric]
    figures = ", ".join(f"{s} {metric.scale * scores[s][task.metric]:.4g}" for s in scores)
    errors = [f"{calibration[k]:.3f}" for k in ("ece_before", "ece_after") if calibration]
    error = f"; calibration error on test {errors[0]}, with its temperature {errors[1]}" if errors else ""
    print(f"{task.name}: {job.contender.name}, {metric.title} on {figures}{error}\n  -> {path}", flush=True)
    return path


def keep_best(c: Comparison, budgets: Budgets) -> list[Path]:
    """Of each task of a finished comparison, the row that validation chose, kept in `<results>/models/<task>`."""
    paths = []
    for bench in c.benches:
        chosen = verdict(c.store.load(), bench.task.name)
        print(chosen.words, flush=True)
        row = next((r for r in c.rows if r.name == chosen.contender), None)
        if row is None:  # of an earlier call into the same folder
            print(f"{bench.task.name}: {chosen.contender} is not among contenders= of this call: nothing is kept")
            continue
        if not row.trained:
            print(f"{bench.task.name}: {row.name} is a rule and no model: nothing to keep")
            continue
        cell = (bench, row, c.fractions[-1])
        job = c.job(cell, 0, budgets.flops[bench.task.name, c.fractions[-1]])
        job = replace(job, hparams=c.log.best(c.tuning(cell, budgets.flops)))
        dtype = resolve(c.options["device"], c.options["precision"])[1]
        about = {"comparison": str(c.out), "why": chosen.words}
        paths.append(keep(job, c.out / "models" / bench.task.name, c.device, dtype, about))
    return paths


def chosen_settings(results: Path, task: str, contender: str) -> dict[str, Any]:
    """What tuning chose in a comparison, a row of its tuning.json, with the most labels. InputError where there is none
    of this task and row."""
    path = results / "tuning.json"
    if not path.is_file():
        raise InputError(f"settings={results}: no tuning.json in it; give a results folder of eval.py")
    every = disk.read_json(path, "delete it, and gfm eval writes it again", None)
    rows = [r for r in every if r.get("task") == task]
    mine = [r for r in rows if r["contender"] == contender]
    if not mine:
        there = ", ".join(dict.fromkeys(r["contender"] for r in rows)) or "nothing"
        raise InputError(f"settings={results}: tuned no {contender!r} for task {task}; it has {there}")
    return max(mine, key=lambda r: r["fraction"])


def _foreign(job: Job) -> dict[str, Any] | None:
    shape = json.loads(job.contender.shape or "{}")
    if job.contender.kind == "continued":
        return {"name": shape["of"], "size": shape["size"]}
    return shape if job.contender.kind.startswith("foreign") else None


def _days(batch: Batch) -> dict[str, list[float]]:
    """First and last day of each sensor; a sensor without dates has day 0 everywhere and is left out."""
    spans = {s: [float(v.day.min()), float(v.day.max())] for s, v in batch.sensors.items()}
    return {s: span for s, span in spans.items() if any(span)}


def _by_area(bench: Bench, stats: torch.Tensor) -> dict[str, torch.Tensor]:
    """Area of the test split -> its summed statistic."""
    out: dict[str, torch.Tensor] = {}
    for area, tile in zip(bench.groups, stats, strict=True):
        out[area] = out[area] + tile if area in out else tile
    return out


def _provenance(job: Job, result: Result, device: torch.device, size: int, trained: int) -> dict[str, Any]:
    run, bench = job.contender.run(job.seed), job.bench
    return {
        "contender": job.contender.name,
        "kind": job.contender.kind,
        "pretrained": asdict(run) if run else None,
        "hparams": job.hparams.as_dict(),
        "labels": bench.labelled(job.fraction),
        "seed": job.seed,
        "finetune_flops": result.flops,
        "inference_flops": result.cost.forward,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "peak_memory_mib": result.peak_memory_mib,
        "parameters": size,
        "trained_parameters": trained,
        "data": bench.fingerprint,
        "license": bench.license,
        "synthetic": bench.synthetic,
        "commit": commit(),
        "device": device_name(device),
        "date": datetime.date.today().isoformat(),
    }
