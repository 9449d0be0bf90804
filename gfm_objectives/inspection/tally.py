"""What is counted of the places of a split: values of every band, dates, classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gfm_objectives.batch import Series
from gfm_objectives.data.source import Source
from gfm_objectives.sensors import calibration

SAMPLES = 4  # places in the picture
KEPT = 4000  # values of each band and place that histograms and percentiles are made of


@dataclass
class Values:
    """Valid values of one band in the sensor's unit: how many, their extent and moments, and an even sample."""

    n: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0
    sample: list[np.ndarray] = field(default_factory=list)

    def add(self, x: np.ndarray) -> None:
        """x (n,)."""
        if not len(x):
            return
        self.n += len(x)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.total += float(x.sum(dtype=np.float64))
        self.squares += float(np.square(x, dtype=np.float64).sum())
        self.sample.append(x[:: max(1, len(x) // KEPT)])

    @property
    def mean(self) -> float:
        return self.total / self.n

    @property
    def std(self) -> float:
        return max(0.0, self.squares / self.n - self.mean**2) ** 0.5

    def percentiles(self, *at: float) -> list[float]:
        return np.percentile(np.concatenate(self.sample), at).tolist()


@dataclass
class SensorTally:
    """Of one sensor. pixels, valid: counted over dates; empty: tiles without a valid pixel; days: first and last;
    levels: those of its series."""

    bands: dict[str, Values]
    pixels: int = 0
    valid: int = 0
    empty: int = 0
    days: tuple[float, float] | None = None
    levels: set[str] = field(default_factory=set)

    def add(self, name: str, s: Series) -> None:
        x = calibration(name, s.level).denormalise(s.x[0], s.bands)  # (T, C, H, W)
        valid = s.valid[0]  # (T, H, W)
        self.levels.add(s.level)
        for i, band in enumerate(s.bands):
            self.bands[band].add(x[:, i][valid].numpy())
        self.pixels += valid.numel()
        self.valid += int(valid.sum())
        self.empty += not valid.any()
        seen = s.day[0][valid.flatten(1).any(1)]
        if len(seen) and seen.any():  # 0 stands for an unknown day
            first, last = self.days or (np.inf, -np.inf)
            self.days = min(first, float(seen.min())), max(last, float(seen.max()))


@dataclass
class LayerTally:
    """Of one layer. pixels of each class and, last, without a label; hidden: sensor -> those of them that it does not
    see at any date; empty: tiles without a label; values: of a layer of numbers, which has one class; whole: labels are
    of whole tiles, which stand for pixels here, and may show several classes."""

    pixels: np.ndarray
    hidden: dict[str, np.ndarray]
    empty: int = 0
    values: Values = field(default_factory=Values)
    whole: bool = False


@dataclass(frozen=True)
class Look:
    """A split: how many places and areas it has, how many whole tiles were read, and what was counted of them."""

    places: int
    read: int
    areas: int
    sensors: dict[str, SensorTally]
    layers: dict[str, LayerTally]


def look(source: Source, tiles: Sequence[int], done: Callable[[int], None] = lambda count: None) -> Look:
    """Read whole `tiles` of a source one at a time and count: their windows may overlap and end in padding. `done` is
    told how many are read."""
    spec = source.spec
    sensors = {k: SensorTally({b: Values() for b in bands}) for k, bands in spec.bands.items()}
    layers = {
        k: LayerTally(np.zeros(len(legend) + 1, np.int64), {s: np.zeros(len(legend) + 1, np.int64) for s in spec.bands})
        for k, legend in spec.legends.items()
    }
    for count, i in enumerate(tiles):
        done(count)
        batch = source.tile(i)
        for name, s in batch.sensors.items():
            sensors[name].add(name, s)
        for name, y in batch.targets.items():
            n, tally = len(spec.legends[name]), layers[name]
            if y.is_floating_point() and y.ndim == 3:  # numbers: one class, which those have that are known
                tally.values.add(y[~y.isnan()].numpy())
                y = torch.where(y.isnan(), -1, 0)
            if tally_whole(tally, y):
                continue
            y = torch.where(y < 0, n, y)
            tally.pixels += torch.bincount(y.flatten(), minlength=n + 1).numpy()
            tally.empty += bool((y == n).all())
            for sensor, s in batch.sensors.items():
                tally.hidden[sensor] += torch.bincount(y[~s.valid.any(1)], minlength=n + 1).numpy()
    return Look(len(source), len(tiles), len(set(source.groups())), sensors, layers)


def tally_whole(tally: LayerTally, y: torch.Tensor) -> bool:
    """Count a label of a whole tile: y (1,) of a class, or (1, K) of which it shows. False where y is of pixels."""
    tally.whole = y.ndim < 3
    if tally.whole:
        shown = y[0].nan_to_num().nonzero()[:, 0] if y.ndim == 2 else y[y >= 0]
        tally.pixels[shown.numpy() if len(shown) else -1] += 1
        tally.empty += not len(shown)
    return tally.whole


def pooled(tallies: Sequence[SensorTally], band: str) -> Values:
    """The values of a band in several splits as one."""
    out = Values()
    for values in (t.bands[band] for t in tallies):
        out.n, out.total, out.squares = out.n + values.n, out.total + values.total, out.squares + values.squares
        out.low, out.high = min(out.low, values.low), max(out.high, values.high)
        out.sample += values.sample
    return out
