"""What a file says of itself against what the yaml says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from gfm_objectives.data.description import Image
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.layers import Raster

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
    yield from (Remark(f"{name}: {line}", "many values" in line or "off" in line) for line in raster.remarks)
    said = raster.said
    if not said.names:
        return
    places = {band: numbers.index(number) for band, number in image.bands.items()}
    pairs = {(said.scale[k], said.offset[k]) for k in places.values()}
    pairs |= {(said.scale[k], said.offset[k]) for t in range(len(said.scale) // len(numbers))
              for k in [t * len(numbers) + p for p in places.values()]}  # fmt: skip
    for scale, offset in sorted(pairs):
        if image.scale is None and (scale, offset) != (1, 0):
            yield Remark(f"{name}: values are scaled as files say, * {scale:g} + {offset:g}", False)
        elif image.scale is not None and (scale, offset) not in ((1, 0), (image.scale, image.offset)):
            yield Remark(
                f"{name}: the file says * {scale:g} + {offset:g}, the yaml * {image.scale:g} + {image.offset:g}, which "
                "is what is done; `scale: file` does as files say",
                True,
            )
    for band, k in places.items():
        if other := _named(said.names[k], band, image.sensor.band_names):
            yield Remark(f"{name}: band {image.bands[band]} is read as {band}, but the file calls it {other!r}", True)
        wave, known = said.waves[k], {b.name: b for b in image.sensor.bands}[band].wavelength
        if wave and known and abs(wave / known - 1) > WAVE_OFF:
            yield Remark(f"{name}: {band} is at {known:g} nm, but the file says {wave:g} nm", True)
        unit, fits = said.units[k].strip().lower(), UNITS.get(image.sensor.unit)
        if unit and fits and unit not in fits:
            yield Remark(f"{name}: {band} should be in {image.sensor.unit}, but the file says {said.units[k]!r}", True)


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
