"""Killed at random moments and started again: python benchmarks/kills.py [moments=10] [of=train,eval,...].

kill -9 to all processes of a command at a random moment, then the same command again, which must end with the same
weights and losses or tables bit for bit and with a ledger that neither loses nor doubles a FLOP. Every tenth moment is
drawn from the time before anything is kept, the others from there to the end of the unbroken command; one that comes
after the end is drawn anew. Subjects: pretraining in one process, in two (gloo, started as torchrun does), a
comparison, shards and the look at data; those not asked for stay in results/kills. Commands are run in forks of this
process: another start of Python and torch would take most of the time.
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
    "log_every=1 loader.workers=0 threads=1 device=cpu precision=fp32 runs={folder} name=demo"
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
    """Hash of the weights with the loss of every step, and the counts of the ledger with the FLOPs after every step."""
    run = folder / "demo"
    ledger = json.loads((run / "ledger.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        steps = [*csv.DictReader(file)]
    result = sha256((run / "encoder.safetensors").read_bytes()).hexdigest(), [(r["step"], r["loss"]) for r in steps]
    return result, ([ledger[k] for k in COUNTS], [(r["samples"], r["flops"]) for r in steps])


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


def followed(subject: Subject, folder: Path) -> tuple[float, float]:
    """Run the whole command; returns the seconds until something was kept, and from there to its end."""
    begun, kept = time.monotonic(), 0.0
    pid = start(subject, folder)
    while not (gone := os.waitpid(pid, os.WNOHANG))[0]:
        if not kept and (folder / subject.kept).exists():
            kept = time.monotonic() - begun
        time.sleep(0.002)
    if code := os.waitstatus_to_exitcode(gone[1]):
        raise SystemExit(f"{' '.join(subject.words(folder))}: exit code {code}")
    whole = time.monotonic() - begun
    return kept or whole, whole - kept if kept else 0.0


def killed(subject: Subject, folder: Path, early: bool, share: float, times: tuple[float, float]) -> bool:
    """Kill the command at that share of the time before something is kept, or of the time from there on; returns
    whether it was still running."""
    pid, done = start(subject, folder), False
    while not (early or done or (folder / subject.kept).exists()):
        done = os.waitpid(pid, os.WNOHANG)[0] == pid
        time.sleep(0.002)
    time.sleep(0 if done else share * times[0 if early else 1])
    if done or os.waitpid(pid, os.WNOHANG)[0] == pid:
        return False
    os.killpg(pid, signal.SIGKILL)
    ended(pid)
    return not (subject.last and (folder / subject.last).exists())


def measure(name: str, subject: Subject, moments: int, home: Path) -> common.Row:
    """Kills at that many moments; what differs from the unbroken run, and when they came."""
    followed(subject, home / "first")  # which also measures and reads what later ones find in memory
    times = followed(subject, home / "whole")
    whole = subject.outcome(home / "whole")
    row: common.Row = {"command": name, "moments": moments, "seconds unbroken": round(sum(times), 1)}
    row |= {"of them before anything was kept": round(times[0], 1)}
    row |= dict.fromkeys(("before anything was kept", "later", "drawn anew", "other result", "other FLOPs"), 0)
    at_end = times[1] < 0.1 * sum(times)  # whatever is kept is kept then
    for k in range(moments):
        drawn, early, attempt = random.Random(f"{name}{k}"), k % 10 == 9 or at_end, 0
        while not killed(subject, folder := home / f"broken{k}-{attempt}", early, share := drawn.random(), times):
            attempt += 1
        row["drawn anew"] += attempt
        row["later" if (folder / subject.kept).exists() else "before anything was kept"] += 1
        followed(subject, folder)
        result, flops = subject.outcome(folder)
        row["other result"] += result != whole[0]
        row["other FLOPs"] += flops != whole[1]
        print(f"{name} {k + 1}/{moments}: at {share:.2f} of {'the start' if early else 'the rest'}, {row}", flush=True)
    told = sha256(repr(whole).encode()).hexdigest()[:16]
    print(f"{name}: result and counts of the unbroken command have the digest {told}", flush=True)
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
