"""The table of objectives. A new one is one file and one line here, and a yaml of its options in configs/objective.

Other packages add theirs by the entry point group `gfm_objectives.objectives`, with the yaml beside their module; names
in the table come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.batch import Spec
from gfm_objectives.config.files import extensions
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.contrastive import Contrastive
from gfm_objectives.objectives.cross_sensor import CrossSensor
from gfm_objectives.objectives.jepa import JEPA
from gfm_objectives.objectives.latent import Latent
from gfm_objectives.objectives.mae import MAE
from gfm_objectives.objectives.masked_seg import MaskedSeg
from gfm_objectives.objectives.mix import Mix
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.objectives.supervised import Supervised
from gfm_objectives.objectives.temporal import Temporal

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "cross_sensor": CrossSensor,
    "jepa": JEPA,
    "latent": Latent,
    "mae": MAE,
    "masked_seg": MaskedSeg,
    "mix": Mix,
    "supervised": Supervised,
    "temporal": Temporal,
}


def build_objective(options: Mapping[str, Any], encoder: Encoder | UNet, spec: Spec) -> Objective:
    """The objective `options["name"]`; the other options go to its constructor as keywords, but for `segments`: that
    section says how the data's layer is made (data/segments.py).

    InputError for an unknown name, and for a U-Net where the objective needs tokens.
    """
    name = options["name"]
    objective = find_objective(name)
    if objective.needs_tokens and not isinstance(encoder, Encoder):
        fit = ", ".join(n for n, o in OBJECTIVES.items() if not o.needs_tokens)
        raise InputError(f"objective={name}: needs a ViT's tokens, a U-Net has none; with encoder=unet take {fit}")
    keywords = {k: v for k, v in options.items() if k not in ("name", "segments")}
    try:
        return objective(encoder, spec, **keywords)  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(f"objective {name}: {e}") from None


def find_objective(name: str) -> type[Objective]:
    """The class of that name, in the table or in another package, which is imported. InputError where there is none."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    others = extensions("objective")
    if name not in others:
        raise InputError(f"objective.name={name}: no such objective; choose from {', '.join([*OBJECTIVES, *others])}")
    try:
        found = others[name].load()
    except (ImportError, AttributeError) as e:
        raise InputError(f"objective={name}: {others[name].value} cannot be loaded: {e}") from None
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise InputError(f"objective={name}: {others[name].value} is not a subclass of Objective")
    return found
