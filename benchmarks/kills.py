"""Killed at random moments and started again: python benchmarks/kills.py [moments=10] [of=train,eval,...].

kill -9 to all processes of a command at a moment drawn from the time that the unbroken one takes, then the same command
again, which must end with the same weights or tables bit for bit and with a ledger that neither loses nor doubles a
FLOP. Subjects: pretraining in one process, in two (gloo, started as torchrun does), a comparison, shards and the look
at data; those not asked for stay in results/kills. Counted beside it: how many were killed before anything was kept,
later, and not at all because they were done. Commands are run in forks of this process: another start of Python and
torch would take most of the time.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import common
import torch

from gfm_objectives import cli, compare, inspection, lock, pretrain
from gfm_objectives.data import prepare

HERE = Path(__file__).resolve().parent.parent
TRAIN = (
    "train objective=supervised data.size=16 data.dates=2 encoder.depth=1 encoder.dim=32 encoder.cell_dim=16 "
    "optim.batch_size={batch} budget.flops={flops} budget.warmup=16 checkpoint_every=0.1 yardstick=false loggers=[] "
    "loader.workers=0 threads=1 device=cpu precision=fp32 runs={folder} name=demo"
)
EVAL = (
    "eval suite=landcover contenders=unet,conv,map fractions=0.5 seeds=2 finetune.flops=8e9 finetune.trials=2 "
    "finetune.batch_size=4 workers=1 device=cpu precision=fp32 results={folder} name=demo "
    "tasks.landcover.train=8 tasks.landcover.val=4 tasks.landcover.test=4 tasks.landcover.data.dates=2"
)
PREPARE = (
    "prepare data.size=32 data.dates=2 data.places.pretrain=100 data.regions.pretrain=2 shard_mb=0.3 workers=1 "
    "out={folder} name=demo"
)
INSPECT = "inspect data.size=16 data.dates=1 places=8 out={folder} name=demo"
OUT, SECTION = HERE / "results" / "kills", "kill -9, then the same command"
COUNTS = ("flops_spent", "samples", "tokens", "visible_tokens", "merged_tokens")  # of a ledger, whatever the clock says
TIMES = ("seconds", "peak_memory_mib", "commit")  # of a score


@dataclass(frozen=True, slots=True)
class Subject:
    """words: of its command in a folder; outcome: what it ends with, its FLOPs apart; kept: a file that says that there
    is something to go on from; processes: that run the command together; last: the file that says that it is finished,
    where the same command is then refused."""

    words: Callable[[Path], list[str]]
    outcome: Callable[[Path], tuple[Any, Any]]
    kept: str
    processes: int = 1
    last: str = "demo/ledger.json"


def trained(folder: Path) -> tuple[Any, Any]:
    """Hash of the weights, and the counts of the ledger."""
    run = folder / "demo"
    ledger = json.loads((run / "ledger.json").read_text())
    return sha256((run / "encoder.safetensors").read_bytes()).hexdigest(), [ledger[k] for k in COUNTS]


def compared(folder: Path) -> tuple[Any, Any]:
    """Scores and statistics, and the FLOPs of every trial and run."""
    out = folder / "demo"
    with (out / "scores.csv").open(newline="") as file:
        scores = sorted(str({k: v for k, v in row.items() if k not in TIMES}) for row in csv.DictReader(file))
    statistics = sorted(set((out / "statistics.csv").read_text().splitlines()))  # a kill between files repeats a row
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    return (scores, statistics), sorted((t["key"], t["flops"], t["val"]) for t in trials)


def written(folder: Path) -> tuple[Any, Any]:
    """Every file, by its bytes; the lock of a killed process is nobody's, and there are no FLOPs."""
    out = folder / "demo"
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != lock.NAME}, 0


def words(template: str, **values: Any) -> Callable[[Path], list[str]]:
    return lambda folder: template.format(folder=folder, **values).split()


SUBJECTS = {
    "train": Subject(words(TRAIN, batch=4, flops=3e9), trained, "demo/checkpoints/last.ckpt"),
    "ranks": Subject(words(TRAIN + " devices=2", batch=2, flops=1.5e9), trained, "demo/checkpoints/last.ckpt", 2),
    "eval": Subject(words(EVAL), compared, "demo/trials.jsonl", last=""),
    "prepare": Subject(words(PREPARE), written, "demo/pretrain/00000.json", last="demo/index.json"),
    "inspect": Subject(words(INSPECT), written, "demo/inspect.txt", last=""),
}


def start(subject: Subject, folder: Path) -> int:
    """The command's processes, in a group of their own; the id of the first, which ends after the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    if first := os.fork():
        os.setpgid(first, first)  # here too: whichever of the two comes first
        return first
    os.setpgid(0, 0)
    others: list[int] = []
    for rank in range(1, subject.processes):
        if not (other := os.fork()):
            return become(subject, folder, rank, [])
        others.append(other)
    return become(subject, folder, 0, others)


def become(subject: Subject, folder: Path, rank: int, others: list[int]) -> int:
    """Run the command as that rank, and end."""
    code = 1
    try:
        if subject.processes > 1:
            os.environ["LOCAL_RANK"] = str(rank)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = cli.main(subject.words(folder))
        code = code or max((abs(ended(pid)) for pid in others), default=0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(subject: Subject, folder: Path) -> float:
    """Seconds that the whole command takes."""
    begun = time.monotonic()
    if code := ended(start(subject, folder)):
        raise SystemExit(f"{' '.join(subject.words(folder))}: exit code {code}")
    return time.monotonic() - begun


def measure(name: str, subject: Subject, moments: int, home: Path) -> common.Row:
    """Kills at that many moments; what differs from the unbroken run, and when they came."""
    took = finish(subject, home / "whole")
    whole = subject.outcome(home / "whole")
    row: common.Row = {"command": name, "moments": moments, "seconds unbroken": round(took, 1)}
    row |= dict.fromkeys(("before anything was kept", "later", "too late", "other result", "other FLOPs"), 0)
    for k in range(moments):
        folder, moment = home / f"broken{k}", random.Random(f"{name}{k}").uniform(0, took)
        pid = start(subject, folder)
        time.sleep(moment)
        done = os.waitpid(pid, os.WNOHANG)[0] == pid
        if not done:
            os.killpg(pid, signal.SIGKILL)
            ended(pid)
            done = bool(subject.last) and (folder / subject.last).exists()
        row["too late" if done else "later" if (folder / subject.kept).exists() else "before anything was kept"] += 1
        if not done:
            finish(subject, folder)
        result, flops = subject.outcome(folder)
        row["other result"] += result != whole[0]
        row["other FLOPs"] += flops != whole[1]
        print(f"{name} {k + 1}/{moments}: after {moment:.1f} s, {row}", flush=True)
    return row


def main() -> None:
    settings = common.words(sys.argv[1:], moments=10, of=",".join(SUBJECTS))
    assert compare and inspection and prepare and pretrain, "imported before the first fork"
    torch.set_num_threads(1)
    asked, kept = settings["of"].split(","), OUT / "kills.json"
    before = json.loads(kept.read_text())["sections"][SECTION] if kept.exists() else []
    rows = [row for row in before if row["command"] not in asked]
    with tempfile.TemporaryDirectory() as home:
        for name in asked:
            (folder := Path(home) / name).mkdir()
            rows.append(measure(name, SUBJECTS[name], settings["moments"], folder))
            off = sum(r["other result"] + r["other FLOPs"] for r in rows)
            notes = [f"{off} of {sum(r['moments'] for r in rows)} ended otherwise than the unbroken command."]
            command = f"python benchmarks/kills.py moments={settings['moments']}"
            common.write("kills", "Killed at random moments", command, {SECTION: rows}, notes, folder=OUT)
    if any(r["other result"] or r["other FLOPs"] for r in rows):
        raise SystemExit("a run that was killed ended otherwise")


if __name__ == "__main__":
    main()
