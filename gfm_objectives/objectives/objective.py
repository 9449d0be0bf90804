"""Objective: the interface of everything that can be pretrained with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder

Variant = tuple[str, ...]


class Objective(nn.Module, ABC):
    """Borrows the encoder; owns its masking, decoder and heads; returns the loss.

    Draw randomness from torch's global generator: the trainer reseeds it from (seed, step), which is what makes a
    resumed run equal to an unbroken one. Use masks times values rather than boolean indexing, which neither compiles
    nor counts FLOPs without data. Train the dense path too: every downstream task uses it.
    """

    targets: tuple[str, ...] = ()  # layers of Batch.targets it reads
    needs_tokens: ClassVar[bool] = True  # False: encoder.features is all it asks for, which a U-Net has too

    def __init__(self, encoder: Encoder, spec: Spec) -> None:
        super().__init__()
        self.encoder = encoder
        missing = [t for t in self.targets if t not in spec.legends]
        if missing:
            hint = "; objective=masked_seg objective.target=segments needs no map" if missing[0] == "map" else ""
            raise ValueError(
                f"needs the target layer {missing[0]!r}; this data has {', '.join(spec.legends) or 'none'}{hint}"
            )

    def variants(self) -> tuple[Variant, ...]:
        """The kinds of step it takes, of different cost perhaps; the trainer draws one per step."""
        return ((),)

    @abstractmethod
    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        """{"loss": scalar, and other scalars to log}."""

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        """Tokens of one sample that the encoder sees; all of them unless the objective masks. A U-Net has none."""
        if not isinstance(self.encoder, Encoder):
            return 0
        patches = (batch.size[0] // self.encoder.patch) * (batch.size[1] // self.encoder.patch)
        return sum(s.x.shape[1] for s in batch.sensors.values()) * patches

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of the budget spent; for teachers."""
