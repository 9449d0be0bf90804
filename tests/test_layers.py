"""Imports only point down: L0 < models < objectives, data, tasks < pretrain, finetune, ... < command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gfm_objectives"
BOTTOM = ("errors", "sensors", "batch", "budget", "metrics", "device", "provenance", "config")
SIBLINGS = ("objectives", "data", "tasks")  # these never import each other
TOP = ("cli", "__main__", "train.py", "eval.py")
LEVEL = dict.fromkeys(BOTTOM, 0) | {"models": 1} | dict.fromkeys(SIBLINGS, 2) | dict.fromkeys(TOP, 4)
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"])


def level(part: str) -> int:
    """0 for the bottom; 3, where data and models meet, for whatever is not named above."""
    return LEVEL.get(part, 3)


def part_of(path: Path) -> str:
    """The first name below the package: models, pretrain, ..."""
    relative = path.relative_to(ROOT)
    return relative.name if len(relative.parts) == 1 else relative.parts[1].removesuffix(".py")


def imported_parts(tree: ast.AST) -> set[str]:
    """The parts of the package that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {n.split(".")[1] for n in names if n.startswith(f"{PACKAGE}.")} - {"__version__"}


def offences(part: str, imported: set[str]) -> list[str]:
    out = []
    for other in imported - {part}:
        if level(other) > level(part):
            out.append(f"{part} (layer {level(part)}) imports {other} (layer {level(other)})")
        elif part in SIBLINGS and other in SIBLINGS:
            out.append(f"{part} imports its sibling {other}")
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    part = part_of(path)
    if part != "__init__":  # the package's front door opens on any layer, when called
        assert not offences(part, imported_parts(ast.parse(path.read_text())))


def test_an_upward_and_a_sideways_import_are_seen():
    tree = ast.parse("def f():\n    from gfm_objectives.pretrain import run\nfrom gfm_objectives import tasks")
    assert imported_parts(tree) == {"pretrain", "tasks"}
    assert len(offences("data", {"pretrain", "tasks", "models", "data"})) == 2
