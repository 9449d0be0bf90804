"""Mix: several objectives that predict from one encoding of one masked look.

    loss = sum of weight x loss over the parts

By default masked_seg, cross_sensor and temporal, the hypothesis of this project: the map tells what a surface is,
another sensor how it looks to it, other dates how it changes, and dense mapping wants all three. MultiMAE (arXiv
2204.01678), OlmoEarth (arXiv 2511.13655) and THOR (arXiv 2601.16011, objective=thor has its weights) also predict
several things from one masked input. One encoding costs a third of three, and the parts differ from themselves alone in
what is hidden: the mask is the mix's, and each part withholds its share of what the one before it leaves. In
one kind of step no sensor is withheld, since fine-tuning sees all of them, and cross_sensor pauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.masking import Mask
from gfm_objectives.objectives.cross_sensor import CrossSensor
from gfm_objectives.objectives.latent import Latent
from gfm_objectives.objectives.mae import MAE
from gfm_objectives.objectives.map_contrast import MapContrast
from gfm_objectives.objectives.masked_seg import MaskedSeg
from gfm_objectives.objectives.masked_tokens import MaskedTokens
from gfm_objectives.objectives.objective import Masked, Variant, View
from gfm_objectives.objectives.temporal import Temporal

PARTS: dict[str, type[Masked]] = {
    "masked_seg": MaskedSeg,
    "cross_sensor": CrossSensor,
    "temporal": Temporal,
    "mae": MAE,
    "latent": Latent,
    "map_contrast": MapContrast,
}


class Mix(Masked):
    """mask_ratio: share of the cells hidden; kinds of mask, of which each sample draws one; parts: name -> its weight
    and its own options, those of its mask apart. A part of weight 0 is left out, and what it needs of the data too.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        kinds: Sequence[str],
        parts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__(encoder, spec)
        self.mask_ratio, self.kinds = mask_ratio, masking.known_kinds(kinds)
        unknown = [name for name in parts if name not in PARTS]
        if unknown:
            raise ValueError(f"objective.parts: {unknown[0]} cannot be mixed; choose from {', '.join(PARTS)}")
        self.weights = {name: options["weight"] for name, options in parts.items() if options["weight"]}
        if not self.weights:
            raise ValueError("objective.parts: the weight of every part is 0")
        self.parts = nn.ModuleDict()
        for name in sorted(self.weights, key=lambda n: n != "cross_sensor"):  # first, for it withholds whole sensors
            options = {k: v for k, v in parts[name].items() if k != "weight"} | {"mask_ratio": mask_ratio}
            if issubclass(PARTS[name], MaskedTokens):
                options |= {"kinds": self.kinds, "encode": "all"}
            try:
                self.parts[name] = PARTS[name](encoder, spec, **options)
            except ValueError as e:
                raise ValueError(f"{name}: {e}; objective.parts.{name}.weight=0 leaves it out") from None

    def part(self, name: str) -> Masked:
        part = self.parts[name]
        assert isinstance(part, Masked), name
        return part

    def variants(self) -> tuple[Variant, ...]:
        cross = self.part("cross_sensor").variants() if "cross_sensor" in self.parts else ()
        return (*cross, ()) if self.parts.keys() - {"cross_sensor"} else cross

    def withhold(self, batch: Batch, variant: Variant) -> tuple[Batch, dict[str, Any]]:
        rest = {}
        for name in self.parts:
            if name != "cross_sensor" or variant:
                batch, rest[name] = self.part(name).withhold(batch, variant)
        return batch, rest

    def mask(self, batch: Batch, variant: Variant) -> Mask:
        return masking.scattered(batch, self.encoder.patch, 1 - self.mask_ratio, self.kinds)

    def share(self, variant: Variant) -> float:
        return 1 - self.mask_ratio

    def predict(self, view: View, rest: dict[str, Any]) -> dict[str, Tensor]:
        total, out = torch.zeros((), device=view.dense.device), dict[str, Tensor]()
        for name, withheld in rest.items():
            told = self.part(name).predict(view, withheld)
            total = total + self.weights[name] * told["loss"]
            out |= {f"{name}_{k}": v.detach() for k, v in told.items()}
        return {"loss": total, **out}
