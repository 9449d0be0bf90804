"""The command line: exit codes, one line per mistake, no torch before the config is right, sweeps that skip."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import gfm_objectives
from gfm_objectives import cli
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain import pretraining

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def pretrain(monkeypatch):
    """A stand-in for pretraining that notes the names it was asked to run."""
    module = types.SimpleNamespace(ran=[], finished=set())
    module.run = lambda cfg: module.ran.append(cfg.name)
    monkeypatch.setattr(pretraining, "run", lambda cfg: module.run(cfg))
    monkeypatch.setattr(pretraining, "is_finished", lambda cfg: cfg.name in module.finished)
    monkeypatch.setattr(pretraining, "check_data", lambda configs: None)
    monkeypatch.setattr(pretraining, "using", lambda cfg: contextlib.nullcontext())
    return module


@pytest.mark.parametrize(
    ("command", "words", "nearest"),
    [
        ("train", ["objetive=mae"], "objective"),
        ("train", ["objective=mea"], "mae"),
        ("train", ["budget.flops=-1"], "must be from 1e6"),
        ("train", ["--objective", "mae"], "objective=mae"),
        ("eval", ["seeds=0"], "from 1 to 1000"),
        ("eval", ["checkpoints=runs/a"], "checkpoint?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, words, nearest, capsys):
    assert cli.main([command, *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and nearest in err


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean gfm train?" in capsys.readouterr().err
    assert cli.main([]) == 0 and "gfm eval" in capsys.readouterr().out


def test_version(capsys):
    for argv in (["--version"], ["train", "--version"]):
        assert cli.main(argv) == 0
        assert capsys.readouterr().out == f"gfm-objectives {gfm_objectives.__version__}\n"


def test_a_single_run_is_run_even_if_finished(pretrain):
    pretrain.finished = {"demo"}  # pretrain.run itself refuses, and says what to do
    assert cli.train(["name=demo"]) == 0
    assert pretrain.ran == ["demo"]


def test_a_sweep_skips_what_is_finished(pretrain, capsys):
    pretrain.finished = {"demo-mae-s0"}
    words = ["objective=mae,masked_seg", "seed=0,1", "name=demo"]
    assert cli.train(words) == 0
    assert pretrain.ran == ["demo-mae-s1", "demo-masked_seg-s0", "demo-masked_seg-s1"]
    out = capsys.readouterr().out
    assert (
        out.startswith("4 runs: demo-mae-s0, ")
        and "demo-mae-s0: preparing" in out
        and "[1/4] demo-mae-s0: finished before, skipped" in out
    )
    pretrain.ran.clear()
    assert cli.train([*words, "overwrite=true"]) == 0 and len(pretrain.ran) == 4


def test_errors_and_interrupts_of_the_run_itself(pretrain, capsys):
    def refuse(cfg):
        raise InputError("runs/demo is finished;\nname another")

    def interrupt(cfg):
        raise KeyboardInterrupt

    pretrain.run = refuse
    assert cli.train(["name=demo"]) == 2
    assert capsys.readouterr().err == "error: runs/demo is finished; name another\n"

    def interrupt_within_lightning(cfg):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for pretrain.run in (interrupt, interrupt_within_lightning):
        assert cli.train(["name=demo"]) == 130
        assert capsys.readouterr().err.count("\n") == 1


def test_a_mistake_and_help_are_answered_without_torch(tmp_path):
    """Which takes seconds to load: how fast they are is for benchmarks, on a machine that does nothing else."""
    for script, word, code, says in (
        ("train.py", "objective=mea", 2, "did you mean mae?"),
        ("eval.py", "--help", 0, ""),
    ):
        probe = f"import sys, runpy; sys.argv = [{script!r}, {word!r}]\n"
        probe += f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        probe += "finally: assert not {'torch', 'numpy', 'lightning'} & sys.modules.keys()"
        run = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == code and run.stderr.count("\n") == bool(code) and says in run.stderr, run.stderr
        assert code or "python eval.py" in run.stdout


def test_threads_that_wait_do_not_spin_unless_somebody_wants_them_to():
    probe = (
        "import os, sys; from gfm_objectives import cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    plain = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for env, found in ((plain, "PASSIVE"), (plain | {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=env)
        assert run.stdout.split() == [found, "False"], run.stderr  # before torch is loaded, which reads it


BEGUN = {  # as typed in a folder that has nothing of it
    **dict.fromkeys(("train", "plan", "eval", "prepare", "curate", "finetune", "published", "export"), ()),
    "sweep": ("objectives",),
    "replay": ("runs/a",),
    "init": ("pictures",),
    "inspect": ("synthetic",),
    "data": ("list",),
    "leakage": ("runs/a", "task=flood"),
    "predict": ("model=a", "input=b.tif", "output=c.tif"),
    "review": ("map=a.tif", "model=b", "input=c.tif"),
    "report": ("results/a",),
    "fit": ("a.csv",),
    "yardstick": ("runs/a",),
    "reproduce": ("readme",),
}
PROBE = """
import contextlib, io, sys
from gfm_objectives import cli
class Asked(BaseException): pass
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch": raise Asked
sys.meta_path.insert(0, Finder())
for command, words in BEGUN.items():
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        try: became = str(cli.main([command, *words]))
        except Asked: became = "torch"
    print(command, became, f": preparing {cli.COMMANDS[command].preparing}\\n" in said.getvalue() + error.getvalue(),
          sep="\\t", file=sys.__stdout__)
"""


def test_every_command_says_what_it_prepares_before_it_loads_torch(tmp_path):
    """Which takes seconds, on a busy machine half a minute: what was said when torch was first asked for."""
    assert BEGUN.keys() == cli.COMMANDS.keys()
    probe = f"BEGUN = {BEGUN}\n{PROBE}"
    run = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert [r[0] for r in rows] == [*BEGUN], run.stderr
    assert [r for r in rows if r[2] != "True"] == []
    assert [r for r in rows if r[1] != "torch"] == [["fit", "2", "True"]]  # no such file, and it needs no torch


def test_what_a_terminal_cannot_show_is_no_reason_to_end(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.guarded(lambda: print("run plan → é") or 0) == 0
    assert out.buffer.getvalue() == b"run plan \\u2192 \\xe9\n"


@pytest.mark.parametrize("word", ["\x1c\x05*l\x85é\u2028x", "\x0b\x1b[2Jé\r\x07", "é\udc80\n\nx"])
def test_what_a_terminal_would_obey_is_shown_and_not_done(word, capsys):
    assert cli.main(["train", word]) == 2
    told = capsys.readouterr().err.rstrip("\n")
    assert told.startswith("error: ") and len(told.splitlines()) == 1 and told.isprintable() and "é" in told
