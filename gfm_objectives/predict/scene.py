"""A scene: the sensors, dates and files that a map is made of, on one ground, read in blocks as raw batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.validity import BITS
from gfm_objectives.predict.ground import Files, Ground
from gfm_objectives.runs.segmenter import Card
from gfm_objectives.sensors import Legend

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True, slots=True)
class Quality:
    """A band that flags pixels not to be used: any of `bits` set, or one of `values`."""

    band: int
    bits: tuple[int, ...]
    values: tuple[int, ...]

    def raised(self, flags: np.ndarray) -> np.ndarray:
        counted = np.abs(flags) < 2.0**BITS  # neither NaN nor more than a code can be
        codes = np.where(counted, flags, 0).astype(np.int64)
        mask = sum(1 << b for b in self.bits)
        return ~counted | ((codes & mask) != 0) | np.isin(codes, self.values)


@dataclass(frozen=True, slots=True)
class Image:
    """One date of one sensor. parts: (files of a mosaic, the first with data wins; band -> number in each of them);
    stored * scale + offset is in the sensor's unit; quality lies in the first part's files."""

    parts: tuple[tuple[tuple[Path, ...], dict[str, int]], ...]
    day: float
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    quality: Quality | None = None

    @property
    def files(self) -> list[Path]:
        return [f for files, _ in self.parts for f in files]


@dataclass(frozen=True, slots=True)
class Scene:
    """sensor -> its dates, in the model's order of sensors; the map, where the model reads it: (files, its legend);
    unseen: sensors whose unit nobody could look at yet."""

    ground: Ground
    gsd: float
    images: dict[str, list[Image]]
    card: Card
    map: tuple[tuple[Path, ...], Legend] | None = None
    notes: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        found = [f for dates in self.images.values() for image in dates for f in image.files]
        return list(dict.fromkeys([*found, *(self.map[0] if self.map else ())]))

    def reader(self) -> Callable[[Box], Batch]:
        """What reads the window `box` as a raw batch of one, for one thread."""
        files = Files(self.ground)
        return lambda box: self._read(files, box)

    def _read(self, files: Files, box: Box) -> Batch:
        sensors = {}
        for name, dates in self.images.items():
            bands = self.card.spec.bands[name]
            parts = [_date(files, image, bands, box) for image in dates]
            x = torch.from_numpy(np.stack(parts))[None]  # (1, T, C, h, w), NaN = invalid
            day = torch.tensor([[image.day for image in dates]])
            sensors[name] = Series(x, x.isfinite().all(2), day, bands, self.card.levels.get(name, ""))
        targets = {}
        if self.map is not None:
            targets["map"] = codes_to_labels(mosaic(files, self.map[0], [1], box, "nearest")[0], self.map[1])[None]
        return Batch(sensors, targets, torch.tensor([self.gsd]))


def _date(files: Files, image: Image, bands: Sequence[str], box: Box) -> np.ndarray:
    """(C, h, w) in the sensor's unit, NaN where any band has nothing or a flag is raised."""
    out = np.empty((len(bands), *box[2:]), np.float32)
    for paths, numbers in image.parts:
        mine = [b for b in bands if b in numbers]
        values = mosaic(files, paths, [numbers[b] for b in mine], box, "bilinear", image.nodata)
        out[[bands.index(b) for b in mine]] = values
    out *= np.float32(image.scale)
    out += np.float32(image.offset)
    bad = ~np.isfinite(out).all(0)
    if image.quality is not None:
        flags = mosaic(files, image.parts[0][0], [image.quality.band], box, "nearest")[0]
        bad |= image.quality.raised(flags)
    out[:, bad] = np.nan
    return out


def mosaic(
    files: Files, paths: Sequence[Path], bands: list[int], box: Box, how: str, nodata: float | None = None
) -> np.ndarray:
    """(C, h, w) float32: at each pixel the first file with data there; NaN where none has."""
    out: np.ndarray | None = None
    for path in paths:
        values = files.read(path, bands, box, how, nodata)
        if values is None:
            continue
        if out is None:
            out = values
        else:
            hole = np.isnan(out).any(0)
            out[:, hole] = values[:, hole]
        if not np.isnan(out).any():
            break
    return np.full((len(bands), *box[2:]), np.nan, np.float32) if out is None else out


def codes_to_labels(codes: np.ndarray, legend: Legend) -> torch.Tensor:
    """File codes (H, W) float, NaN = nothing, to labels (H, W) long, -1 where it is no code of the legend."""
    lookup = legend.lookup()
    values, where = np.unique(codes, return_inverse=True)
    table = np.array([-1 if v != v else lookup.get(int(v), -1) for v in values.tolist()], np.int64)
    return torch.from_numpy(table[where].reshape(codes.shape))
