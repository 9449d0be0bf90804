"""What the yaml of a chips folder says about its files, checked: sensors with their validity, and target layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.layers import DATE, FileFault, day_of
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, SENSORS, Legend, Sensor, calibration, legend


@dataclass(frozen=True, slots=True)
class Quality:
    """A band that flags pixels not to be used: where any of `bits` (from 0) is set or the value is one of `values`."""

    file: str
    band: int
    bits: tuple[int, ...]
    values: tuple[int, ...]

    def invalid(self, raw: np.ndarray) -> np.ndarray:
        """Bool, as `raw`: where the pixel is not to be used."""
        missing = ~np.isfinite(raw)
        codes = np.where(missing, 0, raw).astype(np.int64)
        flags = sum(1 << b for b in self.bits)
        return missing | ((codes & flags) != 0) | np.isin(codes, self.values)


@dataclass(frozen=True, slots=True)
class Image:
    """The bands of one sensor: band name -> band number in `file`; stored * scale + offset is in the sensor's unit.

    level: of processing, where it has figures of its own, see `sensors.calibration`.
    dates: how many dates each chip has, None = as many as the chip with most files; days: of those inside a file,
    since 2000-01-01.
    """

    sensor: Sensor
    file: str
    bands: dict[str, int]
    scale: float
    offset: float
    nodata: float | None
    quality: Quality | None
    dates: int | None = None
    days: tuple[float, ...] = ()
    level: str = ""

    @property
    def calibration(self) -> Sensor:
        """The figures its values are normalised by."""
        return calibration(self.sensor.name, self.level)

    @property
    def inside(self) -> int:
        """How many dates one file holds."""
        return 1 if DATE in self.file else self.dates or 1


@dataclass(frozen=True, slots=True)
class Layer:
    """A target layer of class codes. `strict` layers refuse a code that is neither in the legend nor ignored."""

    file: str
    band: int
    legend: Legend
    ignore: tuple[float, ...]
    strict: bool

    def labels(self, raw: np.ndarray, path: Path, nodata: float | None = None) -> np.ndarray:
        """Stored codes (H, W) -> labels (H, W) long, -1 where there is none. FileFault names an unknown code.

        nodata: what the file itself declares; no label either, unless the legend has a class of that code.
        """
        codes, where = np.unique(raw, return_inverse=True)
        lookup = self.legend.lookup()
        ignored = {*self.ignore, nodata} - ({nodata} & lookup.keys())
        known = [c in lookup or c in ignored or c != c for c in codes.tolist()]  # NaN is no data
        if self.strict and not all(known):
            code = codes[known.index(False)]
            what = (
                f"band {self.band} holds code {code}, which is neither a class of "
                f"{self.legend.name} ({', '.join(map(str, lookup))}) nor its `ignore`"
            )
            raise FileFault(path, what, "code")
        table = np.array([-1 if c in self.ignore else lookup.get(c, -1) for c in codes.tolist()], dtype=np.int64)
        return table[where].reshape(raw.shape)


def select(
    sensors: Mapping[str, Any], layers: Mapping[str, Any] | None, without: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The blocks `sensors` and `layers`, less those named in `without`."""
    sensors, layers = mapping("data.sensors", sensors), mapping("data.layers", layers or {})
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
        optional = ("scale", "offset", "nodata", "valid", "dates", "level")
        block = block_of(key, value, needed=("file", "bands"), optional=optional)
        bands = {str(b): whole(f"{key}.bands.{b}", n) for b, n in mapping(f"{key}.bands", block["bands"]).items()}
        try:
            SENSORS[name].index(list(bands))
        except ValueError as error:
            raise InputError(f"{key}.bands: {error}") from error
        if not bands:
            raise InputError(f"{key}.bands: name at least one of {', '.join(SENSORS[name].band_names)}")
        level = str(block.get("level") or "")
        try:
            calibration(name, level)
        except ValueError as error:
            raise InputError(f"{key}.level: {error}") from error
        nodata, file = block.get("nodata"), str(block["file"])
        dates, days = _dates(f"{key}.dates", block.get("dates"), file)
        images[name] = Image(
            sensor=SENSORS[name],
            file=file,
            bands=bands,
            scale=number(f"{key}.scale", block.get("scale", 1.0)),
            offset=number(f"{key}.offset", block.get("offset", 0.0)),
            nodata=None if nodata is None else number(f"{key}.nodata", nodata),
            quality=_quality(f"{key}.valid", block),
            dates=dates,
            days=days,
            level=level,
        )
    if not images:
        raise InputError(f"data.sensors: describe at least one of {', '.join(SENSORS)}")
    return images


def _dates(key: str, value: Any, file: str) -> tuple[int | None, tuple[float, ...]]:
    """(how many, their days). A number, or the list of the dates inside each file."""
    if value is None:
        return None, ()
    if isinstance(value, int):
        if whole(key, value) < 1:
            raise InputError(f"{key}={value}: expected at least 1")
        return value, ()
    if DATE in file:
        raise InputError(f"{key}={value}: the dates stand in the names of the files; give at most how many to use")
    try:
        days = tuple(day_of(v) for v in several(value))
    except ValueError as error:
        raise InputError(f"{key}: {error} is no date; write 2019-04-12, or give how many dates a file holds") from None
    return len(days), days


def _quality(key: str, sensor: Mapping[str, Any]) -> Quality | None:
    if sensor.get("valid") is None:
        return None
    block = block_of(key, sensor["valid"], needed=("band",), optional=("file", "invalid_bits", "invalid_values"))
    bits, values = (
        tuple(whole(f"{key}.{k}", v) for v in several(block.get(k))) for k in ("invalid_bits", "invalid_values")
    )
    if not bits and not values:
        raise InputError(f"{key}: say which invalid_bits or invalid_values of the band mark pixels not to be used")
    file, image = str(block.get("file", sensor["file"])), str(sensor["file"])
    if DATE in file and DATE not in image:
        raise InputError(f"{key}.file={file}: has a {DATE}, which {image} lacks; give both the same dates")
    return Quality(file, whole(f"{key}.band", block["band"]), bits, values)


def parse_layers(layers: Mapping[str, Any]) -> dict[str, Layer]:
    """The `layers` block."""
    out = {}
    for name, value in layers.items():
        key = f"data.layers.{name}"
        block = block_of(
            key, value, needed=("file",), optional=("band", "legend", "classes", "codes", "colors", "ignore", "unknown")
        )
        unknown = block.get("unknown", "ignore" if name == "map" else "error")
        if unknown not in ("ignore", "error"):
            raise InputError(f"{key}.unknown={unknown}: choose ignore or error")
        if DATE in str(block["file"]):
            raise InputError(f"{key}.file={block['file']}: a layer has one date; name one file for each chip")
        out[name] = Layer(
            file=str(block["file"]),
            band=whole(f"{key}.band", block.get("band", 1)),
            legend=_legend(key, name, block),
            ignore=tuple(number(f"{key}.ignore", v) for v in several(block.get("ignore"))),
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
        own = None if codes is None else [whole(f"{key}.codes", c) for c in several(codes)]
        colors = [str(c) for c in several(block["colors"])] if block.get("colors") else None
        return legend(name, [str(c) for c in several(classes)], own, colors)
    except ValueError as error:
        raise InputError(str(error) if isinstance(error, InputError) else f"{key}: {error}") from error


def block_of(key: str, value: Any, needed: Sequence[str], optional: Sequence[str]) -> Mapping[str, Any]:
    block = mapping(key, value)
    known_keys(key, block, (*needed, *optional))
    for name in needed:
        if block.get(name) is None:
            raise InputError(f"{key}.{name}: is missing")
    return block


def known_keys(key: str, block: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in block:
        if name not in names:
            raise InputError(f"{key}.{name}: no such key; choose from {', '.join(names)}")


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{key}={value!r}: expected a block of `name: value` lines")
    return value


def several(value: Any) -> list[Any]:
    """One value or a list of them, as a list; nothing for null."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}={value!r}: expected a number")
    return value


def whole(key: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{key}={value!r}: expected a whole number, at least {least}")
    return value
