"""Types wrong inputs as a new user would and writes docs/inputs.md, the table of what is answered.

    PYTHONPATH=.:tests python docs/inputs.py          # some minutes; its column "before" is kept as it stands
    PYTHONPATH=.:tests python docs/inputs.py Devices  # some kinds alone
    PYTHONPATH=.:tests python docs/inputs.py new      # what the page has no answer to yet

`CASES` are what is typed, by kind; `lay` makes the desk they are typed at: a folder with odd files and damaged runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from inputs_further import FURTHER, lay_further
from inputs_habits import HABITS
from inputs_scenes import SCENES, TOLD, lay_scenes


class Case(NamedTuple):
    """typed: after `gfm`; ends: the exit code that is right."""

    typed: str
    ends: int = 2


TINY = "encoder.depth=1 encoder.dim=16 encoder.heads=2 encoder.cell_dim=16 encoder.width=8 data.size=32 data.dates=1"
TRAIN = f"train {TINY} threads=1 loader.workers=0 yardstick=false device=cpu"
EVAL = "eval suite=landcover seeds=1 fractions=1 device=cpu workers=1 finetune.flops=1e9"
CHIPS = "name: chips\ngsd: 30.0\nroot: /no/such/folder\nsensors: {hls: {file: '{chip}.tif', bands: {red: 1}}}\n"
FLOOD = "layer: flood\ndata: {name: synthetic, size: 16, dates: 1, layers: [map, flood]}\n"
CASES: dict[str, list[Case]] = {
    "Words": [
        Case("trian objective=mae"),
        Case("train objetive=mae"),
        Case("train objective=mea"),
        Case("train --objective mae"),
        Case("train objective = mae"),
        Case("train objective="),
        Case("train =mae"),
        Case("train mae"),
        Case("train seed=1 seed=2"),
        Case("train objective=mae,mae"),
        Case("train objective=mae,"),
        Case("train name=a,b"),
        Case("train name=../there"),
        Case("train optim=1"),
        Case("train objective.name=mae"),
        Case("train choices.objective=mae"),
        Case("train overwrite=yes"),
        Case("train objective.mask_rato=0.5"),
        Case("eval checkpoints=runs/a"),
        Case("eval suite=core,crop,"),
        Case("eval checkpoint= suite=flood"),
        Case("eval suite=flood"),
        Case("eval suite=core,flod"),
        Case("inspect data.size=16 places=1", ends=0),
        Case("yardstick"),
        Case("reproduce all"),
        Case("reproduce readme"),
        Case("sweep"),
        Case("replay"),
        Case("init"),
        Case("init pictures out=table.csv"),
    ],
    "As in other programs": [Case(typed.replace("train TINY", TRAIN)) for typed in HABITS],
    "Types and lists": [
        Case("train seed=1.5"),
        Case("train seed=null"),
        Case("train device=null"),
        Case("train encoder=null"),
        Case("train optim.lr=inf"),
        Case("train budget.flops=1e9999"),
        Case("train budget.flops=ten"),
        Case("train optim.betas=0.9"),
        Case("train optim.betas=0.9,x"),
        Case("train data.sensors=[s2"),
        Case("train data.sensors=[s2,,s1]"),
        Case("train keep_at=[[1e9]]"),
        Case("train data=~nosuch.user/mine.yaml"),
        Case("train data.sensors=[]"),
        Case("train objective=cross_sensor objective.sources=s9 data.size=32"),
        Case("eval contenders=unt"),
        Case("eval contenders=[]"),
        Case("eval fractions=all"),
        Case("train seed=9999999999999999999999999"),
        Case("train objective=[mae,jepa]"),
        Case("train data=[]"),
        Case("eval suite=[core,core]"),
        Case("eval suite=[]"),
        Case("finetune freeze=all"),
    ],
    "Numbers out of range": [
        Case("train encoder.heads=3"),
        Case("train encoder.dim=63"),
        Case("train encoder.patch=7"),
        Case("train encoder.width=1"),
        Case("train data.regions.pretrain=-5"),
        Case("train data.places.pretrain=0"),
        Case("train data.size=8"),
        Case("train data.size=257"),
        Case("train data.dates=0"),
        Case("train data.clouds=2"),
        Case("train data.sensors=s3"),
        Case("train data.layers=depth"),
        Case("train data=hls_water data.gsd=-1"),
        Case("train objective=mae objective.predict=0"),
        Case("train objective=mae objective.predict=5"),
        Case("train budget.flops=1"),
        Case("train budget.flops=1e30"),
        Case(f"{TRAIN} budget.flops=1e6"),
        Case("train budget.cooldown=1"),
        Case("train checkpoint_every=0"),
        Case("train optim.batch_size=0"),
        Case("train optim.batch_size=1000000000"),
        Case("train loader.workers=-1"),
        Case("train loader.workers=100000"),
        Case("train threads=0"),
        Case("train threads=100000"),
        Case("train precision=fp16"),
        Case("eval seeds=0"),
        Case("eval seeds=100000"),
        Case("eval fractions=0"),
        Case("eval fractions=1.5"),
        Case("eval finetune.flops=1"),
        Case("eval finetune.start=1e13"),
        Case("eval finetune.trials=0"),
        Case("eval workers=0"),
        Case("eval workers=100000"),
        Case("eval suite=crop tasks.crop.data.dates=0"),
        Case("inspect places=0"),
        Case("train budget.warmup=1e300"),
        Case("finetune trials=1e9"),
        Case("finetune seed=1e30"),
        Case("review n=1e30"),
        Case("fit resamples=1e12"),
        Case("curate tests.data=5"),
        Case("prepare workers=1e9"),
        Case("predict block=1e15"),
        Case("export dates=1e30"),
        Case("sweep workers=1e9"),
    ],
    "Devices": [
        Case("train device=gpu"),
        Case("train device=cuda"),
        Case("train device=cuda:1"),
        Case("train device=mps"),
        Case("eval device=cuda:1 suite=flood"),
    ],
    "One thing given as another": [
        Case("inspect pictures"),
        Case("inspect table.csv"),
        Case("train data=table.csv"),
        Case("train data=pictures"),
        Case("train data=flood"),
        Case("train data=flood.yaml"),
        Case("eval suite=mmearth"),
        Case("eval suite=chips.yaml"),
        Case("train objective=nano"),
        Case("train encoder=runs/good"),
        Case("train config=runs/results/config.yaml"),
        Case("eval config=runs/good/config.yaml"),
        Case("eval checkpoint=runs/good/encoder.safetensors suite=flood"),
        Case("eval checkpoint=table.csv suite=flood"),
        Case("yardstick table.csv"),
        Case("fit table.csv out=table.csv"),
        Case("fit pictures"),
        Case("sweep pictures"),
        Case("sweep flood.yaml"),
        Case("init table.csv"),
        Case("finetune task=flood also=table.csv"),
        Case("finetune settings=runs/good"),
    ],
    "Missing and damaged files": [
        Case("inspect nowhere.yaml"),
        Case("train config=nowhere.yaml"),
        Case("train config=runs/nowhere"),
        Case("train data=tabs.yaml"),
        Case("train data=binary.yaml"),
        Case("train data=empty.yaml"),
        Case("train data=list.yaml"),
        Case("train data=circle.yaml"),
        Case("train data=object.yaml"),
        Case("train data=chips.yaml"),
        Case("train data=variable.yaml"),
        Case("eval checkpoint=runs/nowhere suite=flood"),
        Case("eval checkpoint=runs/begun suite=flood"),
        *(Case(f"eval checkpoint=runs/{d} suite=flood") for d in ("noledger", "cutledger", "listledger", "wordledger")),
        *(Case(f"eval checkpoint=runs/{d} suite=flood") for d in ("cutjson", "listjson", "cutweights", "textweights")),
        *(Case(f"eval checkpoint=runs/{d} suite=flood") for d in ("otherweights", "cutconfig", "binaryconfig")),
        Case("eval checkpoint=runs/good,runs/good2 suite=flood"),
        *(Case(f"yardstick runs/{d}") for d in ("nowhere", "cutledger", "listledger")),
        *(Case(f"{TRAIN} name={d}") for d in ("cutckpt", "textckpt", "pickled", "cutledger", "listledger")),
        *(Case(f"{EVAL} results=results name={d} contenders=map") for d in ("cutscores", "binaryscores", "oddscores")),
        *(Case(f"{EVAL} results=results name={d} contenders=map") for d in ("oddstatistics", "cuttrials", "cuttuning")),
        Case("sweep nowhere.yaml"),
        Case("finetune settings=nowhere"),
        Case("leakage runs/nowhere task=flood"),
        Case("inspect data=shards data.root=noshards"),
        Case(f"{EVAL} encoder=timm:vit_tiny_patch16_224 weights=nowhere.pth contenders=foreign"),
        Case(f"{EVAL} encoder=timm:vit_tiny_patch16_224 weights=pickled.pth contenders=foreign"),
        Case(f"{EVAL} encoder=vit_tiny contenders=foreign"),
        Case(f"{EVAL} unet.weights=nowhere.pth contenders=unet_imagenet"),
        Case(f"{EVAL} unet.weights=pickled.pth contenders=unet_imagenet"),
    ],
    "Folders that cannot be written": [
        Case(f"{TRAIN} runs=table.csv"),
        Case(f"{TRAIN} runs=table.csv/runs"),
        Case(f"{TRAIN} runs=/proc/runs"),
        Case(f"{TRAIN} runs=full name=demo budget.flops=3e9"),
        Case(f"{TRAIN} name=afile"),
        Case(f"{TRAIN} runs=circle"),
        Case(f"{EVAL} contenders=map results=circle"),
        Case(f"{EVAL} contenders=map results=table.csv"),
        Case(f"{EVAL} contenders=map results=/proc/results"),
        Case(f"{EVAL} contenders=map results=full"),
        Case("inspect data.size=16 places=1 out=table.csv"),
        Case("inspect data.size=16 places=1 out=/proc/there"),
    ],
    "Data without what is asked of it": [
        Case("train data.layers=landcover"),
        Case("train data=oscd objective=masked_seg"),
        Case("train data.sensors=dem objective=cross_sensor"),
        Case("train data.dates=1 objective=temporal"),
        Case("eval suite=nolayer.yaml contenders=unet"),
        Case("eval suite=noindexband.yaml contenders=unet,index"),
        Case("eval suite=beyond.yaml contenders=unet,index"),
        Case("eval suite=noindexsensor.yaml contenders=unet,index"),
        Case("eval suite=recodebeyond.yaml contenders=unet,map"),
        Case("eval suite=nomap.yaml contenders=map_context finetune.flops=1e9"),
        Case("eval suite=unknownkey.yaml contenders=unet"),
        Case("eval suite=onedate.yaml contenders=unet"),
        Case(f"{EVAL} contenders=map plan_only=true", ends=0),
    ],
    "Scenes, maps and models": [*map(Case, SCENES), *(Case(typed, ends=0) for typed in TOLD)],
    "Tables, studies and what lies in the way": [*map(Case, FURTHER)],
}


def lay(desk: Path) -> None:
    """Odd files, and runs and results damaged in one way each."""
    import torch

    from gfm_objectives.config import compose, save
    from gfm_objectives.models.encoder import Encoder
    from gfm_objectives.runs.checkpoint import save_encoder
    from gfm_objectives.runs.ledger import Ledger
    from gfm_objectives.scores import SCORE_COLUMNS, STATISTICS_COLUMNS

    (desk / "pictures").mkdir()
    (desk / "table.csv").write_text("a,b\n1,2\n")
    texts = {
        "flood.yaml": "layer: flood\ndata: {name: synthetic, layers: [map, flood]}\n",
        "chips.yaml": CHIPS,
        "variable.yaml": CHIPS.replace("/no/such/folder", "$NO_SUCH_VARIABLE/a"),
        "tabs.yaml": "name: chips\n\troot: here\n",
        "empty.yaml": "",
        "list.yaml": "- a\n- b\n",
        "circle.yaml": "use: circle.yaml\n",
        "object.yaml": "name: !!python/object/apply:os.system ['touch executed']\n",
        "nolayer.yaml": "layer: flod\ndata: {name: synthetic, size: 16, dates: 1, layers: [map]}\n",
        "noindexband.yaml": FLOOD + "index: {sensor: s2, plus: B03, minus: B99, threshold: 0.0, above: 2, below: 0}\n",
        "noindexsensor.yaml": FLOOD.replace("dates: 1,", "dates: 1, sensors: [s1],")
        + "index: {sensor: s2, plus: B03, minus: B11, threshold: 0.0, above: 2, below: 0}\n",
        "beyond.yaml": FLOOD + "index: {sensor: s2, plus: B03, minus: B11, threshold: 0.0, above: 7, below: 0}\n",
        "recodebeyond.yaml": FLOOD + "recode: {0: 11}\n",
        "nomap.yaml": "layer: flood\ndata: {name: synthetic, size: 16, dates: 1, layers: [flood]}\n",
        "unknownkey.yaml": "layer: flood\nclasses: 3\ndata: {name: synthetic, layers: [map, flood]}\n",
        "onedate.yaml": FLOOD + "kind: change\n",
    }
    for name, text in texts.items():
        (desk / name).write_text(text)
    (desk / "binary.yaml").write_bytes(bytes(range(256)))
    (desk / "noshards").mkdir()
    (desk / "noshards/index.json").write_text('{"format": "gfm-shards-1"}')
    os.symlink("circle", desk / "circle")
    torch.save({"weights": Opened("executed")}, desk / "pickled.pth")
    runs = desk / "runs"
    (cfg,) = compose("train", [*TRAIN.split()[1:], "name=good"])
    model = Encoder({"s2": ("B02", "B03")}, cell_dim=16, dim=16, depth=1, heads=2, patch=16, width=8)
    good = runs / "good"
    good.mkdir(parents=True)
    save_encoder(model, good)
    Ledger("mae", 0, "c", "d", "abc", flops_spent=1e9).write(good / "ledger.json")
    save(cfg, good / "config.yaml")

    def damaged(name: str, file: str, content: bytes | None) -> None:
        shutil.copytree(good, runs / name)
        if content is None:
            (runs / name / file).unlink()
        else:
            (runs / name / file).write_bytes(content)

    shutil.copytree(good, runs / "good2")
    damaged("noledger", "ledger.json", None)
    damaged("cutledger", "ledger.json", (good / "ledger.json").read_bytes()[:40])
    damaged("listledger", "ledger.json", b"[1, 2]")
    damaged("wordledger", "ledger.json", b'{"objective": "mae", "seed": "one"}')
    damaged("cutjson", "encoder.json", b'{"format": 2,')
    damaged("listjson", "encoder.json", b"[]")
    damaged("cutweights", "encoder.safetensors", (good / "encoder.safetensors").read_bytes()[:400])
    damaged("textweights", "encoder.safetensors", b"no weights at all")
    about = json.loads((good / "encoder.json").read_text())
    about["options"]["depth"] = 2
    damaged("otherweights", "encoder.json", json.dumps(about).encode())
    damaged("cutconfig", "config.yaml", b"name: [")
    damaged("binaryconfig", "config.yaml", bytes(range(256)))
    for name in ("begun", "cutckpt", "textckpt", "pickled"):
        (runs / name / "checkpoints").mkdir(parents=True)
        (mine,) = compose("train", [*TRAIN.split()[1:], f"name={name}"])
        save(mine, runs / name / "config.yaml")
    torch.save({"state_dict": {}, "x": torch.zeros(1000)}, desk / "whole.ckpt")
    (runs / "cutckpt/checkpoints/last.ckpt").write_bytes((desk / "whole.ckpt").read_bytes()[:2000])
    (runs / "textckpt/checkpoints/last.ckpt").write_text("no checkpoint")
    shutil.copy(desk / "pickled.pth", runs / "pickled/checkpoints/last.ckpt")
    (runs / "afile").write_text("")
    (runs / "results").mkdir()
    (evaluation,) = compose("eval", ["suite=flood"])
    save(evaluation, runs / "results/config.yaml")
    for name, file, content in (
        ("cutscores", "scores.csv", b"task,fraction\nflood,1\n"),
        ("binaryscores", "scores.csv", bytes(range(256)) * 4),
        ("oddscores", "scores.csv", b""),
        ("oddstatistics", "statistics.csv", b""),
        ("cuttrials", "trials.jsonl", b'{"key": "a", "cell\n{"key": 3}\n'),
        ("cuttuning", "tuning.json", b'[{"task": "lan'),
    ):
        folder = desk / "results" / name
        folder.mkdir(parents=True)
        if file == "scores.csv" and not content:
            content = (",".join(SCORE_COLUMNS) + "\n" + ",".join(["x"] * len(SCORE_COLUMNS)) + "\n").encode()
        if file == "statistics.csv":
            content = (",".join(STATISTICS_COLUMNS) + "\n" + ",".join(["1"] * len(STATISTICS_COLUMNS)) + "\n").encode()
        (folder / file).write_bytes(content)
    os.symlink("/dev/full", desk / "full")
    lay_scenes(desk)
    lay_further(desk)


class Opened:
    """What pickle would run when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.path}",))


class Answer(NamedTuple):
    """code: the exit code, None = still silent at the end of the time; text: what was printed; kind: one word."""

    code: int | None
    text: str
    seconds: float

    @property
    def kind(self) -> str:
        if self.code is None:
            return "hangs"
        if "Traceback" in self.text:
            return "traceback"
        return {0: "accepted", 2: "one line"}.get(self.code, f"exit {self.code}")

    @property
    def line(self) -> str:
        lines = [x for x in self.text.splitlines() if x.startswith(("error:", "warning:"))] or self.text.splitlines()
        return lines[-1] if lines else ""


def ask(typed: str, desk: Path, limit: float = 300.0, child: Callable[[], object] = bool) -> Answer:
    """What `gfm` prints, in a process of its own that has everything imported already and begins with `child`."""
    began = time.monotonic()
    out = desk.parent / "printed"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            os.chdir(desk)
            fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))  # pytest has others there
            child()
            from gfm_objectives import cli

            code = cli.main(shlex.split(typed))
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = None
    while time.monotonic() - began < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
    else:
        os.killpg(pid, 9)
        os.waitpid(pid, 0)
    text = out.read_text(errors="replace") if out.exists() else ""
    return Answer(code, text, time.monotonic() - began)


Rows = dict[str, tuple[str, str]]  # what is typed -> the columns "before" and "now"


def known(page: Path) -> Rows:
    """The rows of the page as it stands."""
    found = re.findall(r"^\| `(.+?)` \| (.*?) \| (.*?) ?\|$", page.read_text() if page.exists() else "", re.M)
    return {typed: (before, now) for typed, before, now in found}


def document(rows: Rows) -> str:
    """The page."""
    before = Counter(re.sub(r":.*", "", b) for b, _ in rows.values())
    now = Counter("a line" if n.startswith("error: ") else "accepted" for _, n in rows.values())
    lines = [
        "# What is answered to wrong inputs",
        "",
        "Typed as a new user would, on data that needs no download; `PYTHONPATH=.:tests python docs/inputs.py` "
        "types it all again and writes this page. An input that is wrong is answered by one line that names the "
        "key or the file and the remedy, with exit code 2; nothing is half written, and finished runs stay as they"
        " are. So are faults of the machine: a full disk, no memory, a killed worker. `GFM_TRACEBACK=1` shows the "
        "place in the code as well.",
        "",
        f"{len(rows)} inputs. Before: {tell(before)}. Now: {tell(now)}.",
        "",
        f"TINY stands for `{TRAIN.removeprefix('train ')}`, EVAL for `{EVAL.removeprefix('eval ')}`.",
    ]
    for kind, cases in CASES.items():
        lines += ["", f"## {kind}", "", "| `gfm ...` | before | now |", "| --- | --- | --- |"]
        for typed in (short(c.typed) for c in cases):
            lines.append(f"| `{typed}` | {rows[typed][0]} | {rows[typed][1]} |")
    return "\n".join(lines) + "\n"


def short(typed: str) -> str:
    return typed.replace(TRAIN, "train TINY").replace(EVAL, "eval EVAL")


def tell(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {kind or 'not typed'}" for kind, n in counts.most_common())


def main() -> None:
    import torch

    import gfm_objectives.compare
    import gfm_objectives.inspection
    import gfm_objectives.pretrain  # noqa: F401  (once, not by each process)

    torch.set_num_threads(1)
    page = Path(__file__).with_suffix(".md")
    with tempfile.TemporaryDirectory() as scratch:
        desk = Path(scratch) / "desk"
        desk.mkdir()
        with contextlib.chdir(desk):
            lay(desk)
        os.environ.pop("GFM_DATA", None)
        new = sys.argv[1:] == ["new"]
        for kind in CASES if new else sys.argv[1:] or CASES:
            answered: dict[str, str] = {}
            for case in CASES[kind]:
                if new and known(page).get(short(case.typed), ("", ""))[1]:
                    continue
                a, typed = ask(case.typed, desk), short(case.typed)
                mark = "" if a.code == case.ends else "   <-- NOT AS IT SHOULD BE"
                print(f"{a.seconds:5.1f} s  {a.kind:9}  {typed}\n{'':19}{a.line}{mark}", flush=True)
                line = a.line.replace(str(desk), "/desk").replace("|", "\\|")
                answered[typed] = line if len(line) < 300 else f"{line[:297]}..."
            assert not (desk / "executed").exists(), "a file was executed"
            refresh(page, answered)


def refresh(page: Path, answered: dict[str, str]) -> None:
    """Write the page with new answers; those of what was not typed stay."""
    kept = known(page)
    every = [short(c.typed) for cases in CASES.values() for c in cases]
    rows = {t: (kept.get(t, ("not typed", ""))[0], answered.get(t) or kept.get(t, ("", ""))[1]) for t in every}
    page.write_text(document(rows))


if __name__ == "__main__":
    main()
