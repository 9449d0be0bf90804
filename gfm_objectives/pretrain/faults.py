"""Which step it was whose loss was no number, kept for `gfm replay`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from gfm_objectives import disk
from gfm_objectives.chance import order
from gfm_objectives.pretrain.batches import places_of

if TYPE_CHECKING:
    from gfm_objectives.pretrain.module import Pretraining

FAULT = "fault.json"


def note(module: Pretraining, step: int, value: float) -> None:
    """Keep seed, step (from 0) and places beside the checkpoints: with the last of those, all that makes it again."""
    about = {
        "seed": module.cfg.seed,
        "step": step,
        "loss": str(value),
        "places": places(module, step),
        "of": "pool" if module.cfg.pool else "source",
        "data_fingerprint": module.source.fingerprint,
        "precision": str(module.dtype).removeprefix("torch."),
    }
    disk.write(module.folder / FAULT, json.dumps(about, indent=2) + "\n")


def places(module: Pretraining, step: int) -> list[int]:
    """The numbers of the places of a step, of all processes: in the source, or in the pool where there is one."""
    size = places_of(module.cfg, module.world) * module.world
    among = module.cfg.pool or len(module.source)
    return order(module.cfg.seed, among, step * size + np.arange(size)).tolist()  # type: ignore[no-any-return]
