"""What the yaml of a chips folder says about its files, checked: sensors with their validity, target layers, splits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.source import SPLITS
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, SENSORS, Legend, Sensor, legend


@dataclass(frozen=True, slots=True)
class Quality:
    """A band that flags pixels not to be used: where any of `bits` (from 0) is set or the value is one of `values`."""

    file: str
    band: int
    bits: tuple[int, ...]
    values: tuple[int, ...]

    def invalid(self, raw: np.ndarray) -> np.ndarray:
        """(H, W) bool."""
        missing = ~np.isfinite(raw)
        codes = np.where(missing, 0, raw).astype(np.int64)
        flags = sum(1 << b for b in self.bits)
        return missing | ((codes & flags) != 0) | np.isin(codes, self.values)


@dataclass(frozen=True, slots=True)
class Image:
    """The bands of one sensor: band name -> band number in `file`; stored * scale + offset is in the sensor's unit."""

    sensor: Sensor
    file: str
    bands: dict[str, int]
    scale: float
    offset: float
    nodata: float | None
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A target layer of class codes. `strict` layers refuse a code that is neither in the legend nor ignored."""

    file: str
    band: int
    legend: Legend
    ignore: tuple[float, ...]
    strict: bool

    def labels(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Stored codes (H, W) -> labels (H, W) long, -1 where there is none. InputError names an unknown code."""
        codes, where = np.unique(raw, return_inverse=True)
        lookup = self.legend.lookup()
        known = [c in lookup or c in self.ignore or c != c for c in codes.tolist()]  # NaN is no data
        if self.strict and not all(known):
            code = codes[known.index(False)]
            raise InputError(
                f"{path}: band {self.band} holds code {code}, which is neither a class of "
                f"{self.legend.name} ({', '.join(map(str, lookup))}) nor its `ignore`"
            )
        table = np.array([-1 if c in self.ignore else lookup.get(c, -1) for c in codes.tolist()], dtype=np.int64)
        return table[where].reshape(raw.shape)


def select(
    sensors: Mapping[str, Any], layers: Mapping[str, Any] | None, without: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The blocks `sensors` and `layers`, less those named in `without`."""
    sensors, layers = _mapping("data.sensors", sensors), _mapping("data.layers", layers or {})
    for name in without:
        if name not in sensors and name not in layers:
            raise InputError(f"data.without={name}: not described; choose from {', '.join([*sensors, *layers])}")
    kept = [{k: v for k, v in block.items() if k not in without} for block in (sensors, layers)]
    return kept[0], kept[1]


def parse_sensors(sensors: Mapping[str, Any]) -> dict[str, Image]:
    """The `sensors` block."""
    images = {}
    for name, value in sensors.items():
        key = f"data.sensors.{name}"
        if name not in SENSORS:
            raise InputError(f"{key}: no such sensor; choose from {', '.join(SENSORS)}")
        block = _block(key, value, needed=("file", "bands"), optional=("scale", "offset", "nodata", "valid"))
        bands = {str(b): whole(f"{key}.bands.{b}", n) for b, n in _mapping(f"{key}.bands", block["bands"]).items()}
        try:
            SENSORS[name].index(list(bands))
        except ValueError as error:
            raise InputError(f"{key}.bands: {error}") from error
        if not bands:
            raise InputError(f"{key}.bands: name at least one of {', '.join(SENSORS[name].band_names)}")
        nodata = block.get("nodata")
        images[name] = Image(
            sensor=SENSORS[name],
            file=str(block["file"]),
            bands=bands,
            scale=number(f"{key}.scale", block.get("scale", 1.0)),
            offset=number(f"{key}.offset", block.get("offset", 0.0)),
            nodata=None if nodata is None else number(f"{key}.nodata", nodata),
            quality=_quality(f"{key}.valid", block),
        )
    if not images:
        raise InputError(f"data.sensors: describe at least one of {', '.join(SENSORS)}")
    return images


def _quality(key: str, sensor: Mapping[str, Any]) -> Quality | None:
    if sensor.get("valid") is None:
        return None
    block = _block(key, sensor["valid"], needed=("band",), optional=("file", "invalid_bits", "invalid_values"))
    bits, values = (
        tuple(whole(f"{key}.{k}", v) for v in _several(block.get(k))) for k in ("invalid_bits", "invalid_values")
    )
    if not bits and not values:
        raise InputError(f"{key}: say which invalid_bits or invalid_values of the band mark pixels not to be used")
    return Quality(str(block.get("file", sensor["file"])), whole(f"{key}.band", block["band"]), bits, values)


def parse_layers(layers: Mapping[str, Any]) -> dict[str, Layer]:
    """The `layers` block."""
    out = {}
    for name, value in layers.items():
        key = f"data.layers.{name}"
        block = _block(
            key, value, needed=("file",), optional=("band", "legend", "classes", "codes", "colors", "ignore", "unknown")
        )
        unknown = block.get("unknown", "ignore" if name == "map" else "error")
        if unknown not in ("ignore", "error"):
            raise InputError(f"{key}.unknown={unknown}: choose ignore or error")
        out[name] = Layer(
            file=str(block["file"]),
            band=whole(f"{key}.band", block.get("band", 1)),
            legend=_legend(key, name, block),
            ignore=tuple(number(f"{key}.ignore", v) for v in _several(block.get("ignore"))),
            strict=unknown == "error",
        )
    return out


def _legend(key: str, name: str, block: Mapping[str, Any]) -> Legend:
    shared, classes = block.get("legend"), block.get("classes")
    if (shared is None) == (classes is None):
        raise InputError(f"{key}: give either `legend` (one of {', '.join(LEGENDS)}) or `classes` of your own")
    if shared is not None:
        if shared not in LEGENDS:
            raise InputError(f"{key}.legend={shared}: no such legend; choose from {', '.join(LEGENDS)} or give classes")
        return LEGENDS[shared]
    codes = block.get("codes")
    try:
        own = None if codes is None else [whole(f"{key}.codes", c) for c in _several(codes)]
        colors = [str(c) for c in _several(block["colors"])] if block.get("colors") else None
        return legend(name, [str(c) for c in _several(classes)], own, colors)
    except ValueError as error:
        raise InputError(str(error) if isinstance(error, InputError) else f"{key}: {error}") from error


@dataclass(frozen=True, slots=True)
class Splits:
    """For each split, its chips and the area of each, in the order of the file."""

    chips: dict[str, list[str]]
    areas: dict[str, list[str]]


def parse_splits(root: Path, splits: Mapping[str, Any] | None, known: Sequence[str]) -> Splits:
    """Read the split file; without one, all of `known` are for pretraining. InputError where an area leaks."""
    if splits is None:
        return Splits({"pretrain": list(known)}, {"pretrain": list(known)})
    key = "data.splits"
    block = _block(key, splits, needed=("file",), optional=("id", "column", "group", "values"))
    path = root / str(block["file"])
    column, group = str(block.get("column", "split")), block.get("group")
    rows = _read_csv(path, str(block.get("id", "chip")), [column, *([] if group is None else [str(group)])])
    values = _mapping(f"{key}.values", block.get("values") or {})
    _known_keys(f"{key}.values", values, SPLITS)
    train = values.get("train", "train")
    chips: dict[str, list[str]] = {}
    areas: dict[str, list[str]] = {}
    for split in SPLITS:
        wanted = {str(v) for v in _several(values.get(split, train if split == "pretrain" else split))}
        chips[split] = [chip for chip, row in rows.items() if row[column] in wanted]
        areas[split] = [rows[chip][str(group)] if group is not None else chip for chip in chips[split]]
    for split in ("pretrain", "train", "val"):
        for other in SPLITS[SPLITS.index(split) + 1 :]:
            shared = set(areas[split]) & set(areas[other])
            if shared and (split, other) != ("pretrain", "train"):
                raise InputError(
                    f"{path}: {group or 'chip'} {min(shared)} is in both {split} and {other}, a leak; split by area"
                )
    return Splits(chips, areas)


def _read_csv(path: Path, chip: str, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Chip id -> row."""
    if not path.is_file():
        raise InputError(f"data.splits.file: no file {path}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for name in (chip, *columns):
            if name not in (reader.fieldnames or ()):
                raise InputError(f"{path}: no column {name!r}; it has {', '.join(reader.fieldnames or ()) or 'none'}")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if row[chip] in rows:
                raise InputError(f"{path}: chip {row[chip]} is listed twice")
            rows[row[chip]] = row
    return rows


def _block(key: str, value: Any, needed: Sequence[str], optional: Sequence[str]) -> Mapping[str, Any]:
    block = _mapping(key, value)
    _known_keys(key, block, (*needed, *optional))
    for name in needed:
        if block.get(name) is None:
            raise InputError(f"{key}.{name}: is missing")
    return block


def _known_keys(key: str, block: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in block:
        if name not in names:
            raise InputError(f"{key}.{name}: no such key; choose from {', '.join(names)}")


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{key}={value!r}: expected a block of `name: value` lines")
    return value


def _several(value: Any) -> list[Any]:
    """One value or a list of them, as a list; nothing for null."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}={value!r}: expected a number")
    return value


def whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{key}={value!r}: expected a whole number, not negative")
    return value
