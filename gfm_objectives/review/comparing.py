"""Two maps of one ground, before the new one is put to use: what changed, and what got worse where labels are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives import disk
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.metrics import confusion, miou
from gfm_objectives.predict.ground import Files
from gfm_objectives.predict.scene import codes_to_labels, mosaic
from gfm_objectives.review.maps import ReadMap, read_map
from gfm_objectives.review.words import polygon, table, write_geojson
from gfm_objectives.sensors import Legend

TILE = 256  # pixels a side of the fixed tiles on which a regression is looked for
WORSE = 0.05  # of a tile's labelled pixels that the new map has wrong and the old one right, on balance
LEAST = 100  # labelled pixels of a tile


def compare(old: str, new: str, labels: list[str], out: Path) -> dict[str, Any]:
    """Changed areas by class, and on labelled tiles what was lost; printed, and written to `out`."""
    a, b = read_map(old), read_map(new)
    if a.classes != b.classes:
        raise InputError(f"compare: {old} has the classes {', '.join(a.classes)}, {new} {', '.join(b.classes)}")
    if (a.ground.height, a.ground.width) != (b.ground.height, b.ground.width) or a.ground.offset(b.ground) != (0, 0):
        raise InputError(f"compare: {old} and {new} are not on the same pixels; map the same scene with both models")
    k = len(a.classes)
    changes = np.zeros((k, k), np.int64)
    confusions = np.zeros((2, k, k), np.int64)
    lost: list[dict[str, Any]] = []
    files, paths = Files(a.ground), [Path(p) for p in labels]
    for (top, x), (_, y) in zip(a.strips(TILE), b.strips(TILE), strict=True):
        both = (x >= 0) & (y >= 0)
        changes += np.bincount(x[both].astype(np.int64) * k + y[both], minlength=k * k).reshape(k, k)
        if paths:
            box = (top, 0, *x.shape)
            truth = codes_to_labels(
                mosaic(files, paths, [1], box, "nearest")[0], Legend("map", a.classes, a.codes)
            ).numpy()
            truth[~both] = -1
            confusions += np.stack([_confusion(m, truth, k) for m in (x, y)])
            lost += _lost(a, top, x, y, truth)
    km2 = (a.gsd / 1000) ** 2
    found: dict[str, Any] = {
        "changed_km2": float((changes.sum() - changes.trace()) * km2),
        "changed_share": float(1 - changes.trace() / max(changes.sum(), 1)),
        "from_to_km2": (changes * km2).tolist(),
        "classes": a.classes,
    }
    print(f"changed: {found['changed_km2']:.4g} km2, {found['changed_share']:.2%} of what both maps show")
    rows = [
        {"class": c, "old km2": f"{changes[i].sum() * km2:.4g}", "new km2": f"{changes[:, i].sum() * km2:.4g}"}
        | {
            "lost": f"{(changes[i].sum() - changes[i, i]) * km2:.4g}",
            "gained": f"{(changes[:, i].sum() - changes[i, i]) * km2:.4g}",
        }
        for i, c in enumerate(a.classes)
    ]
    print(table(rows))
    if paths and not confusions.any():
        told = f"labels: no pixel of {new} has one: none lies there, or none is a code of the map"
        warnings.warn(told, InputWarning, stacklevel=2)
    elif paths:
        found["miou"] = [miou(torch.from_numpy(c)) for c in confusions]
        worse = sorted((t for t in lost if t["lost"] > WORSE), key=lambda t: -t["lost"])
        found |= {"tiles": len(lost), "regressions": len(worse)}
        print(f"on {len(lost)} labelled tiles: mIoU {100 * found['miou'][0]:.1f} -> {100 * found['miou'][1]:.1f}")
        print(f"  {len(worse)} tiles are worse by more than {WORSE:.0%} of their labelled pixels")
        write_geojson(out / "regressions.geojson", [polygon(t.pop("ring"), t) for t in worse])
    disk.write(out / "compare.json", json.dumps(found, indent=1) + "\n")
    print(f"  -> {out}")
    return found


def _confusion(said: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    keep = truth >= 0
    one = torch.from_numpy(said[keep].astype(np.int64))[None], torch.from_numpy(truth[keep].astype(np.int64))[None]
    return confusion(*one, k)[0].numpy()


def _lost(m: ReadMap, top: int, x: np.ndarray, y: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Of each labelled tile of a strip, the share of its labels that were right and are wrong, less the reverse."""
    out = []
    for left in range(0, x.shape[1], TILE):
        part = slice(None), slice(left, left + TILE)
        known = truth[part] >= 0
        if (n := int(known.sum())) < LEAST:
            continue
        before, after = ((z[part] == truth[part]) & known for z in (x, y))
        bottom, right = top + x.shape[0], min(left + TILE, x.shape[1])
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        ring = [m.lonlat(r, c) or (c, r) for r, c in corners]
        about = {
            "row": top,
            "column": left,
            "labelled": n,
            "old": float(before.sum() / n),
            "new": float(after.sum() / n),
        }
        out.append(about | {"lost": about["old"] - about["new"], "ring": ring})
    return out
