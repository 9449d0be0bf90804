"""Objective: the interface of everything that can be pretrained with. DenseObjective: what the dense path predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder

Variant = tuple[str, ...]
# What an encoder can be asked for, and each has what stands before it too. features: at full resolution, of all that is
# shown; cells: of what is left when cells are hidden, which an encoder without a ViT (depth 0) has too; tokens: their
# content.
NEEDS = ("features", "cells", "tokens")


class Objective(nn.Module, ABC):
    """Borrows the encoder; owns its masking, decoder and heads; returns the loss.

    Draw randomness from torch's global generator: the trainer reseeds it from (seed, step), which is what makes a
    resumed run equal to an unbroken one. Use masks times values rather than boolean indexing, which neither compiles
    nor counts FLOPs without data. Train the dense path too: every downstream task uses it.
    """

    targets: tuple[str, ...] = ()  # layers of Batch.targets it reads
    needs: ClassVar[str] = "tokens"  # of NEEDS: the least it asks of the encoder

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

    @property
    def multiple(self) -> int:
        """Height and width of the batches it takes are multiples of this; `Batch.pad_to` makes them so."""
        return self.encoder.patch if isinstance(self.encoder, Encoder) else 1

    @abstractmethod
    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        """{"loss": scalar, and other scalars to log}."""

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        """Tokens of one sample that the encoder sees; all of them unless the objective masks. None without a ViT."""
        if not (isinstance(self.encoder, Encoder) and self.encoder.depth):
            return 0
        patches = (batch.size[0] // self.encoder.patch) * (batch.size[1] // self.encoder.patch)
        return sum(s.x.shape[1] for s in batch.sensors.values()) * patches

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of the budget spent; for teachers."""


class DenseObjective(Objective):
    """Hides a part of the batch, and a share of positions of the rest; predicts from the dense features alone.

    mask_ratio: share of positions hidden, at every date of every sensor that is seen. What is hidden and what is
    predicted are two methods, so that mix can predict several things from one encoding.
    """

    needs: ClassVar[str] = "cells"

    def __init__(self, encoder: Encoder, spec: Spec, mask_ratio: float) -> None:
        super().__init__(encoder, spec)
        self.mask_ratio = mask_ratio

    def hide(self, batch: Batch, variant: Variant) -> tuple[Batch, Any]:
        """What may be seen of the batch, and whatever `predict` needs of the rest. Shapes must not depend on values."""
        return batch, None

    @abstractmethod
    def predict(self, dense: Tensor, seen: Batch, rest: Any, hidden: Tensor) -> dict[str, Tensor]:
        """As forward, from dense (B, width, H, W); seen, rest: what `hide` gave; hidden (B, h, w) bool: the cells."""

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        seen, rest = self.hide(batch, variant)
        every = self.encoder.tokenize(seen)
        kept, hidden = masking.split_cells(every, self.keep(every.cells))
        tokens = every.take(kept)
        return self.predict(self.encoder.dense(seen, tokens, self.encoder(tokens)), seen, rest, hidden)

    def keep(self, cells: int) -> int:
        return max(1, round((1 - self.mask_ratio) * cells))

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        seen, _ = self.hide(batch.to("meta"), variant)
        cells = (batch.size[0] // self.encoder.patch) * (batch.size[1] // self.encoder.patch)
        return super().visible(seen) // cells * self.keep(cells)
