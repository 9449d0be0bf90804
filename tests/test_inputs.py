"""The wrong inputs of docs/inputs.md: each ends as it should, in one line, and executes nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from gfm_objectives import cli

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("inputs", ROOT / "docs" / "inputs.py")
inputs = sys.modules["inputs"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(inputs)
TYPED = [case for cases in inputs.CASES.values() for case in cases]
# Runs that train or score something, or read what does not fit in a test's seconds.
LONG = ("inspect", "reproduce readme", inputs.TRAIN, inputs.EVAL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    before = os.getcwd()
    os.chdir(folder)
    inputs.lay(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def without_data(monkeypatch):
    monkeypatch.delenv("GFM_DATA", raising=False)


@pytest.mark.parametrize(
    "case", [c for c in TYPED if not c.typed.startswith(LONG) and c.ends == 2], ids=lambda c: c.typed
)
def test_in_one_line(case, desk, capsys):
    assert cli.main(shlex.split(case.typed)) == 2
    err = re.sub(r"^\w+: preparing .*\n", "", capsys.readouterr().err)  # of a command whose answer is what it prints
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) > 30
    assert "None" not in err and "Traceback" not in err
    assert not (desk / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in TYPED if c.typed.startswith(LONG)], ids=lambda c: inputs.short(c.typed))
def test_long_ones(case, desk):
    answer = inputs.ask(case.typed, desk)
    assert answer.code == case.ends and "Traceback" not in answer.text, answer.text
    assert case.ends == 0 or answer.line.startswith("error: ")


def test_the_page_has_every_input():
    rows = inputs.known(ROOT / "docs" / "inputs.md")
    assert [inputs.short(c.typed) for c in TYPED if not all(rows.get(inputs.short(c.typed), ("", "")))] == []
