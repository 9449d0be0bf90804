"""Pretraining against named peers at the same arithmetic: lightly's MAE, and a plain MAE loop on timm's ViT.

    python benchmarks/peers.py [encoder=tiny,small] [batch=16] [repeats=9] [device=cpu]     needs the extra `bench`

All sides: the same ViT (width, depth, heads, patch), one image of ten bands and 64 x 64 pixels, three quarters hidden
cell by cell, the ViT reads the rest, all hidden cells are reconstructed by two blocks of half the width, AdamW. They
take turns in one process, one thread. FLOPs are counted by torch's FlopCounterMode for each: those of ours include the
stem and the way back to full resolution, which the peers lack, so samples/s are printed beside FLOP/s, which is
samples/s at equal FLOPs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial

import common
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import load_choice
from gfm_objectives.device import has_bf16
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.sensors import S2_TEN

SIZE, PATCH, HIDDEN, DECODER = 64, 8, 0.75, 2
SPEC = Spec({"s2": S2_TEN}, {"s2": 1}, SIZE, 10.0, {})
CELLS = (SIZE // PATCH) ** 2
OURS = {"encode": "seen", "kinds": ["cell"], "mask_ratio": HIDDEN, "predict": HIDDEN, "decoder_depth": DECODER}
Loss = Callable[[], Tensor]


class Plain(nn.Module):
    """MAE (He et al. 2021, arXiv 2111.06377) as one would write it on timm's blocks; no class token, pixels
    normalised per patch."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            SIZE, PATCH, len(S2_TEN), 0, "", dim, depth, heads, class_token=False, pos_embed="learn"
        )
        self.embed = nn.Linear(dim, dim // 2)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim // 2))
        self.place = nn.Parameter(torch.randn(1, CELLS, dim // 2) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim // 2, heads, qkv_bias=True) for _ in range(DECODER)))
        self.norm = nn.LayerNorm(dim // 2)
        self.pixels = nn.Linear(dim // 2, PATCH * PATCH * len(S2_TEN))

    def forward(self, images: Tensor) -> Tensor:
        order = torch.rand(len(images), CELLS, device=images.device).argsort(1)
        keep, hidden = order.split([round(CELLS * (1 - HIDDEN)), round(CELLS * HIDDEN)], 1)
        x = rows(self.vit.patch_embed(images) + self.vit.pos_embed, keep)
        x = self.embed(self.vit.norm(self.vit.blocks(x)))  # (B, kept, D / 2)
        y = self.mask_token.to(x.dtype).expand(len(x), CELLS, -1)
        y = y.scatter(1, keep[..., None].expand_as(x), x) + self.place
        prediction = self.pixels(rows(self.norm(self.blocks(y)), hidden))
        patches = images.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 3, 5, 1)
        target = rows(patches.reshape(len(images), CELLS, -1), hidden)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (prediction.float() - target).square().mean()


class Lightly(nn.Module):
    """As in lightly's example of MAE, its decoder by its new name."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
        from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

        vit = VisionTransformer(SIZE, PATCH, len(S2_TEN), 0, "", dim, depth, heads)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = nn.Linear(dim, dim // 2)
        self.decoder = MaskedVisionTransformerDecoderTIMM(CELLS, dim // 2, DECODER, heads)
        self.pixels = nn.Linear(dim // 2, PATCH * PATCH * len(S2_TEN))

    def forward(self, images: Tensor) -> Tensor:
        from lightly.models import utils

        size = (len(images), self.backbone.sequence_length)
        keep, hidden = utils.random_token_mask(size, HIDDEN, device=images.device)
        x = self.embed(self.backbone.encode(images, idx_keep=keep))
        y = utils.repeat_token(self.decoder.mask_token, size)
        y = self.decoder.decode(self.decoder.add_pos_embed(utils.set_at_index(y, keep, x.type_as(y))))
        prediction = self.pixels(utils.get_at_index(y, hidden))
        target = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)
        return F.mse_loss(prediction.float(), target)


def rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def batch_of(images: Tensor) -> Batch:
    """The same images as the project has them."""
    batch = SPEC.dummy(len(images), images.device)
    return batch.replace(sensors={"s2": batch.sensors["s2"].replace(x=images[:, None])})
