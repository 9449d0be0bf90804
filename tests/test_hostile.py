"""Files and words that mean harm: refused in one line, and nothing of theirs is executed. See SECURITY.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_objectives.config import compose
from gfm_objectives.errors import InputError

YAMLS = {
    "call": "name: !!python/object/apply:os.system ['touch executed']\n",
    "new": "name: !!python/object/new:subprocess.Popen [['touch', 'executed']]\n",
    "module": "name: !!python/name:os.system\nroot: .\n",
    "resolver": "name: chips\nroot: ${oc.create:executed}\nuse: ${python:1}\n",
    "aliases": "name: chips\na: &a [x, x, x, x, x, x, x, x, x]\n"  # of nine lines, 9 ** 9 values
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in ("ab", "bc", "cd", "de", "ef", "fg", "gh", "hi")),
    "tag": "name: !!timestamp x\n",
    "word": "false\n",
    "loop": "name: chips\na: &a [*a]\n",
    "deep": "name: " + "[" * 5000,
}


@pytest.mark.parametrize("kind", YAMLS)
@pytest.mark.parametrize("word", ["data={}", "objective={}", "config={}"])
def test_a_yaml_executes_nothing(kind, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(YAMLS[kind])
    with pytest.raises(InputError) as error:
        compose("train", [word.format("bad.yaml")])
    assert "\n" not in str(error.value) and not Path("executed").exists()


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", ".", "-rf", "$HOME", "a\x00b", "a\nb"])
def test_a_name_is_one_folder(name):
    with pytest.raises(InputError, match=r"must be a folder name|null character"):
        compose("train", [f"name={name}"])


def test_words_that_are_no_text_are_refused():
    """As a file name of other bytes is handed over."""
    with pytest.raises(InputError, match=r"runs=a.b: holds bytes that are no UTF-8"):
        compose("train", ["runs=a\udcffb"])


@pytest.mark.parametrize("text", ["x > __import__('os').system('touch executed')", "x > (1)", "x.y > 1; x"])
def test_a_range_is_not_evaluated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f'use: mae\nname: mae\nranges: {{mask_ratio: "{text}"}}\n')
    with pytest.raises(InputError, match="not a range"):
        compose("train", ["objective=mine.yaml"])
    assert not Path("executed").exists()
