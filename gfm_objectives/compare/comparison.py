"""The comparison: contenders x tasks x label fractions x seeds, tuned alike, to scores, gains with intervals, a report.

Order of events: read the tasks, find F by the plateau rule, tune every contender on validation, run the seeds, report.
Whatever is finished is on disk at once, and the same command goes on from there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config
from gfm_objectives.compare.bench import Bench, open_bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.pictures import Pictures
from gfm_objectives.compare.plan import Clock, Plan
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders, not_run, notes
from gfm_objectives.compare.settings import check_settings, count_final
from gfm_objectives.compare.trials import TUNING, Job, Outcome, TrialLog, Workers
from gfm_objectives.device import device_name, resolve
from gfm_objectives.finetune import score
from gfm_objectives.metrics import miou
from gfm_objectives.runs.provenance import commit
from gfm_objectives.scores import SEEDLESS, Key, Score, Store
from gfm_objectives.tasks.baselines import recode_map, spectral_index

BASELINES: dict[str, Callable] = {"map": recode_map, "index": spectral_index}


def run(cfg: DictConfig) -> Path:
    """Run what is not done of the comparison `cfg` (configs/eval.yaml) and report; returns the results folder."""
    out = Path(cfg.results) / cfg.name
    device, dtype = resolve(cfg.device, cfg.precision)
    options: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    check_settings(options, out)
    foreign = published(options.get("encoder", []), options.get("weights", []), options.get("encoder_size"))
    size, image_net = len(cfg.tasks), options.get("unet", {}).get("weights")
    rows = contenders(cfg.contenders, cfg.checkpoint, size, image_net, foreign)
    context = {"notes": notes(rows, foreign), "not_run": not_run(cfg.contenders, rows, size, foreign)}
    out.mkdir(parents=True, exist_ok=True)
    print(f"{cfg.name}: reading {', '.join(cfg.tasks)}", flush=True)
    benches = [open_bench(n, t, out / "cache", cfg.world) for n, t in options["tasks"].items()]
    workers = cfg.workers or (1 if device.type == "cuda" else _cores())
    comparison = Comparison(options, out, benches, rows, device, workers)
    with Workers(workers, device, dtype) as pool:
        plan = Plan(comparison, pool)
        print("\n".join([plan.text(), *(f"  note: {n}" for n in context["notes"])]), flush=True)
        if cfg.plan_only:
            return out
        config.save(cfg, out / "config.yaml")
        count_final(out, benches)
        comparison.baselines()  # quick, and what is wrong with them is better known before hours of work than after
        budgets = comparison.plateau(pool, plan)
        if cfg.finetune.flops is None:
            print(plan.text(budgets), flush=True)
        comparison.tune(budgets, pool, plan)
        comparison.seeds(budgets, pool, plan)
    comparison.report(context)
    shutil.rmtree(out / "cache", ignore_errors=True)
    return out


@dataclass
class Comparison:
    """What is compared and where it is kept. The parts of the story, in order, are its methods."""

    options: dict[str, Any]
    out: Path
    benches: list[Bench]
    rows: list[Contender]
    device: torch.device
    workers: int

    def __post_init__(self) -> None:
        self.store, self.log, self.pictures = Store(self.out), TrialLog(self.out / "trials.jsonl"), Pictures(self.out)
        self.trained = [c for c in self.rows if c.trained]
        self.fractions = sorted({float(f) for f in self.options["fractions"]})
        self.commit, self.device_name = commit(), device_name(self.device)
        self.finetune: dict[str, Any] = self.options["finetune"]
        self.unet = next((c for c in self.rows if c.kind == "unet"), Contender("unet", "unet"))  # decides F

    # -- the jobs

    def candidates(self, bench: Bench, contender: Contender, fraction: float, flops: float) -> list[Job]:
        """The tuning trials of one contender; their number is the same for all."""
        settings = contender.candidates(bench.spec, self.finetune["trials"], self.finetune["batch_size"])
        cap = flops + contender.extra_flops
        return [Job(bench, contender, fraction, TUNING, s, cap) for s in settings]

    def cells(self) -> list[tuple[Bench, Contender, float]]:
        return [(b, c, f) for b in self.benches for f in self.fractions for c in self.trained]

    def trials(self, budgets: Mapping[str, float]) -> list[Job]:
        """Trials of every cell that has seeds to run, except those that are done."""
        cells = [cell for cell in self.cells() if self.seeds_left(*cell)]
        jobs = [j for b, c, f in cells for j in self.candidates(b, c, f, budgets[b.task.name])]
        return list({j.key: j for j in jobs if j not in self.log}.values())

    def seeds_left(self, bench: Bench, contender: Contender, fraction: float) -> list[int]:
        def key(seed: int) -> Key:
            run = contender.run(seed)
            name = run.identity if run else ""
            return Key(bench.task.name, fraction, contender.name, seed, bench.fingerprint, name)

        return [s for s in range(self.options["seeds"]) if not self.store.done(key(s))]

    def finals(self, budgets: Mapping[str, float]) -> list[Job]:
        """The reported runs that are not done, with the settings tuning chose."""
        jobs, most = [], max([*self.fractions, *(s.fraction for s in self.store.load() if s.contender not in SEEDLESS)])
        for bench, contender, fraction in self.cells():
            if not (seeds := self.seeds_left(bench, contender, fraction)):
                continue
            best = self.log.best(self.candidates(bench, contender, fraction, budgets[bench.task.name]))
            for s in seeds:
                show = self.pictures.places(bench) if fraction == most and s == 0 else ()
                jobs.append(Job(bench, contender, fraction, s, best.hparams, best.flops, show))
        return jobs

    # -- the story

    def plateau(self, pool: Workers, plan: Plan) -> dict[str, float]:
        """F of every task: where doubling it adds less than `finetune.plateau` to the tuned U-Net's validation mIoU.

        Doubling once more must not add it either: one flat step among single runs may be chance. The curve is kept in
        plateau.json. A fixed finetune.flops is F for all.
        """
        if self.finetune["flops"] is not None:
            return {b.task.name: float(self.finetune["flops"]) for b in self.benches}
        curve: dict[str, list[dict[str, Any]]] = {b.task.name: [] for b in self.benches}
        chosen: dict[str, float] = {}
        flops = float(self.finetune["start"])
        while open_ := [b for b in self.benches if b.task.name not in chosen]:
            levels = {b.task.name: self.candidates(b, self.unet, 1.0, flops) for b in open_}
            todo = [j for jobs in levels.values() for j in jobs if j not in self.log]
            self._run_trials(todo, pool, plan, f"plateau, F = {flops:.3g}")
            for name, jobs in levels.items():
                value = self.log.val_miou(self.log.best(jobs))
                curve[name].append({"task": name, "fraction": 1.0, "flops": flops, "val_miou": value})
                flat = flat_steps([r["val_miou"] for r in curve[name]], self.finetune["plateau"])
                if flat == 2 or 2 * flops > self.finetune["limit"]:
                    chosen[name] = curve[name][-3 if flat == 2 else -1]["flops"]
            flops *= 2
        for name, points in curve.items():
            text = "  ".join(f"{p['flops']:.2g}: {100 * p['val_miou']:.1f}" for p in points)
            end = "" if chosen[name] < points[-1]["flops"] else " (finetune.limit reached, no plateau seen)"
            print(f"plateau of the U-Net, {name} (FLOPs: validation mIoU)  {text}  ->  F = {chosen[name]:.3g}{end}")
        records = [{**p, "chosen": p["flops"] == chosen[n]} for n, points in curve.items() for p in points]
        (self.out / "plateau.json").write_text(json.dumps(records, indent=1) + "\n")
        return chosen

    def tune(self, budgets: Mapping[str, float], pool: Workers, plan: Plan) -> None:
        """Every contender's trials; what they chose is written to tuning.json."""
        self._run_trials(self.trials(budgets), pool, plan, "tuning")
        path = self.out / "tuning.json"
        choices = {(r["task"], r["fraction"], r["contender"]): r for r in json.loads(_text(path) or "[]")}
        for bench, contender, fraction in self.cells():
            jobs = self.candidates(bench, contender, fraction, budgets[bench.task.name])
            if all(j in self.log for j in jobs):
                best = self.log.best(jobs)
                cell = {"task": bench.task.name, "fraction": fraction, "contender": contender.name}
                found = {"cap": best.flops, "hparams": best.hparams.as_dict(), "val_miou": self.log.val_miou(best)}
                choices[tuple(cell.values())] = {**cell, **found, "tuning_flops": self.log.flops(jobs)}  # type: ignore[index]
        path.write_text(json.dumps(list(choices.values()), indent=1) + "\n")

    def seeds(self, budgets: Mapping[str, float], pool: Workers, plan: Plan) -> None:
        """The runs that are reported, each stored when it ends."""
        jobs = plan.longest_first(self.finals(budgets))
        with Clock("seeds", jobs, plan) as clock:
            for outcome in pool.run(jobs):
                job = outcome.job
                cap = job.flops - job.contender.extra_flops
                if outcome.predictions is not None:
                    self.pictures.add(job.bench, job.contender.name, outcome.predictions)
                self.store.add(self._score(outcome, self.candidates(job.bench, job.contender, job.fraction, cap)))
                clock.advance(job)

    def baselines(self) -> None:
        """Rows that need no training; a task that does not declare one has no such row."""
        for bench in self.benches:
            for name in (c.name for c in self.rows if not c.trained):
                declared = bench.task.recode if name == "map" else bench.task.index
                if not declared or self.store.done(Key(bench.task.name, 1.0, name, 0, bench.fingerprint)):
                    continue
                confusions = {}
                for split in ("val", "test"):
                    batch = bench.split(split)
                    pred = BASELINES[name](bench.task, batch)
                    confusions[split] = score(pred, batch, bench.task.layer, bench.classes)
                self.pictures.add(bench, name, pred[list(self.pictures.places(bench))].numpy())
                val = miou(confusions["val"])
                self.store.add(
                    Score.measured(confusions["test"], bench.groups, **self._about(bench, name, 0), val_miou=val)
                )

    def report(self, context: Mapping[str, Any]) -> None:
        """gain.json, report.md, figures, the table on the terminal; what they need besides scores is kept with them."""
        from rich import print as rich_print

        from gfm_objectives import report

        for r in (r for c in self.rows for r in c.runs if r.model != "published"):
            target = self.out / "ledgers" / f"{r.identity}.json"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(r.folder) / "ledger.json", target)
        legends = {b.task.name: b.legend for b in self.benches}
        context = {
            **context,
            "command": f"python eval.py config={self.out}/config.yaml",
            "suite_size": len(self.benches),
            "licenses": sorted({b.license for b in self.benches if b.license}),
            "classes": {n: v.classes for n, v in legends.items()},
            "change": [b.task.name for b in self.benches if b.task.kind == "change"],
            "colors": {n: v.colors for n, v in legends.items() if v.colors},
        }
        (self.out / "context.json").write_text(json.dumps(context, indent=1) + "\n")
        path = report.write(self.out)
        rich_print(report.terminal_table(json.loads((self.out / "gain.json").read_text())))
        print(f"  -> {path}")

    # -- records

    def _run_trials(self, jobs: Sequence[Job], pool: Workers, plan: Plan, what: str) -> None:
        jobs = plan.longest_first(jobs)
        with Clock(what, jobs, plan) as clock:
            for outcome in pool.run(jobs):
                self.log.add(outcome)
                clock.advance(outcome.job)

    def _score(self, outcome: Outcome, trials: Sequence[Job]) -> Score:
        job, c, result = outcome.job, outcome.job.contender, outcome.result
        assert outcome.confusion is not None and result is not None, job
        pretraining = c.run(job.seed)
        return Score.measured(
            outcome.confusion,
            job.bench.groups,
            **self._about(job.bench, c.name, job.seed, job.fraction),
            val_miou=outcome.val_miou,
            labels=job.bench.labelled(job.fraction),
            pretrain_run=pretraining.identity if pretraining else "",
            pretrain_seed=pretraining.seed if pretraining else None,
            pretrain_flops=pretraining.flops if pretraining else 0.0,
            extra_flops=c.extra_flops,
            finetune_flops=result.flops,
            tuning_flops=self.log.flops(trials),
            inference_flops=outcome.inference_flops,
            parameters=outcome.parameters,
            trainable_parameters=outcome.trainable,
            seconds=result.seconds,
            peak_memory_mib=result.peak_memory_mib,
            hparams=job.hparams.as_dict() | {"cap": job.flops},
        )

    def _about(self, bench: Bench, contender: str, seed: int, fraction: float = 1.0) -> dict[str, Any]:
        """What every row says of itself."""
        return {
            "task": bench.task.name,
            "fraction": fraction,
            "contender": contender,
            "seed": seed,
            "device": self.device_name,
            "world": bench.world,
            "synthetic": bench.synthetic,
            "fingerprint": bench.fingerprint,
            "commit": self.commit,
        }


def flat_steps(values: Sequence[float], step: float) -> int:
    """How many of the last values add less than `step` to the best before them."""
    gains = [v - max(values[:i], default=-math.inf) for i, v in enumerate(values)]
    return len(values) - max(i for i, g in enumerate(gains) if g >= step) - 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
