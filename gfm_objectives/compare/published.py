"""Encoders of others in the comparison: their rows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gfm_objectives.errors import InputError
from gfm_objectives.models.costs import COSTS
from gfm_objectives.models.foreign import split_name
from gfm_objectives.runs.finished import Run


@dataclass(frozen=True, slots=True)
class Published:
    """An encoder of others: name of its row; encoder: its options as JSON; runs: its weights, none where random."""

    name: str
    encoder: str
    runs: tuple[Run, ...]
    note: str


def published(encoders: Sequence[str], weights: Sequence[str], size: int | None) -> list[Published]:
    """What `encoder=`, `weights=` and `encoder_size=` name. Each file of weights is read once, for its digest.

    The weights are one for each encoder, `random` for an untrained one; none at all makes all of them random.
    """
    if weights and len(weights) != len(encoders):
        raise InputError(f"weights: {len(weights)} for {len(encoders)} encoders; give one for each, or the word random")
    out = []
    for encoder, file in zip(encoders, weights or ["random"] * len(encoders), strict=True):
        _, model = split_name(encoder)
        name = model if size is None else f"{model} at {size} px"
        options = json.dumps({"name": encoder, "size": size})
        if file == "random":
            note = f"{name}: RANDOM weights, nothing of its pretraining; give weights=/path for what it learned."
            out.append(Published(f"{name} random weights", options, (), note))
            continue
        path = Path(file)
        if not path.is_file():
            raise InputError(f"weights={file}: no such file; give the published .pth or .safetensors, or random")
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()[:8]
        cost = COSTS.get(model)
        run = Run(file, f"{name}@{digest}", 0, cost.flops if cost else math.nan, "published")
        told = f"{cost.flops:.1e}, derived, from {cost.source}" if cost else "unknown, so there is no gain per FLOP"
        out.append(Published(name, options, (run,), f"{name}: published weights; pretraining FLOPs {told}."))
    if len({p.name for p in out}) < len(out):
        raise InputError("encoder: one architecture is given twice; compare its weights in two evaluations")
    return out
