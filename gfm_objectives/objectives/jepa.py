"""JEPA: predict a teacher's features of what is hidden; the teacher is a running mean of the encoder itself.

    t = LayerNorm(teacher(everything))   loss = smoothL1(prediction of hidden cells, t) + smoothL1(dense features, t)
                                                + variance x hinge(1 - deviation) + covariance x off-diagonal^2
    after each step: teacher <- ema teacher + (1 - ema) encoder

I-JEPA (Assran et al. 2023, arXiv 2301.08243) on the masks of mae. The asymmetry alone did not keep its features from
becoming constant in OlmoEarth (arXiv 2511.13655), so the tokens and dense features of the student are kept apart by
the variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906); `spread`, the deviation of the
teacher's tokens over the batch, is logged. Differences: the dense features of the masked view also predict those of
the teacher, at full resolution, because fine-tuning uses them; ema is constant, not annealed over the run, so that a
run's trunk does not depend on its budget. The teacher's forward pass is paid for; it is saved and resumed with the
run, and is not exported.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.masking import Mask
from gfm_objectives.objectives.objective import Masked, Variant, View


class JEPA(Masked):
    """mask_ratio: share of the cells of slots hidden; kinds of mask, of which each sample draws one; ema: how slowly
    the teacher follows; variance and covariance: weights of the two terms."""

    ramps = False

    def __init__(
        self,
        encoder: Encoder,
        spec: Spec,
        *,
        mask_ratio: float,
        kinds: Sequence[str],
        ema: float,
        variance: float,
        covariance: float,
    ) -> None:
        super().__init__(encoder, spec)
        self.mask_ratio, self.kinds, self.ema = mask_ratio, masking.known_kinds(kinds), ema
        self.variance, self.covariance = variance, covariance
        self.teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
        dim = encoder.dim
        self.token_head = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dense_head = nn.Conv2d(encoder.width, encoder.width, 1)

    def mask(self, batch: Batch, variant: Variant) -> Mask:
        return masking.scattered(batch, self.encoder.patch, 1 - self.mask_ratio, self.kinds)

    def share(self, variant: Variant) -> float:
        return 1 - self.mask_ratio

    def predict(self, view: View, rest: None) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher = self.teacher(view.batch)
            goal = normalised(teacher.tokens), normalised(teacher.dense.movedim(1, -1))
        mask, z = view.mask, view.encoded.tokens
        gone = (mask.valid & ~mask.seen).sum(1) / mask.valid.sum(1).clamp(min=1)  # (B, h, w) share of a cell hidden
        each = F.smooth_l1_loss(self.token_head(z).float(), goal[0], reduction="none").mean(-1)  # (B, cells)
        tokens = (each * gone.flatten(1)).sum() / gone.sum().clamp(min=1)
        dense = view.dense.movedim(1, -1)
        pixels = F.smooth_l1_loss(self.dense_head(view.dense).movedim(1, -1).float(), goal[1])
        apart = [self.apart(z.flatten(0, 1)), self.apart(dense[:, ::4, ::4].flatten(0, 2))]
        spread = teacher.tokens.float().flatten(0, 1).std(0, correction=0).mean()
        out = {"tokens": tokens.detach(), "pixels": pixels.detach(), "spread": spread, "apart": sum(apart).detach()}  # type: ignore[union-attr]
        return {"loss": tokens + pixels + sum(apart), **out}

    def apart(self, x: Tensor) -> Tensor:
        """The two terms for features x (N, D)."""
        x = x.float() - x.float().mean(0)
        deviation = (x.square().mean(0) + 1e-4).sqrt()
        covariance = x.T @ x / len(x)
        off = (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]
        return self.variance * F.relu(1 - deviation).mean() + self.covariance * off

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for mine, theirs in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.ema)
        for kept, now in zip(self.teacher.buffers(), self.encoder.buffers(), strict=True):
            kept.copy_(now)  # statistics of batch norm are running means already

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()  # it drops no bands, and moves in after_step alone
        return self


def normalised(features: Tensor) -> Tensor:
    return F.layer_norm(features.float(), features.shape[-1:])
