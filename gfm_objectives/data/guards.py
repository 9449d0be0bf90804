"""Guards against bugs that raise nothing: another unit, bands in another order, linear power for decibel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.source import normalise
from gfm_objectives.sensors import Sensor, calibration

FAR = 6.0  # deviations between a band's median and what the sensor table expects
ORDER = -0.3  # rank correlation of medians with expected means, below which bands look out of order
BANDS = 4  # with fewer, an order is nothing to go by


def doubts(raw: Sequence[Batch]) -> list[str]:
    """What is odd about tiles in their sensors' units: a line each, which names the sensor and what to look at."""
    out = []
    for name in raw[0].sensors:
        series = [b.sensors[name] for b in raw]
        figures = calibration(name, series[0].level)
        if figures.of_classes or figures.centred:
            continue
        values = [torch.cat([s.x[:, :, i][s.valid] for s in series]) for i in range(len(series[0].bands))]
        if not values[0].numel():
            out.append(f"{name}: the tiles looked at have no valid pixel")
            continue
        out += _of_values(name, figures, series[0].bands, torch.stack([v.median() for v in values]))
        out += _unscaled(name, raw[0], series[0])
    return out


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
