"""The shared multimodal ViT: tokenize, attend, and densify. Every objective and every task uses this one class.

With depth 0 it is the rival `conv`: the dense path alone. It embeds, reads and joins no tokens; they still say which
pixels may be seen, so whatever hides cells and predicts from the dense features can pretrain it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.attention import attention_kernel
from gfm_objectives.models.dense import DensePath
from gfm_objectives.models.tokens import Tokenizer, Tokens, metres, unread


class Encoder(nn.Module):
    """Pre-norm ViT over tokens of any sensors and dates, with a dense path to full resolution. No class token.

    bands: sensor -> band names it reads; dim, depth, heads: of the ViT, depth 0 = none; patch in pixels (a power of
    two); dense_width: channels of the features at full resolution; band_dropout: probability that a band is left out in
    pretraining.
    """

    def __init__(
        self,
        bands: Mapping[str, Sequence[str]],
        *,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        dense_width: int,
        band_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = dict(
            dim=dim, depth=depth, heads=heads, patch=patch, dense_width=dense_width, band_dropout=band_dropout
        )
        self.dim, self.depth, self.heads, self.patch, self.width = dim, depth, heads, patch, dense_width
        self.tokenizer = Tokenizer(bands, dim, patch, band_dropout) if depth else None
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim) if depth else nn.Identity()
        self.dense_path = DensePath(bands, dim, heads, patch, dense_width, band_dropout, tokens=depth > 0)

    @classmethod
    def from_config(cls, options: Mapping[str, Any], spec: Spec) -> Encoder:
        """An encoder of `configs/encoder` for the sensors and bands of `spec`. InputError for sizes that do not fit."""
        dim, heads, patch, width = (options[k] for k in ("dim", "heads", "patch", "dense_width"))
        if min(dim, heads, width) < 1 or dim % 8 or dim % heads or patch < 2 or patch & (patch - 1) or width % 4:
            raise InputError(
                f"encoder: dim={dim}, heads={heads}, patch={patch}, dense_width={width} do not fit: dim must be a "
                "multiple of 8 and of heads, patch a power of two, dense_width a multiple of 4"
            )
        return cls(spec.bands, **{k: v for k, v in options.items() if k not in ("name", "model")})

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        return self.dense_path.stem.bands

    def tokenize(self, batch: Batch) -> Tokens:
        """Every token of the batch: N = sensors x dates x patches, those that reach over the edge included."""
        batch = batch.pad_to(self.patch)
        return unread(batch, self.patch) if self.tokenizer is None else self.tokenizer(batch)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, N, D) features of the tokens given; invalid ones are fillers nobody attends to."""
        x, mask = tokens.x, tokens.key_mask()[:, None, None]  # (B, 1, 1, N)
        mask = mask.expand(-1, -1, x.shape[1], -1)
        with attention_kernel(x):
            for block in self.blocks:
                x = block(x, attn_mask=mask)
        return self.norm(x)

    def dense(self, batch: Batch, tokens: Tokens, z: Tensor) -> Tensor:
        """Features at full resolution, (B, width, H, W), from z (B, N, D) and the pixels `tokens` cover."""
        height, width = batch.size
        y = self.dense_path(batch.pad_to(self.patch), tokens, z, self.positions(batch, tokens))
        return y[:, :, :height, :width]

    def features(self, batch: Batch) -> Tensor:
        """Features at full resolution, (B, width, H, W), of all that the batch shows; any H and W."""
        tokens = self.tokenize(batch)
        return self.dense(batch, tokens, self(tokens))

    def positions(self, batch: Batch, tokens: Tokens) -> Tensor:
        """(B, cells, D): the code of every cell's place in metres."""
        return metres(tokens.grid, self.patch, batch.gsd, self.dim)

    def extend(self, spec: Spec) -> Encoder:
        """Make ready for the sensors and bands of `spec`, keeping what was learned; returns self."""
        if self.tokenizer is not None:
            self.tokenizer.extend(spec.bands)
        self.dense_path.stem.extend(spec.bands)
        return self


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def trained_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def parameter_parts(encoder: nn.Module) -> dict[str, int]:
    """Parameters of an encoder and, apart, of its dense path where it has one (a U-Net has none)."""
    dense = sum(parameters(m) for n, m in encoder.named_children() if n == "dense_path")
    return {"encoder": parameters(encoder) - dense, "dense": dense}
