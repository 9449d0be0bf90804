"""The files of MMEarth: one HDF5 and two of json beside it. Each is checked whole before a place is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gfm_objectives.data.folder import days
from gfm_objectives.errors import InputError, NoSuchSplit

LEVELS = ("l1c", "l2a")


class Tile(NamedTuple):
    """What tile_info says of a tile that is of use here: days since 2000-01-01 and level of its Sentinel-2 image, place
    in degrees."""

    day: int
    level: str
    lon: float
    lat: float


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); download it again") from None


def read_tiles(path: Path) -> dict[str, Tile]:
    """Tile name -> Tile. The real file holds gigabytes, most of them lists of bands, dropped while it is parsed."""

    def keep(pairs: list[tuple[str, Any]]) -> Any:
        d = dict(pairs)
        if "S2_DATE" in d:
            return _tile(d)
        return None if "sentinel2" in d else d

    with path.open() as file, _sound(path):
        tiles = json.load(file, object_pairs_hook=keep)
        if not isinstance(tiles, dict):
            raise ValueError("it holds no tiles by name")
        return tiles


def _tile(about: Mapping[str, Any]) -> Tile:
    """ValueError, TypeError or KeyError where it says no day, level or place: a level that is not known would be scaled
    by the figures of the other."""
    tile = Tile(days(about["S2_DATE"]), str(about["S2_type"]).lower(), float(about["lon"]), float(about["lat"]))
    if tile.level not in LEVELS:
        raise ValueError(f"S2_type is {about['S2_type']}, neither {' nor '.join(LEVELS)}")
    if not (math.isfinite(tile.lon) and abs(tile.lat) <= 90):
        raise ValueError(f"longitude {tile.lon}, latitude {tile.lat} is no place")
    return tile


def split_rows(path: Path, split: str, count: int) -> np.ndarray:
    """Rows of the HDF5 file that belong to a split, (N,) int64."""
    with path.open() as file, _sound(path):
        listed = json.load(file)[split]
        if odd := [row for row in listed if type(row) is not int or row < 0]:
            raise ValueError(f"{odd[0]} is no row")
        if len({*listed}) < len(listed):
            raise ValueError(f"{split} names a row twice")
        rows = np.array(listed, dtype=np.int64)
    if not len(rows):
        raise NoSuchSplit(f"{path}: the {split} split is empty; MMEarth is for pretraining, give tasks other data")
    if rows.max() >= count:
        raise InputError(f"{path}: names row {rows.max()}, but the .h5 file beside it has {count}; download both again")
    return rows


def check_arrays(path: Path, file: Any, channels: Mapping[str, int], whole: Iterable[str]) -> tuple[int, list[str]]:
    """Side in pixels, and the name of the tile in each row. channels: of each data set that is read, as many or more
    where more may follow (heights); whole: those of flags and codes. InputError where one lacks, or is not what it is
    taken for: another number of bands, places or pixels would be read as something else."""
    for name in ("metadata", *channels):
        if name not in file:
            raise InputError(f"{path}: holds no {name}; it has {', '.join(file)}")
    with _sound(path):
        names = _names(file["metadata"])
    side = getattr(file[next(iter(channels))], "shape", (0,))[-1]
    for name, least in channels.items():
        shape: Any = getattr(file[name], "shape", None)  # a group has none
        fits = shape is not None and len(shape) == 4 and shape[0] == len(names) and shape[2:] == (side, side)
        if not fits or (shape[1] != least and (least > 2 or shape[1] < least)):
            told = f"{name} is {shape}, not ({len(names)}, {least}, {side}, {side})"
            raise InputError(f"{path}: {told}: places, channels, height and width; download it again")
        if (held := file[name].dtype).kind not in ("ui" if name in whole else "uif"):
            raise InputError(f"{path}: {name} holds {held}, no whole numbers; download it again")
    return side, names


def _names(metadata: Any) -> list[str]:
    """A row is (tile, processing level); releases differ in field names."""
    rows = metadata[:]
    if not rows.dtype.names:
        raise ValueError("its metadata have no fields")
    names = rows[rows.dtype.names[0]].tolist()
    if odd := [name for name in names if not isinstance(name, bytes)]:
        raise ValueError(f"its metadata name a tile {odd[0]}")
    return [name.decode() for name in names]


def read_rows(path: Path, file: Any, name: str, rows: Iterable[int]) -> np.ndarray:
    """(B, ...) of a data set."""
    try:
        return np.stack([file[name][row] for row in rows])
    except OSError as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{path}: {name} cannot be read, damaged? ({told}); download it again") from None


def find_files(root: Path, name: str) -> tuple[Path, dict[str, Path]]:
    """The folder of a subset and its files, by kind."""
    folder = root / name
    files = {kind: folder / f"{name}_{kind}.json" for kind in ("splits", "tile_info")}
    files["h5"] = folder / f"{name}.h5"
    for path in files.values():
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; data.root must hold {name} with its .h5 and .json; see data.subset"
            )
    return folder, files


def open_h5(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError(
            "data.name=mmearth: needs h5py; install it: pip install h5py, or uv run --extra mmearth ..."
        ) from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: cannot be read, truncated or no HDF5? ({str(error).splitlines()[0]})") from error
