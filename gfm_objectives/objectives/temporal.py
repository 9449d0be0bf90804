"""Temporal prediction: see half of the dates, predict how the hidden ones differ from them.

    y = x(hidden date) - median over visible, valid dates of x        loss = |prediction - y|

The residual rather than the image: most of an image is what the place always looks like, and copying a visible date
would already explain it. What is left is phenology, water and events, which crop and flood mapping live on. Compare
SatMAE (arXiv 2207.08051) and Presto (arXiv 2304.14065), which mask dates among other things but reconstruct values.
Every sensor of several dates takes part; a date is hidden at every position, and its pixels are never seen. The dense
features are told the date asked for, pixel by pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import SeriesHead
from gfm_objectives.models.positions import day_features
from gfm_objectives.objectives.objective import Dense, Variant, View


class Temporal(Dense):
    """mask_ratio: share of positions hidden at the visible dates too, so that tokens carry what neighbours tell;
    dates: share of each sensor's dates hidden, another draw for each place; ema: as in cross_sensor.

    L1 on pixels that are valid on the hidden date and on a visible one. ValueError where no sensor has two dates.
    """

    def __init__(self, encoder: Encoder, spec: Spec, *, mask_ratio: float, dates: float, ema: float) -> None:
        super().__init__(encoder, spec, mask_ratio)
        several = {s: len(b) for s, b in spec.bands.items() if spec.dates[s] > 1}
        if not several:
            raise ValueError(f"needs a sensor with several dates; this data has one date of {', '.join(spec.bands)}")
        self.dates = dates
        self.head = SeriesHead(encoder.width, several, ema)

    def withhold(self, batch: Batch, variant: Variant) -> tuple[Batch, dict[str, Series]]:
        seen, rest = {}, {}
        for sensor, series in batch.sensors.items():
            t = series.x.shape[1]
            if t == 1:
                seen[sensor] = series
                continue
            gone = min(max(1, round(self.dates * t)), t - 1)
            order = torch.rand(len(batch), t, device=series.x.device).argsort(1)
            seen[sensor], rest[sensor] = series.take_dates(order[:, gone:]), series.take_dates(order[:, :gone])
        return batch.replace(sensors=seen), rest

    def predict(self, view: View, rest: dict[str, Series]) -> dict[str, Tensor]:
        total, out = torch.zeros((), device=view.dense.device), {}
        for sensor, series in rest.items():
            y, weight = residual(series, view.batch.sensors[sensor])
            prediction = self.head(view.dense, sensor, day_features(series, view.batch.sensors[sensor]))
            loss, out[f"l1_{sensor}"] = self.head.loss(sensor, prediction, y, weight)
            total = total + loss / len(rest)
        return {"loss": total, **out}


def residual(series: Series, shown: Series) -> tuple[Tensor, Tensor]:
    """What `series` has beyond the median of `shown`, (B, T, C, H, W), and where both are valid, (B, T, 1, H, W)."""
    ok = shown.valid[:, :, None]
    n = ok.sum(1, keepdim=True)  # (B, 1, 1, H, W) valid dates
    ranked = shown.x.float().masked_fill(~ok, torch.inf).sort(1).values
    middle = [ranked.gather(1, i.expand_as(ranked[:, :1])) for i in ((n - 1).clamp(min=0) // 2, n // 2)]
    counts = series.valid[:, :, None] & (n > 0)
    y = series.x.float() - (middle[0] + middle[1]) / 2
    return y.masked_fill(~counts, 0), counts.float()
