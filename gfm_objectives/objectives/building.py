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
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.objective import NEEDS, Objective
from gfm_objectives.objectives.table import OBJECTIVES

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet


def build_objective(options: Mapping[str, Any], encoder: Encoder | UNet, spec: Spec) -> Objective:
    """The objective `options["name"]`; the other options go to its constructor as keywords, but for `segments`: that
    section says how the data's layer is made (data/segments.py).

    InputError for an unknown name, and for an encoder that has not what the objective needs.
    """
    name = options["name"]
    objective = find_objective(name)
    _check(name, objective.needs, encoder)
    keywords = {k: v for k, v in options.items() if k not in ("name", "segments")}
    try:
        return objective(encoder, spec, **keywords)  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(f"objective {name}: {e}") from None


def _check(name: str, needs: str, encoder: Encoder | UNet) -> None:
    """InputError where the encoder has not what the objective needs."""
    if not isinstance(encoder, Encoder):
        what, has = "encoder=unet", "features"
    else:
        what, has = f"encoder.depth={encoder.depth}", "tokens" if encoder.depth else "cells"
    if NEEDS.index(needs) > NEEDS.index(has):
        fit = ", ".join(n for n, o in OBJECTIVES.items() if NEEDS.index(o.needs) <= NEEDS.index(has))
        raise InputError(f"objective={name}: needs the encoder's {needs}, which {what} has not; with {what} take {fit}")


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
