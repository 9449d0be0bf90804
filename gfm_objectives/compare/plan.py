"""What a comparison will take, from a step of each model timed beforehand, and how far it has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, Progress, TextColumn

from gfm_objectives.compare.trials import PLATEAU, TUNING, Job, Workers
from gfm_objectives.compare.validating import capped, windows
from gfm_objectives.device import autocast
from gfm_objectives.finetune import step_cost
from gfm_objectives.gain.intervals import MIN_SEEDS, half_width
from gfm_objectives.gain.means import deviation_of_gains
from gfm_objectives.metrics import METRICS, Metric
from gfm_objectives.scores import Score

if TYPE_CHECKING:
    from gfm_objectives.compare.comparison import Comparison
    from gfm_objectives.compare.plateau import Budgets

USUAL = 0.04  # deviation among seeds of a paired mIoU gain on one task (LOG.md, 2026-11-26)


class Plan:
    """Runs x measured seconds. Each kind of model is timed on one step of the first task of each make-up."""

    def __init__(self, comparison: Comparison, pool: Workers) -> None:
        self.comparison, self.pool = comparison, pool
        self.speeds: dict[tuple, Mapping[str, float]] = {}
        self.windows: dict[tuple[str, str], int] = {}

    def speed(self, job: Job) -> Mapping[str, float]:
        h, c, spec = job.hparams, job.contender, job.bench.spec
        made_up = (spec.size, *spec.bands.items(), *spec.dates.items())
        shape = (c.kind, c.shape, c.weights, h.width, h.mode, h.freeze, made_up)
        if shape not in self.speeds:
            self.speeds[shape] = measured(job, self.pool.device, self.pool.dtype)
        return self.speeds[shape]

    def predicted(self, job: Job) -> float:
        """Windows that the run predicts when it is trained."""
        of = {}
        for split in ("val", "test"):
            key = job.bench.fingerprint, split
            if key not in self.windows:
                self.windows[key] = windows(job.bench, split)
            of[split] = self.windows[key]
        if not job.trial:
            return of["val"] + of["test"]
        return of["val"] * (job.judged or job.bench.sizes["val"]) / job.bench.sizes["val"]

    def seconds(self, job: Job) -> float:
        """What one run takes by itself: training to its length, then prediction."""
        s = self.speed(job)
        return (job.flops * job.hparams.length + s["forward"] * self.predicted(job)) / s["rate"]

    def capped(self, job: Job) -> Job:
        """The trial, judged on no more of validation than its training costs."""
        return capped(job, self.speed(job)["forward"])

    def longest_first(self, jobs: Sequence[Job]) -> list[Job]:
        """So that no worker is left alone with a long run at the end."""
        return sorted(jobs, key=self.seconds, reverse=True)

    def text(self, budgets: Budgets | None = None) -> str:
        """The plan in words; `budgets` where F is known, else from the first F to the last one tried."""
        c, f = self.comparison, self.comparison.finetune
        keys = [(b.task.name, fraction) for b in c.benches for fraction in c.fractions]
        lines = [
            f"run plan: {len(c.benches)} tasks x {len(c.fractions)} shares of labels x {len(c.trained)} contenders, "
            f"{f['trials']} trials and {c.options['seeds']} seeds each; {c.workers} at a time on {c.device_name}",
            f"  {expected(c.store.load(), c.options['seeds'], METRICS[c.benches[0].task.metric])}",
        ]
        fixed = budgets.flops if budgets else dict.fromkeys(keys, float(f["flops"])) if f["flops"] else None
        if fixed:
            stages = self._stages(fixed)
            total = sum(s for _, _, s in stages)
            lines += [f"  {name:<8} {runs:>5} runs  {clock(seconds)}" for name, runs, seconds in stages]
            return "\n".join([*lines, f"  total    {sum(r for _, r, _ in stages):>5} runs  {clock(total)}"])
        first, last = (dict.fromkeys(keys, float(f[k])) for k in ("start", "limit"))
        search = self._search()
        lines.append(f"  plateau  at most {len(search)} runs, {clock(sum(map(self.seconds, search)) / c.workers)}")
        for (name, runs, low), (_, _, high) in zip(self._stages(first), self._stages(last), strict=True):
            span = f"{clock(low)} (F = {f['start']:.3g}) to {clock(high)} (F = {f['limit']:.3g})"
            lines.append(f"  {name:<8} {runs:>5} runs  {span}")
        return "\n".join([*lines, "  the plateau rule finds F; the plan is printed again when it is known"])

    def _stages(self, flops: Mapping[tuple[str, float], float]) -> list[tuple[str, int, float]]:
        """(stage, runs, seconds) of what is not done, on all workers; searches are taken to use their trials alone."""
        c, runs, trials, seconds, tuning = self.comparison, 0, 0, 0.0, 0.0
        searched: set[str] = set()
        for cell in c.cells():
            if left := len(c.seeds_left(cell)):
                job = self.capped(c.tuning(cell, flops))
                open_ = max(0, c.finetune["trials"] - len(c.log.of_cell(job.cell))) * (job.cell not in searched)
                searched.add(job.cell)
                runs, trials = runs + left, trials + open_
                tuning += open_ * self.seconds(job)
                seconds += left * self.seconds(c.job(cell, 0, flops[cell[0].task.name, cell[2]]))
        return [("tuning", trials, tuning / c.workers), ("seeds", runs, seconds / c.workers)]

    def _search(self) -> list[Job]:
        """All runs that the plateau rule could ask for and that are not done."""
        c = self.comparison
        start, jobs = float(c.finetune["start"]), []
        for cell in (x for x in c.cells() if x[1].decides_f):
            first = c.job(cell, TUNING, start)
            jobs += [first] * max(0, c.finetune["trials"] - len(c.log.of_cell(first.cell)))
            flops = start
            while flops <= c.finetune["limit"]:
                jobs += [j for s in PLATEAU if (j := c.job(cell, s, flops)) not in c.log]
                flops *= 2
        return jobs


def measured(job: Job, device: torch.device, dtype: torch.dtype) -> Mapping[str, float]:
    """Measured on one step of the job's model: train and forward FLOPs per place, and FLOP/s of one process."""
    bench, layer = job.bench, job.bench.task.layer
    model = job.contender.build(bench.spec, bench.outputs, job.hparams, job.seed).to(device).train()
    source = bench.source("train")
    batch = source.read(range(min(len(source), job.hparams.batch_size)))
    cost = step_cost(model, batch, bench.kind, layer)
    batch = batch.to(device)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        with autocast(device, dtype):
            value = bench.kind.loss(model(batch), batch.targets[layer])
        value.backward()
        float(value.detach())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return {"train": cost.total, "forward": cost.forward, "rate": cost.total * len(batch) / min(seconds)}


def expected(scores: Sequence[Score], seeds: int, metric: Metric) -> str:
    """The half-width that the interval of a mean gain will have for what seeds do to it, from what is stored, else from
    the usual deviation."""
    if seeds < MIN_SEEDS:
        return f"{seeds} seeds give no interval; {MIN_SEEDS} do"
    sd = deviation_of_gains(scores)
    told = "as among the seeds in this folder" if sd else "as on the synthetic Earth so far"
    if not sd and metric.scale != 100:
        return f"{seeds} seeds; what half-width to expect of a gain in {metric.title} nothing tells yet"
    half, unit = half_width(seeds, sd or USUAL), metric.title + " points" * (metric.scale == 100)
    spread = f"deviation among seeds {metric.scale * (sd or USUAL):.2g}, {told}"
    return f"expected: gains +- {metric.scale * half:.2g} {unit} ({spread}); real test areas add to it"


class Clock:
    """Tells how many runs are done and how long the rest will take: a bar on a terminal, else a line now and then."""

    def __init__(self, what: str, jobs: Sequence[Job], plan: Plan, every: float = 30.0) -> None:
        self.what, self.plan, self.every = what, plan, every
        self.runs, self.total = len(jobs), sum(map(plan.seconds, jobs))
        self.done, self.work = 0, 0.0
        self.begun = self.told = time.perf_counter()
        self.bar: Progress | None = None

    def __enter__(self) -> Clock:
        if self.runs and sys.stdout.isatty():
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"))
            self.task = self.bar.add_task(self.what, total=self.total, text=f"0 of {self.runs} runs")
            self.bar.start()
        elif self.runs:
            print(
                f"{self.what}: {self.runs} runs, about {clock(self.total / self.plan.comparison.workers)}", flush=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, job: Job) -> None:
        self.done, self.work = self.done + 1, self.work + self.plan.seconds(job)
        now = time.perf_counter()
        left = (now - self.begun) * (self.total / self.work - 1)
        text = f"{self.done} of {self.runs} runs, {clock(now - self.begun)} gone, {clock(left)} left"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.work, text=text)
        elif self.done == self.runs or now - self.told > self.every:
            self.told = now
            print(f"{self.what}: {text}", flush=True)


def clock(seconds: float) -> str:
    """h:mm:ss"""
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02}:{s % 60:02}"
