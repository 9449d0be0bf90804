"""One model for a task, tuned shortly or with the settings that a comparison chose, and kept. `gfm finetune`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config
from gfm_objectives.compare.adapters import adapted, can_recompute
from gfm_objectives.compare.bench import Bench, beyond, open_bench
from gfm_objectives.compare.contenders import KINDS, Contender
from gfm_objectives.compare.fitting import can_run
from gfm_objectives.compare.joining import join
from gfm_objectives.compare.keeping import chosen_settings, keep, verdict
from gfm_objectives.compare.memory import bytes_of, fitting_batch
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders
from gfm_objectives.compare.search import proposals
from gfm_objectives.compare.trials import TUNING, Job, TrialLog, work
from gfm_objectives.compare.validating import capped, judged_on
from gfm_objectives.device import resolve
from gfm_objectives.disk import naming
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams, step_cost
from gfm_objectives.lock import alone
from gfm_objectives.metrics import METRICS
from gfm_objectives.runs.folder import refuse_others
from gfm_objectives.runs.segmenter import CARD
from gfm_objectives.scores import Store

UNREAD = ("unet", "pixel", "unet_imagenet", "unet_map_input", "map_context")  # kinds that read no run, nor its shape
LEAST = 32  # pixels a side of the smallest window that memory= may ask for


def run(cfg: DictConfig) -> Path | None:
    """Train one model as `cfg` (configs/finetune.yaml) says and keep it; its folder, None where only asked which."""
    options: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    task = config.task_name(cfg.choices.task, options["task"])
    row, settings = choose(options, task)
    if cfg.plan_only:
        return None
    row = adapted(row, cfg.lora, cfg.recompute)
    out = Path(cfg.models) / cfg.name
    if (out / CARD).exists() and not cfg.overwrite:
        raise InputError(f"{out}: holds a model already; choose another name=, or overwrite=true")
    refuse_others(out, "a model")
    device, dtype = resolve(cfg.device, cfg.precision)
    batch = cfg.batch_size
    bench = open_bench(task, options["task"])
    print(*(f"note: {line}\n" for line in beyond(bench)), sep="", end="", flush=True)
    if cfg.also:
        bench = join(bench, list(cfg.also))
    if cfg.memory:
        bench, row, batch = fitted(bench, row, task, options, bytes_of("memory", cfg.memory))
    if not can_run(bench, row):
        raise InputError(f"contender={row.kind}: task {task} has no layer map, which it reads; take another")
    job = first_job(bench, row, options, batch, settings)
    with alone(out), naming(out):
        config.save(cfg, out / "config.yaml")
        if settings is None:
            fixed = {k for k in ("freeze", "loss") if cfg[k] is not None}
            job = tuned(job, options["trials"], batch, fixed, TrialLog(out / "trials.jsonl"), device, dtype)
        job = replace(job, seed=cfg.seed)
        print(
            f"training {row.name} for {task}: {job.flops * job.hparams.length:.3g} FLOPs, {job.hparams.as_dict()}",
            flush=True,
        )
        return keep(job, out, device, dtype, {"settings": cfg.settings, "also": list(cfg.also)})


def choose(options: Mapping[str, Any], task: str) -> tuple[Contender, dict[str, Any] | None]:
    """The row to train, and what a comparison chose for it (None: it is to be tuned). Says which and why where the
    comparison decides."""
    name, results = options["contender"], options["settings"]
    if results is None:
        kind = name or ("pretrained" if options["checkpoint"] else "foreign" if options["encoder"] else "unet")
        rows = _rows(options, [kind])
        if kind in UNREAD and (unread := next((k for k in ("checkpoint", "encoder") if options[k]), None)):
            raise InputError(f"contender={kind}: reads no {unread}=; leave one of the two out")
        if len(rows) > 1:
            told = ", ".join(r.name for r in rows)
            raise InputError(f"contender={kind}: {told}; give one of the runs alone in checkpoint=")
        return rows[0], None
    folder = Path(results)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"settings={results}: no config.yaml in it; give a results folder of gfm eval")
    saved = config.read_yaml(folder / "config.yaml")
    if not {"contenders", "tasks"} <= saved.keys():
        raise InputError(f"settings={results}: its config.yaml is of no comparison; give a results folder of gfm eval")
    given = {k: options[k] for k in ("checkpoint", "encoder", "weights") if options[k]}
    rows = _rows({**saved, **given}, saved["contenders"], len(saved["tasks"]))
    if name is None:
        chosen = verdict(Store(folder).load(), task)
        print(chosen.words, flush=True)
        name = chosen.contender
    row = next((r for r in rows if name in (r.name, r.kind)), None)
    if row is None:
        raise InputError(
            f"contender={name}: settings={results} has no such row; it has {', '.join(r.name for r in rows)}"
        )
    if not row.trained:
        raise InputError(
            f"{row.name}: a rule and no model, so nothing is trained or kept; contender= takes another row"
        )
    return row, chosen_settings(folder, task, row.name)


def _rows(options: Mapping[str, Any], kinds: list[str], tasks: int = 1) -> list[Contender]:
    unknown = [k for k in kinds if k not in KINDS and k not in ("plus", "all")]
    if unknown or (len(kinds) == 1 and KINDS[kinds[0]].build is None):
        trained = ", ".join(k for k, v in KINDS.items() if v.build is not None)
        raise InputError(f"contender={(unknown or kinds)[0]}: nothing that is trained; choose from {trained}")
    weights = options.get("unet", {}).get("weights")
    foreign = published(options.get("encoder", []), options.get("weights", []), options.get("encoder_size"))
    rows = contenders(kinds, options.get("checkpoint", []), tasks, weights, foreign)
    if not rows:
        raise InputError(f"contender={kinds[0]}: needs a run of its kind in checkpoint=, or unet.weights=")
    return rows


def first_job(
    bench: Bench, row: Contender, options: Mapping[str, Any], batch: int, settings: Mapping[str, Any] | None
) -> Job:
    """The run with the settings that are given, or those a search starts from; FLOPs as chosen, given, or enough for
    `epochs` passes over the labelled places."""
    hparams = row.space(bench.spec, batch).start
    if settings is not None:
        hparams = HParams(**settings["hparams"])
    hparams = replace(hparams, batch_size=min(hparams.batch_size, batch))
    if options["freeze"] is not None:
        hparams = replace(hparams, freeze=_frozen(options["freeze"]))
    if options["loss"] is not None:
        hparams = replace(hparams, loss=_loss(options["loss"], bench))
    job = Job(bench, row, options["fraction"], TUNING, hparams, 1.0)
    flops = options["flops"] or (settings or {}).get("cap")
    if flops is None:
        train = bench.subset(job.fraction, job.seed)
        model = row.build(bench.spec, bench.outputs, hparams, TUNING)
        cost = step_cost(model, train.read(range(min(2, len(train)))), bench.kind, bench.task.layer)
        flops = options["epochs"] * len(train) * cost.total
    return replace(job, flops=float(flops))


def tuned(
    job: Job, trials: int, batch: int, fixed: Collection[str], log: TrialLog, device: torch.device, dtype: torch.dtype
) -> Job:
    """The job with the best of `trials` settings, by validation; 0 = those it has; fixed: levers that were
    asked for, which are not tuned. Trials in the log are not run again."""
    if not trials:
        return job
    space = job.contender.space(job.bench.spec, batch, job.bench.kind.losses)
    free = {k: v for k, v in space.values.items() if k not in fixed}
    space = replace(space, start=job.hparams, values=free)
    job = capped(job, _forward(job))
    for line in judged_on([job]):
        print(line, flush=True)
    metric = METRICS[job.bench.task.metric]
    while todo := proposals(space, log.tried(job.cell), trials)[: max(0, trials - len(log.tried(job.cell)))]:
        for hparams in todo:
            outcome = work(replace(job, hparams=hparams), device, dtype, shown=True)
            log.add(outcome)
            number = len(log.tried(job.cell))
            print(f"  trial {number} of {trials}: {metric.title} {outcome.val:.4f}, {hparams.as_dict()}", flush=True)
    return replace(job, hparams=log.best(job), judged=0)


def _forward(job: Job) -> float:
    """FLOPs of predicting one place."""
    model = job.contender.build(job.bench.spec, job.bench.outputs, job.hparams, TUNING)
    return step_cost(model, job.bench.source("train").read([0]), job.bench.kind, job.bench.task.layer).forward


def _frozen(word: str) -> str:
    return "" if word == "none" else word


def _loss(word: str, bench: Bench) -> str:
    if (name := "" if word == "plain" else word) not in bench.kind.losses:
        known = ", ".join(k or "plain" for k in bench.kind.losses)
        raise InputError(f"loss={word}: task {bench.task.name} is learned by {known}")
    return name


def fitted(
    bench: Bench, row: Contender, task: str, options: Mapping[str, Any], room: float
) -> tuple[Bench, Contender, int]:
    """The bench with the largest window, and the largest batch of such, whose training step fits into `room` bytes; the
    row with activations computed again where it fits only so. InputError where none does."""
    size, least = bench.spec.size, min(2, options["batch_size"])
    while True:
        hparams = row.space(bench.spec, options["batch_size"]).start
        freeze = hparams.freeze if options["freeze"] is None else _frozen(options["freeze"])
        sample = bench.source("train").read([0])
        for way in dict.fromkeys((row, adapted(row, options["lora"], True))):
            if way is not row and not can_recompute(row.build(bench.spec, bench.outputs, hparams, TUNING)):
                continue
            model = way.build(bench.spec, bench.outputs, hparams, TUNING)
            batch = fitting_batch(model, sample, bench.kind, bench.task.layer, freeze, room)
            if batch >= least:
                batch = min(batch, options["batch_size"])
                told = ", activations of the encoder computed again" if way is not row else ""
                print(f"memory={options['memory']}: windows of {size} pixels, {batch} at a time{told}", flush=True)
                return bench, way, batch
        if size // 2 < LEAST or "size" not in bench.task.data or options["also"]:
            raise InputError(
                f"memory={options['memory']}: a step of two windows of {size} pixels does not fit; freeze=encoder, a "
                "smaller encoder, or fewer dates take less"
            )
        size //= 2
        bench = open_bench(task, {**options["task"], "data": {**options["task"]["data"], "size": size}})
