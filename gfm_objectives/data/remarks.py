"""What a file says of itself against what the yaml says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gfm_objectives.data.description import Image
from gfm_objectives.data.fills import stray
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.rasters import Raster
from gfm_objectives.data.validity import Quality, beyond, equals_any

GSD_OFF = 0.05  # of metres per pixel, from which files and yaml differ
WAVE_OFF = 0.08  # of a wavelength
UNITS = {  # of the sensor -> how files spell it; other words contradict it
    "reflectance": ("reflectance", "1", "unitless", "dimensionless", "none"),
    "decibel": ("db", "decibel", "decibels"),
    "metre": ("m", "metre", "meter", "metres", "meters"),
}


class Remark(NamedTuple):
    """A line on a file, and whether it is odd: odd ones become warnings, the others are told by `gfm inspect`."""

    text: str
    odd: bool


def of_image(name: str, image: Image, raster: Raster, numbers: list[int]) -> Iterator[Remark]:
    """On a file read for a sensor with the bands `numbers`."""
    yield from (
        Remark(f"{name}: {line}", any(w in line for w in ("many values", "off", "turned"))) for line in raster.remarks
    )
    said = raster.said
    if not said.names:
        return
    places = {band: numbers.index(number) for band, number in image.bands.items()}
    pairs = {(said.scale[k], said.offset[k]) for k in places.values()}
    pairs |= {(said.scale[k], said.offset[k]) for t in range(len(said.scale) // len(numbers))
              for k in [t * len(numbers) + p for p in places.values()]}  # fmt: skip
    for pair in sorted(pairs):
        yield from of_scale(name, image.scale, image.offset, pair)
    for band, k in places.items():
        if other := _named(said.names[k], band, image.sensor.band_names):
            yield Remark(f"{name}: band {image.bands[band]} is read as {band}, but the file calls it {other!r}", True)
        wave, known = said.waves[k], {b.name: b for b in image.sensor.bands}[band].wavelength
        if wave and known and abs(wave / known - 1) > WAVE_OFF:
            yield Remark(f"{name}: {band} is at {known:g} nm, but the file says {wave:g} nm", True)
        unit, fits = said.units[k].strip().lower(), UNITS.get(image.sensor.unit)
        if unit and fits and unit not in fits:
            yield Remark(f"{name}: {band} should be in {image.sensor.unit}, but the file says {said.units[k]!r}", True)


def of_scale(name: str, scale: float | None, offset: float, stated: tuple[float, float]) -> Iterator[Remark]:
    """On the scale and offset that a file states, beside those of the yaml (None = it names none)."""
    if scale is None and stated != (1, 0):
        yield Remark(f"{name}: values are scaled as files say, * {stated[0]:g} + {stated[1]:g}", False)
    elif scale is not None and stated not in ((1, 0), (scale, offset)):
        yield Remark(
            f"{name}: the file says * {stated[0]:g} + {stated[1]:g}, the yaml * {scale:g} + {offset:g}, which "
            "is what is done; `scale: file` does as files say",
            True,
        )


def of_fills(name: str, image: Image, raster: Raster, numbers: list[int]) -> Iterator[Remark]:
    """On bands with a value far from all others that looks like no data, and that neither yaml nor file declares."""
    for band, number in image.bands.items():
        for t in range(len(raster.values)):
            k = numbers.index(number)
            x, said = raster.values[t, k], raster.said.nodata
            declared = said[t * len(numbers) + k] if said else None
            seen = np.isfinite(x) & ~equals_any(x, [] if declared is None else [declared])
            if raster.valid is not None:
                seen &= raster.valid[t]
            yield from of_fill(f"{name}: {band} (band {number})", x[seen])


def of_flags(quality: Quality, held: np.dtype) -> Iterator[Remark]:
    """On flags of the yaml that the band cannot have, so that they hide nothing."""
    if lost := beyond(quality.bits, quality.values, held):
        what = f"quality band {quality.band} of {quality.file}"
        yield Remark(f"{what} is {held}, which has no {' and no '.join(lost)}: nothing is hidden by it", True)


def of_fill(what: str, values: np.ndarray) -> Iterator[Remark]:
    """On values (n,) one of which, though nobody says so, is none."""
    if (value := stray(values)) is not None:
        line = f"{what} holds {value:g}, far from its other values, and no file declares it"
        yield Remark(f"{line}; where it is no data write `nodata: {value:g}`, else `nodata: none`", True)


@lru_cache(maxsize=4096)
def _named(text: str, band: str, bands: tuple[str, ...]) -> str:
    """The description of a band, where it names another band of the sensor and not this one."""
    words = {_plain(w) for w in re.split(r"[\s_(),;:/]+", text)} | {_plain(text)}
    mine, others = {_plain(band)}, set()
    for name in bands:
        names = {_plain(name)} | ({_common(name)} if _common(name) else set())
        if name == band:
            mine |= names
        else:
            others |= names
    return text if words & (others - mine) and not words & mine else ""


def _plain(word: str) -> str:
    """B2, b02 and Band 2 alike."""
    word = word.lower().replace("band", "b").replace("-", "").replace(" ", "")
    return re.sub(r"^b0*(\d)", r"b\1", word)


def _common(band: str) -> str:
    """What people call bands of Sentinel-2."""
    return {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir1", "B12": "swir2"}.get(band, "")


def of_place(grid: Grid, gsd: float) -> Iterator[Remark]:
    """On the pixel size that a chip's georeference says."""
    metres = grid.metres
    if metres is not None and abs(metres / gsd - 1) > GSD_OFF:
        yield Remark(f"the file says {metres:.3g} m per pixel, data.gsd={gsd:g}", True)
    if grid.local:
        yield Remark("has a coordinate system of its own: where it lies on Earth is not known", False)


def of_way(name: str, whole: Grid, grid: Grid, way: str) -> Iterator[Remark]:
    """On a file that is brought to the grid of its chip."""
    if way:
        how = "warped by their georeferences" if way == "warp" else "resampled by their sizes"
        (h, w), (height, width) = whole.shape, grid.shape
        yield Remark(f"{name}: {h} x {w} pixels become {height} x {width}, {how}", False)
