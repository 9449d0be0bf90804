"""Guards against bugs that raise nothing: another unit, bands in another order, linear power for decibel."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.source import Source, normalise
from gfm_objectives.errors import InputWarning
from gfm_objectives.sensors import SENSORS, Sensor, calibration

FAR = 6.0  # deviations between a band's median and what the sensor table expects
ORDER = -0.3  # rank correlation of medians with expected means, below which bands look out of order
BANDS = 4  # with fewer, an order is nothing to go by
LOOKED_AT = 6  # places that are read for it
NEVER_STANDARD = ("reflectance", "decibel")  # units in which no scene has a mean of 0 and a deviation of 1
AIR = {"B01": 0.06, "B02": 0.045}  # reflectance that clean air alone has from above, less a third (443 and 492 nm)
HAZE = 0.1  # of B01, rare on the ground but for snow, sand and shallow water
KEYED = ("chips", "mosaics")  # data whose yaml states the scale and offset of each sensor


def watch(source: Source, name: str) -> None:
    """InputWarning for what is odd about some places of the data `name`, unless it is made up, comes normalised, or was
    looked at when it was opened."""
    if source.watched or source.synthetic or source.normalised:
        return
    count = len(source)
    places = [int((i + 0.5) * count / LOOKED_AT) for i in range(LOOKED_AT)] if count > LOOKED_AT else range(count)
    for line in doubts([source.raw([k]) for k in places], name):
        warnings.warn(f"data={name}: {line}", InputWarning, stacklevel=2)


def remedy(name: str) -> str:
    """What to do where values of the data `name` are far from their unit."""
    if name in KEYED:
        return "check scale and offset"
    if name == "shards":
        return "check scale and offset of what they were prepared from, and prepare it again"
    return (
        "its files are read in the units they are published in: compare with the original (gfm data list says what "
        "fetches it), or read a copy in other units as a folder of your own, whose yaml has scale and offset"
    )


def doubts(raw: Sequence[Batch], name: str) -> list[str]:
    """What is odd about tiles of the data `name` in their sensors' units: a line each, with what to look at.

    Tiles of each level are judged by its figures; a sensor of a user's own, with figures of this very data,
    only by whether normalisation changes anything.
    """
    out: list[str] = []
    for sensor in raw[0].sensors:
        for level in dict.fromkeys(b.sensors[sensor].level for b in raw):
            figures = calibration(sensor, level)
            if figures.of_classes or figures.centred:
                continue
            these = [b for b in raw if b.sensors[sensor].level == level]
            series = [b.sensors[sensor] for b in these]
            values = [torch.cat([s.x[:, :, i][s.valid] for s in series]) for i in range(len(series[0].bands))]
            if not values[0].numel():
                out.append(f"{sensor}: the tiles looked at have no valid pixel")
                continue
            if not (sensor in SENSORS and SENSORS[sensor].own):
                median = {b: float(v.median()) for b, v in zip(series[0].bands, values, strict=True)}
                out += _of_values(sensor, figures, median, standard(values), remedy(name))
                out += _of_level(sensor, level, median)
            out += _unscaled(sensor, these[0], series[0])
    return list(dict.fromkeys(out))


def standard(values: Sequence[Tensor]) -> bool:
    """Whether the values (n,) of a sensor's bands look normalised: about 0, on both sides, deviations about 1."""
    below = sum(float((v < 0).float().mean()) for v in values) / len(values)
    deviation = statistics.median(float(v.std(correction=0)) for v in values)  # one of clouds alone may have 20
    return max(abs(float(v.median())) for v in values) < 1.5 and 0.2 < below < 0.9 and 0.3 < deviation < 2.5


def _of_values(name: str, figures: Sensor, median: Mapping[str, float], standard: bool, remedy: str) -> Iterator[str]:
    known = [figures.bands[i] for i in figures.index(list(median))]
    mean, std = (torch.tensor([getattr(b, k) for b in known]) for k in ("mean", "std"))
    found = torch.tensor(list(median.values()))
    off = (found - mean).abs() / std
    far = [f"{b} {m:.3g}" for (b, m), o in zip(median.items(), off, strict=True) if o > FAR]
    few, disordered = len(far) < len(median) / 2, len(median) >= BANDS and _ranks_agree(found, mean) < ORDER
    order = "are bands in this order? Else " if few and len(median) >= BANDS else ""
    if figures.unit in NEVER_STANDARD and standard:
        yield f"{name}: medians are about 0 and deviations about 1, as of values normalised before; give them as stored"
    elif figures.unit == "decibel" and (found > 0).all():
        yield f"{name}: medians are {_list(found)}, positive, as linear power is; decibel = 10 log10 of it"
    elif far and not (disordered and few):
        yield f"{name}: medians lie far from the {figures.unit} expected: {', '.join(far)}; {order}{remedy}"
    elif disordered:
        yield (
            f"{name}: bands rise and fall against what is usual, {_list(found)} for {', '.join(median)}; "
            "check their order, unless this is water or snow"
        )


def _of_level(name: str, level: str, median: Mapping[str, float]) -> Iterator[str]:
    """Sentinel-2 of one level taken for the other, by the light that air scatters back."""
    if name != "s2" or min(median.values()) < -0.05 or max(median.values()) > 2:  # another unit
        return
    if level == "L1C" and (dark := [f"{b} {median[b]:.3g}" for b in AIR if b in median and median[b] < AIR[b]]):
        yield f"s2: {', '.join(dark)} is less than air alone scatters to a satellite: it looks like Level-2A, not L1C"
    elif level == "" and "B10" in median:
        yield "s2: Level-2A has no B10; are these values Level-1C (level: L1C)?"
    elif level == "" and median.get("B01", 0) > max(HAZE, 1.3 * median.get("B04", math.inf)):
        yield (
            f"s2: medians of B01 {median['B01']:.3g} above B04 {median['B04']:.3g} are those of haze; is this Level-1C "
            "(level: L1C), or shallow water?"
        )


def _unscaled(name: str, raw: Batch, series: Series) -> Iterator[str]:
    """Normalisation must change something: where it does not, values came normalised and are so twice."""
    scaled = normalise(raw.replace(sensors={name: series})).sensors[name].x
    seen = series.valid[:, :, None].expand_as(series.x)
    if torch.allclose(scaled[seen], series.x[seen], atol=1e-3):
        yield f"{name}: normalisation changes nothing; are its values normalised before?"


def _ranks_agree(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation."""
    ranks = torch.stack([t.argsort().argsort().double() for t in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _list(values: Tensor) -> str:
    return ", ".join(f"{v:.3g}" for v in values.tolist())
