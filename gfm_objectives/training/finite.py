"""Whether every loss and its gradient are numbers, without making the device wait for the answer at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EVERY = 16  # steps between questions to a GPU, or to the other processes
LATER = 2.0**24  # stands for no step: below it 32 bits hold every whole number


class Finite:
    """Remembers on the device the first step whose loss, or the norm of whose gradient, was not finite, and its loss.

    On one CPU a step is refused before it is learned from. A GPU, and processes that train together, are asked every
    EVERY steps and by `ask`, so that they stop together; what was learned since is never saved.
    refuse: called with the step and the loss, finite where the gradient alone is not; must raise. worst: the largest of
    all processes' values.
    """

    def __init__(
        self,
        device: torch.device,
        refuse: Callable[[int, float], None],
        worst: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.refuse, self.worst = refuse, worst
        self.at_once = device.type == "cpu" and worst is None
        self.step = torch.full((), -1.0, device=device)  # -1 = none yet
        self.value = torch.zeros((), device=device)

    def add(self, step: int, value: Tensor, norm: Tensor) -> None:
        """Take note of a step's loss and of the norm of its gradient, before it is learned from."""
        fine = torch.isfinite(value) & torch.isfinite(norm)
        if self.at_once:
            if not bool(fine):
                self.refuse(step, float(value))
            return
        bad = (self.step < 0) & ~fine
        self.step = torch.where(bad, float(step), self.step)
        self.value = torch.where(bad, value.float(), self.value)
        if step % EVERY == EVERY - 1:
            self.ask()

    def ask(self) -> None:
        """Refuse the first step that was not finite, if there was one; of any process."""
        if self.at_once:
            return
        own = int(self.step)
        found = own if self.worst is None else -int(self.worst(-torch.where(self.step < 0, LATER, self.step)))
        if 0 <= found < LATER:
            self.refuse(found, float(self.value) if own == found else float("nan"))
