"""Cross-sensor prediction: see half of what the other sensors saw, predict all of one.

S2 and DEM -> S1 in decibel, S1 and DEM -> S2, both -> DEM slope and relative height; the target is drawn at each step.
Compare SatMAE++ and Presto, which reconstruct all sensors at once, and GAN-free SAR-optical translation: here nothing
of the target's own sensor is visible, so it cannot be copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import SeriesHead
from gfm_objectives.models.positions import day_features
from gfm_objectives.objectives.objective import Dense, Variant, View
from gfm_objectives.sensors import calibration

SLOPE = 10.0  # degrees that count as 1: of the size of the other targets


class CrossSensor(Dense):
    """mask_ratio: share of positions hidden; joint: see all other sensors, or (false) one at a time; sources: sensors
    to predict from (null = all, but with joint=false not the DEM, which tells little by itself); wanted: sensors to
    predict (null = all).

    Variants are (source, ..., target). L1 on valid pixels; each target is weighted by 1 / EMA of its own loss, so that
    noisy targets do not drown the rest. With only one sensor there is nothing to predict: ValueError.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        joint: bool,
        ema: float,
        sources: list[str] | None = None,
        wanted: list[str] | None = None,
    ) -> None:
        super().__init__(encoder, spec, mask_ratio)
        if len(spec.bands) < 2:
            raise ValueError(f"cross_sensor needs two sensors; this data has {', '.join(spec.bands)} only")
        sources = list(sources) if sources else [s for s in spec.bands if joint or s != "dem"]
        wanted = list(wanted) if wanted else list(spec.bands)
        for key, names in (("sources", sources), ("wanted", wanted)):
            if unknown := [s for s in names if s not in spec.bands]:
                raise ValueError(
                    f"objective.{key}: {unknown[0]} is not in this data, which has {', '.join(spec.bands)}"
                )
        others = {b: tuple(a for a in sources if a != b) for b in wanted}
        self.ways: tuple[Variant, ...] = (
            tuple((*seen, b) for b, seen in others.items() if seen)
            if joint
            else tuple((a, b) for a in sources for b in wanted if a != b)
        )
        if not self.ways:
            told = f"objective.sources={sources}, objective.wanted={wanted}"
            raise ValueError(f"{told}: nothing else to predict it from; name another sensor in either")
        targets = sorted({way[-1] for way in self.ways})
        self.head = SeriesHead(encoder.width, {s: channels(s, spec) for s in targets}, ema)

    def variants(self) -> tuple[Variant, ...]:
        return self.ways

    def withhold(self, batch: Batch, variant: Variant) -> tuple[Batch, tuple[str, Series]]:
        *sources, target = variant or self.ways[0]
        return batch.replace(sensors={s: batch.sensors[s] for s in sources}), (target, batch.sensors[target])

    def predict(self, view: View, rest: tuple[str, Series]) -> dict[str, Tensor]:
        target, series = rest
        y, weight = quantities(target, series, view.batch.gsd)
        loss, l1 = self.head.loss(target, self.head(view.dense, target, day_features(series)), y, weight)
        return {"loss": loss, f"l1_{'_'.join(view.batch.sensors)}_to_{target}": l1}


def channels(sensor: str, spec: Spec) -> int:
    return 2 if sensor == "dem" else len(spec.bands[sensor])


def quantities(sensor: str, series: Series, gsd: Tensor) -> tuple[Tensor, Tensor]:
    """What is predicted of a sensor, (B, T, C, H, W), and where it counts, (B, T, C or 1, H, W): its bands; of the DEM,
    relative height and slope. gsd (B,) in metres."""
    ok = series.valid[:, :, None]
    x = series.x.masked_fill(~ok, 0).float()
    if sensor != "dem":
        return x, ok.float()
    metres = calibration(sensor, series.level).denormalise(x, series.bands)[:, :, 0]  # up to the chip's mean
    slope, known = slope_degrees(metres, series.valid, gsd)
    return torch.cat([x, slope[:, :, None] / SLOPE], 2), torch.stack([series.valid, known], 2).float()


def slope_degrees(height: Tensor, valid: Tensor, gsd: Tensor) -> tuple[Tensor, Tensor]:
    """Slope in degrees of height (B, T, H, W) in metres, and where it is known: where a valid pixel has a valid
    neighbour in its row and one in its column. Beside a hole or an edge the difference is to the one neighbour."""
    steps, known = [], valid
    for dim in (-2, -1):
        step, has = slope_along(height, valid, dim)
        steps.append(step / gsd[:, None, None, None])
        known = known & has
    return torch.hypot(*steps).atan().rad2deg().masked_fill(~known, 0), known


def slope_along(height: Tensor, valid: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean difference to the valid neighbours on either side along `dim`, per pixel, and whether there is one."""
    n = height.shape[dim] - 1
    pair = valid.narrow(dim, 0, n) & valid.narrow(dim, 1, n)
    rise = (height.narrow(dim, 1, n) - height.narrow(dim, 0, n)) * pair
    total, count = torch.zeros_like(height), torch.zeros_like(height)
    for start in (0, 1):  # each difference belongs to the pixel before it and to the one after it
        total.narrow(dim, start, n).add_(rise)
        count.narrow(dim, start, n).add_(pair.to(height.dtype))
    return total / count.clamp(min=1), count > 0
