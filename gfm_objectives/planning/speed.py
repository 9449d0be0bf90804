"""How fast a device will train: an MFU, and where it comes from: given, measured on a GPU before, or assumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from gfm_objectives.device import PEAKS
from gfm_objectives.errors import InputError
from gfm_objectives.planning.cards import Card

# Of a wide ViT on a GPU; narrow encoders stay far below. PaLM reached 0.46, GPT-3 0.21, Gopher 0.33 (Chowdhery et al.
# 2022, arXiv:2204.02311, table 3).
ASSUMED = 0.3
ROW = {"encoder", "objective", "batch", "flops_per_s", "device"}  # what a row must have to be of use here
PAGE = {"encoder", "objective", "batch", "FLOP/s"}  # the same of a row of benchmarks/gpu.py
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Speed:
    """mfu: model FLOPs over the dense peak of the data sheet; source: given, measured, carried over or assumed; about:
    the rest of what a reader must know of it."""

    mfu: float
    source: str
    about: str


def speed_of(card: Card, encoder: str, objective: str, batch: int, mfu: float | None, measured: str | None) -> Speed:
    """`mfu` if it is given; else of the measured row that fits best; else ASSUMED.

    measured: a JSON file of rows, such as benchmarks/gpu.py writes, or a folder of such files; None = none. A row of
    this card, encoder and objective is taken first, then of another objective, then of another card, whose MFU is
    carried over; among equals that of the nearest batch, compiled before not. InputError for a file that is no such
    table.
    """
    if mfu is not None:
        return Speed(mfu, "given", "mfu=")
    rows = [] if card.type == "cpu" or measured is None else [*_rows(Path(os.path.expanduser(measured)))]

    def on_card(r: Row) -> bool:
        return _peak_key(r["device"]) is not None and PEAKS[_peak_key(r["device"])] == card.peak  # type: ignore[index]

    tests: list[tuple[str, Callable[[Row], bool]]] = [
        ("measured", lambda r: on_card(r) and r["objective"] == objective),
        ("measured with another objective", on_card),
        ("measured on another card", lambda r: r["objective"] == objective),
        ("measured on another card with another objective", lambda r: True),
    ]
    known = [r for r in rows if r["encoder"] == encoder and _peak_key(r["device"])]
    for source, test in tests:
        if fitting := [r for r in known if test(r)]:
            best = min(fitting, key=lambda r: (abs(log(r["batch"] / batch)), not r.get("compiled")))
            peak = PEAKS[_peak_key(best["device"])]  # type: ignore[index]
            compiled = "compiled" if best.get("compiled") else "not compiled"
            about = f"{best['objective']} in batches of {best['batch']}, {compiled}, {best['device']} ({best['file']})"
            return Speed(best["flops_per_s"] / peak, source, about)
    where = "nothing was measured"
    if measured and card.type != "cpu":
        there = Path(os.path.expanduser(measured)).exists()
        where = f"no row of {encoder} in {measured}" if there else f"there is no {measured} here"
    return Speed(ASSUMED, "ASSUMED", f"{where}; mfu= sets it")


def _peak_key(device: str) -> str | None:
    return next((key for key in PEAKS if key in device), None)


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of those files of a folder that are such tables."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    for file in files:
        try:
            rows = _table(json.loads(file.read_text()))
        except ValueError:
            raise InputError(f"measured={file}: no JSON; bring it back, or give measured=null") from None
        if rows is None and file == path:
            raise InputError(f"measured={file}: expected a list of rows with {', '.join(sorted(ROW))}")
        for row in rows or ():
            if not all(isinstance(row[k], int | float) and row[k] > 0 for k in ("batch", "flops_per_s")):
                raise InputError(f"measured={file}: batch and flops_per_s must be positive numbers in every row")
            yield row | {"file": str(file)}


def _table(content: Any) -> list[Row] | None:
    """A list of rows as it is; of a page of benchmarks/gpu.py the rows that tell the speed of an encoder with an
    objective; None for anything else."""
    if isinstance(content, dict) and isinstance(content.get("sections"), dict):
        found = [row for rows in content["sections"].values() for row in rows if row.keys() >= PAGE]
        return [row | {"flops_per_s": row["FLOP/s"], "device": content["device"]} for row in found]
    of_use = isinstance(content, list) and all(isinstance(row, dict) and row.keys() >= ROW for row in content)
    return content if of_use else None
