"""A finished map read back: its classes as labels, in strips, and what is known of where it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.predict.ground import Ground, open_raster, place, unreadable

STRIP = 1024  # rows read at a time


@dataclass(frozen=True, slots=True)
class ReadMap:
    """gsd: metres per pixel; classes and their codes, as the map's own tags have them; nothing: its no-data code."""

    path: Path
    ground: Ground
    gsd: float
    classes: tuple[str, ...]
    codes: tuple[int, ...]
    nothing: float | None

    def strips(self, rows: int = STRIP) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, labels (rows, width) int16, -1 = none) from top to bottom."""
        with open_raster(self.path) as file:
            for top in range(0, self.ground.height, rows):
                yield top, self._labels(file, (top, 0, min(rows, self.ground.height - top), self.ground.width))

    def read(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """Labels of the window (top, left, height, width) inside the map."""
        with open_raster(self.path) as file:
            return self._labels(file, box)

    def in_order(self, classes: Sequence[str]) -> ReadMap:
        """The same with its labels numbered as `classes`, which are its own: codes of a map come sorted."""
        return replace(self, classes=tuple(classes), codes=tuple(self.codes[self.classes.index(c)] for c in classes))

    @property
    def whole(self) -> tuple[int, int, int, int]:
        """The window of all of it."""
        return 0, 0, self.ground.height, self.ground.width

    def small(self, side: int) -> np.ndarray:
        """Labels of the whole map, every so many, at most `side` x `side`."""
        with open_raster(self.path) as file:
            return self._labels(file, self.whole, self.shape(side))

    def shape(self, side: int) -> tuple[int, ...]:
        """Height and width of the whole map made smaller, to at most `side` x `side`."""
        factor = min(1.0, side / max(self.ground.height, self.ground.width))
        return tuple(max(1, round(n * factor)) for n in (self.ground.height, self.ground.width))

    def counts(self) -> np.ndarray:
        """Pixels of each class (K,)."""
        out = np.zeros(len(self.codes), np.int64)
        for _, labels in self.strips():
            out += np.bincount(labels[labels >= 0], minlength=len(out))
        return out

    def lonlat(self, row: float, column: float) -> tuple[float, float] | None:
        """Degrees of a place in pixels; None where the map says no place."""
        if self.ground.crs is None:
            return None
        from rasterio.warp import transform

        x, y = place(self.ground.transform, column, row)
        (lon,), (lat,) = transform(self.ground.crs, "EPSG:4326", [x], [y])[:2]
        return lon, lat

    def _labels(self, file: Any, box: tuple[int, int, int, int], shape: tuple[int, ...] | None = None) -> np.ndarray:
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        top, left, height, width = box
        try:
            values = file.read(1, window=Window(left, top, width, height), out_shape=shape)  # type: ignore[call-arg]
        except (RasterioError, OSError) as error:
            raise unreadable(self.path, error) from error
        table = np.full(int(max(*self.codes, self.nothing or 0)) + 1, -1, np.int16)
        table[list(self.codes)] = np.arange(len(self.codes))
        out = table[np.minimum(values, len(table) - 1)]
        out[values >= len(table)] = -1
        return out


def read_map(path: str | Path, gsd: float | None = None) -> ReadMap:
    """A map that `gfm predict` wrote. gsd: of pixels, where the file says no place. InputError where it is no map."""
    path = Path(path)
    with open_raster(path) as file:
        names = {int(k.removeprefix("class_")): v for k, v in file.tags(1).items() if k.startswith("class_")}
        if not names or np.dtype(file.dtypes[0]).kind != "u":
            raise InputError(f"{path}: names no classes; give a map of classes that gfm predict wrote")
        ground = Ground.of(file)
        codes = tuple(sorted(names))
        size = ground.gsd or gsd or _told(file) or 1.0
        return ReadMap(path, ground, size, tuple(names[c] for c in codes), codes, file.nodata)


def _told(file: Any) -> float | None:
    """Metres per pixel as gfm predict noted them; None in a map of others."""
    try:
        return float(json.loads(file.tags().get("gfm_objectives", "{}"))["gsd"])
    except (ValueError, KeyError, TypeError):
        return None
