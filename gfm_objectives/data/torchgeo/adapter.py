"""Adapter: the one source behind every row of the table: windows of tiles, in units, with validity and labels."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.folder import cache_file, find_folder, fingerprint
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.guards import LOOKED_AT, doubts
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.torchgeo.dataset import AbsentData, Dataset, Image, Reader, Sample, Stored, spread
from gfm_objectives.data.torchgeo.sources import PRETRAINING
from gfm_objectives.data.torchgeo.statistics import Figures, check, of_list
from gfm_objectives.data.windows import Windows
from gfm_objectives.errors import InputError, InputWarning, NoSuchSplit
from gfm_objectives.sensors import calibration, listed

DIGESTED = 64  # tiles whose files the fingerprint covers by name and size
HEADERS = 20_000  # tiles whose files are opened to see where they lie: some minutes
RASTERS = (".tif", ".tiff", ".jp2", ".vrt")
GIVEN = ("root", "split", "dates", "sensors")  # what the adapter hands to every reader


class Adapter(Windows):
    """Places of one split of a data set of the table; each is a `size` x `size` window of a tile.

    row: of the table; root: the folder that holds its files; size: side of windows in pixels; dates: looks of a sensor
    that has more, evenly spread over them; sensors: those read; map: the layer that is handed out as `map`, which
    masked_seg learns; protocol: pangaea = normalise by figures of the training list alone, not by the sensor table, and
    keep them with a hash of that list in the file `statistics` (null: in the user's cache); license: the line reports
    carry; cache_mb: decoded tiles kept in memory, per process; options: of the reader. Where a tile has fewer looks,
    invalid ones follow.

    The fingerprint covers which tiles there are, names and sizes of the files of DIGESTED of them, the labels of
    LOOKED_AT, the options and the figures of normalisation. InputWarning tells what `guards` find odd in these.
    AbsentData where nothing of it is under root.
    """

    watched = True

    def __init__(
        self,
        row: Dataset,
        split: str,
        *,
        root: str,
        size: int | None = None,
        dates: int | None = None,
        sensors: Sequence[str] | None = None,
        map: str | None = None,
        protocol: str | None = None,
        statistics: str | None = None,
        license: str = "",
        cache_mb: float = 1024.0,
        **options: Any,
    ) -> None:
        assert split in SPLITS, split
        self.row, self.license = row, license or row.license
        self._dates = whole("dates", row.dates if dates is None else dates)
        self._sensors = chosen(row, sensors)
        folder = locate(row, root, options.get("download") is True)
        self._reader = reader_of(row)(folder, split, self._dates, tuple(self._sensors), **options)  # type: ignore[call-arg]
        if not self._reader.names:
            kind = NoSuchSplit if row in PRETRAINING else InputError
            raise kind(f"data.root={root}: the {split} split of {row.name} has no tile; {row.folder}")
        self._layers = layers(row, map)
        self._usual = {name: stored.level for name, stored in self._sensors.items()}
        self._figures: Figures = {}
        check(protocol, statistics)
        if protocol is not None:
            made_of = {"dates": self._dates, "sensors": sorted(self._sensors), **options}
            path = cache_file("statistics", ".json", row.name, str(folder.resolve()), made_of)
            path = Path(os.path.expanduser(statistics)) if statistics else path
            self._figures = self._of_list(path, root, options)
            self._list()
        size = whole("size", row.size if size is None else size)
        super().__init__(split, list(self._reader.areas), self._reader.shapes, size, cache_mb)
        self.spec = Spec(
            bands={name: stored.bands for name, stored in self._sensors.items()},
            dates={name: stored.looks * self._looks(name) for name, stored in self._sensors.items()},
            size=size,
            gsd=row.gsd,
            legends={shown: row.layers[layer] for shown, layer in self._layers.items()},
        )
        figures = [repr(calibration(name, stored.level)) for name, stored in self._sensors.items()]
        asked = [split, size, self._dates, map, sorted((k, str(v)) for k, v in options.items())]
        tiles = [thinned(self.decode(k)) for k in spread(len(self._reader.names), LOOKED_AT)]
        self.fingerprint = self._fingerprint(folder, tiles, [*asked, repr(self._sensors), figures])
        if split in ("pretrain", "train"):
            for line in doubts([self._as_usual(t) for t in tiles], row.name):
                warnings.warn(f"data={row.name}: {line}", InputWarning, stacklevel=2)

    def names(self) -> list[str]:
        """The tile each place is cut from."""
        return [self._reader.names[number] for number in self._windows[:, 0]]

    def footprints(self) -> list[np.ndarray | None]:
        """By the first georeferenced file of each tile; of more than HEADERS tiles none is looked at."""
        count = len(self._reader.names)
        if count > HEADERS:
            return [None] * count
        return [next((o for o in map(outline, self._reader.files(k)) if o is not None), None) for k in range(count)]

    def notes(self) -> list[str]:
        lines = [f"tiles: {len(self._reader.names)}, areas: {len(set(self._reader.areas))}"]
        return [*lines, *getattr(self._reader, "notes", ()), *([self.row.note] if self.row.note else [])]

    def decode(self, number: int) -> Batch:
        sample = self._reader.load(number)
        self._check(number, sample)
        sensors = {name: self._series(name, stored, sample.images[name]) for name, stored in self._sensors.items()}
        targets = {
            shown: torch.from_numpy(np.asarray(sample.labels[layer]))[None] for shown, layer in self._layers.items()
        }
        lonlat = None if sample.lonlat is None else torch.tensor([sample.lonlat], dtype=torch.float32)
        return Batch(sensors, targets, torch.tensor([self.row.gsd]), lonlat)

    def _check(self, number: int, sample: Sample) -> None:
        """InputError where grids differ, or a label is none of its legend: both would be learned from."""
        h, w = self._reader.shapes[number]

        def refuse(told: str) -> InputError:
            return InputError(f"{next(iter(self._reader.files(number)))}: {told}; fetch it again")

        for what, image in sample.images.items():
            if image.x.shape[-2:] != (h, w):
                raise refuse(f"{what} is {image.x.shape[-2:]} pixels, not {h} x {w}")
        for what, values in sample.labels.items():
            if values.ndim > 1 and values.shape != (h, w):
                raise refuse(f"{what} is {values.shape} pixels, not {h} x {w}")
            classes = len(self.row.layers[what])
            if values.dtype.kind in "iu" and values.size and not -1 <= values.min() <= values.max() < classes:
                raise refuse(f"{what} holds {values.min()} to {values.max()}, of {classes} classes from 0")

    def _of_list(self, path: Path, root: str, options: dict[str, Any]) -> Figures:
        """Figures of the training tiles, which are all read where `path` does not hold them yet."""
        train = reader_of(self.row)(locate(self.row, root), "train", self._dates, tuple(self._sensors), **options)  # type: ignore[call-arg]

        def read() -> Iterable[Batch]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # the training split itself warns
                sensors = list(self._sensors)
                own = Adapter(self.row, "train", root=root, dates=self._dates, sensors=sensors, cache_mb=0, **options)
            return (own.decode(k) for k in range(len(own._reader.names)))

        return of_list(path, self.row.name, list(train.names), read)

    def _list(self) -> None:
        """Sensors at the levels of their figures, which every process has to be told of."""
        self._sensors = {
            k: replace(s, level=listed(k, self._usual[k], self._figures[k])) if k in self._figures else s
            for k, s in self._sensors.items()
        }

    def _as_usual(self, tile: Batch) -> Batch:
        """For guards, which compare with the sensor table."""
        return tile.replace(sensors={k: s.replace(level=self._usual[k]) for k, s in tile.sensors.items()})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._list()

    def _looks(self, sensor: str) -> int:
        """Dates of a sensor: what lies still has one."""
        return 1 if calibration(sensor).centred else self._dates

    def _series(self, name: str, stored: Stored, image: Image) -> Series:
        """In the sensor's unit, with as many dates as the spec says."""
        x = torch.from_numpy(np.ascontiguousarray(image.x, dtype=np.float32))  # (t, C, H, W)
        valid = x.isfinite().all(1)
        for value in stored.nodata:
            valid &= (x != value).all(1)
        if stored.void is not None:
            valid &= (x != stored.void).any(1)
        if image.valid is not None:
            valid &= torch.from_numpy(image.valid)
        x = x * stored.scale + stored.offset
        day = torch.tensor([float(d) for d in image.days])
        lacking = self.spec.dates[name] - len(x)
        assert lacking >= 0, (name, self.spec.dates, x.shape)
        if lacking:
            x = torch.cat([x, x.new_zeros(lacking, *x.shape[1:])])
            valid = torch.cat([valid, valid.new_zeros(lacking, *valid.shape[1:])])
            day = torch.cat([day, (day[-1:] if len(day) else torch.zeros(1)).expand(lacking)])
        return Series(x[None], valid[None], day[None], stored.bands, stored.level)

    def _fingerprint(self, folder: Path, tiles: Sequence[Batch], described: Iterable[object]) -> str:
        sample = spread(len(self._reader.names), DIGESTED)
        digest = hashlib.blake2b(digest_size=16)
        for label in (y for tile in tiles for y in tile.targets.values()):
            digest.update(label.numpy().tobytes())
        files = {path for k in sample for path in self._reader.files(k)}
        names = hashlib.sha256("\n".join(self._reader.names).encode()).hexdigest()
        return fingerprint(folder, files, *described, names, digest.hexdigest())


def thinned(tile: Batch) -> Batch:
    """Some 256 rows and columns of a larger tile: what is looked at is held at the same time."""
    step = max(1, max(tile.size) // 256)
    return tile.map_grids(lambda t, _: t[..., ::step, ::step].clone()) if step > 1 else tile


def outline(path: Path) -> np.ndarray | None:
    """Where a raster lies: its corners (4, 2) in degrees; None where it does not say, or is none."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if path.suffix.lower() not in RASTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                place = (file.crs, file.transform) if file.crs is not None else None
                return Grid(file.height, file.width, place).corners()
    except RasterioError:
        return None


# ---------------------------------------------------------------- opening


def locate(row: Dataset, root: str, download: bool = False) -> Path:
    """The folder of a data set. AbsentData says where it was expected, how large it is and what fetches it; download:
    torchgeo will, so that an empty folder will do."""
    if download:
        Path(os.path.expandvars(os.path.expanduser(root))).mkdir(parents=True, exist_ok=True)
        return find_folder(root)
    try:
        folder = find_folder(root)
    except InputError:
        raise AbsentData(row.absent(root)) from None
    if not on_disk(row, folder):
        raise AbsentData(row.absent(folder))
    return folder


def on_disk(row: Dataset, folder: Path) -> bool:
    return any(next(folder.glob(mark), None) is not None for mark in row.marks)


def reader_of(row: Dataset) -> type[Reader]:
    module, cls = row.reader.split(":")
    return getattr(import_module(f"gfm_objectives.data.torchgeo.{module}"), cls)


def accepted(row: Dataset) -> dict[str, Parameter]:
    """The options of `data=` for a row: the adapter's and its reader's."""
    own = {k: p for k, p in signature(Adapter).parameters.items() if k not in ("row", "options")}
    theirs = {k: p for k, p in signature(reader_of(row)).parameters.items() if k not in GIVEN}
    return own | theirs


def chosen(row: Dataset, sensors: Sequence[str] | None) -> Mapping[str, Stored]:
    for name in sensors or ():
        if name not in row.sensors:
            raise InputError(
                f"data.sensors={name}: {row.name} has no such sensor; choose from {', '.join(row.sensors)}"
            )
    if sensors is not None and not len(sensors):
        raise InputError(f"data.sensors: name at least one of {', '.join(row.sensors)}")
    return {k: s for k, s in row.sensors.items() if (not s.optional if sensors is None else k in sensors)}


def layers(row: Dataset, shown_as_map: str | None) -> dict[str, str]:
    """Layer as it is handed out -> layer of the row."""
    if shown_as_map is not None and shown_as_map not in row.layers:
        raise InputError(f"data.map={shown_as_map}: {row.name} has the layers {', '.join(row.layers) or 'none'}")
    return {"map" if layer == shown_as_map else layer: layer for layer in row.layers}


def whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"data.{key}={value}: expected a whole number, at least 1")
    return value
