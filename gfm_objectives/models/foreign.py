"""Encoders that are not ours: opened by name from torchgeo or timm, with weights from a file, on our way back.

They stand where our own ViT does, between its stem and its way back, so that all encoders have the same means: their
patch vectors of every date and sensor are merged by attention, and the pixels of every band and sensor come in at full
resolution, those the encoder cannot read included. What is ours starts untrained, for nobody published one;
`encoder_factor` applies to the published weights alone. Nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.backbones import CROMA, DOFA, RGB, Backbone, CopernicusFM, Panopticon
from gfm_objectives.models.encoder import Encoded
from gfm_objectives.models.masking import valid_of
from gfm_objectives.models.positions import day_features, metres
from gfm_objectives.models.stem import CELL, Stem, date_shares
from gfm_objectives.models.way_back import WayBack


class Known(NamedTuple):
    """A model of torchgeo: how it is wrapped, the image size it was pretrained with, its patch, and its size's name."""

    wrap: Callable[[Spec, nn.Module, int, int], Backbone]
    size: int
    patch: int
    keyword: str = "img_size"


TORCHGEO = {
    "dofa_small_patch16_224": Known(DOFA, 224, 16),
    "dofa_base_patch16_224": Known(DOFA, 224, 16),
    "dofa_large_patch16_224": Known(DOFA, 224, 16),
    "croma_base": Known(CROMA, 120, 8, "image_size"),
    "croma_large": Known(CROMA, 120, 8, "image_size"),
    "panopticon_vitb14": Known(Panopticon, 224, 14),
    "scalemae_large_patch16": Known(RGB, 224, 16),
    "copernicusfm_base": Known(CopernicusFM, 224, 16),
}
UNUSED = ("head", "fc_norm", "attn_bias", "mask_token")  # of a model, that its file of weights may lack


class ForeignSegmenter(nn.Module):
    """Batch -> logits (B, classes, H, W), float32; `encode` gives what the head reads.

    These encoders know one image size. Places of another are read in windows of the size of `spec`, side by side, so
    that pixels keep their scale.

    encoder: of others; spec: what it is shown; classes: 0 = no head; dim, heads: of its vectors once merged;
    cell_dim, width: of the stem and
    the way back; the defaults suit the ViT-B and ViT-L which these encoders are. Its tokens are as near as a power of
    two comes to their patches.
    """

    def __init__(
        self,
        encoder: Backbone,
        spec: Spec,
        classes: int,
        dim: int = 256,
        heads: int = 8,
        cell_dim: int = 128,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.options: dict[str, int] = dict(dim=dim, heads=heads, cell_dim=cell_dim, width=width)
        self.encoder, self.dim, self.size, self.heads = encoder, dim, spec.size, heads
        patch = 2 ** round(math.log2(spec.size / encoder.grid))
        self.patch = max(CELL, min(patch, spec.size & -spec.size))
        self.neck = nn.Sequential(nn.LayerNorm(encoder.dim), nn.Linear(encoder.dim, dim))
        self.day = nn.Linear(5, dim)
        self.sensor = nn.ParameterDict({s: nn.Parameter(torch.randn(dim) * 0.02) for s in encoder.sensors})
        self.score = nn.Linear(dim, heads)
        self.norm = nn.LayerNorm(dim)
        self.stem = Stem(spec.bands, cell_dim, 0.0)
        self.way_back = WayBack(spec.bands, cell_dim, dim, width, [self.patch], 0.0)
        self.head = nn.Conv2d(width, classes, 1) if classes else None

    def forward(self, batch: Batch) -> Tensor:
        assert self.head is not None, "without a head it encodes"
        return self.head(self.encode(batch).dense).float()

    def encode(self, batch: Batch) -> Encoded:
        """Tokens of the patches of the windows, one after the other, and features at full resolution."""
        height, width = batch.size
        whole = batch.pad_to(self.size)
        rows, columns = whole.size[0] // self.size, whole.size[1] // self.size
        tokens, dense = self.window(whole if rows == columns == 1 else windows(whole, self.size))
        side = -(-self.size // self.patch)
        tokens = rearrange(tokens, "(b h w) (i j) d -> b (h i w j) d", h=rows, w=columns, j=side)
        dense = rearrange(dense, "(b h w) c p q -> b c (h p) (w q)", h=rows, w=columns)
        return Encoded(tokens, dense[:, :, :height, :width])

    def window(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same for places of the size it was built for."""
        height, width = batch.size
        whole, tokens = batch.pad_to(self.patch), self.tokens(batch)
        return tokens, self.way_back(tokens, self.stem(whole), self.patch)[:, :, :height, :width]

    def tokens(self, batch: Batch) -> Tensor:
        """The encoder's vectors on the way back's patches, merged over dates and sensors as the stem's cells are:
        (B, tokens, dim)."""
        whole = batch.pad_to(self.patch)
        grid = (whole.size[0] // self.patch, whole.size[1] // self.patch)
        total = torch.zeros((), device=batch.gsd.device)
        for name, z in self.encoder(batch).items():
            series = whole.sensors[name]
            told = self.day(day_features(series)) + self.sensor[name]  # (B, T, dim)
            y = (self.resample(z, grid) + told[:, :, None]).transpose(1, 2)  # (B, tokens, T, dim)
            share = date_shares(self.score(y), valid_of(series.valid, self.patch).flatten(2).mT)
            total = total + (y.unflatten(-1, (self.heads, -1)) * share[..., None]).sum(2).flatten(2)
        return self.norm(total) + metres(grid, self.patch, batch.gsd, self.dim)

    def resample(self, z: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, patches, D) -> (B, T, cells, dim)."""
        y = self.neck(z).flatten(0, 1).transpose(1, 2).unflatten(2, (self.encoder.grid, self.encoder.grid))
        y = F.interpolate(y, grid, mode="bilinear", antialias=grid[0] < self.encoder.grid)
        return y.flatten(2).transpose(1, 2).unflatten(0, z.shape[:2])


def windows(batch: Batch, size: int) -> Batch:
    """Its sensors in windows of size x size, side by side, row by row, each a place; H and W are multiples of size."""
    n = (batch.size[0] // size) * (batch.size[1] // size)

    def cut(t: Tensor) -> Tensor:
        return rearrange(t, "b ... (h p) (w q) -> (b h w) ... p q", p=size, q=size)

    def window(s: Series) -> Series:
        return s.replace(x=cut(s.x), valid=cut(s.valid), day=s.day.repeat_interleave(n, 0))

    return Batch({k: window(s) for k, s in batch.sensors.items()}, {}, batch.gsd.repeat_interleave(n))


def open_backbone(spec: Spec, name: str, size: int | None = None, weights: str | Path | None = None) -> Backbone:
    """The encoder `torchgeo:<name>` or `timm:<name>` for images of `spec`.

    size: pixels a side that images are resized to, None = as it was pretrained; weights: a .pth, .pt or .safetensors
    file, None = random. InputError for a name, size or file that does not fit.
    """
    library, model_name = split_name(name)
    if library == "torchgeo":
        known = TORCHGEO[model_name]
        size, patch = _fit(name, size or known.size, known.patch), known.patch
        import torchgeo.models

        options = {"res": spec.gsd * spec.size / size} if model_name.startswith("scalemae") else {}
        model = getattr(torchgeo.models, model_name)(**{known.keyword: size}, **options)
        wrap = known.wrap
    else:
        model, size, patch = _timm(name, model_name, size)
        wrap = RGB
    if weights:
        load_weights(model.model if model_name.startswith("panopticon") else model, weights, size // patch)
    for part in ("s1_GAP_FFN", "s2_GAP_FFN", "patch_embed_variable", "head"):  # of no use here
        if part in dict(model.named_children()):
            setattr(model, part, nn.Identity())
    return wrap(spec, model, size, patch)


def split_name(name: str) -> tuple[str, str]:
    """('torchgeo', 'croma_base') of 'torchgeo:croma_base'; InputError where there is no such encoder."""
    library, _, model = name.partition(":")
    if library == "torchgeo" and model in TORCHGEO:
        return library, model
    if library == "timm":
        import timm

        if timm.is_model(model.partition(".")[0]):
            return library, model
        raise InputError(f"encoder={name}: timm has no such model")
    raise InputError(f"encoder={name}: give timm:<a ViT of timm> or one of torchgeo:{', '.join(TORCHGEO)}")


def load_weights(model: nn.Module, path: str | Path, grid: int) -> None:
    """Read a published file into `model`; positions are resampled to `grid` x `grid` patches where it has others.

    Wrappers such as {'model': ...} are opened, decoders and heads passed over. InputError where part of the encoder
    itself is missing or of another shape.
    """
    from timm.layers import resample_abs_pos_embed

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(state, dict), type(state)
    except Exception:  # torch.load raises many kinds, with advice to execute what the file holds
        raise InputError(
            f"weights={path}: holds more than tensors by name, or is damaged; it is not opened; save its state_dict() "
            "alone"
        ) from None
    state = next((state[k] for k in ("model", "state_dict", "teacher") if isinstance(state.get(k), dict)), state)
    for part in [k for k, v in state.items() if isinstance(v, dict)]:  # CROMA keeps a dictionary for each encoder
        state |= {f"{part}.{k}": v for k, v in state.pop(part).items()}
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    own = model.state_dict()
    if "pos_embed" in state and "pos_embed" in own and state["pos_embed"].shape != own["pos_embed"].shape:
        prefix = own["pos_embed"].shape[1] - grid * grid
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [grid, grid], num_prefix_tokens=prefix)
    try:
        missing, _ = model.load_state_dict(state, strict=False)
    except RuntimeError as e:
        raise InputError(f"weights={path}: do not fit {type(model).__name__}: {str(e).splitlines()[-1].strip()}") from e
    if lost := [k for k in missing if not k.startswith(UNUSED) and "_GAP_FFN" not in k]:
        raise InputError(f"weights={path}: not of {type(model).__name__}: {len(lost)} parts missing, such as {lost[0]}")


def _timm(name: str, model_name: str, size: int | None) -> tuple[nn.Module, int, int]:
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    options: dict[str, Any] = {"img_size": size} if size else {}
    try:
        model = timm.create_model(model_name, pretrained=False, num_classes=0, **options)
    except (RuntimeError, TypeError, AssertionError) as e:
        raise InputError(f"encoder={name}: timm cannot build it: {(str(e).splitlines() or ['?'])[0]}") from None
    if not isinstance(model, VisionTransformer | Eva):
        raise InputError(f"encoder={name}: not a plain ViT; its features are no single grid of patches")
    patch, given = model.patch_embed.patch_size[0], model.patch_embed.img_size[0]  # type: ignore[index]
    return model, _fit(name, given, patch), patch


def _fit(name: str, size: int, patch: int) -> int:
    if size % patch:
        raise InputError(f"encoder_size={size}: {name} needs a multiple of its patch, {patch} pixels")
    return size
