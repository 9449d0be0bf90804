"""From the files of one chip to its sensors and labels on one grid, whole or in a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.data.description import Image
from gfm_objectives.data.finding import CHIP, DATE, VARIABLE, find_files
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.labels import Layer
from gfm_objectives.data.measured import measured
from gfm_objectives.data.rasters import FileFault, Raster, Window
from gfm_objectives.data.readers import read_bands
from gfm_objectives.data.remarks import Remark, of_fill, of_fills, of_flags, of_image, of_place, of_scale, of_way
from gfm_objectives.data.resampling import resample_codes, resample_pixels
from gfm_objectives.errors import InputError

HEADER: Window = (0, 0, 0, 0)  # of a file: no pixel of it
Tell = Callable[[Any], object]  # takes bytes, as `update` of a hash does


@dataclass(frozen=True, slots=True)
class Decoded:
    """One chip, or a window of it. images: sensor -> x (T, C, H, W) in the sensor's unit, valid (T, H, W) bool and day
    (T,), with x anything where not valid; labels: layer -> (H, W) long, -1 = none, or float, NaN = none; remarks: what
    its files say against the yaml, and what was done to bring them to one grid."""

    shape: tuple[int, int]
    images: dict[str, tuple[Tensor, Tensor, Tensor]]
    labels: dict[str, Tensor]
    remarks: list[Remark]


@dataclass
class _Work:
    """A chip being decoded: its grid, the window of it that is wanted (all = the whole), and the files read so far."""

    chip: str
    grid: Grid
    window: Window
    all: bool
    tell: Tell | None
    rasters: dict[tuple[str, Path, Window | None], Raster] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What was read of a file: the `window` of its grid `whole` that lies under the window `to` of the grid it is
    brought to, and the way there."""

    path: Path
    raster: Raster
    whole: Grid
    window: Window
    to: Window
    way: str

    @property
    def grid(self) -> Grid:
        return self.whole.cut(self.window)


class Decoder:
    """Finds and reads the files of chips.

    images, layers: as described; grid: the sensor or layer whose pixels all others are brought to, by default the
    first sensor; gsd: metres per pixel that files are compared with. files: pattern -> chip -> day -> file; left: of
    each pattern, why files that its wildcards found are not used -> their names; dates: sensor -> T.
    """

    def __init__(
        self, root: Path, images: Mapping[str, Image], layers: Mapping[str, Layer], grid: str | None, gsd: float = 0.0
    ) -> None:
        self.root, self.images, self.gsd = root, images, gsd
        described = {k: v.file for k, v in layers.items()} | {k: v.file for k, v in images.items()}
        if grid is not None and grid not in described:
            raise InputError(f"data.grid={grid}: not described; choose from {', '.join([*images, *layers])}")
        self.grid = described[grid or next(iter(images))]
        words = {i.file: i.words for i in images.values()} | {
            i.quality.file: i.words for i in images.values() if i.quality
        }
        self.left: dict[str, dict[str, list[str]]] = {}
        patterns = dict.fromkeys([*(i.file for i in images.values()), *words, *(v.file for v in layers.values())])
        self.files = {p: find_files(root, p, words.get(p), self.left.setdefault(p, {})) for p in patterns}
        self.layers = {k: self._resolved(layer) for k, layer in layers.items()}
        self._bands, self._inside = _bands_by_file(images, self.layers)
        self.dates = {name: self._count(image) for name, image in images.items()}

    def _resolved(self, layer: Layer) -> Layer:
        first = next((path for files in self.files[layer.file].values() for path in files.values()), None)
        try:
            return layer if first is None else layer.resolved(read_bands(first, (), variable=_variable(layer.file)))
        except FileFault:
            return layer  # told when chips are read

    def missing(self, chip: str) -> str | None:
        """The first file pattern of which this chip has no file, its id filled in."""
        return next((p.replace(CHIP, chip) for p, found in self.files.items() if chip not in found), None)

    def header(self, chip: str) -> Grid:
        """The grid of a chip, without reading a pixel. FileFault where its file cannot be read."""
        pattern, day = self._reference(chip)
        return _grid(read_bands(self.files[pattern][chip][day], (), self._inside[pattern], None, _variable(pattern)))

    def read(self, chip: str, tell: Tell | None = None, window: Window | None = None) -> Decoded:
        """Decode a chip, or a window of it. FileFault names the file and what is wrong with it.

        tell: takes all that is read, as it is stored: what becomes of it may differ in last bits between machines.
        """
        pattern, day = self._reference(chip)
        work = _Work(chip, Grid(0, 0), window or (0, 0, 0, 0), window is None, tell)
        path = self.files[pattern][chip][day]
        work.grid = grid = _grid(self._raster(work, pattern, day, path, HEADER if window else None))
        work.window = window or (0, 0, *grid.shape)
        work.remarks += of_place(grid, self.gsd) if self.gsd else []
        images = {k: self._image(work, k) for k in self.images}
        labels = {k: self._labels(work, k, layer) for k, layer in self.layers.items()}
        return Decoded((work.window[2], work.window[3]), images, labels, list(dict.fromkeys(work.remarks)))

    # ---------------------------------------------------------------- one chip

    def _path(self, chip: str, pattern: str, day: float) -> Path:
        files = self.files[pattern][chip]
        path = files.get(day) if DATE in pattern else next(iter(files.values()))
        if path is None:
            dates = next(iter(files.values()))
            raise FileFault(dates, f"stands for {pattern}, which lacks a date its sensor has", "missing")
        return path

    def _piece(self, work: _Work, pattern: str, day: float, grid: Grid, window: Window, on: str) -> _Piece:
        """What a file holds under a `window` of `grid`; FileFault where there is no way from it to that grid, which is
        that of the file `on`."""
        path = self._path(work.chip, pattern, day)
        whole = _grid(self._raster(work, pattern, day, path, None if work.all else HEADER))
        way = grid.way(whole)
        if way is None:
            what = f"is {_x(whole.shape)} pixels, but {on} is {_x(grid.shape)}; cut them to the same ground"
            if grid.place is not None and whole.place is not None:
                what = f"lies in another coordinate system than {on}, and there is no way from one to the other"
            raise FileFault(path, f"{what}, or georeference both", "size")
        own, to = ((0, 0, *whole.shape), (0, 0, *grid.shape)) if work.all else grid.source(whole, window)
        raster = self._raster(work, pattern, day, path, None if work.all else own)
        return _Piece(path, raster, whole, own, to, way)

    def _raster(self, work: _Work, pattern: str, day: float, path: Path, window: Window | None) -> Raster:
        """A file, or a window of it, read once for all that it holds."""
        key = pattern, path, window
        if key not in work.rasters:
            bands = () if window == HEADER else self._bands[pattern]
            raster = work.rasters[key] = read_bands(
                path, bands, self._inside[pattern], window if bands else None, _variable(pattern)
            )
            if work.tell is not None and bands:
                said, place = raster.said, None if raster.place is None else tuple(raster.place[1])
                head = [raster.values.dtype.str, raster.values.shape, said.nodata, said.scale, said.offset, place]
                work.tell(repr([pattern, day, *head]).encode())
                work.tell(np.ascontiguousarray(raster.values).reshape(-1).data)
                work.tell(b"" if raster.valid is None else np.packbits(raster.valid).data)
        return work.rasters[key]

    def _band(self, raster: Raster, pattern: str, band: int) -> np.ndarray:
        """(T, H, W)."""
        return raster.values[:, self._bands[pattern].index(band)]

    def _image(self, work: _Work, name: str) -> tuple[Tensor, Tensor, Tensor]:
        image, dates = self.images[name], self.dates[name]
        files = self._days(image.file, work.chip, dates if DATE in image.file else None)
        parts = [self._pixels(work, name, image, day) for day in files]
        x = torch.from_numpy(np.concatenate(parts) if len(parts) > 1 else parts[0])  # (t, C, H, W), NaN = invalid
        valid = x.isfinite().all(1)
        days = files if DATE in image.file else list(image.days) or [0.0] * dates
        lacking = dates - len(x)
        if lacking:  # fewer dates than other chips: empty ones follow
            x = torch.cat([x, x.new_zeros(lacking, *x.shape[1:])])
            valid = torch.cat([valid, valid.new_zeros(lacking, *valid.shape[1:])])
        return x, valid, torch.tensor([*days, *days[-1:] * lacking])

    def _pixels(self, work: _Work, name: str, image: Image, day: float) -> np.ndarray:
        """(t, C, H, W) of one file in the window: NaN where it is not to be used."""
        piece = self._piece(work, image.file, day, work.grid, work.window, self._shown(work.chip))
        numbers = self._bands[image.file]
        x = measured(image, piece.raster, numbers, piece.path)
        if image.quality is not None:
            x[np.broadcast_to(self._raised(work, image, day, piece)[:, None], x.shape)] = np.nan
        work.remarks += of_image(name, image, piece.raster, numbers)
        if work.tell is not None and image.nodata.values is None:
            work.remarks += of_fills(name, image, piece.raster, numbers)
        work.remarks += of_way(name, piece.whole, work.grid, piece.way)
        x = resample_pixels(x, piece.grid, work.grid.cut(piece.to), image.sensor.unit, piece.way)
        return _crop(x, piece.to, work.window)

    def _raised(self, work: _Work, image: Image, day: float, of: _Piece) -> np.ndarray:
        """(t, h, w) bool on the piece of the image's own grid: where its quality band says not to use it."""
        quality = image.quality
        assert quality is not None
        piece = self._piece(work, quality.file, day, of.whole, of.window, self._named(of.path))
        flags, k = piece.raster, self._bands[quality.file].index(quality.band)
        declared = flags.said.nodata[k] if flags.said.nodata else None
        raw = self._band(flags, quality.file, quality.band)
        work.remarks += of_flags(quality, raw.dtype)
        raised = quality.invalid(raw, declared)
        if flags.valid is not None:
            raised |= ~flags.valid
        raised = resample_codes(raised, piece.grid, of.whole.cut(piece.to), outside=True, way=piece.way)
        return _crop(raised, piece.to, of.window)

    def _labels(self, work: _Work, name: str, layer: Layer) -> Tensor:
        piece = self._piece(work, layer.file, 0.0, work.grid, work.window, self._shown(work.chip))
        numbers = self._bands[layer.file]
        codes = layer.labels(piece.raster, numbers, piece.path)
        work.remarks += [Remark(f"{name}: {line}", True) for line in [layer.clash(piece.raster, numbers)] if line]
        work.remarks += of_way(name, piece.whole, work.grid, piece.way)
        if layer.numbers:
            work.remarks += of_scale(name, layer.scale, layer.offset, layer.stated(piece.raster, numbers))
        if work.tell is not None and layer.numbers and layer.nodata.values is None:
            work.remarks += of_fill(name, self._band(piece.raster, layer.file, layer.bands[0])[0][np.isfinite(codes)])
        to = work.grid.cut(piece.to)
        if layer.numbers:
            out = resample_pixels(codes[None, None], piece.grid, to, "", piece.way)[0, 0]
        else:
            out = resample_codes(codes, piece.grid, to, outside=-1, way=piece.way)
        return torch.from_numpy(np.ascontiguousarray(_crop(out, piece.to, work.window)))

    def _reference(self, chip: str) -> tuple[str, float]:
        return self.grid, self._days(self.grid, chip, None)[0]

    def _shown(self, chip: str) -> str:
        pattern, day = self._reference(chip)
        return self._named(self.files[pattern][chip][day])

    def _named(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

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
    needs += [(layer.file, band, 1) for layer in layers.values() for band in layer.bands]
    inside: dict[str, int] = {}
    for file, _, dates in needs:
        if inside.setdefault(file, dates) != dates:
            raise InputError(
                f"file pattern {file!r}: read as {inside[file]} dates and as {dates}; all that lies in one file "
                "has the same `dates`, and layers have one"
            )
    return {file: sorted({b for f, b, _ in needs if f == file}) for file in inside}, inside


def _variable(pattern: str) -> str:
    return pattern.partition(VARIABLE)[2]


def _grid(raster: Raster) -> Grid:
    return Grid(*raster.shape, raster.place)


def _crop(values: np.ndarray, of: Window, to: Window) -> np.ndarray:
    """(..., H, W) on the window `of` -> on the window `to`, which lies in it."""
    top, left = to[0] - of[0], to[1] - of[1]
    return values[..., top : top + to[2], left : left + to[3]]


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
