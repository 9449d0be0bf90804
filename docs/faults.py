"""Makes faults of the machine on purpose and writes docs/faults.md, the table of what is answered.

    PYTHONPATH=.:tests python docs/faults.py                # Linux, as root: it mounts small disks, seen by it alone
    PYTHONPATH=.:tests python docs/faults.py "A full disk"  # some kinds alone; the others stay as they stand

Every command must end in one line that names the path and the remedy and leave no half-written file; once the fault is
mended, the same command must end as ever.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import inputs

NOBODY = 65534
MIB = 2**20
SMALL = f"{inputs.TRAIN} budget.flops=3e9 checkpoint_every=0.2"


def given(typed: str, *changes: str) -> str:
    """What is typed, with some keys set anew."""
    keys = {c.partition("=")[0] for c in changes}
    return " ".join([*(w for w in typed.split() if w.partition("=")[0] not in keys), *changes])


TASK = """\
layer: landcover
data: {name: synthetic, size: 16, dates: 1, sensors: [s2], layers: [map, landcover]}
train: 6
val: 3
test: 5
recode: {0: 0, 1: 3, 2: 6, 3: 6, 4: 5, 5: 9, 6: 7, 7: 1}
"""  # tiny.yaml
EVAL = given(
    inputs.EVAL, "suite=tiny.yaml", "world=null", "contenders=unet,map", "finetune.trials=1", "finetune.batch_size=4"
)
PREPARE = "prepare data.size=32 data.dates=1 data.places.pretrain=120 data.regions.pretrain=2 shard_mb=0.2 workers=1"
# name -> what is typed, and the bytes left on the disk when it is
COMMANDS = {
    "prepare": (f"{PREPARE} out=DISK", 300_000),
    "predict": ("predict model=model input=scene.tif output=DISK/map.tif scale=0.0001 block=128 device=cpu", 20_000),
    "inspect": ("inspect data.size=16 data.dates=1 places=2 out=DISK", 10_000),
    "eval": (f"{EVAL} results=DISK name=a", 40_000),
    "train": (f"{SMALL} runs=DISK name=a", 200_000),
    "finetune": (
        "finetune task=tiny.yaml contender=unet trials=0 flops=1e9 batch_size=4 device=cpu models=DISK name=a",
        20_000,
    ),
    "review": ("review map=map.tif model=model input=scene.tif scale=0.0001 tiles=2 out=DISK name=a", 20_000),
    "export": ("export model=model to=native out=DISK name=a", 20_000),
    "curate": (
        "curate data.size=16 data.dates=1 data.places.pretrain=40 data.regions.pretrain=1 out=DISK/keep.parquet",
        8_000,
    ),
    "report": ("report results/a out=DISK/report.html", 20_000),
}
MADE = (  # on the desk, before any fault
    "predict model=model input=scene.tif output=map.tif scale=0.0001 block=128 device=cpu extra=entropy",
    f"{EVAL} results=results name=a",
)
LOCKED = {  # which has its folder to itself
    "prepare": "synthetic",
    "inspect": "synthetic",
    "eval": "a",
    "train": "a",
    "finetune": "a",
    "review": "a",
    "export": "a",
    "curate": "keep.stages",
}


class Row(NamedTuple):
    """what: was done; answer: to it; after: what became of it."""

    what: str
    answer: inputs.Answer
    after: str = ""

    @property
    def right(self) -> bool:
        told = [x for x in self.answer.text.splitlines() if x.startswith("error: ")]
        return self.answer.code in (2, 141) and len(told) == (self.answer.code == 2) and "NOT" not in self.after


def ask(typed: str, desk: Path, child: Callable[[], object] = bool) -> inputs.Answer:
    return inputs.ask(typed, desk, limit=120, child=child)


def begin(typed: str, desk: Path) -> int:
    """A process that goes on with it."""
    if pid := os.fork():
        return pid
    from gfm_objectives import cli

    os.chdir(desk)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os._exit(cli.main(shlex.split(typed)))


def wait_for(path: Path) -> None:
    """Until `path` says something: a lock names who holds it once it is held, not when its file is made."""
    until = time.monotonic() + 60
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < until, path
        time.sleep(0)  # an export holds its lock for some milliseconds


def end(pid: int) -> None:
    for process in [*descendants(pid), pid]:
        os.kill(process, signal.SIGKILL)
    os.waitpid(pid, 0)


def mount(folder: Path, nbytes: int) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)], check=True)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def scratch(folder: Path) -> list[str]:
    names = [p.name for p in folder.rglob("*") if p.is_file()]
    return [n for n in names if n.startswith(".") or n.endswith((".tmp", ".part"))]


def full_disk(desk: Path) -> Iterator[Row]:
    """A disk of 16 MiB on which so much is left."""
    disk = desk / "disk"
    mount(disk, 16 * MIB)
    try:
        for name, (typed, room) in COMMANDS.items():
            typed = typed.replace("DISK", "disk")
            empty(disk)
            (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - room))
            answer = ask(typed, desk)
            left = scratch(disk)
            (disk / "other").unlink()
            again = ask(typed, desk)
            ends = "with room again it ends" if again.code == 0 else f"NOT: {again.line}"
            yield Row(f"`gfm {name}`, {room // 1000} kB left", answer, f"NOT clean: {left}" if left else ends)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def full_memory(desk: Path) -> Iterator[Row]:
    """/dev/shm, through which loader workers hand over their batches."""
    mount(Path("/dev/shm"), 64 * 1024)
    try:
        typed = given(SMALL, "loader.workers=2", "name=shared")
        yield Row("`gfm train loader.workers=2`, 64 kB in /dev/shm", ask(typed, desk))
    finally:
        subprocess.run(["umount", "/dev/shm"], check=True)


def lost_worker(desk: Path) -> Iterator[Row]:
    """kill -9 of one process that a command started, as soon as it works."""
    begun = {
        "train": (given(SMALL, "loader.workers=1", "budget.flops=1e11", "name=lost"), "% "),
        "eval": (given(EVAL, "seeds=2", "workers=2", "name=lost"), "plan"),
        "prepare": (given(PREPARE, "workers=2", "data.places.pretrain=5000", "out=shards"), "to write"),
    }
    for name, (typed, word) in begun.items():
        stop = threading.Event()
        killer = threading.Thread(target=kill_worker, args=(desk.parent / "printed", word, stop))
        (desk.parent / "printed").unlink(missing_ok=True)
        killer.start()
        answer = ask(typed, desk)
        stop.set()
        killer.join()
        yield Row(f"`gfm {name}`, a worker killed by kill -9", answer)


def kill_worker(printed: Path, word: str, stop: threading.Event) -> None:
    """Once `word` is printed, kill the youngest grandchild of this process that uses the CPU."""
    while not stop.is_set():
        if printed.exists() and word in printed.read_text(errors="replace"):
            time.sleep(1)
            if found := [p for p in descendants(os.getpid()) if p not in descendants(os.getpid(), 2)]:
                os.kill(max(found), signal.SIGKILL)
                return
        time.sleep(0.05)


def descendants(pid: int, depth: int = 9) -> list[int]:
    """Children of `pid`, theirs, ... down to `depth`."""
    own = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    return own + [d for c in own if depth > 1 for d in descendants(c, depth - 1)]


def two_at_once(desk: Path) -> Iterator[Row]:
    """A second process of the same name while the first stands still in its work, and after it was killed."""
    for name, folder in LOCKED.items():
        typed = COMMANDS[name][0].replace("DISK", "twice")
        first = begin(typed, desk)
        wait_for(desk / "twice" / folder / ".lock")
        os.kill(first, signal.SIGSTOP)
        answer = ask(typed, desk)
        assert not os.waitpid(first, os.WNOHANG)[0], "the first had ended"
        end(first)
        again = ask(typed, desk)
        shutil.rmtree(desk / "twice")
        after = "once the first is killed by kill -9 it ends" if again.code == 0 else f"NOT: {again.line}"
        yield Row(f"`gfm {name}`, a second one of the same name", answer, after)


def gone_reader(desk: Path) -> Iterator[Row]:
    """`| head -1`: whoever read has gone."""
    for name, (typed, _) in COMMANDS.items():
        read, write = os.pipe()

        def child(write: int = write, read: int = read) -> None:
            os.close(read)
            os.dup2(write, 1)

        thread = threading.Thread(target=lambda read=read: (os.read(read, 1), os.close(read)))
        thread.start()
        answer = ask(typed.replace("DISK", f"gone_{name}"), desk, child)
        os.close(write)
        thread.join()
        yield Row(f"`gfm {name} ... \\| head -1`", answer, "" if not answer.text else "NOT silent")


def read_only(desk: Path) -> Iterator[Row]:
    """A folder that this user may not write."""
    os.chmod(desk, 0o755)
    for parent in (desk, *desk.parents):
        os.chmod(parent, os.stat(parent).st_mode | 0o055)
    (desk / "theirs").mkdir(mode=0o755)
    for name, (typed, _) in COMMANDS.items():
        answer = ask(typed.replace("DISK", "theirs"), desk, lambda: os.setuid(NOBODY))
        yield Row(f"`gfm {name}` into a folder of another user", answer)
    assert ask(given(SMALL, "name=mine"), desk).code == 0
    os.chmod(desk / "runs" / "mine" / "ledger.json", 0)
    typed = given(EVAL, "contenders=pretrained", "checkpoint=runs/mine")
    yield Row("`gfm eval` of a run that this user may not read", ask(typed, desk, lambda: os.setuid(NOBODY)))


def damaged_table(desk: Path) -> Iterator[Row]:
    """metrics.csv of a run that goes on."""
    for what, damage in {"a line of zeros": b"\0" * 40 + b"\n", "half a line": b"1,2\n"}.items():
        name = f"damaged{len(what)}"
        typed, run = given(SMALL, f"name={name}", "budget.flops=1e11", "checkpoint_every=0.01"), desk / "runs" / name
        first = begin(typed, desk)
        wait_for(run / "checkpoints" / "last.ckpt")
        end(first)
        table = run / "metrics.csv"
        table.write_bytes(table.read_bytes().replace(b"\n", b"\n" + damage, 1))
        before = table.read_bytes()
        answer = ask(typed, desk)
        kept_as_it_was = "" if table.read_bytes() == before else "NOT kept"
        yield Row(f"`gfm train` goes on, {what} in metrics.csv", answer, kept_as_it_was)


KINDS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "A full disk": full_disk,
    "A full /dev/shm": full_memory,
    "A lost worker": lost_worker,
    "Two at once": two_at_once,
    "A reader that has gone": gone_reader,
    "No right to write": read_only,
    "A damaged table": damaged_table,
}


def main() -> None:
    if "GFM_FAULTS" not in os.environ:  # mounts are for this process alone
        os.execvpe("unshare", ["unshare", "-m", sys.executable, *sys.argv], os.environ | {"GFM_FAULTS": "1"})
    import encodings.cp437  # noqa: F401  (of zip files; another user may not read this one's Python)

    import torch
    from kept import kept, scene

    import gfm_objectives.compare.single
    import gfm_objectives.curation.curating
    import gfm_objectives.data.prepare
    import gfm_objectives.export
    import gfm_objectives.inspection
    import gfm_objectives.predict
    import gfm_objectives.pretrain
    import gfm_objectives.report.html
    import gfm_objectives.review.looking  # noqa: F401  (once, not by each process)

    torch.set_num_threads(1)
    page, wrong = Path(__file__).with_suffix(".md"), 0
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder) / "desk"
        desk.mkdir()
        kept(desk / "model")
        scene(desk / "scene.tif", 300, 300)
        (desk / "tiny.yaml").write_text(TASK)
        for typed in MADE:
            assert (answer := ask(typed, desk)).code == 0, answer.text
        for kind in sys.argv[1:] or KINDS:
            rows = []
            for row in KINDS[kind](desk):
                mark = "" if row.right else "   <-- NOT AS IT SHOULD BE"
                about = f"{row.answer.seconds:5.1f} s  {row.answer.kind:9}"
                print(f"{about} {row.what}  {row.after}\n{'':19}{row.answer.line}{mark}", flush=True)
                if not row.right:
                    print(row.answer.text[-1500:])
                wrong += not row.right
                line = row.answer.line or "nothing, exit code 141"
                line = re.sub(r"\(\S+ process \d+ since [^)]+\)", "(host process 123 since 2026-01-01 12:00:00)", line)
                rows.append(f"| {row.what} | {line.replace(str(desk), '/desk')} | {row.after} |")
            if page.exists():
                refresh(page, kind, rows)
    sys.exit(bool(wrong))


def refresh(page: Path, kind: str, rows: list[str]) -> None:
    """The table of a kind written anew."""
    text = page.read_text()
    mark = re.compile(rf"(## {kind}\n.*?\n\| --- \| --- \| --- \|\n)(?:\|[^\n]*\n)*", re.S)
    assert mark.search(text), f"{page}: no table of {kind}"
    page.write_text(mark.sub(lambda m: m[1] + "".join(f"{row}\n" for row in rows), text))


if __name__ == "__main__":
    main()
