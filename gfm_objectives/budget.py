"""A budget in FLOPs that is spent, and the schedule it drives."""

from __future__ import annotations

import math

from gfm_objectives.errors import InputError


class Budget:
    """FLOPs to spend. The last batch is cut so that the run lands within half a sample of the total."""

    def __init__(self, flops: float) -> None:
        if not (math.isfinite(flops) and flops > 0):
            raise InputError(f"budget.flops={flops}: must be a positive number of FLOPs, such as 1e13")
        self.flops = float(flops)
        self.spent = 0.0

    def check(self, per_sample: float, key: str = "budget.flops") -> None:
        """InputError where the budget, of `key`, cannot be met within 0.5 %: it pays for fewer than 100 samples."""
        if self.flops < 100 * per_sample:
            raise InputError(
                f"{key}={self.flops:.3g} pays for {self.flops / per_sample:.1f} samples of {per_sample:.3g} "
                f"FLOPs; give at least {rounded_up(100 * per_sample):.2g} or take a smaller encoder"
            )

    def spend(self, flops: float) -> None:
        self.spent += flops

    @property
    def progress(self) -> float:
        """Share spent, 0 to 1."""
        return min(1.0, self.spent / self.flops)

    @property
    def remaining(self) -> float:
        return max(0.0, self.flops - self.spent)

    def samples_left(self, per_sample: float) -> int:
        """How many samples at this price bring the run nearest to its total; 0 = done."""
        return round(self.remaining / per_sample)

    def is_trunk(self, samples: int, per_sample: float, cooldown: float) -> bool:
        """Whether the next step, of so many samples, is the one that every larger budget takes here: at the full
        learning rate, and not cut."""
        return decay(self.progress, cooldown) == 1.0 and self.samples_left(per_sample) >= samples


def rounded_up(flops: float) -> float:
    """To two digits, so that what is printed is enough."""
    unit = 10.0 ** (math.floor(math.log10(flops)) - 1)
    return math.ceil(flops / unit) * unit


def wsd(progress: float, samples: int, warmup: int, cooldown: float) -> float:
    """Warm-up, stable, decay: the factor on the learning rate.

    progress: share of the budget spent before this step; samples: seen when this step ends. The warm-up is absolute, so
    nothing before the last `cooldown` share depends on the total (Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024,
    arXiv:2405.18392).
    """
    up = min(1.0, samples / warmup) if warmup else 1.0
    return up * decay(progress, cooldown)


def decay(progress: float, cooldown: float) -> float:
    """The cool-down's factor of `wsd`: 1 on the trunk, then down to 0."""
    return min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0
