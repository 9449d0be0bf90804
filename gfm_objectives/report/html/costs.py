"""What every contender cost: FLOPs, hours, kWh, euro, from the stored runs and the ledgers of pretraining."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from gfm_objectives.report import words
from gfm_objectives.report.html.parts import row, table
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score

# Watts of a device at work, as its maker prints them; a CPU's thread: a server's socket over its threads, rounded up.
WATTS = {"H200": 700.0, "H100": 700.0, "A100": 400.0, "V100": 300.0, "L40S": 350.0, "threads": 6.0}
UNKNOWN = 300.0


def watts_of(devices: Sequence[str]) -> float:
    """An assumption, to be changed on the page: of the first device known."""
    for device in devices:
        for name, watts in WATTS.items():
            if name in device:
                threads = re.search(r"x (\d+) threads", device)
                return watts * (int(threads[1]) if threads and name == "threads" else 1)
    return UNKNOWN


def section(summary: Mapping[str, Any], scores: Sequence[Score], folder: Path, watts: float | None, euro: float) -> str:
    """The ledger as a table whose last two columns follow the two numbers above it."""
    assumed = watts or watts_of(summary["devices"])
    rows = []
    for r in summary["resources"]:
        hours, kwh = _spent(r, scores, folder)
        cells = [r["contender"], str(r["runs"])]
        cells += [words.flops(r[k]) for k in ("pretrain_flops", "search_flops", "finetune_flops", "tuning_flops")]
        cells += [words.count(r["parameters"]), "unknown" if hours is None else f"{hours:.2g}"]
        data = f'data-hours="{"" if hours is None else f"{hours:.6g}"}"' + (f' data-kwh="{kwh:.6g}"' if kwh else "")
        rows.append(row([*cells, ("", 'class="kwh"'), ("", 'class="money"')], data))
    head = ["contender", "runs", "pretraining FLOPs, P", "its trials", "fine-tuning FLOPs", "its trials", "parameters"]
    head += ["hours", "kWh", "euro"]
    inputs = (
        f'<label>watts of the device <input class="watts" type="number" min="0" step="any" value="{assumed:g}"></label>'
        f'<label>euro per kWh <input class="price" type="number" min="0" step="any" value="{euro:g}"></label>'
    )
    note = (
        "Hours, kWh and euro of one pretraining and one fine-tuning, without trials. kWh are measured where the device "
        "told them, else hours x the watts above, which are an assumption: type yours."
    )
    body = f'<div class="pickers">{inputs}</div>{table(head, rows, "costs")}<p class="note">{note}</p>'
    return f'<div class="costs">{body}</div>'


def _spent(resources: Mapping[str, Any], scores: Sequence[Score], folder: Path) -> tuple[float | None, float | None]:
    """Hours of a pretraining and a fine-tuning; kWh of both where pretraining's was measured. None: not known."""
    hours = (resources["seconds"] or 0.0) / 3600
    runs = sorted({s.pretrain_run for s in scores if s.contender == resources["contender"] and s.pretrain_run})
    if not runs:
        return hours, None
    ledgers = [Ledger.read(p) for r in runs if (p := folder / "ledgers" / f"{r}.json").exists()]
    if not ledgers:
        return None, None
    before = mean(x.seconds for x in ledgers) / 3600
    joules = [x.energy_joules for x in ledgers]
    if None in joules or not before:
        return hours + before, None
    kwh = mean(j for j in joules if j is not None) / 3.6e6
    return hours + before, kwh * (hours + before) / before
