"""The shared multimodal encoder: stem, ViT and the way back. Every objective and every task uses this one class.

With depth 0, no blocks, it is the rival `conv`: all that is left is local.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.masking import Mask
from gfm_objectives.models.slices import in_slices
from gfm_objectives.models.stem import CELL, Merged, Stem
from gfm_objectives.models.vit import MIXERS, ViT
from gfm_objectives.models.way_back import WayBack


@dataclass(frozen=True, slots=True)
class Encoded:
    """tokens (B, rows x columns, dim), row by row; dense (B, width, H, W): features at full resolution."""

    tokens: Tensor
    dense: Tensor


IN_PRETRAINING = ("band_dropout", "pixel_dropout", "patches")  # options that make no other network of it


class Encoder(nn.Module):
    """Batch -> Encoded, of any sensors, dates, height and width.

    bands: sensor -> band names it reads; cell_dim: of the cells of 4 x 4 pixels in which dates and sensors are merged;
    dim, depth, heads: of the ViT; patch: the side of its tokens in pixels, the one in use of `patches`, each of which
    pretraining draws; mixer: what its blocks mix tokens by, attention or convolution; width: channels of the features;
    registers, skip_scale: of the ViT and the way back; band_dropout, pixel_dropout: probabilities, in pretraining, that
    a band is left out, and that a place's pixels pass through the tokens alone.
    """

    def __init__(
        self,
        bands: Mapping[str, Sequence[str]],
        *,
        cell_dim: int,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        width: int,
        patches: Sequence[int] = (),
        mixer: str = "attention",
        registers: int = 0,
        skip_scale: float = 1.0,
        band_dropout: float = 0.0,
        pixel_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        patches = sorted({patch, *patches})
        self.options: dict[str, Any] = dict(
            cell_dim=cell_dim,
            dim=dim,
            depth=depth,
            heads=heads,
            patch=patch,
            width=width,
            patches=list(patches),
            mixer=mixer,
            registers=registers,
            skip_scale=skip_scale,
            band_dropout=band_dropout,
            pixel_dropout=pixel_dropout,
        )
        self.dim, self.depth, self.heads, self.width = dim, depth, heads, width
        self.patch, self.patches = patch, tuple(patches)
        self.micro = 0  # places that stem and ViT hold at a time in training; 0 = all
        self.stem = Stem(bands, cell_dim, band_dropout)
        self.vit = ViT(cell_dim, dim, depth, heads, patches, mixer, registers)
        self.way_back = WayBack(bands, cell_dim, dim, width, patches, band_dropout, pixel_dropout, skip_scale)

    @classmethod
    def from_config(cls, options: Mapping[str, Any], spec: Spec) -> Encoder:
        """An encoder of `configs/encoder` for the sensors and bands of `spec`. InputError for sizes that do not fit."""
        cells, dim, heads, width = (options[k] for k in ("cell_dim", "dim", "heads", "width"))
        if min(cells, dim, heads, width) < 1 or cells % 8 or dim % 8 or dim % heads:
            raise InputError(
                f"encoder: cell_dim={cells}, dim={dim}, heads={heads}, width={width} do not fit: cell_dim and dim must "
                "be multiples of 8, and dim one of heads"
            )
        if options.get("mixer", "attention") not in MIXERS:
            raise InputError(f"encoder.mixer={options['mixer']}: choose from {', '.join(MIXERS)}")
        patches = [options["patch"], *(options.get("patches") or ())]
        if wrong := [p for p in patches if p < CELL or p % CELL]:
            raise InputError(f"encoder.patch={wrong[0]}: must be a multiple of {CELL} pixels")
        return cls(
            spec.bands, **{k: v for k, v in options.items() if k not in ("name", "model", "optim") and v is not None}
        )

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        return self.stem.embed.bands

    def forward(self, batch: Batch, mask: Mask | None = None) -> Encoded:
        """mask: what of the batch may be seen; None = all of it."""
        height, width = batch.size
        merged, z = in_slices(self.trunk, self.micro, batch.gsd, batch.pad_to(self.patch), mask)
        dense = self.way_back(z, merged, self.patch)
        if dense.requires_grad:  # in another memory format GELU's backward takes five times as long
            dense.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return Encoded(z, dense[:, :, :height, :width])

    def trunk(self, batch: Batch, mask: Mask | None) -> tuple[Merged, Tensor]:
        """Merged cells and tokens, each place for itself."""
        merged = self.stem(batch, None if mask is None else mask.seen)
        return merged, self.vit(merged, self.patch, batch.gsd, None if mask is None else mask.keep)

    def features(self, batch: Batch) -> Tensor:
        """Features at full resolution, (B, width, H, W), of all that the batch shows."""
        return self(batch).dense

    def extra_repr(self) -> str:
        return f"patch={self.patch}"

    def extend(self, spec: Spec) -> Encoder:
        """Make ready for the sensors and bands of `spec`, keeping what was learned; returns self."""
        self.stem.extend(spec.bands)
        self.way_back.composite.extend(spec.bands)
        return self


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def trained_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


PARTS = ("stem", "vit", "way_back")


def parameter_parts(encoder: nn.Module) -> dict[str, int]:
    """Parameters of an encoder's parts; of a U-Net, which has none, of the whole as `encoder`."""
    parts = {name: parameters(m) for name, m in encoder.named_children() if name in PARTS}
    return parts if isinstance(encoder, Encoder) else {"encoder": parameters(encoder)}
