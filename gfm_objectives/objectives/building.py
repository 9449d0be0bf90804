"""Objectives by name, from the table or from other packages.

Those add theirs by the entry point group `gfm_objectives.objectives`, with the yaml beside their module; names in the
table come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.batch import Spec
from gfm_objectives.config.files import extensions
from gfm_objectives.errors import InputError
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.objectives.table import OBJECTIVES

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet


def build_objective(options: Mapping[str, Any], encoder: Encoder | UNet | Continued, spec: Spec) -> Objective:
    """The objective `options["name"]`; the other options go to its constructor as keywords, but for `segments`: that
    section says how the data's layer is made (data/segments.py).

    InputError for an unknown name, and for an encoder that cannot do what the objective asks of it.
    """
    name = options["name"]
    objective = find_objective(name)
    _check(name, objective, encoder)
    keywords = {k: v for k, v in options.items() if k not in ("name", "segments")}
    try:
        return objective(encoder, spec, **keywords)  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(f"objective {name}: {e}") from None


def _check(name: str, objective: type[Objective], encoder: Encoder | UNet | Continued) -> None:
    """InputError where the objective hides parts of the batch, and the encoder cannot."""
    if isinstance(encoder, Continued):
        if objective.needs_mask and not objective.whole_positions:
            fit = ", ".join(n for n, o in OBJECTIVES.items() if o.whole_positions or not o.needs_mask)
            raise InputError(
                f"objective={name}: hides parts of positions, or reads tokens of them, which a published encoder does "
                f"not have; with encoder=published take {fit}"
            )
    elif objective.needs_mask and not isinstance(encoder, Encoder):
        fit = ", ".join(n for n, o in OBJECTIVES.items() if not o.needs_mask)
        raise InputError(
            f"objective={name}: hides parts of the image, which a U-Net cannot; with encoder=unet take {fit}"
        )


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
