"""Guards against bugs that raise nothing: another unit, bands in another order, linear power for decibel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

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

    Tiles of each level are judged by its figures; a sensor of a user's own has figures of this very data: it is not.
    """
    out: list[str] = []
    for sensor in raw[0].sensors:
        for level in dict.fromkeys(b.sensors[sensor].level for b in raw):
            figures = calibration(sensor, level)
            if figures.of_classes or figures.centred or (sensor in SENSORS and SENSORS[sensor].own):
                continue
            these = [b for b in raw if b.sensors[sensor].level == level]
            series = [b.sensors[sensor] for b in these]
            values = [torch.cat([s.x[:, :, i][s.valid] for s in series]) for i in range(len(series[0].bands))]
            if not values[0].numel():
                out.append(f"{sensor}: the tiles looked at have no valid pixel")
                continue
            median = torch.stack([v.median() for v in values])
            out += _of_values(sensor, figures, series[0].bands, median, remedy(name))
            out += _unscaled(sensor, these[0], series[0])
    return list(dict.fromkeys(out))


def _of_values(
    name: str, figures: Sensor, bands: Sequence[str], median: Tensor, remedy: str
) -> Iterator[str]:
    known = [figures.bands[i] for i in figures.index(bands)]
    mean, std = (torch.tensor([getattr(b, k) for b in known]) for k in ("mean", "std"))
    if figures.unit == "decibel" and (median > 0).all():
        yield f"{name}: medians are {_list(median)}, positive, as linear power is; decibel = 10 log10 of it"
    elif far := [
        f"{b} {m:.3g}" for b, m, off in zip(bands, median, (median - mean).abs() / std, strict=True) if off > FAR
    ]:
        yield f"{name}: medians lie far from the {figures.unit} expected: {', '.join(far)}; {remedy}"
    elif len(bands) >= BANDS and _ranks_agree(median, mean) < ORDER:
        yield (
            f"{name}: bands rise and fall against what is usual, {_list(median)} for {', '.join(bands)}; "
            "check their order, unless this is water or snow"
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
