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
from gfm_objectives.models.tokens import day_features
from gfm_objectives.objectives.objective import DenseObjective, Variant


class CrossSensor(DenseObjective):
    """mask_ratio: share of positions hidden; joint: see all other sensors, or (false) one at a time; sources: sensors
    to predict from (null = all, but with joint=false not the DEM, which tells little by itself).

    Variants are (source, ..., target). L1 on valid pixels; each target is weighted by 1 / EMA of its own loss, so that
    noisy targets do not drown the rest. With only one sensor there is nothing to predict: ValueError.
    """

    def __init__(
        self, encoder: Encoder, spec: Spec, *, mask_ratio: float, joint: bool, sources: list[str] | None, ema: float
    ) -> None:
        super().__init__(encoder, spec, mask_ratio)
        if len(spec.bands) < 2:
            raise ValueError(f"cross_sensor needs two sensors; this data has {', '.join(spec.bands)} only")
        sources = list(sources) if sources else [s for s in spec.bands if joint or s != "dem"]
        unknown = [s for s in sources if s not in spec.bands]
        if unknown:
            raise ValueError(f"objective.sources: {unknown[0]} is not in this data, which has {', '.join(spec.bands)}")
        others = {b: tuple(a for a in sources if a != b) for b in spec.bands}
        self.ways: tuple[Variant, ...] = (
            tuple((*seen, b) for b, seen in others.items() if seen)
            if joint
            else tuple((a, b) for a in sources for b in spec.bands if a != b)
        )
        targets = sorted({way[-1] for way in self.ways})
        self.head = SeriesHead(encoder.width, {s: channels(s, spec) for s in targets}, ema)

    def variants(self) -> tuple[Variant, ...]:
        return self.ways

    def hide(self, batch: Batch, variant: Variant) -> tuple[Batch, tuple[str, Series]]:
        *sources, target = variant or self.ways[0]
        return batch.replace(sensors={s: batch.sensors[s] for s in sources}), (target, batch.sensors[target])

    def predict(self, dense: Tensor, seen: Batch, rest: tuple[str, Series], hidden: Tensor) -> dict[str, Tensor]:
        target, series = rest
        y, weight = quantities(target, series)  # (B, T, C, H, W), (B, T, 1, H, W)
        loss, l1 = self.head.loss(target, self.head(dense, target, day_features(series)), y, weight)
        return {"loss": loss, f"l1_{'_'.join(seen.sensors)}_to_{target}": l1}


def channels(sensor: str, spec: Spec) -> int:
    return 2 if sensor == "dem" else len(spec.bands[sensor])


def quantities(sensor: str, series: Series) -> tuple[Tensor, Tensor]:
    """What is predicted of a sensor, and where it counts: its bands; of the DEM, relative height and slope."""
    ok = series.valid[:, :, None]
    x = series.x.masked_fill(~ok, 0).float()
    if sensor == "dem":
        dy, dx = torch.gradient(x[:, :, 0], dim=(-2, -1))
        slope = (dx.square() + dy.square()).sqrt()[:, :, None]
        x = torch.cat([x, slope / slope.mean((-2, -1), keepdim=True).clamp(min=1e-3)], 2)
    return x, ok.float()
