"""Writes docs/speed.md from results/benchmarks/*.json and results/gpu/*.json: python benchmarks/page.py.

A file holds {"device", "versions", "sections": {heading: [rows as mappings]}}, and may hold "title", "command", "date"
and "notes", sentences made of its figures. No figure of the page is typed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import common

PAGE = common.ROOT / "docs" / "speed.md"
ORDER = ("peers", "loops", "steps", "launches", "finetuning", "inputs", "growth", "scene")
HEAD = """# Speed

Written by `python benchmarks/page.py` from what each command below left in `results/`. Sides of a comparison took turns
in one process; a ratio `x` is the median over rounds of two sides' samples per second in the same round, by CPU seconds
of the process where the device is a CPU that others use too. `GFLOP/s` is counted FLOPs (matrix products and
convolutions) per second, which is samples per second at equal FLOPs."""


def chapter(found: Mapping[str, Any], name: str, newest: Mapping[str, Any] | None = None) -> str:
    """One file's part of the page; name: of the file, the heading where it has no title. It says in bold where it was
    measured on another machine than `newest`, the file of the latest date."""
    parts = [f"## {found.get('title', name)}"]
    about = [f"`{found['command']}`"] if found.get("command") else []
    about += [str(found["device"]), *([found["date"]] if found.get("date") else [])]
    about += [f"{package} {number}" for package, number in found["versions"].items()]
    parts.append(", ".join(about) + ".")
    if newest and machine(found) != machine(newest):
        parts.append(
            f"**Measured on another machine than what is newest on this page ({told(newest)}): {told(found)}.**"
        )
    if found.get("notes"):
        parts.append("\n".join(f"- {note}" for note in found["notes"]))
    for heading, rows in found["sections"].items():
        parts += [f"### {heading}", common.table(rows) if rows else "Not run."]
    return "\n\n".join(parts)


def machine(found: Mapping[str, Any]) -> str:
    """The device without its number of threads."""
    return str(found["device"]).rsplit(" x ", 1)[0]


def told(found: Mapping[str, Any]) -> str:
    return f"{machine(found)}, {found.get('date', 'no date')}"


def chapters(files: Iterable[Path]) -> list[str]:
    """Of these files, which are of devices of one kind."""
    read = {path: json.loads(path.read_text()) for path in files}
    newest = max(read.values(), key=lambda found: str(found.get("date", "")), default=None)

    def rank(path: Path) -> tuple[int, str]:
        stem = path.stem.removesuffix("_cuda")
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), path.stem)

    return [chapter(read[path], path.stem, newest) for path in sorted(read, key=rank)]


def page(results: Path) -> str:
    """The page of what lies in `results`."""
    parts = [HEAD, *chapters((results / "benchmarks").glob("*.json"))]
    if of_gpu := chapters((results / "gpu").glob("*.json")):
        parts += ["# On GPUs", *of_gpu]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(common.ROOT / "results"))
