"""Mosaics: overlapping collections of GeoTIFFs, such as scenes and a map, cut where all of them lie, through torchgeo.

What torchgeo writes as `Sentinel2(...) & NLCD(...)`: its RasterDatasets warp and merge files, whatever their tiling,
coordinates and resolution, and its intersection says where there is something of each.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.description import Image, parse_sensors
from gfm_objectives.data.folder import find_folder, fingerprint
from gfm_objectives.data.keys import number, whole
from gfm_objectives.data.labels import parse_layers
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.data.validity import NoData
from gfm_objectives.errors import InputError

SHARES = {"val": 0.1, "test": 0.1}


class Mosaics(Source):
    """Cells of size x size pixels of gsd metres, side by side, that lie wholly where every collection has a file.

    root: the folder; sensors and layers: as of chips, but `file` is a glob of many files that need no {chip}; the first
    sensor's coordinates, which must be in metres, are those of the grid. Where files overlap the first by name counts.
    block_km: cells of one block, of that side, are in one split and one area; shares: of the blocks, for val and test.
    InputError names what is missing; no day is told.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        gsd: float,
        sensors: Mapping[str, Any],
        layers: Mapping[str, Any] | None = None,
        size: int = 128,
        block_km: float = 20.0,
        shares: Mapping[str, float] | None = None,
        license: str = "",
    ) -> None:
        assert split in SPLITS, split
        self.license = license
        self._gsd, self._size = float(number("data.gsd", gsd)), whole("data.size", size, least=1)
        self._images, self._layers = parse_sensors(sensors), parse_layers(layers or {})
        for name, image in self._images.items():
            if image.quality is not None or image.inside > 1 or image.days:
                raise InputError(f"data.sensors.{name}: mosaics have one date and no quality band; chips have them")
        folder = find_folder(root)
        self._sets = self._open(folder)
        self._cells, areas = self._lay_out(float(number("data.block_km", block_km)) * 1000)
        kept = _split_of(areas, split, {**SHARES, **(shares or {})})
        self._cells, self._areas = self._cells[kept], [a for a, k in zip(areas, kept, strict=True) if k]
        if not len(self._cells):
            raise InputError(f"{folder}: the {split} split has no cell; make data.size, block_km or shares smaller")
        self.spec = Spec(
            bands={k: tuple(image.bands) for k, image in self._images.items()},
            dates=dict.fromkeys(self._images, 1),
            size=self._size,
            gsd=self._gsd,
            legends={k: layer.legend for k, layer in self._layers.items()},
        )
        figures = [repr(image.calibration) for image in self._images.values()]
        files = [Path(f) for d in self._sets.values() for f in d.index.filepath]
        described = json.dumps([sensors, layers, split, gsd, size, block_km, shares], default=dict, sort_keys=True)
        self.fingerprint = fingerprint(folder, files, described, figures, self._cells.tolist())

    def __len__(self) -> int:
        return len(self._cells)

    def groups(self) -> list[str]:
        return list(self._areas)

    def notes(self) -> list[str]:
        files = ", ".join(f"{k} {len(d.index)}" for k, d in self._sets.items())
        return [f"files: {files}; cells: {len(self)} in {len(set(self._areas))} blocks; {self._crs}"]

    def raw(self, indices: Sequence[int]) -> Batch:
        return collate([self._cell(*self._cells[i].tolist()) for i in indices])

    # ---------------------------------------------------------------- torchgeo

    def _open(self, folder: Path) -> dict[str, Any]:
        """Sensor or layer -> torchgeo's dataset of its files, all on the first one's coordinates."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # third parties' deprecations, at import
            from torchgeo.datasets import RasterDataset
        out: dict[str, Any] = {}
        self._crs: Any = None
        patterns = {k: v.file for k, v in self._images.items()} | {k: v.file for k, v in self._layers.items()}
        for name, pattern in patterns.items():
            files = sorted(str(p) for p in folder.glob(pattern) if p.is_file())
            if not files:
                raise InputError(f"{folder}: no file matches {pattern!r} of {name}; check data.root and the pattern")
            made = RasterDataset(files, crs=self._crs, res=self._gsd)
            if self._crs is None:
                self._crs = made.crs
                if self._crs is None or not self._crs.is_projected:
                    raise InputError(
                        f"{files[0]}: {self._crs} is not in metres; give scenes in a projection, such as UTM"
                    )
            made.is_image = name in self._images  # bilinear, or the nearest class
            out[name] = made
        return out

    def _lay_out(self, block: float) -> tuple[np.ndarray, list[str]]:
        """West and north of the cells (N, 2) in metres, from the top left, and the block of each."""
        import shapely

        first, *others = self._sets.values()
        common = first
        try:
            for other in others:
                common = common & other
        except RuntimeError:
            raise InputError(f"data.sensors and layers: {', '.join(self._sets)} nowhere overlap") from None
        where = shapely.union_all(common.index.geometry.values)
        west, south, east, north = where.bounds
        side = self._size * self._gsd
        xs = west + side * np.arange(math.floor((east - west) / side + 1e-6))
        ys = north - side * np.arange(math.floor((north - south) / side + 1e-6))
        x, y = (g.ravel() for g in np.meshgrid(xs, ys))
        cells = shapely.box(x + 1e-3, y - side + 1e-3, x + side - 1e-3, y - 1e-3)
        inside = shapely.contains(where, cells)
        x, y = x[inside], y[inside]
        blocks = zip(np.floor((x + side / 2) / block), np.floor((y - side / 2) / block), strict=True)
        return np.stack([x, y], 1), [f"{int(column)}_{int(row)}" for column, row in blocks]

    def _cell(self, west: float, north: float) -> Batch:
        side = self._size * self._gsd
        query = slice(west, west + side, self._gsd), slice(north - side, north, self._gsd)
        sensors, targets = {}, {}
        for name, made in self._sets.items():
            sample = made[query]
            if name in self._images:
                sensors[name] = self._series(self._images[name], sample["image"])
            else:
                codes = sample["mask"].numpy()
                layer = self._layers[name]
                codes = codes if codes.ndim == 2 else codes[layer.bands[0] - 1]
                hidden = np.zeros(codes.shape, bool)
                label = layer.of_codes(codes, Path(made.index.filepath.iloc[0]), hidden)
                targets[name] = torch.from_numpy(label)[None]
        return Batch(sensors, targets, torch.tensor([self._gsd]))

    def _series(self, image: Image, x: torch.Tensor) -> Series:
        """x (C, H, W) as stored. Beyond every file torchgeo's merge has 0."""
        x = (x if x.ndim == 3 else x[None])[[n - 1 for n in image.bands.values()]][None, None]  # (1, 1, C, H, W)
        said = image.nodata if image.nodata.values is not None else NoData((0.0,), image.nodata.when)
        hidden = said.hidden(x[0].numpy(), [], image.sensor.unit == "reflectance")
        valid = x.isfinite().all(2) & ~torch.from_numpy(hidden)[None]
        x = x.float() * (1.0 if image.scale is None else image.scale) + image.offset
        return Series(x, valid, torch.zeros(1, 1), tuple(image.bands), image.level)


def _split_of(areas: Sequence[str], split: str, shares: Mapping[str, float]) -> np.ndarray:
    """(N,) bool: which cells are in a split, whole blocks by the hash of where they lie."""

    def draw(area: str) -> float:
        return int.from_bytes(hashlib.sha256(area.encode()).digest()[:8], "big") / 2**64

    val, test = shares["val"], shares["test"]
    home = ["val" if (u := draw(a)) < val else "test" if u < val + test else "train" for a in areas]
    return np.array([h == ("train" if split == "pretrain" else split) for h in home], dtype=bool)
