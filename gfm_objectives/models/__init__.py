"""Models; `build_encoder` makes the one that a choice of configs/encoder describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.errors import InputError

if TYPE_CHECKING:
    from gfm_objectives.batch import Spec
    from gfm_objectives.models.encoder import Encoder
    from gfm_objectives.models.unet import UNet


def build_encoder(options: Mapping[str, Any], spec: Spec) -> Encoder | UNet:
    """The encoder of `options` for the sensors, bands and dates of `spec`; `options["model"]` is vit unless it says."""
    from gfm_objectives.models.encoder import Encoder
    from gfm_objectives.models.unet import UNet

    models: dict[str, type[Encoder] | type[UNet]] = {"vit": Encoder, "unet": UNet}
    name = options.get("model", "vit")
    if name not in models:
        raise InputError(f"encoder.model={name}: no such model; choose from {', '.join(models)}")
    return models[name].from_config(options, spec)
