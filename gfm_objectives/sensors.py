"""The table of sensors (bands, wavelengths, ground sampling distance, scaling) and of map legends."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Band:
    """One band. `mean` and `std` are in the sensor's unit; `wavelength` is the centre in nm, None where senseless."""

    name: str
    wavelength: float | None
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Sensor:
    """One instrument or layer.

    `unit` is what a source must convert raw values to before scaling: surface reflectance in 0..1, decibel, metre.
    `centred` sensors lose the chip's own mean over valid pixels first: absolute height names the place, relative
    height describes the surface. The bands of unit `class` are classes: 1 where the pixel is of that class, else 0.
    """

    name: str
    unit: str
    gsd: float
    bands: tuple[Band, ...]
    centred: bool = False
    own: bool = field(default=False, repr=False)  # described by a user, see `register`

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    @property
    def of_classes(self) -> bool:
        """A map and no image: it has no season, and nothing is learned of it from the bands of other sensors."""
        return self.unit == "class"

    def index(self, names: Sequence[str]) -> list[int]:
        """Positions of `names` in this sensor's band list; ValueError names the unknown band and the valid ones."""
        known = {b.name: i for i, b in enumerate(self.bands)}
        for n in names:
            if n not in known:
                raise ValueError(f"sensor {self.name} has no band {n!r}; its bands are {', '.join(known)}")
        return [known[n] for n in names]

    def normalise(self, x: Tensor, valid: Tensor, names: Sequence[str]) -> Tensor:
        """Scale `x` (..., C, H, W), in this sensor's unit, to about zero mean and unit variance.

        `valid` is (..., H, W) bool; what is not valid comes out as exactly 0, whatever was there (NaN included).
        """
        pick = [self.bands[i] for i in self.index(names)]
        mean, std = _sent([b.mean for b in pick], x), _sent([b.std for b in pick], x)
        if self.centred:
            return centre(x, valid).div_(std)
        return (x - mean).div_(std).masked_fill_(~valid.unsqueeze(-3), 0)  # one new tensor: tiles can be large

    def denormalise(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """Inverse of `normalise` for x (..., C, H, W), up to the chip mean of a centred sensor."""
        pick = [self.bands[i] for i in self.index(names)]
        return x * _sent([b.std for b in pick], x) + _sent([0.0 if self.centred else b.mean for b in pick], x)


def _sent(values: Sequence[float], x: Tensor) -> Tensor:
    """One value a band, (C, 1, 1), as x is and where it is; the device is not waited for."""
    return torch.tensor(values, dtype=x.dtype)[:, None, None].to(x.device, non_blocking=True)


def centre(x: Tensor, valid: Tensor) -> Tensor:
    """`x` (..., C, H, W) less its own mean over the pixels that are `valid` (..., H, W); 0 where they are not."""
    ok = valid.unsqueeze(-3)  # (..., 1, H, W)
    x = torch.where(ok, x, 0)
    mean = x.sum((-2, -1), keepdim=True) / ok.sum((-2, -1), keepdim=True).clamp(min=1)
    return x.sub_(mean).masked_fill_(~ok, 0)


def _optical(*rows: tuple[str, float, float, float]) -> tuple[Band, ...]:
    return tuple(Band(*r) for r in rows)


# Means and deviations are round figures typical of land surfaces, not of any one corpus: a checkpoint must read the
# same everywhere. Wavelengths: Sentinel-2 User Handbook; HLS v2 User Guide; C-band centre of Sentinel-1.
MAP = "map"  # the layer and, where models are shown it, the sensor
SENSORS: dict[str, Sensor] = {
    s.name: s
    for s in (
        Sensor(
            "s2",
            "reflectance",
            10.0,
            _optical(
                ("B01", 443, 0.06, 0.04),
                ("B02", 492, 0.07, 0.05),
                ("B03", 560, 0.09, 0.05),
                ("B04", 665, 0.10, 0.07),
                ("B05", 704, 0.14, 0.07),
                ("B06", 740, 0.21, 0.08),
                ("B07", 783, 0.25, 0.09),
                ("B08", 833, 0.26, 0.10),
                ("B8A", 865, 0.27, 0.10),
                ("B09", 945, 0.28, 0.10),
                ("B10", 1374, 0.01, 0.01),
                ("B11", 1610, 0.22, 0.10),
                ("B12", 2190, 0.15, 0.09),
            ),
        ),
        Sensor("s1", "decibel", 10.0, (Band("VV", None, -11.0, 4.5), Band("VH", None, -18.0, 4.5))),
        Sensor(
            "hls",
            "reflectance",
            30.0,
            _optical(
                ("coastal", 443, 0.06, 0.04),
                ("blue", 482, 0.07, 0.05),
                ("green", 561, 0.09, 0.05),
                ("red", 655, 0.10, 0.07),
                ("nir", 865, 0.26, 0.10),
                ("swir1", 1609, 0.22, 0.10),
                ("swir2", 2201, 0.15, 0.09),
            ),
        ),
        Sensor(  # PlanetScope, surface reflectance; wavelengths: Planet's product specification, Dove-R
            "planet",
            "reflectance",
            3.0,
            _optical(
                ("blue", 485, 0.07, 0.05),
                ("green", 545, 0.09, 0.06),
                ("red", 630, 0.10, 0.08),
                ("nir", 820, 0.26, 0.10),
            ),
        ),
        Sensor(  # Gaofen-2; the wide release is stretched to 8 bits: a share of full scale, no reflectance
            "gf2",
            "brightness",
            4.0,
            _optical(
                ("blue", 485, 0.37, 0.19),
                ("green", 555, 0.38, 0.19),
                ("red", 660, 0.38, 0.20),
                ("nir", 830, 0.49, 0.19),
            ),
        ),
        Sensor("dem", "metre", 30.0, (Band("elevation", None, 0.0, 30.0),), centred=True),
        Sensor(MAP, "class", 10.0, tuple(Band(str(i), None, 0.0, 1.0) for i in range(32))),
    )
}

# The ten bands of Sentinel-2 at 10 and 20 m: what most corpora carry and most models read.
S2_TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# Sentinel-2 without atmospheric correction (Level-1C): reflectance at the top of the atmosphere. One instrument, so one
# sensor and one set of weights, s2; but haze, water vapour (B09) and the cirrus band (B10) need figures of their own.
S2_L1C = Sensor(
    "s2",
    "reflectance",
    10.0,
    _optical(
        ("B01", 443, 0.14, 0.03),
        ("B02", 492, 0.12, 0.04),
        ("B03", 560, 0.11, 0.05),
        ("B04", 665, 0.11, 0.07),
        ("B05", 704, 0.13, 0.07),
        ("B06", 740, 0.18, 0.08),
        ("B07", 783, 0.21, 0.09),
        ("B08", 833, 0.20, 0.10),
        ("B8A", 865, 0.23, 0.10),
        ("B09", 945, 0.07, 0.03),
        ("B10", 1374, 0.002, 0.002),
        ("B11", 1610, 0.19, 0.10),
        ("B12", 2190, 0.13, 0.09),
    ),
)

# PlanetScope mosaics for the eye: stretched to 8 bits, a share of full scale.
PLANET_VISUAL = Sensor(
    "planet",
    "brightness",
    4.0,
    _optical(("blue", 485, 0.44, 0.20), ("green", 545, 0.55, 0.21), ("red", 630, 0.62, 0.23)),
)

# Landsat at the top of the atmosphere: haze as in S2_L1C, near infrared without water vapour.
HLS_TOA = Sensor(
    "hls",
    "reflectance",
    30.0,
    _optical(
        ("coastal", 443, 0.14, 0.03),
        ("blue", 482, 0.12, 0.04),
        ("green", 561, 0.11, 0.05),
        ("red", 655, 0.11, 0.07),
        ("nir", 865, 0.23, 0.10),
        ("swir1", 1609, 0.19, 0.10),
        ("swir2", 2201, 0.13, 0.09),
    ),
)

# Figures for another level than the sensor table's.
LEVELS: dict[tuple[str, str], Sensor] = {
    ("s2", "L1C"): S2_L1C,
    ("hls", "TOA"): HLS_TOA,
    ("planet", "visual"): PLANET_VISUAL,
}
LISTED = "list-"  # begins the level of figures of a training list
MIXED = "mixed"  # the level of a series whose places differ in theirs


def calibration(sensor: str, level: str = "") -> Sensor:
    """The figures that a series of this sensor and level is normalised by; level "" = those of the sensor table.

    ValueError for a level that the sensor does not have, and for MIXED: such places have no figures in common.
    """
    if not level:
        return SENSORS[sensor]
    if (sensor, level) not in LEVELS:
        known = "".join(f" or take {other}" for name, other in LEVELS if name == sensor)
        raise ValueError(f"sensor {sensor} has no level {level!r}; leave it out{known}")
    return LEVELS[sensor, level]


# ---------------------------------------------------------------- sensors of a user's own

SHIPPED = tuple(SENSORS)
# Central wavelengths in nm that bands of these names have, give or take: enough to start them from the nearest known.
USUAL_WAVES = {
    "coastal": 443.0,
    "blue": 480.0,
    "green": 560.0,
    "yellow": 605.0,
    "red": 660.0,
    "rededge": 705.0,
    "nir": 850.0,
    "swir1": 1610.0,
    "swir2": 2200.0,
    "thermal": 10900.0,
}


def register(sensor: Sensor, level: str = "") -> Sensor:
    """Add a sensor of a user's own to the table, for this process, and its figures under `level`; returns it.

    One name is one instrument: bands that other data of that name brought stay, those that are new join them.
    ValueError where a band would have another wavelength, or the sensor another unit.
    """
    known = SENSORS.get(sensor.name)
    if known is not None:
        if not known.own or (known.unit, known.centred) != (sensor.unit, sensor.centred):
            raise ValueError(f"sensor {sensor.name}: is known with the unit {known.unit}; choose another name")
        waves = {b.name: b.wavelength for b in known.bands}
        for b in sensor.bands:
            if b.name in waves and waves[b.name] != b.wavelength:
                raise ValueError(
                    f"sensor {sensor.name}: its band {b.name} is known at {waves[b.name]} nm, not {b.wavelength}; "
                    "choose another name for one of the two sensors"
                )
        new = tuple(b for b in sensor.bands if b.name not in waves)
        SENSORS[sensor.name] = replace(known, bands=known.bands + new) if new else known
    else:
        SENSORS[sensor.name] = sensor
    if level:
        LEVELS[sensor.name, level] = sensor
    return sensor


def figures_level(sensor: Sensor) -> str:
    """The level that stands for the means and deviations of this very sensor of a user's own."""
    rows = [(b.name, b.mean, b.std) for b in sensor.bands]
    return "fit-" + hashlib.sha256(repr(rows).encode()).hexdigest()[:8]


def listed(sensor: str, level: str, figures: Mapping[str, Sequence[float]]) -> str:
    """Keep other figures for bands of a sensor (band -> [mean, deviation]), those of a list of tiles; returns the level
    that stands for them, in this process. Bands without figures keep those of `level`."""
    usual = calibration(sensor, level)
    bands = tuple(replace(b, mean=figures[b.name][0], std=figures[b.name][1]) if b.name in figures else b
                  for b in usual.bands)  # fmt: skip
    digest = hashlib.sha256(repr([(b.name, b.mean, b.std) for b in bands]).encode()).hexdigest()[:8]
    name = f"{LISTED}{level}-{digest}"
    LEVELS[sensor, name] = replace(usual, bands=bands)
    return name


def relisted(levels: Mapping[str, str], figures: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Make the levels of `listed` known to this process, by the figures that were kept with them."""
    for sensor, level in levels.items():
        if level.startswith(LISTED) and (sensor, level) not in LEVELS and sensor in figures:
            usual = calibration(sensor, level.removeprefix(LISTED).rpartition("-")[0])
            LEVELS[sensor, level] = replace(usual, bands=tuple(
                replace(b, mean=figures[sensor][b.name][0], std=figures[sensor][b.name][1])
                if b.name in figures[sensor] else b for b in usual.bands))  # fmt: skip


def own_sensors(names: Iterable[str]) -> list[dict[str, Any]]:
    """Those of `names` that no other process knows, as plain data that `restore` takes."""
    return [asdict(SENSORS[n]) for n in names if SENSORS[n].own]


def restore(described: Iterable[Mapping[str, Any]]) -> None:
    """Register what `own_sensors` gave."""
    for about in described:
        register(Sensor(**{**about, "bands": tuple(Band(**b) for b in about["bands"])}))


@dataclass(frozen=True, slots=True)
class Legend:
    """Classes of a map layer. Index i of `classes` is label i; `codes` are the values in files, if they differ."""

    name: str
    classes: tuple[str, ...]
    codes: tuple[int, ...] | None = None
    colors: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def lookup(self) -> Mapping[int, int]:
        """File code -> label index."""
        codes = self.codes or tuple(range(len(self.classes)))
        return {c: i for i, c in enumerate(codes)}


LEGENDS: dict[str, Legend] = {
    legend.name: legend
    for legend in (
        Legend(  # ESA WorldCover v200 Product User Manual, table 2
            "worldcover",
            (
                "tree cover",
                "shrubland",
                "grassland",
                "cropland",
                "built-up",
                "bare",
                "snow and ice",
                "permanent water",
                "herbaceous wetland",
                "mangroves",
                "moss and lichen",
            ),
            (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100),
            (
                "#006400",
                "#ffbb22",
                "#ffff4c",
                "#f096ff",
                "#fa0000",
                "#b4b4b4",
                "#f0f0f0",
                "#0064c8",
                "#0096a0",
                "#00cf75",
                "#fae6a0",
            ),
        ),
        Legend(  # Brown et al. 2022, https://doi.org/10.1038/s41597-022-01307-4, table 1
            "dynamic_world",
            (
                "water",
                "trees",
                "grass",
                "flooded vegetation",
                "crops",
                "shrub and scrub",
                "built area",
                "bare ground",
                "snow and ice",
            ),
            None,
            (
                "#419bdf",
                "#397d49",
                "#88b053",
                "#7a87c6",
                "#e49635",
                "#dfc35a",
                "#c4281b",
                "#a59b8f",
                "#b39fe1",
            ),
        ),
        Legend("change", ("no change", "change"), None, ("#d9d9d9", "#c4281b")),
    )
}


def legend(
    name: str, classes: Sequence[str], codes: Sequence[int] | None = None, colors: Sequence[str] | None = None
) -> Legend:
    """A legend of a user's own; ValueError where numbers of classes, codes and colours differ or a code repeats."""
    if codes is not None and (len(codes) != len(classes) or len(set(codes)) != len(codes)):
        n = len(classes)
        raise ValueError(f"legend {name}: {n} classes need {n} different codes, got {list(codes)}")
    if colors is not None and (
        len(colors) != len(classes) or not all(re.fullmatch("#[0-9a-fA-F]{6}", c) for c in colors)
    ):
        raise ValueError(f"legend {name}: give one color for each of {len(classes)} classes, such as '#0064c8'")
    return Legend(name, tuple(classes), *(tuple(v) if v is not None else None for v in (codes, colors)))  # type: ignore
