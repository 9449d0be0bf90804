"""Imports only point down: L0 < models < objectives, data, tasks < pretrain, finetune, ... < command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gfm_objectives"
LAYERS = (
    {"errors", "sensors", "batch", "config", "config_values", "usage", "budget", "metrics", "device"},
    {"models"},
    {"objectives", "data", "tasks"},
    {"pretrain", "finetune", "compare", "checkpoint", "gain", "intervals", "scores", "report"},
    {"cli", "__main__", "train.py", "eval.py"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
SIBLINGS = LAYERS[2]  # these never import each other
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"])


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
        if LEVEL[other] > LEVEL[part]:
            out.append(f"{part} (layer {LEVEL[part]}) imports {other} (layer {LEVEL[other]})")
        elif part in SIBLINGS and other in SIBLINGS:
            out.append(f"{part} imports its sibling {other}")
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    part = part_of(path)
    if part == "__init__":
        return  # the package's front door opens on any layer, when called
    assert part in LEVEL, f"{part}: give it a layer in this test and in DESIGN.md"
    assert not offences(part, imported_parts(ast.parse(path.read_text())))


def test_an_upward_and_a_sideways_import_are_seen():
    tree = ast.parse("def f():\n    from gfm_objectives.pretrain import run\nfrom gfm_objectives import tasks")
    assert imported_parts(tree) == {"pretrain", "tasks"}
    assert len(offences("data", {"pretrain", "tasks", "models", "data"})) == 2
