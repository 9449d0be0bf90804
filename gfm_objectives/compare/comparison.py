"""The comparison: contenders x tasks x label fractions x seeds, tuned alike, to scores, gains with intervals, a report.

Order of events: open the tasks, find F by the plateau rule, tune every contender on validation, run the seeds, report.
Whatever is finished is on disk at once, and the same command goes on from there.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.fitting import can_run
from gfm_objectives.compare.labels import hash_of_places
from gfm_objectives.compare.luck import at_chance
from gfm_objectives.compare.pictures import Pictures
from gfm_objectives.compare.plan import Clock, Plan
from gfm_objectives.compare.plateau import Budgets
from gfm_objectives.compare.search import corners, proposals
from gfm_objectives.compare.trials import TUNING, Job, Outcome, TrialLog, Workers
from gfm_objectives.compare.validating import judged_on
from gfm_objectives.device import device_name
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.finetune import evaluate_rule
from gfm_objectives.metrics import METRICS, total
from gfm_objectives.runs.provenance import commit
from gfm_objectives.scores import Key, Score, Store
from gfm_objectives.tasks.baselines import rules

Cell = tuple[Bench, Contender, float]  # task, row, share of the labels


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

    # -- the jobs

    def cells(self) -> list[Cell]:
        """Every row on every task that has what it needs, for every fraction."""
        return [(b, c, f) for b in self.benches for f in self.fractions for c in self.trained if can_run(b, c)]

    def job(self, cell: Cell, seed: int, flops: float) -> Job:
        """The run of a cell at the start of its search; `flops` is F, to which the row's own extra is added."""
        bench, contender, fraction = cell
        space = contender.space(bench.spec, self.finetune["batch_size"], bench.kind.losses)
        return Job(bench.at(seed), contender, fraction, seed, space.start, flops + contender.extra_flops)

    def tuning(self, cell: Cell, budgets: Mapping[tuple[str, float], float]) -> Job:
        """Where the settings of a cell are searched: in the cell itself, or, shared, at F with the most labels."""
        bench, contender, fraction = cell
        if self.finetune.get("share"):
            contender, fraction = replace(contender, extra_flops=0.0), self.fractions[-1]
        return self.job((bench, contender, fraction), TUNING, budgets[bench.task.name, fraction])

    def proposed(self, cell: Cell, first: Job) -> list[Job]:
        """The tuning trials that come next, after the `first`; none where the search is over."""
        bench, contender, _ = cell
        space = contender.space(bench.spec, self.finetune["batch_size"], bench.kind.losses)
        next_ = proposals(space, self.log.tried(first.cell), self.finetune["trials"])
        return [replace(first, hparams=h) for h in next_]

    def seeds_left(self, cell: Cell) -> list[int]:
        bench, contender, fraction = cell

        def key(seed: int) -> Key:
            run = contender.run(seed)
            name = run.identity if run else ""
            return Key(bench.task.name, fraction, contender.name, seed, bench.at(seed).fingerprint, name)

        return [s for s in range(self.options["seeds"]) if not self.store.done(key(s))]

    def finals(self, budgets: Budgets) -> list[Job]:
        """The reported runs that are not done, with the settings tuning chose. Pictures are of seed 0."""
        jobs, most = [], max(self.fractions)
        for cell in self.cells():
            bench, _, fraction = cell
            for s in self.seeds_left(cell):
                flops = budgets.flops[bench.task.name, fraction]
                job = self.job(cell, s, flops)
                show = self.pictures.tiles(job.bench) if fraction == most and s == 0 else ()
                jobs.append(replace(job, hparams=self.log.best(self.tuning(cell, budgets.flops)), show=show))
        return jobs

    # -- the story

    def tune(self, budgets: Budgets, pool: Workers, plan: Plan) -> None:
        """Every contender's trials, round after round; what they chose is written to tuning.json."""
        cells = [c for c in self.cells() if self.seeds_left(c)]
        first = [plan.capped(self.tuning(c, budgets.flops)) for c in cells]
        for line in judged_on(first):
            print(line, flush=True)
        number = 0
        while jobs := [j for c, f in zip(cells, first, strict=True) for j in self.proposed(c, f)]:
            number += 1
            self.run_trials(list({j.key: j for j in jobs}.values()), pool, plan, f"tuning, round {number}")
        path = self.out / "tuning.json"
        choices = {(r["task"], r["fraction"], r["contender"]): r for r in stored_choices(path)}
        for cell, job in zip(cells, first, strict=True):
            choices |= {tuple(list(r.values())[:3]): r for r in [self._choice(cell, job)]}
        disk.write(path, json.dumps(list(choices.values()), indent=1) + "\n")

    def _choice(self, cell: Cell, job: Job) -> dict[str, Any]:
        bench, contender, fraction = cell
        tried = self.log.tried(job.cell)
        space = contender.space(bench.spec, self.finetune["batch_size"], bench.kind.losses)
        return {
            "task": bench.task.name,
            "fraction": fraction,
            "contender": contender.name,
            "cap": job.flops,
            "hparams": self.log.best(job).as_dict(),
            "val": METRICS[bench.task.metric].better * max(tried.values()),
            "trials": len(tried),
            "corners": corners(space, tried),
            "tuning_flops": self.log.flops([job.cell]),
            **({"judged": job.judged} if job.judged else {}),
        }

    def seeds(self, budgets: Budgets, pool: Workers, plan: Plan) -> None:
        """The runs that are reported, each stored when it ends."""
        jobs = plan.longest_first(self.finals(budgets))
        short: dict[str, float] = {}
        with Clock("seeds", jobs, plan) as clock:
            for outcome in pool.run(jobs):
                job = outcome.job
                if outcome.predictions is not None and outcome.stats is not None:
                    self.pictures.add(job.bench, job.contender.name, outcome.predictions, outcome.stats)
                score = self._score(outcome, budgets)
                self.store.add(score)
                if score.epochs < 1:
                    short[f"{score.task}, {score.contender}, {score.fraction:.0%} of the labels"] = score.epochs
                clock.advance(job)
        if short:
            where, least = min(short.items(), key=lambda s: s[1])
            more = f"{len(short)} cells see their labelled places less than once (least: {where}, {least:.2g} epochs)"
            warnings.warn(f"F pays for less than an epoch: {more}; raise finetune.flops", InputWarning, stacklevel=2)

    def warn_of_unseen(self) -> None:
        """Say which share of the labels shows nothing of a class, for some seed."""
        for bench in self.benches:
            for fraction in self.fractions:
                seeds = range(self.options["seeds"])
                absent = {name for s in seeds if fraction < 1 for name in bench.at(s).unseen(fraction, s)}
                if absent:
                    where = f"{bench.task.name}, {fraction:.3g} of the labels ({bench.labelled(fraction)} places)"
                    told = f"{where}: some seed has no labelled pixel of {', '.join(sorted(absent))}"
                    warnings.warn(told, InputWarning, stacklevel=2)

    def untrained(self) -> None:
        """Rows that need no training; a task that does not declare one has no such row."""
        for bench in self.benches:
            for seed in range(self.options["seeds"] if bench.earths else 1):
                here, declared = bench.at(seed), rules(bench.task)
                for c in (c for c in self.rows if c.kind in declared and can_run(bench, c)):
                    if not self.store.done(Key(bench.task.name, 1.0, c.name, seed, here.fingerprint)):
                        self._untrained(here, c, seed, declared[c.kind])

    def _untrained(self, bench: Bench, c: Contender, seed: int, rule: Callable[[Batch], Tensor]) -> None:
        about = (bench.kind, bench.task.layer, bench.classes)
        show = self.pictures.tiles(bench) if seed == 0 else ()
        val, _ = evaluate_rule(rule, bench.source("val"), *about)
        stats, shown = evaluate_rule(rule, bench.source("test"), *about, show)
        if show:
            self.pictures.add(bench, c.name, shown, stats.numpy())
        found: dict[str, Any] = {"val": total(METRICS[bench.task.metric], val), "labels_hash": hash_of_places(None)}
        self.store.add(Score.measured(stats, bench.groups, **self._about(bench, c, seed), **found))

    def report(self, context: Mapping[str, Any], budgets: Budgets) -> None:
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
            "notes": [*context["notes"], *at_chance(self.store.load())],
            "command": f"python eval.py config={self.out}/config.yaml",
            "suite_size": len(self.benches),
            "budgets": budgets.records(),
            "licenses": sorted({b.license for b in self.benches if b.license}),
            "classes": {n: v.classes for n, v in legends.items()},
            "colors": {n: v.colors for n, v in legends.items() if v.colors},
        }
        disk.write(self.out / "context.json", json.dumps(context, indent=1) + "\n")
        path = report.write(self.out)
        rich_print(report.terminal_table(json.loads((self.out / "gain.json").read_text())))
        print(f"  -> {path}")

    # -- records

    def run_trials(self, jobs: Sequence[Job], pool: Workers, plan: Plan, what: str) -> None:
        """Run jobs of negative seeds and remember them."""
        jobs = plan.longest_first(jobs)
        with Clock(what, jobs, plan) as clock:
            for outcome in pool.run(jobs):
                self.log.add(outcome)
                clock.advance(outcome.job)

    def _score(self, outcome: Outcome, budgets: Budgets) -> Score:
        job, c, result = outcome.job, outcome.job.contender, outcome.result
        assert outcome.stats is not None and result is not None, job
        pretraining = c.run(job.seed)
        name = job.bench.task.name
        bench = next(b for b in self.benches if b.task.name == name)  # where it was tuned: not the Earth of this seed
        tuning = self.tuning((bench, c, job.fraction), budgets.flops)
        return Score.measured(
            outcome.stats,
            job.bench.groups,
            **self._about(job.bench, c, job.seed, job.fraction),
            val=outcome.val,
            labels=job.bench.labelled(job.fraction),
            labels_hash=outcome.labels_hash,
            pretrain_run=pretraining.identity if pretraining else "",
            pretrain_seed=pretraining.seed if pretraining else None,
            pretrain_flops=pretraining.flops if pretraining else 0.0,
            search_flops=c.search_flops,
            extra_flops=c.extra_flops,
            finetune_flops=result.flops,
            tuning_flops=self.log.flops([tuning.cell]),
            inference_flops=outcome.inference_flops,
            epochs=result.epochs,
            parameters=outcome.parameters,
            trainable_parameters=outcome.trainable,
            seconds=result.seconds,
            peak_memory_mib=result.peak_memory_mib,
            hparams=job.hparams.as_dict() | {"cap": job.flops},
        )

    def _about(self, bench: Bench, c: Contender, seed: int, fraction: float = 1.0) -> dict[str, Any]:
        """What every row says of itself."""
        return {
            "task": bench.task.name,
            "fraction": fraction,
            "contender": c.name,
            "seed": seed,
            "role": c.role,
            "kind": c.kind,
            "recipe": c.recipe,
            "shape": c.shape,
            "metric": bench.task.metric,
            "device": self.device_name,
            "world": bench.world,
            "synthetic": bench.synthetic,
            "fingerprint": bench.fingerprint,
            "commit": self.commit,
        }


def stored_choices(path: Path) -> list[dict[str, Any]]:
    """What tuning.json holds. InputError where that is damaged; it is written anew from trials.jsonl."""
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
        return [r for r in rows if r["task"] and r["contender"] and float(r["fraction"])]
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{path}: damaged; delete it, and the same command writes it again from trials.jsonl"
        ) from None
