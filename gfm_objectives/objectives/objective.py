"""Objective: the interface of everything that can be pretrained with. Masked: what hides, encodes and predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.encoder import Encoded, Encoder
from gfm_objectives.models.masking import Mask

Variant = tuple[str, ...]


class Objective(nn.Module, ABC):
    """Borrows the encoder; owns its masking, decoder and heads; returns the loss.

    Draw randomness from torch's global generator: the trainer reseeds it from (seed, step), which is what makes a
    resumed run equal to an unbroken one. Use masks times values rather than boolean indexing, which neither compiles
    nor counts FLOPs without data. Train the way back too: every downstream task uses it.
    """

    targets: tuple[str, ...] = ()  # layers of Batch.targets it reads
    needs_mask: ClassVar[bool] = True  # False: it asks of the encoder `features` alone, which a U-Net has too
    whole_positions: ClassVar[bool] = False  # True: all it hides are positions, and it reads what Encoded holds alone
    ramps: ClassVar[bool] = True  # False: its own `after_step` is the same whatever share of the budget is spent

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
        """The ways in which it takes a step, of different cost perhaps; the trainer draws one per step."""
        return ((),)

    def set_patch(self, patch: int | None = None) -> None:
        """Of the steps that follow, or (None) of whoever measures the encoder: its own. A teacher goes along."""
        for encoder in self._encoders:
            encoder.patch = patch or encoder.options["patch"]

    @cached_property
    def _encoders(self) -> list[Encoder]:
        """Its own and a teacher's; to look through all modules at every step takes half a millisecond."""
        return [m for m in self.modules() if isinstance(m, Encoder)]

    @property
    def multiple(self) -> int:
        """Height and width of the batches it takes are multiples of this; `Batch.pad_to` makes them so."""
        return self.encoder.patch if isinstance(self.encoder, Encoder | Continued) else 1

    @abstractmethod
    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        """{"loss": scalar, and other scalars to log}."""

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        """Cells of slots (sensor x date x patch, what others call tokens) of one sample that the encoder sees; all of
        them unless the objective hides some. None without a ViT."""
        return len(masking.slots(batch)) * self.tokens(batch)

    def tokens(self, batch: Batch) -> int:
        """Patches of one sample: tokens after dates and sensors are merged. None without a ViT."""
        if not (isinstance(self.encoder, Encoder) and self.encoder.depth):
            return 0
        return (batch.size[0] // self.encoder.patch) * (batch.size[1] // self.encoder.patch)

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of the budget spent; for teachers."""

    @classmethod
    def has_trunk(cls) -> bool:
        """Whether nothing before the cool-down depends on the total, so that runs of several budgets share it."""
        return not cls.ramps or cls.after_step is Objective.after_step


@dataclass(frozen=True, slots=True)
class View:
    """A masked look at a batch: what may be seen of it, the mask, and what the encoder made of that."""

    batch: Batch
    mask: Mask
    encoded: Encoded

    @property
    def dense(self) -> Tensor:
        """(B, width, H, W)."""
        return self.encoded.dense


class Masked(Objective):
    """Withholds whole sensors or dates, hides cells of the rest, and predicts from what the encoder makes of it.

    What is withheld, what is hidden and what is predicted are three methods, so that mix can predict several things
    from one encoding. Shapes must depend on no values.
    """

    def withhold(self, batch: Batch, variant: Variant) -> tuple[Batch, Any]:
        """What may be looked at of the batch, and whatever `predict` needs of the rest."""
        return batch, None

    @abstractmethod
    def mask(self, batch: Batch, variant: Variant) -> Mask:
        """What is hidden of what `withhold` left."""

    @abstractmethod
    def predict(self, view: View, rest: Any) -> dict[str, Tensor]:
        """As forward, from what the encoder made of the view; rest: what `withhold` kept back."""

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        seen, rest = self.withhold(batch, variant)
        mask = self.mask(seen, variant)
        return self.predict(View(seen, mask, self.encoder(seen, mask)), rest)

    def share(self, variant: Variant) -> float:
        """Share of the cells that `mask` shows."""
        return 1.0

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        seen, _ = self.withhold(batch.to("meta"), variant)
        return round(self.share(variant) * super().visible(seen))


class Dense(Masked):
    """Hides whole positions, at every date of every sensor that is seen, and predicts from the dense features alone.

    mask_ratio: share of positions hidden.
    """

    def __init__(self, encoder: Encoder, spec: Spec, mask_ratio: float) -> None:
        super().__init__(encoder, spec)
        self.mask_ratio = mask_ratio

    def mask(self, batch: Batch, variant: Variant) -> Mask:
        return masking.positions(batch, self.encoder.patch, 1 - self.mask_ratio)

    def visible(self, batch: Batch, variant: Variant = ()) -> int:
        seen, _ = self.withhold(batch.to("meta"), variant)
        every = Objective.visible(self, seen)
        cells = max(1, self.tokens(batch))
        return every // cells * max(1, round((1 - self.mask_ratio) * cells))
