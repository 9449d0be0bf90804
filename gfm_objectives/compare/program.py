"""The comparison as a program: what configs/eval.yaml asks for, checked, planned, run and reported."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config
from gfm_objectives.compare import pangaea
from gfm_objectives.compare.bench import check_roots, open_bench
from gfm_objectives.compare.comparison import Comparison, stored_choices
from gfm_objectives.compare.fitting import check_rows, check_some, notes_on, on_disk
from gfm_objectives.compare.ground import shared_ground
from gfm_objectives.compare.holding import usual_workers
from gfm_objectives.compare.keeping import keep_best
from gfm_objectives.compare.plan import Plan
from gfm_objectives.compare.plateau import check_rivals, find_budgets
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders, not_run, notes
from gfm_objectives.compare.settings import check_settings, count_final
from gfm_objectives.compare.trials import Workers
from gfm_objectives.curation.leakage import told
from gfm_objectives.device import cores, resolve
from gfm_objectives.disk import naming
from gfm_objectives.lock import alone
from gfm_objectives.runs.folder import refuse_others
from gfm_objectives.scores import Store


def run(cfg: DictConfig) -> Path:
    """Run what is not done of the comparison `cfg` (configs/eval.yaml) and report; returns the results folder.

    One process at a time has the folder. With plan_only nothing is written.
    """
    out = Path(cfg.results) / cfg.name
    refuse_others(out, "a comparison")
    with nullcontext() if cfg.plan_only else alone(out), naming(out):
        (pangaea.run if cfg.protocol == "pangaea" else _run)(cfg, out)
    return out


def _run(cfg: DictConfig, out: Path) -> None:
    device, dtype = resolve(cfg.device, cfg.precision)
    options: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    check_settings(options, out)
    foreign = published(options.get("encoder", []), options.get("weights", []), options.get("encoder_size"))
    tasks, absent = on_disk(options["tasks"])
    size, image_net = len(tasks), options.get("unet", {}).get("weights")
    rows = contenders(cfg.contenders, cfg.checkpoint, size, image_net, foreign, options.get("search", []))
    if cfg.finetune.flops is None:
        check_rivals(rows)  # better known before the data is read
    context: dict[str, Any] = {
        "notes": notes(rows, foreign) + absent,
        "not_run": not_run(cfg.contenders, rows, size, foreign),
    }
    print(f"{cfg.name}: reading {', '.join(tasks)}", flush=True)
    check_roots(tasks)
    benches = [replace(open_bench(n, t, cfg.world, cfg.seeds), labels=cfg.labels) for n, t in tasks.items()]
    check_some(benches, rows)
    context["notes"] += notes_on(benches, rows)
    real = {b.task.name: b.source("test").source.fingerprint for b in benches if not b.synthetic}  # Earths never meet
    context["notes"] += told(cfg.checkpoint, real, options.get("strict", False))
    if not cfg.plan_only:
        context["ground"] = shared_ground(benches, rows)
    check_rows(Store(out), rows, out)
    stored_choices(out / "tuning.json")  # read in full later on, after hours
    workers = cfg.workers or usual_workers(device, cores())
    comparison = Comparison(options, out, benches, rows, device, workers)
    with Workers(workers, device, dtype) as pool:
        plan = Plan(comparison, pool)
        print(f"{cfg.name}: timing a step of every kind of model, for the plan", flush=True)
        print("\n".join([plan.text(), *(f"  note: {n}" for n in context["notes"])]), flush=True)
        if cfg.plan_only:
            return
        config.save(cfg, out / "config.yaml")
        count_final(out, benches)
        print(f"{cfg.name}: reading the labels, then scoring what needs no training", flush=True)
        comparison.warn_of_unseen()
        comparison.untrained()  # quick, and what is wrong with them is better known before hours of work than after
        budgets = find_budgets(comparison, pool, plan)
        if cfg.finetune.flops is None:
            print(plan.text(budgets), flush=True)
        comparison.tune(budgets, pool, plan)
        comparison.seeds(budgets, pool, plan)
        if options.get("keep") == "best":
            keep_best(comparison, budgets)
    comparison.report(context, budgets)
