"""Cross-sensor prediction: see half of what the other sensors saw, predict all of one.

S2 and DEM -> S1 in decibel, S1 and DEM -> S2, both -> DEM slope and relative height; the target is drawn at each step.
Compare SatMAE++ and Presto, which reconstruct all sensors at once, and GAN-free SAR-optical translation: here nothing
of the target's own sensor is visible, so it cannot be copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.tokens import day_features
from gfm_objectives.objectives.objective import Objective, Variant


class CrossSensor(Objective):
    """mask_ratio: share of positions hidden; joint: see all other sensors, or (false) one at a time; sources: sensors
    to predict from (null = all, but with joint=false not the DEM, which tells little by itself).

    Variants are (source, ..., target). L1 on valid pixels; each target is weighted by 1 / EMA of its own loss, so that
    noisy targets do not drown the rest. With only one sensor there is nothing to predict: ValueError.
    """

    def __init__(
        self, encoder: Encoder, spec: Spec, *, mask_ratio: float, joint: bool, sources: list[str] | None, ema: float
    ) -> None:
        super().__init__(encoder, spec)
        if len(spec.bands) < 2:
            raise ValueError(f"cross_sensor needs two sensors; this data has {', '.join(spec.bands)} only")
        sources = list(sources) if sources else [s for s in spec.bands if joint or s != "dem"]
        unknown = [s for s in sources if s not in spec.bands]
        if unknown:
            raise ValueError(f"objective.sources: {unknown[0]} is not in this data, which has {', '.join(spec.bands)}")
        self.mask_ratio, self.decay = mask_ratio, ema
        others = {b: tuple(a for a in sources if a != b) for b in spec.bands}
        self.ways: tuple[Variant, ...] = (
            tuple((*seen, b) for b, seen in others.items() if seen)
            if joint
            else tuple((a, b) for a in sources for b in spec.bands if a != b)
        )
        targets = sorted({way[-1] for way in self.ways})
        width = encoder.width
        self.when = nn.Linear(5, 2 * width)
        self.hidden = nn.Linear(width, 2 * width)
        self.head = nn.ModuleDict({s: nn.Linear(2 * width, channels(s, spec)) for s in targets})
        for s in targets:
            self.register_buffer(f"ema_{s}", torch.ones(()))

    def variants(self) -> tuple[Variant, ...]:
        return self.ways

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        *sources, target = variant or self.ways[0]
        seen = batch.replace(sensors={s: batch.sensors[s] for s in sources})
        every = self.encoder.tokenize(seen)
        kept, _ = masking.split_cells(every, self.keep(every.cells))
        tokens = every.take(kept)
        dense = self.encoder.dense(seen, tokens, self.encoder(tokens))  # (B, width, H, W)
        series = batch.sensors[target]
        y, weight = quantities(target, series)  # (B, T, C, H, W), (B, T, 1, H, W)
        pixels = self.hidden(dense.movedim(1, -1))[:, None]  # (B, 1, H, W, 2 width)
        told = nn.functional.gelu(pixels + self.when(day_features(series))[:, :, None, None])
        prediction = self.head[target](told).movedim(-1, 2).float()
        error = ((prediction - y).abs() * weight).sum() / (weight.sum() * y.shape[2]).clamp(min=1)
        ema = getattr(self, f"ema_{target}")
        if self.training:
            with torch.no_grad():
                ema.mul_(self.decay).add_(error.detach(), alpha=1 - self.decay)
        return {"loss": error / ema.clamp(min=1e-3), f"l1_{'_'.join(sources)}_to_{target}": error.detach()}

    def keep(self, cells: int) -> int:
        return max(1, round((1 - self.mask_ratio) * cells))

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        *sources, _ = variant or self.ways[0]
        cells = (batch.size[0] // self.encoder.patch) * (batch.size[1] // self.encoder.patch)
        return self.keep(cells) * sum(batch.sensors[s].x.shape[1] for s in sources)


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
