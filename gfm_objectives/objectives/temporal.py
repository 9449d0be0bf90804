"""Temporal prediction: see half of the dates, predict the others.

    y = x(hidden date), or its difference from the median over visible, valid dates        loss = |prediction - y|

Most of an image is what the place always looks like. The difference alone leaves phenology, water and events, which
crop and flood mapping live on, and no gain in copying; but features that tell it need not tell what it differs from,
and knew the next date worse than untrained ones did (LOG.md), so the values are the default. Compare SatMAE (arXiv
2207.08051) and Presto (arXiv 2304.14065), which mask dates among other things. Every sensor of several dates takes
part; a date is hidden at every position, and its pixels are never seen. The day asked for draws up the linear map that
reads the dense features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_objectives import ranks
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import SeriesHead
from gfm_objectives.models.positions import day_features
from gfm_objectives.objectives.objective import Dense, Variant, View


class Temporal(Dense):
    """mask_ratio: share of positions hidden at the visible dates too, so that tokens carry what neighbours tell;
    dates: share of each sensor's dates hidden; future: share of the places whose last dates these are, else any,
    another draw for each; residual: predict differences; ema: as in cross_sensor.

    L1 on pixels that are valid on the hidden date and, of differences, on a visible one. ValueError where no sensor has
    two dates.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        dates: float,
        ema: float,
        future: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__(encoder, spec, mask_ratio)
        several = {s: len(b) for s, b in spec.bands.items() if spec.dates[s] > 1}
        if not several:
            raise ValueError(f"needs a sensor with several dates; this data has one date of {', '.join(spec.bands)}")
        self.dates, self.future, self.residual = dates, future, residual
        self.head = SeriesHead(encoder.width, several, ema)

    def withhold(self, batch: Batch, variant: Variant) -> tuple[Batch, dict[str, Series]]:
        seen, rest = {}, {}
        ahead = ranks.rand(len(batch), 1, device=batch.gsd.device) < self.future
        for sensor, series in batch.sensors.items():
            t = series.x.shape[1]
            if t == 1:
                seen[sensor] = series
                continue
            gone = min(max(1, round(self.dates * t)), t - 1)
            noise = ranks.rand(len(batch), t, device=series.x.device)
            order = torch.where(ahead, -torch.arange(t, device=noise.device), noise).argsort(1)
            seen[sensor], rest[sensor] = series.take_dates(order[:, gone:]), series.take_dates(order[:, :gone])
        return batch.replace(sensors=seen), rest

    def predict(self, view: View, rest: dict[str, Series]) -> dict[str, Tensor]:
        total, out = torch.zeros((), device=view.dense.device), {}
        for sensor, series in rest.items():
            y, weight = residual(series, view.batch.sensors[sensor]) if self.residual else values(series)
            prediction = self.head(view.dense, sensor, day_features(series, view.batch.sensors[sensor]))
            loss, out[f"l1_{sensor}"] = self.head.loss(sensor, prediction, y, weight)
            total = total + loss / len(rest)
        return {"loss": total, **out}


def values(series: Series) -> tuple[Tensor, Tensor]:
    """What `series` shows, (B, T, C, H, W), and where it is valid, (B, T, 1, H, W)."""
    ok = series.valid[:, :, None]
    return series.x.float().masked_fill(~ok, 0), ok.float()


def residual(series: Series, shown: Series) -> tuple[Tensor, Tensor]:
    """What `series` has beyond the median of `shown`, (B, T, C, H, W), and where both are valid, (B, T, 1, H, W)."""
    ok = shown.valid[:, :, None]
    n = ok.sum(1, keepdim=True)  # (B, 1, 1, H, W) valid dates
    ranked = shown.x.float().masked_fill(~ok, torch.inf).sort(1).values
    middle = [ranked.gather(1, i.expand_as(ranked[:, :1])) for i in ((n - 1).clamp(min=0) // 2, n // 2)]
    counts = series.valid[:, :, None] & (n > 0)
    y = series.x.float() - (middle[0] + middle[1]) / 2
    return y.masked_fill(~counts, 0), counts.float()
