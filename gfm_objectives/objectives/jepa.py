"""JEPA: predict a teacher's features of what is hidden; the teacher is a running mean of the encoder itself.

    t = LayerNorm(teacher(everything))   loss = smoothL1(prediction of hidden tokens, t) + smoothL1(dense features, t)
    after each step: teacher <- ema teacher + (1 - ema) encoder

I-JEPA (Assran et al. 2023, arXiv 2301.08243) on the masks and decoder of mae. Nothing but the asymmetry keeps the
features from becoming constant, which is what happened to it in OlmoEarth (arXiv 2511.13655): the collapse-prone
control, so `spread`, the deviation of the teacher's tokens over the batch, is logged. Differences: the dense features
of the masked view also predict those of the teacher, at full resolution, because fine-tuning uses them; ema is
constant, not annealed over the run, so that a run's trunk does not depend on its budget. The teacher's forward pass is
paid for; it is saved and resumed with the run, and is not exported.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives.masked_tokens import MaskedTokens
from gfm_objectives.objectives.objective import Variant


class JEPA(MaskedTokens):
    """ema: how slowly the teacher follows; the other options are those of MaskedTokens."""

    def __init__(self, encoder: Encoder, spec: Spec, *, ema: float, **masks: Any) -> None:
        super().__init__(encoder, spec, **masks)
        self.ema = ema
        self.teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.token_head = nn.Linear(self.decoder.dim, encoder.dim)
        self.dense_head = nn.Conv2d(encoder.width, encoder.width, 1)

    def forward(self, batch: Batch, variant: Variant = ()) -> dict[str, Tensor]:
        view = self.look(batch)
        with torch.no_grad():
            tokens = self.teacher.tokenize(batch)
            z = self.teacher(tokens)
            dense = normalised(self.teacher.dense(batch, tokens, z).movedim(1, -1))  # (B, H, W, width)
            goal = normalised(z)  # (B, N, D)
        error, asked = torch.zeros((), device=z.device), torch.zeros((), device=z.device)
        for sensor in batch.sensors:
            where, real, told = self.ask(view, sensor)
            target = goal.gather(1, where[..., None].expand(-1, -1, goal.shape[-1]))
            each = F.smooth_l1_loss(self.token_head(told).float(), target, reduction="none").mean(-1)  # (B, K)
            error, asked = error + (each * real).sum(), asked + real.sum()
        hidden = error / asked.clamp(min=1)
        pixels = F.smooth_l1_loss(self.dense_head(view.dense).movedim(1, -1).float(), dense)
        spread = z.float().flatten(0, 1).std(0).mean()
        return {"loss": hidden + pixels, "tokens": hidden.detach(), "pixels": pixels.detach(), "spread": spread}

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
