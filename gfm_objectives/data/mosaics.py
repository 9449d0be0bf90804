"""Mosaics: overlapping collections of rasters, such as scenes and a map, cut where all of them lie.

What torchgeo writes as `Sentinel2(...) & NLCD(...)`: its intersection of RasterDatasets says where there is something
of each. Files are read as those of chips are, since torchgeo's merge fills what no file has with 0, a class as a rule,
reads past masks and scales that files state, and takes the nearest pixel where many lie under one.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.description import parse_sensors
from gfm_objectives.data.folder import find_folder, fingerprint
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.keys import number, whole
from gfm_objectives.data.labels import parse_layers
from gfm_objectives.data.measured import measured
from gfm_objectives.data.rasters import FileFault, Raster, Window
from gfm_objectives.data.readers import read_bands
from gfm_objectives.data.remarks import GSD_OFF, Remark, of_image
from gfm_objectives.data.resampling import resample_codes, resample_pixels
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.data.validity import NoData
from gfm_objectives.errors import InputError, InputWarning

SHARES = {"val": 0.1, "test": 0.1}
READING = 2  # a change of what is read from files raises it
NO_PIXEL: Window = (0, 0, 0, 0)  # of a file: its header


class Mosaics(Source):
    """Cells of size x size pixels of gsd metres, side by side, that lie wholly where every collection has a file.

    root: the folder; sensors and layers: as of chips, but `file` is a glob of many files that need no {chip}; the first
    sensor's coordinates, which must be in metres, are those of the grid. Where files overlap the first by name counts
    that has something there. In reflectance 0 in all bands is no data where neither yaml nor file says what is.
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
            if image.fit:
                raise InputError(
                    f"data.sensors.{name}: of mosaics nothing is fitted; give `mean` and `std` of its bands"
                )
        folder = find_folder(root)
        self._grids: dict[str, dict[Path, Grid]] = {}
        self._lines: list[str] = []
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
        asked = [sensors, layers, split, gsd, size, block_km, shares, READING]
        described = json.dumps(asked, default=dict, sort_keys=True)
        self.fingerprint = fingerprint(folder, files, described, figures, self._cells.tolist())

    def __len__(self) -> int:
        return len(self._cells)

    def groups(self) -> list[str]:
        return list(self._areas)

    def notes(self) -> list[str]:
        files = ", ".join(f"{k} {len(d.index)}" for k, d in self._sets.items())
        return [f"files: {files}; cells: {len(self)} in {len(set(self._areas))} blocks; {self._crs}", *self._lines]

    def raw(self, indices: Sequence[int]) -> Batch:
        return collate([self._cell(*self._cells[i].tolist()) for i in indices])

    # ---------------------------------------------------------------- which cells

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
            self._look(name, [Path(f) for f in files])
            made = RasterDataset(files, crs=self._crs, res=self._gsd)
            if self._crs is None:
                self._crs, _ = self._grids[name][Path(files[0])].place  # type: ignore[misc]
                if not (self._crs.is_projected and abs(self._crs.linear_units_factor[1] - 1) < 1e-6):
                    raise InputError(
                        f"{files[0]}: {self._crs} is not in metres; give scenes in a projection, such as UTM"
                    )
            out[name] = made
        return out

    def _look(self, name: str, files: Sequence[Path]) -> None:
        """Where the files of a collection lie, and what they say against the yaml, by their headers."""
        grids, told = self._grids.setdefault(name, {}), Counter[Remark]()
        if name in self._layers:
            self._layers[name] = self._layers[name].resolved(read_bands(files[0], ()))
        for path in files:
            head = read_bands(path, self._numbers(name), 1, NO_PIXEL)
            grids[path] = Grid(*head.shape, head.place)
            if head.place is None or grids[path].local:
                raise FileFault(path, "does not say where on Earth it lies, which mosaics go by", "unreadable")
            metres = grids[path].metres
            if metres is not None and abs(metres / self._gsd - 1) > GSD_OFF:
                told[Remark(f"{name}: pixels of {metres:.3g} m become {self._gsd:g} m", False)] += 1
            if name in self._images:
                told.update({*of_image(name, self._images[name], head, self._numbers(name))})
                continue
            self._layers[name].labels(
                head, self._numbers(name), path
            )  # refuses bands of which nobody knows the meaning
            if line := self._layers[name].clash(head, self._numbers(name)):
                told[Remark(f"{name}: {line}", True)] += 1
        for remark, count in told.items():
            line = f"{count} of {len(files)} files: {remark.text}"
            self._lines.append(line)
            if remark.odd:
                warnings.warn(line, InputWarning, stacklevel=2)

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

    # ---------------------------------------------------------------- one cell

    def _cell(self, west: float, north: float) -> Batch:
        from rasterio import Affine

        to = Grid(self._size, self._size, (self._crs, Affine(self._gsd, 0, west, 0, -self._gsd, north)))
        sensors, targets = {}, {}
        for name, image in self._images.items():
            x = torch.from_numpy(self._merged(name, to))  # (1, C, H, W)
            valid = x.isfinite().all(1)
            sensors[name] = Series(x[None], valid[None], torch.zeros(1, 1), tuple(image.bands), image.level)
        for name, layer in self._layers.items():
            y = torch.from_numpy(self._merged(name, to))
            targets[name] = y if layer.numbers else y.long()
        return Batch(sensors, targets, torch.tensor([self._gsd]))

    def _merged(self, name: str, to: Grid) -> np.ndarray:
        """Of a sensor (1, C, H, W), NaN where there is nothing; of a layer (1, H, W), -1, or NaN of numbers."""
        out, lacking = None, np.ones(to.shape, bool)
        for path in self._under(name, to):
            whole = self._grids[name][path]
            window = to.source(whole, (0, 0, *to.shape))[0]
            if not window[2] or not window[3]:
                continue
            raster = read_bands(path, self._numbers(name), 1, window)
            found, there = self._resampled(name, raster, path, whole.cut(window), to)
            out = found if out is None else np.where(lacking, found, out)
            lacking &= ~there
            if not lacking.any():
                break
        if out is not None:
            return out
        layer = self._layers.get(name)
        if layer is None:
            return np.full((1, len(self._images[name].bands), *to.shape), np.nan, np.float32)
        return np.full((1, *to.shape), np.nan, np.float32) if layer.numbers else np.full((1, *to.shape), -1)

    def _resampled(self, name: str, raster: Raster, path: Path, grid: Grid, to: Grid) -> tuple[np.ndarray, np.ndarray]:
        """What a piece of a file holds on a cell, see `_merged`, and where it holds something (H, W)."""
        numbers = self._numbers(name)
        if name in self._images:
            image = self._images[name]
            if image.sensor.unit == "reflectance" and image.nodata.values is None and {*raster.said.nodata} == {None}:
                image = replace(image, nodata=NoData((0.0,), image.nodata.when))
            x = resample_pixels(measured(image, raster, numbers, path), grid, to, image.sensor.unit, "warp")
            return x, np.isfinite(x).all((0, 1))
        layer = self._layers[name]
        labels = layer.labels(raster, numbers, path)
        if layer.numbers:
            y = resample_pixels(labels[None, None], grid, to, "", "warp")[0]
            return y, np.isfinite(y[0])
        codes = resample_codes(labels, grid, to, outside=-1, way="warp")[None]
        return codes, codes[0] >= 0

    def _under(self, name: str, to: Grid) -> list[Path]:
        """The files of a collection that may lie under a cell, by name."""
        assert to.place is not None
        west, north, side = to.place[1].c, to.place[1].f, self._size * self._gsd
        return sorted(Path(f) for f in self._sets[name].index.cx[west : west + side, north - side : north].filepath)

    def _numbers(self, name: str) -> list[int]:
        """The bands that are read of its files."""
        used = self._layers[name].bands if name in self._layers else self._images[name].bands.values()
        return sorted({*used})


def _split_of(areas: Sequence[str], split: str, shares: Mapping[str, float]) -> np.ndarray:
    """(N,) bool: which cells are in a split, whole blocks by the hash of where they lie."""

    def draw(area: str) -> float:
        return int.from_bytes(hashlib.sha256(area.encode()).digest()[:8], "big") / 2**64

    val, test = shares["val"], shares["test"]
    home = ["val" if (u := draw(a)) < val else "test" if u < val + test else "train" for a in areas]
    return np.array([h == ("train" if split == "pretrain" else split) for h in home], dtype=bool)
