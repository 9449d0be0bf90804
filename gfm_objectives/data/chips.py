"""Chips: a folder of co-registered GeoTIFF and PNG chips, described by one yaml (see docs/chips.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.description import Image, number, parse_layers, parse_sensors, parse_splits, select, whole
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.layers import find_files, read_bands
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.errors import InputError

Raw = tuple[dict[int, np.ndarray], float | None]  # of one file: band number -> (H, W) as stored, and its no-data value


class Chips(Source):
    """Places of one split of a folder; each is a chip, or a `size` x `size` tile of one.

    root: the folder, with ~ and $VARIABLES; gsd: metres per pixel; sensors, layers, splits: see docs/chips.md; chips: a
    glob that ids must match; without: sensors and layers to leave out; size: side of the tiles in pixels, edges that
    do not fill one are dropped (None = whole chips); license: the line a report must carry; cache_mb: decoded places
    kept in memory, per process. There is one date, of unknown day, which is 0.
    Mistakes in the description and faults of files raise InputError naming the key or file.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        gsd: float,
        sensors: Mapping[str, Any],
        layers: Mapping[str, Any] | None = None,
        splits: Mapping[str, Any] | None = None,
        chips: str = "*",
        without: Sequence[str] = (),
        size: int | None = None,
        license: str = "",
        cache_mb: float = 512.0,
    ) -> None:
        assert split in SPLITS, split
        self.license = license
        self._root = find_folder(root)
        self._gsd = number("data.gsd", gsd)
        sensors, layers = select(sensors, layers, without)
        self._images = parse_sensors(sensors)
        self._layers = parse_layers(layers)
        self._wanted = self._bands_by_file()
        self._files = {pattern: find_files(self._root, pattern) for pattern in self._wanted}
        self._chips, self._areas = self._choose(split, splits, chips)

        self._height, self._width = _shape(self._rasters(self._chips[0]))
        self._size = self._tile_size(None if size is None else whole("data.size", size))
        self.spec = Spec(
            bands={k: tuple(image.bands) for k, image in self._images.items()},
            dates=dict.fromkeys(self._images, 1),
            size=self._size,
            gsd=self._gsd,
            legends={k: layer.legend for k, layer in self._layers.items()},
        )
        looks = {k: {o: v for o, v in dict(d).items() if o != "colors"} for k, d in (layers or {}).items()}
        self.fingerprint = self._fingerprint(split, sensors, looks)  # colours change nothing
        self._cache: dict[str, list[Batch]] = {}
        self._room = number("data.cache_mb", cache_mb) * 2**20  # bytes left

    def __len__(self) -> int:
        return len(self._chips) * self._per_chip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}  # a loader worker fills its own; sending ours would take longer

    def read(self, indices: Sequence[int]) -> Batch:
        return collate([self._tiles(self._chips[i // self._per_chip])[i % self._per_chip] for i in indices])

    def groups(self) -> list[str]:
        return [area for area in self._areas for _ in range(self._per_chip)]

    def names(self) -> list[str]:
        """The chip id of each place."""
        return [chip for chip in self._chips for _ in range(self._per_chip)]

    # ---------------------------------------------------------------- which files

    def _bands_by_file(self) -> dict[str, list[int]]:
        """File pattern -> every band of it that anything needs, so that each file is opened once."""
        pairs = [(i.file, b) for i in self._images.values() for b in i.bands.values()]
        pairs += [(i.quality.file, i.quality.band) for i in self._images.values() if i.quality]
        pairs += [(layer.file, layer.band) for layer in self._layers.values()]
        return {file: sorted({b for f, b in pairs if f == file}) for file, _ in pairs}

    def _choose(self, split: str, splits: Mapping[str, Any] | None, glob: str) -> tuple[list[str], list[str]]:
        """Ids and areas of the chips of `split`; each has all its files."""
        pattern = next(iter(self._files))
        if not self._files[pattern]:
            raise InputError(f"{self._root}: no file matches {pattern!r}; check data.root and the pattern")
        parts = parse_splits(self._root, splits, known=list(self._files[pattern]))
        if split not in parts.chips:
            raise InputError(f"data.splits: needed for the {split} split; without it all chips are for pretraining")
        pairs = [p for p in zip(parts.chips[split], parts.areas[split], strict=True) if fnmatchcase(p[0], glob)]
        if not pairs:
            why = f"no chip id matches data.chips={glob!r}" if parts.chips[split] else "check data.splits.values"
            raise InputError(f"{self._root}: the {split} split is empty; {why}")
        for pattern, files in self._files.items():
            missing = [chip for chip, _ in pairs if chip not in files]
            if missing:
                raise InputError(
                    f"{self._root}: no file {pattern.replace('{chip}', missing[0])} "
                    f"({len(missing)} of {len(pairs)} {split} chips lack theirs)"
                )
        return [chip for chip, _ in pairs], [area for _, area in pairs]

    def _tile_size(self, size: int | None) -> int:
        height, width = self._height, self._width
        if size is None and height != width:
            raise InputError(f"data.size: chips are {height} x {width} pixels; give the side of a square tile")
        if size is not None and not 1 <= size <= min(height, width):
            raise InputError(f"data.size={size}: chips are {height} x {width} pixels; choose at most the shorter side")
        return size or height

    @property
    def _per_chip(self) -> int:
        return (self._height // self._size) * (self._width // self._size)

    def _fingerprint(self, split: str, *described: Any) -> str:
        """Of the description and the names and sizes of all files: cheap, and the same wherever the folder lies."""
        files = {p: [(c, found[c].stat().st_size) for c in self._chips] for p, found in self._files.items()}
        text = json.dumps(
            [split, self._size, self._gsd, self._areas, files, *described], default=_plain, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # ---------------------------------------------------------------- reading

    def _tiles(self, chip: str) -> list[Batch]:
        """All tiles of a chip, each a batch of one, from the cache or decoded.

        A full cache keeps what it has: in an epoch's random order evicting would only make every read a miss.
        """
        if chip in self._cache:
            return self._cache[chip]
        tiles = self._decode(chip)
        need = sum(_bytes(tile) for tile in tiles)
        if need <= self._room:
            self._room -= need
            self._cache[chip] = tiles
        return tiles

    def _decode(self, chip: str) -> list[Batch]:
        rasters = self._rasters(chip)
        if _shape(rasters) != (self._height, self._width):
            path = self._files[next(iter(rasters))][chip]
            raise InputError(f"{path}: is {_x(_shape(rasters))} pixels, the other chips {self._height} x {self._width}")
        images = {k: _values(image, rasters) for k, image in self._images.items()}
        labels = {
            k: torch.from_numpy(layer.labels(rasters[layer.file][0][layer.band], self._files[layer.file][chip]))
            for k, layer in self._layers.items()
        }
        n = self._size
        rows, cols = (range(0, side - n + 1, n) for side in (self._height, self._width))
        return [self._tile(images, labels, slice(r, r + n), slice(c, c + n)) for r in rows for c in cols]

    def _tile(
        self,
        images: dict[str, tuple[torch.Tensor, torch.Tensor]],
        labels: dict[str, torch.Tensor],
        rows: slice,
        cols: slice,
    ) -> Batch:
        sensors = {}
        for name, (x, valid) in images.items():
            bands, ok = tuple(self._images[name].bands), valid[rows, cols]
            x = self._images[name].sensor.normalise(x[:, rows, cols], ok, bands)  # (C, H, W)
            sensors[name] = Series(x[None, None], ok[None, None].clone(), torch.zeros(1, 1), bands)
        targets = {k: y[None, rows, cols].clone() for k, y in labels.items()}
        return Batch(sensors, targets, torch.tensor([self._gsd]))

    def _rasters(self, chip: str) -> dict[str, Raw]:
        """File pattern -> its bands; all of one shape."""
        rasters: dict[str, Raw] = {}
        for pattern, bands in self._wanted.items():
            path = self._files[pattern][chip]
            values, nodata = read_bands(path, bands)
            if rasters and values.shape[1:] != _shape(rasters):
                first = self._files[next(iter(rasters))][chip].relative_to(self._root)
                raise InputError(f"{path}: is {_x(values.shape[1:])} pixels, but {first} is {_x(_shape(rasters))}")
            rasters[pattern] = dict(zip(bands, values, strict=True)), nodata
        return rasters


def _shape(rasters: dict[str, Raw]) -> tuple[int, ...]:
    """(H, W)."""
    bands, _ = next(iter(rasters.values()))
    return next(iter(bands.values())).shape


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _values(image: Image, rasters: dict[str, Raw]) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, H, W) in the sensor's unit and (H, W) bool: valid where no band is NaN or no data and no flag is raised."""
    bands, declared = rasters[image.file]
    raw = np.stack([bands[b] for b in image.bands.values()])
    nodata = declared if image.nodata is None else image.nodata
    bad = ~np.isfinite(raw).all(0)
    if nodata is not None:
        bad |= (raw == nodata).any(0)
    if image.quality is not None:
        bad |= image.quality.invalid(rasters[image.quality.file][0][image.quality.band])
    x = raw.astype(np.float32) * np.float32(image.scale) + np.float32(image.offset)
    return torch.from_numpy(x), torch.from_numpy(~bad)


def _bytes(batch: Batch) -> int:
    tensors: list[torch.Tensor] = [*batch.targets.values()]
    for s in batch.sensors.values():
        tensors += [s.x, s.valid]
    return sum(t.nelement() * t.element_size() for t in tensors)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
