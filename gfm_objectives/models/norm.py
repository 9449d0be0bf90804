"""Batch norm over the batches of all processes that train together, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_objectives import ranks


class SharedNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics, in training, are those of everybody's batch. torch's own SyncBatchNorm does the
    same on GPUs alone. Alone, or in evaluation, it is BatchNorm2d.

    counts: whether this process's batch has a part in them; False where it has nothing to learn from and looks on.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or ranks.count() == 1:
            return super().forward(x)
        wide = x.float()
        each = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), wide.new_full((1,), x[:, 0].numel())])
        total = ranks.summed(each if self.counts else each * 0)  # the others wait for it all the same
        n = total[-1].detach()
        mean, square = (total[:-1] / n).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * n / (n - 1).clamp(min=1), share)
        y = (wide - mean[:, None, None]) * (var + self.eps).rsqrt()[:, None, None]
        return (y * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_norms(model: nn.Module) -> None:
    """Make every batch norm of the model a shared one, in place; weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedNorm


def count_norms(model: nn.Module, counts: bool) -> None:
    """Say of the steps to come whether this process's batches count in the shared norms."""
    for module in model.modules():
        if isinstance(module, SharedNorm):
            module.counts = counts
