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


def watch(source: Source, name: str) -> None:
    """InputWarning for what is odd about some places of the data `name`, unless it is made up, comes normalised, or was
    looked at when it was opened."""
    if source.watched or source.synthetic or source.normalised:
        return
    count = len(source)
    places = [int((i + 0.5) * count / LOOKED_AT) for i in range(LOOKED_AT)] if count > LOOKED_AT else range(count)
    for line in doubts([source.raw([k]) for k in places]):
        warnings.warn(f"data={name}: {line}", InputWarning, stacklevel=2)


def doubts(raw: Sequence[Batch]) -> list[str]:
    """What is odd about tiles in their sensors' units: a line each, which names the sensor and what to look at.

    Tiles of each level are judged by its figures; a sensor of a user's own has figures of this very data: it is not.
    """
    out: list[str] = []
    for name in raw[0].sensors:
        for level in dict.fromkeys(b.sensors[name].level for b in raw):
            figures = calibration(name, level)
            if figures.of_classes or figures.centred or (name in SENSORS and SENSORS[name].own):
                continue
            these = [b for b in raw if b.sensors[name].level == level]
            series = [b.sensors[name] for b in these]
            values = [torch.cat([s.x[:, :, i][s.valid] for s in series]) for i in range(len(series[0].bands))]
            if not values[0].numel():
                out.append(f"{name}: the tiles looked at have no valid pixel")
                continue
            out += _of_values(name, figures, series[0].bands, torch.stack([v.median() for v in values]))
            out += _unscaled(name, these[0], series[0])
    return list(dict.fromkeys(out))


def _of_values(name: str, figures: Sensor, bands: Sequence[str], median: Tensor) -> Iterator[str]:
    known = [figures.bands[i] for i in figures.index(bands)]
    mean, std = (torch.tensor([getattr(b, k) for b in known]) for k in ("mean", "std"))
    if figures.unit == "decibel" and (median > 0).all():
        yield f"{name}: medians are {_list(median)}, positive, as linear power is; decibel = 10 log10 of it"
    elif far := [
        f"{b} {m:.3g}" for b, m, off in zip(bands, median, (median - mean).abs() / std, strict=True) if off > FAR
    ]:
        yield f"{name}: medians lie far from the {figures.unit} expected: {', '.join(far)}; check scale and offset"
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
