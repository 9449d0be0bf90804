"""From the files of one chip to its sensors and labels on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.data.description import Image, Layer
from gfm_objectives.data.grid import Grid, resample_codes, resample_pixels
from gfm_objectives.data.layers import CHIP, DATE, FileFault, Raster, find_files, read_bands
from gfm_objectives.errors import InputError

Rasters = Callable[[str, float], tuple[Path, Raster]]  # of one chip: (file pattern, day) -> the file, read once
Tell = Callable[[Any], object]  # takes bytes, as `update` of a hash does


@dataclass(frozen=True, slots=True)
class Decoded:
    """One chip. images: sensor -> x (T, C, H, W) in the sensor's unit, valid (T, H, W) bool and day (T,), with x
    anything where not valid; labels: layer -> (H, W) long, -1 = none."""

    shape: tuple[int, int]
    images: dict[str, tuple[Tensor, Tensor, Tensor]]
    labels: dict[str, Tensor]


class Decoder:
    """Finds and reads the files of chips.

    images, layers: as described; grid: the sensor or layer whose pixels all others are brought to, by default the
    first sensor. files: pattern -> chip -> day -> file; dates: sensor -> T.
    """

    def __init__(self, root: Path, images: Mapping[str, Image], layers: Mapping[str, Layer], grid: str | None) -> None:
        self.root, self.images, self.layers = root, images, layers
        described = {k: v.file for k, v in layers.items()} | {k: v.file for k, v in images.items()}
        if grid is not None and grid not in described:
            raise InputError(f"data.grid={grid}: not described; choose from {', '.join([*images, *layers])}")
        self.grid = described[grid or next(iter(images))]
        self._bands, self._inside = _bands_by_file(images, layers)
        self.files = {pattern: find_files(root, pattern) for pattern in self._bands}
        self.dates = {name: self._count(image) for name, image in images.items()}

    def missing(self, chip: str) -> str | None:
        """The first file pattern of which this chip has no file, its id filled in."""
        return next((p.replace(CHIP, chip) for p, found in self.files.items() if chip not in found), None)

    def read(self, chip: str, tell: Tell | None = None) -> Decoded:
        """Decode a chip. FileFault names the file and what is wrong with it.

        tell: takes all that is read, as it is stored: what becomes of it may differ in last bits between machines.
        """
        rasters = self._rasters(chip, tell)
        grid = _grid(rasters(*self._reference(chip))[1])
        images = {k: self._image(chip, k, rasters, grid) for k in self.images}
        labels = {k: self._labels(chip, layer, rasters, grid) for k, layer in self.layers.items()}
        return Decoded(grid.shape, images, labels)

    def resampled(self, chip: str) -> list[str]:
        """What is done to bring the files of this chip to its grid, a line for each sensor or layer it is done to."""
        rasters, lines = self._rasters(chip), []
        grid = _grid(rasters(*self._reference(chip))[1])
        files = {k: v.file for k, v in self.images.items()} | {k: v.file for k, v in self.layers.items()}
        for name, file in files.items():
            own = _grid(rasters(file, self._days(file, chip, None)[0])[1])
            if way := grid.way(own):
                how = "warped by their georeferences" if way == "warp" else "resampled by their sizes"
                lines.append(f"{name}: {_x(own.shape)} pixels become {_x(grid.shape)}, {how}")
        return lines

    def odd_gsd(self, chip: str, gsd: float) -> list[str]:
        """A line where the chip's georeference says other metres per pixel than `gsd`."""
        grid = _grid(self._rasters(chip)(*self._reference(chip))[1])
        if grid.place is None or not grid.place[0].is_projected:
            return []
        crs, transform = grid.place
        metres = abs(transform.a) * crs.linear_units_factor[1]
        return [f"files say {metres:g} m per pixel, data.gsd={gsd:g}"] if abs(metres / gsd - 1) > 0.05 else []

    def box(self, chip: str) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the chip in degrees. InputError where its file is not georeferenced."""
        pattern, day = self._reference(chip)
        path = self.files[pattern][chip][day]
        grid = _grid(read_bands(path, self._bands[pattern][:1], self._inside[pattern]))
        if grid.place is None:
            raise InputError(
                f"{path}: is not georeferenced, so data.splits.by=location does not know where it lies; "
                "give a table with columns of degrees: data.splits.file, lon and lat"
            )
        from rasterio.transform import array_bounds
        from rasterio.warp import transform_bounds

        crs, transform = grid.place
        return transform_bounds(crs, "EPSG:4326", *array_bounds(grid.height, grid.width, transform))

    # ---------------------------------------------------------------- one chip

    def _rasters(self, chip: str, tell: Tell | None = None) -> Rasters:
        read: dict[Path, Raster] = {}

        def get(pattern: str, day: float) -> tuple[Path, Raster]:
            files = self.files[pattern][chip]
            path = files.get(day) if DATE in pattern else next(iter(files.values()))
            if path is None:
                dates = next(iter(files.values()))
                raise FileFault(dates, f"stands for {pattern}, which lacks a date its sensor has", "missing")
            if path not in read:
                raster = read[path] = read_bands(path, self._bands[pattern], self._inside[pattern])
                if tell is not None:
                    place = None if raster.place is None else tuple(raster.place[1])
                    head = [pattern, day, raster.values.dtype.str, raster.values.shape, raster.nodata, place]
                    tell(repr(head).encode())
                    tell(np.ascontiguousarray(raster.values).reshape(-1).data)
            return path, read[path]

        return get

    def _band(self, raster: Raster, pattern: str, band: int) -> np.ndarray:
        """(T, H, W)."""
        return raster.values[:, self._bands[pattern].index(band)]

    def _image(self, chip: str, name: str, rasters: Rasters, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        image, dates = self.images[name], self.dates[name]
        files = self._days(image.file, chip, dates if DATE in image.file else None)
        parts = [self._pixels(chip, image, day, rasters, grid) for day in files]
        x = torch.from_numpy(np.concatenate(parts) if len(parts) > 1 else parts[0])  # (t, C, H, W), NaN = invalid
        valid = x.isfinite().all(1)
        days = files if DATE in image.file else list(image.days) or [0.0] * dates
        lacking = dates - len(x)
        if lacking:  # fewer dates than other chips: empty ones follow
            x = torch.cat([x, x.new_zeros(lacking, *x.shape[1:])])
            valid = torch.cat([valid, valid.new_zeros(lacking, *valid.shape[1:])])
        return x, valid, torch.tensor([*days, *days[-1:] * lacking])

    def _pixels(self, chip: str, image: Image, day: float, rasters: Rasters, grid: Grid) -> np.ndarray:
        """(t, C, H, W) of one file on `grid`: NaN where any band is NaN or no data, or a flag is raised."""
        path, raster = rasters(image.file, day)
        raw = np.stack([self._band(raster, image.file, b) for b in image.bands.values()], 1)
        nodata = raster.nodata if image.nodata is None else image.nodata
        bad = ~np.isfinite(raw).all(1)
        if nodata is not None:
            bad |= (raw == nodata).any(1)
        own = self._fitting(path, raster, grid, self._reference(chip), chip)
        if image.quality is not None:
            file = image.quality.file
            flags_path, flags = rasters(file, day)
            other = self._fitting(flags_path, flags, own, (image.file, day), chip)
            raised = image.quality.invalid(self._band(flags, file, image.quality.band))
            bad |= resample_codes(raised, other, own, outside=True)
        x = raw.astype(np.float32)
        x *= np.float32(image.scale)
        x += np.float32(image.offset)
        x[np.broadcast_to(bad[:, None], x.shape)] = np.nan
        return resample_pixels(x, own, grid)

    def _labels(self, chip: str, layer: Layer, rasters: Rasters, grid: Grid) -> Tensor:
        path, raster = rasters(layer.file, 0.0)
        own = self._fitting(path, raster, grid, self._reference(chip), chip)
        codes = layer.labels(self._band(raster, layer.file, layer.band)[0], path, raster.nodata)
        return torch.from_numpy(resample_codes(codes, own, grid, outside=-1))

    def _fitting(self, path: Path, raster: Raster, grid: Grid, on: tuple[str, float], chip: str) -> Grid:
        """The raster's own grid; FileFault where there is no way from it to `grid`, which is that of the file `on`."""
        own = _grid(raster)
        if grid.way(own) is None:
            pattern, day = on
            files = self.files[pattern][chip]
            first = files.get(day, next(iter(files.values()))).relative_to(self.root)
            what = f"is {_x(own.shape)} pixels, but {first} is {_x(grid.shape)}; cut them to the same ground"
            raise FileFault(path, f"{what}, or georeference both", "size")
        return own

    def _reference(self, chip: str) -> tuple[str, float]:
        return self.grid, self._days(self.grid, chip, None)[0]

    # ---------------------------------------------------------------- dates

    def _count(self, image: Image) -> int:
        """T: as described, or as many as the chip with most."""
        most = max((len(files) for files in self.files[image.file].values()), default=1)
        return image.dates or (most if DATE in image.file else 1)

    def _days(self, pattern: str, chip: str, most: int | None) -> list[float]:
        """The days of a chip's files; at most `most`, evenly spread over what there is."""
        days = list(self.files[pattern][chip])
        if most is None or len(days) <= most:
            return days
        return [days[int((i + 0.5) * len(days) / most)] for i in range(most)]


def _bands_by_file(
    images: Mapping[str, Image], layers: Mapping[str, Layer]
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """File pattern -> every band of it that anything needs, so that each file is opened once; and -> its dates."""
    needs = [(i.file, b, i.inside) for i in images.values() for b in i.bands.values()]
    needs += [(i.quality.file, i.quality.band, i.inside) for i in images.values() if i.quality]
    needs += [(layer.file, layer.band, 1) for layer in layers.values()]
    inside: dict[str, int] = {}
    for file, _, dates in needs:
        if inside.setdefault(file, dates) != dates:
            raise InputError(
                f"file pattern {file!r}: read as {inside[file]} dates and as {dates}; all that lies in one file "
                "has the same `dates`, and layers have one"
            )
    return {file: sorted({b for f, b, _ in needs if f == file}) for file in inside}, inside


def _grid(raster: Raster) -> Grid:
    return Grid(*raster.shape, raster.place)


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
