"""What the README shows works as shown."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from conftest import NANO

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import compose
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.report import pages

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ("index", "objective", "real_data", "torchgeo", "training")
HOW_TO = (ROOT / "docs" / "objective.md").read_text()


def test_the_example_objective_trains(spec: Spec, batch: Batch) -> None:
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", HOW_TO, re.S) if "class Blur" in b)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    torch.manual_seed(0)
    objective = names["Blur"](Encoder.from_config(NANO, spec), spec, mask_ratio=0.5)  # type: ignore[operator]
    loss = objective(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert objective.encoder.vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_every_command_is_a_valid_one(monkeypatch) -> None:
    """Keys and choices of each `train.py` and `eval.py` line exist; folders need not."""
    monkeypatch.setenv("GFM_DATA", "/data")
    pages = [README, *((ROOT / "docs" / f"{page}.md").read_text() for page in PAGES)]
    text = "\n".join(pages).replace("\\\n", " ")
    commands = re.findall(r"(?:uv run|python) (train|eval)\.py ([^`\n]*)", text)
    assert len(commands) >= 12
    for entry, rest in commands:
        words = [w for w in rest.split() if "=" in w and not w.startswith(("#", "config=", "("))]
        own = {"objective=blur", "data=mine.yaml"} & {*words}  # the reader's own
        assert own or compose(entry, words)


def test_tables_and_reports_are_those_of_the_results(tmp_path) -> None:
    """`gfm reproduce readme` would change nothing."""
    root = Path(__file__).parents[1]
    for name in ("README.md", "docs", "results"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copyfile
        copy(root / name, tmp_path / name)
    assert pages.MARK.search((root / "docs" / "results.md").read_text()) and not pages.MARK.search(README)  # one screen
    assert pages.reproduce(tmp_path) == []
