"""One fine-tuning run as a job: executed in worker processes of one thread each, and remembered if it is a trial."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.compare.bench import Bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import Diverged, HParams, Result, finetune, loss, predict, score, step_cost
from gfm_objectives.metrics import miou

TUNING = -1  # the seed of tuning: no reported run shares its labels, order or initial weights


@dataclass(frozen=True, slots=True)
class Job:
    """One fine-tuning run. flops: the cap, of which hparams.length is spent; show: test places to keep predictions of.

    A trial (seed TUNING) is scored on validation alone; any other run on validation and test.
    """

    bench: Bench
    contender: Contender
    fraction: float
    seed: int
    hparams: HParams
    flops: float
    show: tuple[int, ...] = ()

    @property
    def trial(self) -> bool:
        return self.seed == TUNING

    @property
    def key(self) -> str:
        """What makes it the same training."""
        parts = [self.bench.fingerprint, self.fraction, self.contender.model_key(self.seed), self.seed, self.flops]
        text = json.dumps([*parts, self.hparams.as_dict()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job gave. confusion (test places, K, K) and predictions (shown places, H, W) of final runs only."""

    job: Job
    val_miou: float  # -inf where the trial diverged
    flops: float
    seconds: float
    result: Result | None = None
    parameters: int = 0
    trainable: int = 0
    inference_flops: float = 0.0  # per place
    confusion: Tensor | None = None
    predictions: np.ndarray | None = None


def work(job: Job, device: torch.device, dtype: torch.dtype) -> Outcome:
    """Build, fine-tune and score. A trial that diverges scores -inf; a final run that does raises Diverged."""
    bench, layer, classes = job.bench, job.bench.task.layer, job.bench.classes
    model = job.contender.build(bench.spec, classes, job.hparams, job.seed)
    train = bench.subset(job.fraction, job.seed)
    try:
        result = finetune(model, train, layer, job.flops, job.hparams, job.seed, device, dtype)
    except Diverged as e:
        if job.trial:
            return Outcome(job, -math.inf, job.flops * job.hparams.length, 0.0)
        where = f"{bench.task.name}, {job.contender.name}, {job.fraction:.0%} of the labels, seed {job.seed}"
        raise InputError(f"{where}: {e}") from None
    val = bench.split("val")
    val_miou = miou(score(predict(model, val, device, dtype), val, layer, classes))
    if job.trial:
        return Outcome(job, val_miou, result.flops, result.seconds, result)
    test = bench.split("test")
    pred = predict(model, test, device, dtype)
    return Outcome(
        job,
        val_miou,
        result.flops,
        result.seconds,
        result,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        inference_flops=result.cost.forward,
        confusion=score(pred, test, layer, classes),
        predictions=pred[list(job.show)].to(torch.int16).numpy() if job.show else None,
    )


class Workers:
    """Runs jobs, `count` at a time; one alone runs in this process. Every CPU run has one thread, so that its result
    does not depend on how many there are."""

    def __init__(self, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count, self.device, self.dtype = count, device, dtype
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        self.threads = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes in the order in which they finish."""
        if self.count == 1 or len(jobs) == 1:
            yield from (work(j, self.device, self.dtype) for j in jobs)
            return
        if self.pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])  # torch is imported once
            self.pool = ProcessPoolExecutor(self.count, context, _start, (self.device.type == "cpu",))
        futures = [self.pool.submit(work, j, self.device, self.dtype) for j in jobs]
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


def _start(one_thread: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if one_thread:
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A killed parent tells nobody, and its workers would fine-tune on for hours."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class TrialLog:
    """trials.jsonl: every tuning trial with its settings and validation mIoU. What is in it is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            whole = path.read_text().rpartition("\n")[0]  # a kill may leave half a line
            path.write_text(whole + "\n" if whole else "")
            self.rows = {r["key"]: r for r in map(json.loads, whole.splitlines())}

    def __contains__(self, job: Job) -> bool:
        return job.key in self.rows

    def add(self, outcome: Outcome) -> None:
        job = outcome.job
        row = {
            "key": job.key,
            "task": job.bench.task.name,
            "contender": job.contender.name,
            "fraction": job.fraction,
            "cap": job.flops,
            "hparams": job.hparams.as_dict(),
            "val_miou": outcome.val_miou if math.isfinite(outcome.val_miou) else None,
            "flops": outcome.flops,
            "seconds": round(outcome.seconds, 3),
        }
        self.rows[job.key] = row
        with self.path.open("a") as f:
            f.write(json.dumps(row) + "\n")

    def val_miou(self, job: Job) -> float:
        value = self.rows[job.key]["val_miou"]
        return -math.inf if value is None else value

    def best(self, jobs: Sequence[Job]) -> Job:
        """The job with the best validation mIoU, the first of equals. InputError where none has one."""
        winner = max(jobs, key=self.val_miou)
        if not math.isfinite(self.val_miou(winner)):
            j = jobs[0]
            raise InputError(f"{j.bench.task.name}, {j.contender.name}: every tuning trial diverged; check the data")
        return winner

    def flops(self, jobs: Iterable[Job]) -> float:
        return sum(self.rows[j.key]["flops"] for j in jobs)


def speed(job: Job, device: torch.device, dtype: torch.dtype) -> Mapping[str, float]:
    """Measured on one step of the job's model: train and forward FLOPs per place, and FLOP/s of one process."""
    bench = job.bench
    model = job.contender.build(bench.spec, bench.classes, job.hparams, job.seed).to(device).train()
    batch = bench.split("val").first(job.hparams.batch_size).to(device)
    cost = step_cost(model, batch, bench.task.layer)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            value = loss(model, batch, bench.task.layer)
        value.backward()
        float(value.detach())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return {"train": cost.total, "forward": cost.forward, "rate": cost.total * len(batch) / min(seconds)}
