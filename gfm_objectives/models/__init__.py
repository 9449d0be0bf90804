"""Models; `build_encoder` makes the one that a choice of configs/encoder describes, `shape_of` describes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from gfm_objectives.batch import Spec
    from gfm_objectives.models.continued import Continued
    from gfm_objectives.models.encoder import Encoder
    from gfm_objectives.models.unet import UNet


def build_encoder(options: Mapping[str, Any], spec: Spec) -> Encoder | UNet | Continued:
    """The encoder of `options` for the sensors, bands and dates of `spec`; `options["model"]` is vit unless it says."""
    from gfm_objectives.models.continued import Continued
    from gfm_objectives.models.encoder import Encoder
    from gfm_objectives.models.unet import UNet

    models: dict[str, type[Encoder] | type[UNet] | type[Continued]] = {
        "vit": Encoder,
        "unet": UNet,
        "published": Continued,
    }
    name = options.get("model", "vit")
    if name not in models:
        raise InputError(f"encoder.model={name}: no such model; choose from {', '.join(models)}")
    return models[name].from_config(options, spec)


def shape_of(model: nn.Module) -> str:
    """What the network is, as JSON with keys in order: its `model` (vit, unet, published, pixel, context)
    and its options.

    Equal for networks of one shape, whatever sensors they read; of a segmenter that of its encoder. `build_encoder`
    makes a vit or a unet of it. What acts in pretraining alone is no part of it.
    """
    from gfm_objectives.models.continued import Continued
    from gfm_objectives.models.encoder import IN_PRETRAINING, Encoder
    from gfm_objectives.models.map_context import MapContext
    from gfm_objectives.models.pixel import PixelMLP
    from gfm_objectives.models.unet import UNet

    names = {Encoder: "vit", UNet: "unet", Continued: "published", PixelMLP: "pixel", MapContext: "context"}
    network = next(m for m in model.modules() if type(m) in names)
    options = {k: v for k, v in vars(network)["options"].items() if k not in IN_PRETRAINING}
    return json.dumps({"model": names[type(network)], **options}, sort_keys=True)
