"""What a comparison will take, from a step of each model timed beforehand, and how far it has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from gfm_objectives.compare.trials import Job, Workers, speed

if TYPE_CHECKING:
    from gfm_objectives.compare import Comparison


class Plan:
    """Runs x measured seconds. Each kind of model is timed on one step of the first task."""

    def __init__(self, comparison: Comparison, pool: Workers) -> None:
        self.comparison, self.pool = comparison, pool
        self.speeds: dict[tuple, Mapping[str, float]] = {}

    def seconds(self, job: Job) -> float:
        """What one run takes by itself: training to its length, then prediction."""
        h = job.hparams
        shape = (job.contender.encoder, job.contender.weights, h.width, h.mode, h.encoder_factor == 0)
        if shape not in self.speeds:
            self.speeds[shape] = speed(job, self.pool.device, self.pool.dtype)
        s = self.speeds[shape]
        places = job.bench.sizes["val"] + (0 if job.trial else job.bench.sizes["test"])
        return (job.flops * h.length + s["forward"] * places) / s["rate"]

    def longest_first(self, jobs: Sequence[Job]) -> list[Job]:
        """So that no worker is left alone with a long run at the end."""
        return sorted(jobs, key=self.seconds, reverse=True)

    def text(self, budgets: Mapping[str, float] | None = None) -> str:
        """The plan in words; `budgets` (task -> F) where F is known, else from the first F to the last one tried."""
        c, f = self.comparison, self.comparison.finetune
        lines = [
            f"run plan: {len(c.benches)} tasks x {len(c.fractions)} shares of labels x {len(c.trained)} contenders, "
            f"{f['trials']} trials and {c.options['seeds']} seeds each; {c.workers} at a time on {c.device_name}"
        ]
        fixed = budgets or ({b.task.name: f["flops"] for b in c.benches} if f["flops"] else None)
        if fixed:
            stages = self._stages(fixed)
            total = sum(s for _, _, s in stages)
            lines += [f"  {name:<8} {runs:>5} runs  {clock(seconds)}" for name, runs, seconds in stages]
            return "\n".join([*lines, f"  total    {sum(r for _, r, _ in stages):>5} runs  {clock(total)}"])
        first, last = ({b.task.name: f[k] for b in c.benches} for k in ("start", "limit"))
        search = self._search()
        lines.append(f"  plateau  at most {len(search)} runs, {clock(sum(map(self.seconds, search)) / c.workers)}")
        for (name, runs, low), (_, _, high) in zip(self._stages(first), self._stages(last), strict=True):
            span = f"{clock(low)} (F = {f['start']:.3g}) to {clock(high)} (F = {f['limit']:.3g})"
            lines.append(f"  {name:<8} {runs:>5} runs  {span}")
        return "\n".join([*lines, "  the plateau rule finds F; the plan is printed again when it is known"])

    def _stages(self, budgets: Mapping[str, float]) -> list[tuple[str, int, float]]:
        """(stage, runs, seconds) of what is not done, on all workers."""
        c = self.comparison
        trials = c.trials(budgets)
        runs, seconds = 0, 0.0
        for bench, contender, fraction in c.cells():
            left = len(c.seeds_left(bench, contender, fraction))
            jobs = c.candidates(bench, contender, fraction, budgets[bench.task.name]) if left else []
            runs += left
            seconds += left * sum(map(self.seconds, jobs)) / max(1, len(jobs))
        return [
            ("tuning", len(trials), sum(map(self.seconds, trials)) / c.workers),
            ("seeds", runs, seconds / c.workers),
        ]

    def _search(self) -> list[Job]:
        """All trials that the plateau rule could ask for and that are not done."""
        c, flops, jobs = self.comparison, self.comparison.finetune["start"], []
        while flops <= c.finetune["limit"]:
            jobs += [j for b in c.benches for j in c.candidates(b, c.unet, 1.0, flops) if j not in c.log]
            flops *= 2
        return jobs


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
