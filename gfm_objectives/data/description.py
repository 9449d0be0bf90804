"""What the yaml of a chips folder says about sensors and their files, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gfm_objectives.data.finding import DATE, day_of
from gfm_objectives.data.keys import block_of, known_keys, mapping, number, several, whole
from gfm_objectives.data.validity import NoData, Quality, parse_flags, parse_nodata
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import SENSORS, USUAL_WAVES, Band, Sensor, calibration, figures_level, register

FILE = "file"  # in place of a scale: what each file states
OPTIONAL = ("scale", "offset", "nodata", "valid", "dates", "level")
OWN = ("wavelengths", "gsd", "unit", "mean", "std")  # of a sensor that the table does not have
UNFITTED = "unfitted"  # the level of a sensor of the user's own before its figures are known


@dataclass(frozen=True, slots=True)
class Image:
    """The bands of one sensor: band name -> band number in `file`; stored * scale + offset is in the sensor's unit.

    scale: None = as each file states; stated: whether the yaml names a scale. level: of processing, where it has
    figures of its own, see `sensors.calibration`. dates: how many dates each chip has, None = as many as the chip with
    most files; days: of those inside a file, since 2000-01-01; words: what stands for {date} -> its day. fit: whether
    means and deviations are to be taken from the training split.
    """

    sensor: Sensor
    file: str
    bands: dict[str, int]
    scale: float | None
    offset: float
    nodata: NoData
    quality: Quality | None
    dates: int | None = None
    days: tuple[float, ...] = ()
    level: str = ""
    words: dict[str, float] = field(default_factory=dict)
    fit: bool = False

    @property
    def calibration(self) -> Sensor:
        """The figures its values are normalised by."""
        return calibration(self.sensor.name, self.level)

    @property
    def inside(self) -> int:
        """How many dates one file holds."""
        return 1 if DATE in self.file else self.dates or 1


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


def parse_sensors(sensors: Mapping[str, Any], gsd: float = 10.0) -> dict[str, Image]:
    """The `sensors` block. gsd: metres per pixel of the folder, for a sensor of the user's own that states none."""
    images = {}
    for name, value in sensors.items():
        key = f"data.sensors.{name}"
        own = _is_own(name, value)
        block = block_of(key, value, needed=("file", "bands"), optional=(*OPTIONAL, *(OWN if own else ())))
        bands = {str(b): whole(f"{key}.bands.{b}", n) for b, n in mapping(f"{key}.bands", block["bands"]).items()}
        if not bands:
            known = f" of {', '.join(SENSORS[name].band_names)}" if not own else ""
            raise InputError(f"{key}.bands: name at least one{known}")
        fit = own and block.get("mean") is None
        sensor = _own_sensor(key, str(name), block, bands, gsd) if own else SENSORS[name]
        try:
            sensor.index(list(bands))
        except ValueError as error:
            raise InputError(f"{key}.bands: {error}") from error
        level = str(block.get("level") or "")
        if own:
            level = UNFITTED if fit else figures_level(sensor)
        try:
            calibration(name, level)
        except ValueError as error:
            raise InputError(f"{key}.level: {error}") from error
        file = str(block["file"])
        dates, days, words = _dates(f"{key}.dates", block.get("dates"), file)
        scale, offset = parse_scale(key, block)
        images[name] = Image(
            sensor=sensor,
            file=file,
            bands=bands,
            scale=scale,
            offset=offset,
            nodata=parse_nodata(f"{key}.nodata", block.get("nodata")),
            quality=_quality(f"{key}.valid", block),
            dates=dates,
            days=days,
            level=level,
            words=words,
            fit=fit,
        )
    if not images:
        raise InputError(f"data.sensors: describe at least one of {', '.join(SENSORS)}, or one of your own")
    return images


def _is_own(name: str, value: Any) -> bool:
    """A sensor of the user's own is one that the table of the project does not have and that says what it is."""
    if name in SENSORS and not SENSORS[name].own:
        return False
    if not isinstance(value, Mapping) or not {"wavelengths", "unit"} & {*value}:
        raise InputError(
            f"data.sensors.{name}: no such sensor; choose from {', '.join(k for k, s in SENSORS.items() if not s.own)},"
            " or describe your own by `wavelengths: {band: nm}`, or `unit` where its bands have none"
        )
    return True


def _own_sensor(key: str, name: str, block: Mapping[str, Any], bands: Mapping[str, int], gsd: float) -> Sensor:
    """Bands named as usual (red, nir, swir1) have the usual wavelengths, unless others are given."""
    tables = {k: mapping(f"{key}.{k}", block.get(k) or {}) for k in ("wavelengths", "mean", "std")}
    for k, table in tables.items():
        known_keys(f"{key}.{k}", table, tuple(bands))
        for band, v in table.items():
            if v is not None or k != "wavelengths":
                number(f"{key}.{k}.{band}", v)
    if tables["mean"].keys() != tables["std"].keys() or (tables["mean"] and tables["mean"].keys() != bands.keys()):
        raise InputError(f"{key}: give mean and std of every band, or neither: then the training split gives them")
    if any(v <= 0 for v in tables["std"].values()):
        raise InputError(f"{key}.std={dict(tables['std'])}: expected deviations greater than 0")
    unit = str(block.get("unit") or "number")
    if unit == "class":
        raise InputError(f"{key}.unit=class: a map of classes is described as a layer")
    waves = {b: tables["wavelengths"].get(b, USUAL_WAVES.get(b.lower())) for b in bands}
    rows = tuple(
        Band(
            b,
            None if waves[b] is None else float(waves[b]),
            float(tables["mean"].get(b, 0)),
            float(tables["std"].get(b, 1)),
        )
        for b in bands
    )
    metres = float(number(f"{key}.gsd", block.get("gsd") or gsd))
    sensor = Sensor(name, unit, metres, rows, own=True)
    try:
        return register(sensor, figures_level(sensor) if tables["mean"] else UNFITTED)
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error


def parse_scale(key: str, block: Mapping[str, Any]) -> tuple[float | None, float]:
    """The scale, None = as files state, and the offset."""
    scale, offset = block.get("scale"), block.get("offset")
    if scale == FILE or (scale is None and offset is None):
        if offset:
            raise InputError(f"{key}.offset={offset}: files state the offset as they do the scale; remove it")
        return None, 0.0
    return (
        number(f"{key}.scale", 1.0 if scale is None else scale),
        number(f"{key}.offset", 0.0 if offset is None else offset),
    )


def _dates(key: str, value: Any, file: str) -> tuple[int | None, tuple[float, ...], dict[str, float]]:
    """(how many, their days, days by words). A number, the list of the dates inside each file, or {word: date}."""
    if value is None:
        return None, (), {}
    if isinstance(value, int):
        if whole(key, value) < 1:
            raise InputError(f"{key}={value}: expected at least 1")
        return value, (), {}
    if isinstance(value, Mapping):
        if DATE not in file:
            raise InputError(f"{key}: words stand where {DATE} stands in `file`, and {file} has none")
        words: dict[str, float] = {}
        for word, text in value.items():  # one without a date: the day after the one before, so that order is told
            words[str(word)] = (max(words.values(), default=-1.0) + 1) if text is None else _day(key, text)
        return len(words), (), words
    if DATE in file:
        raise InputError(f"{key}={value}: the dates stand in the names of the files; give at most how many to use")
    days = tuple(_day(key, v) for v in several(value))
    return len(days), days, {}


def _day(key: str, text: Any) -> float:
    try:
        return day_of(text)
    except ValueError as error:
        raise InputError(f"{key}: {error} is no date; write 2019-04-12, or give how many dates a file holds") from None


def _quality(key: str, sensor: Mapping[str, Any]) -> Quality | None:
    if sensor.get("valid") is None:
        return None
    block = block_of(key, sensor["valid"], needed=("band",), optional=("file", "invalid_bits", "invalid_values"))
    bits, values = parse_flags(key, block)
    file, image = str(block.get("file", sensor["file"])), str(sensor["file"])
    if DATE in file and DATE not in image:
        raise InputError(f"{key}.file={file}: has a {DATE}, which {image} lacks; give both the same dates")
    return Quality(file, whole(f"{key}.band", block["band"]), bits, values)
