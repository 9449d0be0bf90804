"""The ledger: what a run cost and what it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from gfm_objectives import disk
from gfm_objectives.errors import InputError

NUMBERS = ("seed", "flops_budget", "flops_spent")  # what a comparison reckons with
REMEDY = "bring the run folder back from a copy, or train it again with overwrite=true"


@dataclass
class Ledger:
    """What a run cost and what it was, written as `ledger.json` beside it. FLOPs are model FLOPs; times in seconds."""

    objective: str
    seed: int
    config_hash: str
    data_fingerprint: str
    commit: str
    encoder: str = ""
    precision: str = ""
    parameters: dict[str, int] = field(default_factory=dict)  # stem, vit, way_back, objective
    flops_budget: float = 0.0
    flops_spent: float = 0.0
    flops_trunk: float = 0.0  # of those spent: the share of the run this one branched from
    trunk: str = ""  # that run
    flops_initial: float | None = 0.0  # spent before, on the weights it began with; None = unknown; not in the budget
    initial: str = ""  # whose weights those are
    flops_per_sample: float = 0.0
    flops_per_sample_by_part: dict[str, float] = field(default_factory=dict)
    flops_evaluation: float = 0.0  # of the yardstick; not part of the budget
    flops_target_preparation: float = 0.0  # charged to the budget where a learned model prepares the targets
    seconds_target_preparation: float = 0.0  # of one core, mostly the loader's; fitting included, even if kept
    samples: int = 0
    tokens: int = 0  # of dates, sensors and patches, as others count them; masked ones included
    visible_tokens: int = 0
    merged_tokens: int = 0  # of the ViT, once dates and sensors are merged
    seconds: float = 0.0
    yardstick_seconds: float = 0.0  # of measuring, not in `seconds`
    data_wait_share: float | None = None  # of the seconds
    device: str = ""
    devices: int = 1
    batch: int = 0  # places of a step of all devices
    micro_batch: int = 0  # of them, held by a device at a time; what more that computed is charged to nobody
    peak_name: str = ""
    peak_flops: float | None = None  # FLOP/s of one device
    energy_joules: float | None = None  # None where the device does not tell
    loss: float | None = None  # the objective's own, mean over the last tenth of the budget
    yardstick: dict[str, Any] = field(default_factory=dict)  # last figures, and those of what was never trained
    recipe_hash: str = ""  # config_hash but for the total budget

    @property
    def tokens_per_parameter(self) -> float | None:
        n = sum(self.parameters.values())
        return self.tokens / n if n else None

    @property
    def six_nd(self) -> float:
        """6 x parameters x tokens: the usual estimate, logged beside the measured figure, never instead of it."""
        return 6.0 * sum(self.parameters.values()) * self.tokens

    @property
    def mfu(self) -> float | None:
        """Model FLOPs per second over the dense peak of the devices."""
        if not self.seconds or not self.peak_flops:
            return None
        return self.flops_spent / self.seconds / (self.peak_flops * self.devices)

    def write(self, path: str | Path) -> None:
        derived = {"tokens_per_parameter": self.tokens_per_parameter, "six_nd": self.six_nd, "mfu": self.mfu}
        disk.write(path, json.dumps(asdict(self) | derived, indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Ledger:
        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: not found; a finished run has a ledger.json")
        try:
            kept = json.loads(path.read_text())
            own = {k: v for k, v in kept.items() if k in cls.__dataclass_fields__}
            ledger = cls(**own)
        except (ValueError, AttributeError, TypeError, RecursionError):  # no JSON, no mapping, or a field is missing
            raise InputError(f"{path}: damaged, no ledger; {REMEDY}") from None
        for name in NUMBERS:
            value = getattr(ledger, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < inf:
                raise InputError(f"{path}: damaged, {name} is {value!r} and no number of 0 or more; {REMEDY}")
        return ledger
