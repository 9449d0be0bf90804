"""Which data sets of the table are on disk, and what a person is told of those that are not."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from gfm_objectives.config import load_choice
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.torchgeo.adapter import locate
from gfm_objectives.data.torchgeo.dataset import AbsentData, Dataset
from gfm_objectives.data.torchgeo.table import DATASETS, PRETRAINING
from gfm_objectives.errors import InputError


def absent(options: Mapping[str, Any]) -> str | None:
    """Why the data of these options cannot be read here; None where it is there, or is of no row of the table."""
    row = DATASETS.get(str(options.get("name")))
    if row is None:
        return None
    try:
        locate(row, str(options.get("root")))
    except AbsentData as reason:
        return str(reason)
    return None


def listing(roots: Mapping[str, str]) -> str:
    """What `gfm data list` prints. roots: name -> data.root, where the configs look."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150, file=io.StringIO())
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for column in ("data=", "what", "for", "sensors", "layers", "on disk", "GB", "reader checked against"):
        table.add_column(column, overflow="fold")
    lacking = []
    for name, row in DATASETS.items():
        there = _there(row, roots[name])
        table.add_row(
            name,
            row.title,
            "pretraining" if row in PRETRAINING else "task",
            ", ".join(row.sensors),
            ", ".join(row.layers) or "-",
            "yes" if there is None else "no",
            f"{row.gigabytes:g}",
            row.seen,
        )
        lacking += [] if there is None else [f"  {there}"]
    console.print(table)
    console.print("Beside these, in docs/torchgeo.md and docs/chips.md: mmearth, oscd, chips (a folder of your own).")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    if "GFM_DATA" not in os.environ:
        text += "\nThe environment variable GFM_DATA is not set: export GFM_DATA=/folder/of/the/data\n"
    elif not os.path.isdir(os.environ["GFM_DATA"]):
        text += f"\nGFM_DATA={os.environ['GFM_DATA']} is no folder: export GFM_DATA=/folder/of/the/data\n"
    return text + ("\nNot on disk:\n" + "\n".join(lacking) if lacking else "")


def _there(row: Dataset, root: str) -> str | None:
    reason = absent({"name": row.name, "root": root})
    if reason is None:
        return None
    try:
        where = str(find_folder(root))
    except InputError:
        where = root
    return row.absent(where)


def main(words: list[str]) -> str:
    """What `gfm data list` prints."""
    return listing({name: load_choice("data", name)["root"] for name in DATASETS})
