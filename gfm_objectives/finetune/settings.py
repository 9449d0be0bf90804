"""What tuning may choose, and what of a model a choice freezes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from gfm_objectives.errors import InputError

FREEZE = ("", "tokens", "encoder")
TOKENS = ("stem", "vit")  # of an encoder: all but its way back


@dataclass(frozen=True, slots=True)
class HParams:
    """What tuning may choose.

    lr: peak; encoder_factor: on the learning rate of the model's `encoder`; length: share of the budget that is spent;
    batch_size: places per step; head_first: the head is fitted before all is trained; freeze: what stays as it is,
    running statistics included: tokens (the encoder but for its way back) or encoder; width and mode: of the U-Net;
    loss: one of the task kind's `losses`.
    """

    lr: float
    encoder_factor: float = 1.0
    length: float = 1.0
    batch_size: int = 8
    head_first: bool = False
    freeze: str = ""
    width: int | None = None
    mode: str | None = None
    loss: str = ""

    def __post_init__(self) -> None:
        if self.freeze not in FREEZE:
            raise InputError(f"freeze={self.freeze}: choose from {', '.join(FREEZE[1:])}, or none for nothing")
        if self.encoder_factor <= 0:
            raise InputError(f"encoder_factor={self.encoder_factor}: must be above 0; freeze=encoder trains the head")

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None and v is not False and v != ""}


def frozen_modules(model: nn.Module, freeze: str) -> list[nn.Module]:
    """What `freeze` keeps as it is. InputError where the model has no such part."""
    if not freeze:
        return []
    encoder = getattr(model, "encoder", None)
    found = [encoder] if encoder is not None else []
    if freeze == "tokens" and found:
        found = [m for name, m in found[0].named_children() if name in TOKENS]
    if not any(True for m in found for _ in m.parameters()):
        raise InputError(f"freeze={freeze}: a {type(model).__name__} has no such part; its settings cannot name it")
    return found


def train_mode(model: nn.Module, freeze: str) -> None:
    """Training mode, but for what is frozen."""
    model.train()
    for module in frozen_modules(model, freeze):
        module.eval()
