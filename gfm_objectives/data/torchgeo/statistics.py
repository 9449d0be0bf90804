"""Means and deviations of a data set's own training list, as PANGAEA's protocol normalises: of no other tile, kept with
a hash of that list, and refused once the list is another.

Marsocci et al. 2024, https://arxiv.org/abs/2412.04204, normalise each task by statistics of its training set. What they
print is not used here: several figures are wrong, and the lists of some tasks are not published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import SENSORS

FORMAT = 1
PROTOCOLS = ("pangaea",)
Figures = dict[str, dict[str, list[float]]]  # sensor -> band -> [mean, deviation], in the sensor's unit


def hash_of(names: Sequence[str]) -> str:
    """Of the tiles of a list, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def of_list(path: Path, name: str, names: Sequence[str], read: Callable[[], Iterable[Batch]]) -> Figures:
    """The figures in `path`, or those of the raw tiles that `read` gives, which are then kept there.

    name: of the data set; names: of its training tiles. InputError where the file is damaged, or of another list.
    """
    now = hash_of(names)
    if not path.is_file():
        figures = fit(read())
        about = {"format": FORMAT, "data": name, "tiles": len(names), "list": now, "figures": figures}
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, json.dumps(about, indent=1) + "\n")
    try:
        about = json.loads(path.read_text())
        known = (about["format"], about["data"], about["tiles"], about["list"])
        figures = {s: {b: [float(m), float(d)] for b, (m, d) in row.items()} for s, row in about["figures"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: holds no statistics of a training list; delete it, and they are made anew") from None
    if known != (FORMAT, name, len(names), now):
        raise InputError(
            f"{path}: is of {known[2]} training tiles of {known[1]} (list {str(known[3])[:8]}), and the train list is "
            f"now {len(names)} of {name} ({now[:8]}); bring that list back, or delete the file to start anew: scores "
            "of before will not compare"
        )
    return figures


def fit(tiles: Iterable[Batch]) -> Figures:
    """Mean and deviation of every band over all valid pixels of raw tiles, in float64; InputError where a sensor has
    none. Sensors of classes, and those that lose their tile's own mean, keep the figures of the table."""
    sums: dict[str, Any] = {}
    bands: dict[str, tuple[str, ...]] = {}
    for tile in tiles:
        for name, s in tile.sensors.items():
            if SENSORS[name].of_classes or SENSORS[name].centred:
                continue
            x = s.x.double().movedim(2, -1)[s.valid].numpy()  # (valid pixels, C)
            bands[name] = s.bands
            sums[name] = sums.get(name, 0.0) + np.stack([np.full(x.shape[1], len(x)), x.sum(0), np.square(x).sum(0)])
    out: Figures = {}
    for name, (count, total, squares) in sums.items():
        if not count[0]:
            raise InputError(f"{name}: no training tile has a valid pixel, so that it has no mean; mend the files")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # of a band that is the same everywhere
        out[name] = {b: [float(m), float(d)] for b, m, d in zip(bands[name], mean, std, strict=True)}
    return out


def check(protocol: str | None, statistics: str | None) -> None:
    if protocol is not None and protocol not in PROTOCOLS:
        raise InputError(f"data.protocol={protocol}: no such protocol; choose from {', '.join(PROTOCOLS)}, or null")
    if statistics is not None and protocol is None:
        raise InputError("data.statistics: says where statistics are kept; it needs data.protocol=pangaea")
