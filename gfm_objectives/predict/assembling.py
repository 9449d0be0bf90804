"""From finished blocks to the map: its files, its score, its seams and its areas, told and written."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives import disk
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.metrics import METRICS, total
from gfm_objectives.predict.job import Job
from gfm_objectives.predict.predictor import kind_of_card
from gfm_objectives.predict.raster import (
    NOTHING,
    SHARE,
    beside,
    class_codes,
    describe_classes,
    finish,
    profile,
    provenance,
    write_names,
    writing,
)
from gfm_objectives.predict.scene import Scene
from gfm_objectives.predict.seams import Seams
from gfm_objectives.predict.tiling import Tiling
from gfm_objectives.runs.segmenter import Card


@dataclass(frozen=True, slots=True)
class Map:
    """What a map is made of, when all its blocks are done. begun: time.process_time() when the command began."""

    card: Card
    scene: Scene
    tiling: Tiling
    job: Job
    extra: tuple[str, ...]
    segmentation: bool
    model: str
    digest: str
    begun: float


def assemble(m: Map, target: Path, seconds: Mapping[str, float]) -> None:
    """Write the rasters, `<map>.json` with what was found, and tell it."""
    begun = time.perf_counter()
    _check_room(m, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    found, spent = Found(m), dict(seconds)

    def tell() -> None:
        """The files beside the map, when it is complete and before it has its name."""
        if m.segmentation:
            write_names(target, class_codes(m.card.legend)[0], m.card.legend)
        spent["write"] = time.perf_counter() - begun
        cpu = time.process_time() - m.begun
        about = found.report() | {"seconds": spent, "cpu_seconds": cpu, "model": m.model, "digest": m.digest}
        disk.write(target.with_name(target.name + ".json"), json.dumps(about, indent=1) + "\n")

    for name in (*m.extra, "map"):  # the map last: whoever finds it finds all
        final = target if name == "map" else beside(target, name)
        part = m.job.folder / f".{name}.{os.getpid()}.tif"  # several jobs may come last
        try:
            _write(m, name, part, found if name == "map" else None)
            resampling = "nearest" if name == "map" and m.segmentation else "average"
            finish(part, final, resampling, tell if name == "map" else None)
        finally:
            part.unlink(missing_ok=True)
    if not found.mapped:
        told = f"{target}: nothing is mapped: the input has no data there; nodata= and valid: say what counts as none"
        warnings.warn(told, InputWarning, stacklevel=2)
    if found.stats is not None and not found.labelled:
        told = f"labels: no pixel of {target} has one: none lies there, or none is a code of {m.card.legend.name}"
        warnings.warn(told, InputWarning, stacklevel=2)
    print("\n".join([*found.lines(), _shares(spent, found.pixels * (m.scene.gsd / 1000) ** 2)]))


def _write(m: Map, name: str, part: Path, found: Found | None) -> None:
    codes, nothing = class_codes(m.card.legend) if m.segmentation else (np.zeros(0, np.float32), float("nan"))
    dtype, empty = (codes.dtype, nothing) if name == "map" else (np.dtype(np.uint8), NOTHING)
    from rasterio.windows import Window

    with writing(part, profile(m.scene.ground, dtype, empty)) as file:
        if name != "map":
            file.scales = (1 / SHARE,)
            file.set_band_description(1, name)
        elif m.segmentation:
            describe_classes(file, m.card, codes)
        file.update_tags(**provenance(m.card, m.model, m.digest, m.scene.gsd))
        for number in range(len(m.tiling)):
            top, left, height, width = m.tiling.box(number)
            arrays = m.job.get(number)
            block = arrays.get(name)
            if block is None:
                block = np.full((height, width), empty, dtype)
            file.write(block, 1, window=Window(left, top, width, height))  # type: ignore[call-arg]
            if found is not None:
                found.add(number, block, arrays)


class Found:
    """What is counted of a map while it is written."""

    def __init__(self, m: Map) -> None:
        self.m, self.kind, self.pixels, self.mapped = m, kind_of_card(m.card), 0, 0
        self.codes: np.ndarray
        self.codes, self.nothing = class_codes(m.card.legend) if m.segmentation else (np.zeros(0), 0)
        self.counts = np.zeros(len(self.codes), np.int64)
        self.seams = Seams(m.tiling)
        self.stats: np.ndarray | None = None
        self.edge: np.ndarray | None = None

    def add(self, number: int, block: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        self.pixels += block.size
        self.mapped += int((block != self.nothing).sum() if self.m.segmentation else np.isfinite(block).sum())
        if self.m.segmentation:
            self.counts += np.array([(block == c).sum() for c in self.codes])
            self.seams.add(number, block, block != self.nothing)
        if "stats" in arrays:
            self.stats = arrays["stats"] + (0 if self.stats is None else self.stats)
            self.edge = arrays["edge"] + (0 if self.edge is None else self.edge)

    @property
    def labelled(self) -> bool:
        return self.stats is not None and bool(np.any(self.stats))

    def scores(self) -> dict[str, float]:
        if self.stats is None or not self.labelled:
            return {}
        return {k: total(METRICS[k], torch.as_tensor(self.stats)[None]) for k in self.kind.metrics}

    def errors(self) -> dict[str, float]:
        """At window borders and inside: the share of labelled pixels that is wrong, or the RMSE of numbers."""
        if self.stats is None or self.edge is None or not self.labelled:
            return {}
        out = {}
        for name, stats in (("at_borders", self.edge), ("inside", self.stats - self.edge)):
            metric = METRICS["accuracy" if self.m.segmentation else "rmse"]
            value = total(metric, torch.as_tensor(stats)[None])
            out[name] = 1 - value if self.m.segmentation else value
        return out

    def report(self) -> dict[str, Any]:
        area = (self.m.scene.gsd / 1000) ** 2
        areas = (
            dict(zip(self.m.card.legend.classes, (self.counts * area).tolist(), strict=True))
            if self.m.segmentation
            else {}
        )
        return {"scores": self.scores(), "errors": self.errors(), "seams": self.seams.shares(), "mapped_km2": areas}

    def lines(self) -> list[str]:
        about, out = self.report(), []
        if about["mapped_km2"]:
            mapped = ", ".join(f"{k} {v:.4g}" for k, v in about["mapped_km2"].items())
            out.append(f"mapped km2 (counted, so biased as the map is; gfm review sample= estimates): {mapped}")
        if about["seams"]:
            told = ", ".join(f"{v:.2%} {k}" for k, v in about["seams"].items())
            out.append(f"neighbours of different classes: {told}")
        if about["scores"]:
            told = ", ".join(f"{METRICS[k].title} {METRICS[k].scale * v:.4g}" for k, v in about["scores"].items())
            out.append(f"score of the stitched map: {told}")
            unit = "wrong" if self.m.segmentation else "RMSE"
            edge, inside = (f"{v:.2%}" if self.m.segmentation else f"{v:.4g}" for v in about["errors"].values())
            out.append(f"  {unit} at window borders {edge}, inside {inside}")
        return out


def _shares(spent: Mapping[str, float], km2: float) -> str:
    """Of all time that the command took; what was read while something else was done is told apart."""
    whole = sum(v for k, v in spent.items() if k != "read")
    parts = {"read (waited for)": spent["wait"], **{k: spent[k] for k in ("infer", "assemble")}}
    parts["write"] = spent["keep"] + spent["write"]
    told = ", ".join(f"{k} {v / max(whole, 1e-9):.0%}" for k, v in parts.items())
    return f"{whole:.1f} s, {km2 / max(whole, 1e-9):.3g} km2/s: {told}; read in the background {spent['read']:.1f} s"


def _check_room(m: Map, target: Path) -> None:
    """The raster and its copy take about as much as the blocks, each: better told before than after."""
    folder = target.parent if target.parent.exists() else Path(".")
    need, free = 3 * m.job.nbytes, shutil.disk_usage(folder).free
    if free < need:
        raise InputError(
            f"{target}: some {need / 2**20:.0f} MiB are needed and {free / 2**20:.0f} free; make room, then the same "
            "command goes on"
        )
