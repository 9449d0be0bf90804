"""One fine-tuning run as a job: executed in worker processes of one thread each, and remembered if it is a trial."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.holding import device_of, held
from gfm_objectives.compare.labels import hash_of_places
from gfm_objectives.compare.search import best
from gfm_objectives.compare.validating import Some, stratified
from gfm_objectives.disk import naming
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import Diverged, HParams, Result, evaluate, finetune
from gfm_objectives.metrics import METRICS, total
from gfm_objectives.signals import fork_server

TUNING = -1  # the seed of tuning: no reported run shares its labels, order or initial weights
PLATEAU = (-2, -3, -4)  # those of the search for F


@dataclass(frozen=True, slots=True)
class Job:
    """One fine-tuning run. bench: the task on the Earth of this seed; flops: the cap, of which hparams.length is spent;
    show: test tiles to keep predictions of; judged: of a trial, how many validation tiles it is scored on, 0 = all.

    A trial (a negative seed) is scored on validation alone; any other run on validation and test.
    """

    bench: Bench
    contender: Contender
    fraction: float
    seed: int
    hparams: HParams
    flops: float
    show: tuple[int, ...] = ()
    judged: int = 0

    @property
    def trial(self) -> bool:
        return self.seed < 0

    @property
    def cell(self) -> str:
        """What makes it the same training but for its settings."""
        parts = [self.bench.fingerprint, self.fraction, self.contender.model_key(self.seed), self.seed, self.flops]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    @property
    def key(self) -> str:
        return f"{self.cell}-{json.dumps(self.hparams.as_dict(), sort_keys=True)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job gave. val: the task's metric on validation, NaN where the trial diverged; of final runs only the hash
    of the places learned from, stats (test tiles, *shape), and predictions, of the shown tiles and the one that is most
    wrong."""

    job: Job
    val: float
    flops: float
    seconds: float
    result: Result | None = None
    parameters: int = 0
    trainable: int = 0
    inference_flops: float = 0.0  # per place
    labels_hash: str = ""
    stats: np.ndarray | None = None
    predictions: dict[int, np.ndarray] | None = None


def work(job: Job, device: torch.device, dtype: torch.dtype, together: int = 1, shown: bool = False) -> Outcome:
    """Build, fine-tune and score. A trial that diverges has no score; a final run that does raises InputError.

    together: runs at a time on the device, if that is a GPU, which keeps the splits; shown: print how far it is.
    """
    bench, task = job.bench, job.bench.task
    model = job.contender.build(bench.spec, bench.outputs, job.hparams, job.seed)
    train = bench.subset(job.fraction, job.seed)
    kind, drawn = bench.kind_for(train, job.hparams.loss), hash_of_places(train)
    train = held(train, device, together, bench.fingerprint, "train", job.fraction, job.seed)
    val = held(bench.source("val"), device, together, bench.fingerprint, "val")
    if job.judged:
        val = Some(val, stratified(val, bench.val_groups, task.layer, job.judged))
    try:
        result = finetune(model, train, kind, task.layer, job.flops, job.hparams, job.seed, device, dtype, shown=shown)
    except Diverged as e:
        if job.trial:
            return Outcome(job, math.nan, job.flops * job.hparams.length, 0.0)
        where = f"{task.name}, {job.contender.name}, {job.fraction:.0%} of the labels, seed {job.seed}"
        raise InputError(f"{where}: {e}") from None
    about = (kind, task.layer, bench.classes, bench.spec.size)
    score = total(METRICS[task.metric], evaluate(model, val, *about, device=device, dtype=dtype, shown=shown)[0])
    if job.trial:
        return Outcome(job, score, result.flops, result.seconds, result)
    test = held(bench.source("test"), device, together, bench.fingerprint, "test")
    stats, predicted = evaluate(model, test, *about, device=device, dtype=dtype, show=job.show)
    return Outcome(
        job,
        score,
        result.flops,
        result.seconds,
        result,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        inference_flops=result.cost.forward,
        labels_hash=drawn,
        stats=stats.numpy(),
        predictions=predicted if job.show else None,
    )


class Workers:
    """Runs jobs, `count` at a time; one alone runs in this process. Every CPU run has one thread, so that its result
    does not depend on how many there are. On GPUs worker i has GPU i modulo their number, and several may share one."""

    def __init__(self, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count, self.device, self.dtype = count, device, dtype
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        self.threads = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """After an error or an interrupt nobody waits for what runs."""
        torch.set_num_threads(self.threads)
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children() if error else ():
                worker.kill()

    def _about(self, numbers: Any) -> tuple[torch.device, int, int, Any]:
        """What `_start` is told: the device, how many GPUs it stands for, workers, and the numbers of those in a
        queue."""
        for worker in range(self.count):
            numbers.put(worker)
        several = self.device.type == "cuda" and self.device.index is None
        return self.device, torch.cuda.device_count() if several else 1, self.count, numbers

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes in the order in which they finish."""
        if self.count == 1 or len(jobs) == 1:
            yield from (work(j, self.device, self.dtype) for j in jobs)
            return
        if self.pool is None:
            context = fork_server(__name__)  # torch is imported once
            self.pool = ProcessPoolExecutor(self.count, context, _start, self._about(context.SimpleQueue()))
        futures = [self.pool.submit(_work, j, self.dtype) for j in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, most often for want of memory; give fewer workers=; the same command "
                "goes on with what is not done"
            ) from None
        finally:
            for future in futures:
                future.cancel()


_MINE: dict[str, Any] = {}  # of a worker: its device, and how many have it together


def _start(device: torch.device, gpus: int, count: int, numbers: Any) -> None:
    """A worker's first call."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device.type == "cpu":
        torch.set_num_threads(1)
    _MINE.update(place_of(device, gpus, count, numbers))


def place_of(device: torch.device, gpus: int, count: int, numbers: Any) -> dict[str, Any]:
    """The device of the next worker, and how many of the `count` have it together."""
    return {"device": device_of(numbers.get(), device, gpus), "together": -(-count // gpus)}


def _work(job: Job, dtype: torch.dtype) -> Outcome:
    return work(job, dtype=dtype, **_MINE)


def _end_with_parent() -> None:
    """A killed parent tells nobody, and its workers would fine-tune on for hours."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class TrialLog:
    """trials.jsonl: every tuning trial with its settings and validation. What is in it is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self.whole = 0  # bytes of it that are whole lines: a kill may leave half a one, which the next `add` cuts off
        if path.exists():
            kept = path.read_bytes()
            self.whole = kept.rfind(b"\n") + 1
            for number, line in enumerate(kept[: self.whole].splitlines(), start=1):
                row = _trial(path, number, line)
                self.rows[row["key"]] = row

    def __contains__(self, job: Job) -> bool:
        return job.key in self.rows

    def add(self, outcome: Outcome) -> None:
        job = outcome.job
        row = {
            "key": job.key,
            "cell": job.cell,
            "task": job.bench.task.name,
            "contender": job.contender.name,
            "fraction": job.fraction,
            "seed": job.seed,
            "cap": job.flops,
            "hparams": job.hparams.as_dict(),
            "metric": job.bench.task.metric,
            "val": outcome.val if math.isfinite(outcome.val) else None,
            **({"judged": job.judged} if job.judged else {}),
            "flops": outcome.flops,
            "seconds": round(outcome.seconds, 3),
        }
        self.rows[job.key] = row
        with naming(self.path), self.path.open("ab") as f:
            f.truncate(self.whole)
            f.write(json.dumps(row).encode() + b"\n")
            self.whole = f.tell()

    def of_cell(self, cell: str) -> list[dict[str, Any]]:
        return [r for r in self.rows.values() if r["cell"] == cell]

    def tried(self, cell: str) -> dict[HParams, float]:
        """Settings -> validation, signed so that more is better; -inf where a trial diverged."""
        return {
            HParams(**r["hparams"]): -math.inf if r["val"] is None else METRICS[r["metric"]].better * r["val"]
            for r in self.of_cell(cell)
        }

    def best(self, job: Job) -> HParams:
        """The settings with the best validation in the cell of `job`, the first of equals. InputError where there are
        none: every trial diverged."""
        tried = self.tried(job.cell)
        winner = best(tried)
        if not math.isfinite(tried[winner]):
            where = f"{job.bench.task.name}, {job.contender.name}"
            raise InputError(f"{where}: every tuning trial diverged; check the data")
        return winner

    def flops(self, cells: Iterable[str]) -> float:
        return sum(r["flops"] for cell in {*cells} for r in self.of_cell(cell))


TRIAL = {"key": str, "cell": str, "metric": str, "hparams": dict, "flops": int | float}  # what is read of a trial


def _trial(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """A line of trials.jsonl. InputError where it is none."""
    try:
        row = json.loads(line)
        HParams(**row["hparams"])
        if all(isinstance(row[k], kind) for k, kind in TRIAL.items()) and row["metric"] in METRICS:
            return row | {"val": None if row["val"] is None else float(row["val"])}
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise InputError(f"{path}, line {number}: damaged, no trial; delete the line, and the same command runs it again")
