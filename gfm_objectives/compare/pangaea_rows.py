"""What protocol=pangaea writes: a row for each run, figures as PANGAEA has and had them, and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS, iou

UNET = "PANGAEA's U-Net"
# Classes that PANGAEA counted when its paper was written although their pixels are ignored: of PASTIS void, of
# FiveBillionPixels unlabelled. They are in no prediction of ours, and their IoU is 0.
IGNORED = {"pastis": 1, "five_billion_pixels": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run. figure: of the test tiles, mIoU as PANGAEA's code has it now (a class that is nowhere has IoU 0), or RMSE;
    paper: as when it was published, over ignored classes too; ours: as protocol=equal_compute has it. labels_hash: of
    the places learned from; fingerprint: of the task, its splits and data; gflop: of a place, forward."""

    task: str
    fraction: float
    row: str
    seed: int
    metric: str
    figure: float
    paper: float
    ours: float
    val: float
    labels: int
    labels_hash: str
    epochs: int
    parameters: int
    trainable_parameters: int
    gflop: float
    seconds: float
    fingerprint: str
    synthetic: bool

    @property
    def key(self) -> tuple[Any, ...]:
        return self.task, self.fraction, self.row, self.seed, self.labels_hash, self.fingerprint, self.epochs


def versions(task: str, confusion: Tensor) -> tuple[float, float]:
    """mIoU in 0..1 of a confusion matrix (K, K), as PANGAEA's code has it now and as its paper has it."""
    each = iou(confusion).nan_to_num(0)
    return float(each.mean()), float(each.sum() / (len(each) + IGNORED.get(task, 0)))


def read(path: Path) -> list[Row]:
    """The rows of a pangaea.csv; none where there is no such file."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="") as file:
        for values in csv.DictReader(file):
            try:
                rows.append(Row(**{f.name: json.loads(values[f.name]) for f in fields(Row)}))
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}: is damaged, or of another version; move it away to start anew") from None
    return rows


def table(rows: Sequence[Row]) -> str:
    """As csv, each value as JSON has it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([f.name for f in fields(Row)])
    writer.writerows([json.dumps(v) for v in asdict(row).values()] for row in rows)
    return file.getvalue()


def page(name: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Markdown: a line for each task, share of the labels and network."""
    lines = [
        f"# {name}: PANGAEA's protocol",
        "",
        "Frozen encoders under a UPerNet and PANGAEA's U-Net from scratch, untuned, means over seeds. mIoU in %: as "
        "PANGAEA's code has it now (absent classes count 0), as its paper has it (ignored classes too), and as "
        "protocol=equal_compute has it. Neither FLOPs nor means are equal here.",
        "",
        "| task | labels | network | seeds | metric | now | paper | ours | over the U-Net | trained of all parameters "
        "| GFLOP a place | seconds |",
        "|---|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cells = dict.fromkeys((r.task, r.fraction, r.row) for r in rows)
    mean = {cell: _mean([r for r in rows if (r.task, r.fraction, r.row) == cell]) for cell in cells}
    for (task, fraction, row), m in mean.items():
        base, better = mean.get((task, fraction, UNET)), METRICS[m["metric"]].better
        scale = 100 if m["metric"] == "miou" else 1
        gain = f"{better * scale * (m['figure'] - base['figure']):+.2f}" if base and row != UNET else ""
        figures = " | ".join(f"{scale * m[k]:.2f}" for k in ("figure", "paper", "ours"))
        size = f"{m['trainable_parameters'] / 1e6:.2f} of {m['parameters'] / 1e6:.2f} M"
        about = f"{task}{' (synthetic)' if m['synthetic'] else ''} | {100 * fraction:g} %, {m['labels']:g}"
        lines.append(
            f"| {about} | {row} | {m['seeds']} | {m['metric']} | {figures} | {gain} | {size} | {m['gflop']:.3g} | "
            f"{m['seconds']:.0f} |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _mean(rows: Sequence[Row]) -> dict[str, Any]:
    first = asdict(rows[0])
    numbers = ("figure", "paper", "ours", "gflop", "seconds")
    return first | {k: sum(getattr(r, k) for r in rows) / len(rows) for k in numbers} | {"seeds": len(rows)}
