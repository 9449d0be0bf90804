"""The table of objectives. A new one is one file and one line here, and a yaml of its options in configs/objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.cross_sensor import CrossSensor
from gfm_objectives.objectives.mae import MAE
from gfm_objectives.objectives.masked_seg import MaskedSeg
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.objectives.supervised import Supervised

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_sensor": CrossSensor,
    "mae": MAE,
    "masked_seg": MaskedSeg,
    "supervised": Supervised,
}


def build_objective(options: Mapping[str, Any], encoder: Encoder | UNet, spec: Spec) -> Objective:
    """The objective `options["name"]`; the other options go to its constructor as keywords, but for `segments`: that
    section says how the data's layer is made (data/segments.py).

    InputError for a name that is not in the table, and for a U-Net where the objective needs tokens.
    """
    name = options["name"]
    if name not in OBJECTIVES:
        raise InputError(f"objective.name={name}: no such objective; choose from {', '.join(OBJECTIVES)}")
    if OBJECTIVES[name].needs_tokens and not isinstance(encoder, Encoder):
        fit = ", ".join(n for n, o in OBJECTIVES.items() if not o.needs_tokens)
        raise InputError(f"objective={name}: needs a ViT's tokens, a U-Net has none; with encoder=unet take {fit}")
    keywords = {k: v for k, v in options.items() if k not in ("name", "segments")}
    try:
        return OBJECTIVES[name](encoder, spec, **keywords)  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(f"objective {name}: {e}") from None
