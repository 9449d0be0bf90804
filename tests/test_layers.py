"""Imports only point down: the ground < models < objectives, data, tasks < runs < ... < compare < command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gfm_objectives"
# Every room of the house, from the ground up; a room imports those of its own line only where a later line says so.
GROUND = (
    "errors",
    "disk",
    "lock",
    "sensors",
    "batch",
    "metrics",
    "chance",
    "config",
    "flops",
    "budget",
    "device",
    "svg",
    "allocations",
    "heap",
    "ranks",
    "signals",
)
SIBLINGS = ("objectives", "data", "tasks")  # these never import each other
# Where data and models meet: each may import the ones before it.
MEETING = (
    "runs",
    "training",
    "yardstick",
    "finetune",
    "pretrain",
    "planning",
    "scores",
    "gain",
    "scaling",
    "report",
    "curation",
    "compare",
    "inspection",
    "sweep",
)
OUT = ("predict", "review", "export")  # what is done with a kept model
TOP = ("cli", "__main__", "train.py", "eval.py")
LEVEL: dict[str, float] = dict.fromkeys(GROUND, 0) | {"models": 1} | dict.fromkeys(SIBLINGS, 2)
LEVEL |= {room: 3 + i / 100 for i, room in enumerate(MEETING + OUT)} | dict.fromkeys(TOP, 4)
FILES = sorted([*(ROOT / PACKAGE).rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"])


def level(part: str) -> float:
    """A room that is not named above has no place yet."""
    assert part in LEVEL, f"{part}: no such room; give it a line in tests/test_layers.py and in the design"
    return LEVEL[part]


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
    assert offences("gain", {"report"}) and not offences("report", {"gain"})
    with pytest.raises(AssertionError, match="no such room"):
        offences("attic", {"batch"})
