"""Mix: the map, a withheld sensor and withheld dates, all predicted from one encoding of what is left.

    loss = sum of weight x loss over the parts, masked_seg, cross_sensor and temporal

The hypothesis of this project: the map tells what a surface is, another sensor how it looks to it, other dates how it
changes, and dense mapping wants all three. MultiMAE (arXiv 2204.01678) and OlmoEarth (arXiv 2511.13655) also predict
several things from one masked input. One encoding costs a third of three, and the parts differ from themselves alone
in what is hidden: each hides its share, in turn, of what the one before it leaves. In one kind of step no sensor is
withheld, since fine-tuning sees all of them, and cross_sensor pauses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.cross_sensor import CrossSensor
from gfm_objectives.objectives.masked_seg import MaskedSeg
from gfm_objectives.objectives.objective import DenseObjective, Variant
from gfm_objectives.objectives.temporal import Temporal

PARTS: dict[str, type[DenseObjective]] = {"masked_seg": MaskedSeg, "cross_sensor": CrossSensor, "temporal": Temporal}


class Mix(DenseObjective):
    """mask_ratio: share of positions hidden, for all parts; parts: name -> its weight and its own options.

    A part of weight 0 is left out, and what it needs of the data with it.
    """

    def __init__(
        self, encoder: Encoder, spec: Spec, *, mask_ratio: float, parts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(encoder, spec, mask_ratio)
        unknown = [name for name in parts if name not in PARTS]
        if unknown:
            raise ValueError(f"objective.parts: {unknown[0]} cannot be mixed; choose from {', '.join(PARTS)}")
        self.weights = {name: options["weight"] for name, options in parts.items() if options["weight"]}
        if not self.weights:
            raise ValueError("objective.parts: the weight of every part is 0")
        self.parts = nn.ModuleDict()
        for name in self.weights:
            options = {k: v for k, v in parts[name].items() if k != "weight"}
            try:
                self.parts[name] = PARTS[name](encoder, spec, mask_ratio=mask_ratio, **options)
            except ValueError as e:
                raise ValueError(f"{name}: {e}; objective.parts.{name}.weight=0 leaves it out") from None

    def part(self, name: str) -> DenseObjective:
        part = self.parts[name]
        assert isinstance(part, DenseObjective), name
        return part

    def variants(self) -> tuple[Variant, ...]:
        cross = self.part("cross_sensor").variants() if "cross_sensor" in self.parts else ()
        return (*cross, ()) if self.parts.keys() - {"cross_sensor"} else cross

    def hide(self, batch: Batch, variant: Variant) -> tuple[Batch, dict[str, tuple[Batch, Any]]]:
        seen, rest = batch, {}
        for name in self.parts:
            if name != "cross_sensor" or variant:
                seen, withheld = self.part(name).hide(seen, variant)
                rest[name] = seen, withheld
        return seen, rest

    def predict(
        self, dense: Tensor, seen: Batch, rest: dict[str, tuple[Batch, Any]], hidden: Tensor
    ) -> dict[str, Tensor]:
        total, out = torch.zeros((), device=dense.device), dict[str, Tensor]()
        for name, (left, withheld) in rest.items():
            told = self.part(name).predict(dense, left, withheld, hidden)
            total = total + self.weights[name] * told["loss"]
            out |= {f"{name}_{k}": v.detach() for k, v in told.items()}
        return {"loss": total, **out}
