"""Who is compared: a table of kinds, each with its role, how it is built and where its search for settings starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gfm_objectives.batch import Spec
from gfm_objectives.chance import mix
from gfm_objectives.compare.search import Space
from gfm_objectives.finetune import HParams
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.foreign import ForeignSegmenter, open_backbone
from gfm_objectives.models.map_context import MapContext
from gfm_objectives.models.map_input import WithMap, spec_with_map
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import load_encoder, load_model
from gfm_objectives.runs.finished import Run


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the comparison.

    name: for people, nothing else reads it; kind: a key of KINDS; runs: its pretraining runs, in order of seed;
    recipe: what was pretrained and how; shape: the network's options as JSON; extra_flops: given to fine-tuning beyond
    F; search_flops: of pretraining trials that found its recipe; weights: a file of ImageNet weights for the U-Net.
    """

    name: str
    kind: str
    runs: tuple[Run, ...] = ()
    recipe: str = ""
    shape: str = ""
    extra_flops: float = 0.0
    search_flops: float = 0.0
    weights: str = ""

    @property
    def role(self) -> str:
        return KINDS[self.kind].role

    @property
    def decides_f(self) -> bool:
        """Whether it has a say in F: from scratch, with F alone, and without the weights of others."""
        return self.role == "scratch" and not self.extra_flops and not self.weights

    @property
    def trained(self) -> bool:
        return KINDS[self.kind].build is not None

    @property
    def pretrain_flops(self) -> float:
        return sum(r.flops for r in self.runs) / len(self.runs) if self.runs else 0.0

    def run(self, seed: int) -> Run | None:
        """Seed s uses the s-th pretraining run, modulo how many there are; tuning uses the first."""
        return self.runs[max(seed, 0) % len(self.runs)] if self.runs else None

    def model_key(self, seed: int) -> str:
        """What decides the model before training, its settings aside; more FLOPs do not make it another."""
        run = self.run(seed)
        return "|".join([self.kind, self.shape, self.weights, run.identity if run else ""])

    def space(self, spec: Spec, batch_size: int, losses: Sequence[str] = ("",)) -> Space:
        """What it is tuned over; `batch_size` is the largest, `losses` are those of the task's kind, for everybody."""
        space = KINDS[self.kind].space(spec, batch_size)
        return replace(space, values={**space.values, "loss": tuple(losses)})

    def build(self, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
        """The model before fine-tuning, with `channels` outputs a pixel; what is not pretrained is drawn by `seed`."""
        make = KINDS[self.kind].build
        assert make is not None, self.name
        torch.manual_seed(mix(seed, "init"))
        return make(self, spec, channels, hparams, seed)


# ---------------------------------------------------------------------------------------------------------------------
# Models

Build = Callable[[Contender, Spec, int, HParams, int], nn.Module]


def _source(c: Contender, seed: int) -> Any:
    run = c.run(seed)
    assert run is not None, c.name
    return load_model(run.folder)


def _pretrained(keep: str = "") -> Build:
    """keep: the prefix of the weights that stay pretrained; those of the rest are as before pretraining. '-' turns it
    round."""

    def build(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
        run = c.run(seed)
        assert run is not None, c.name
        source = load_encoder(run.folder)
        encoder = Encoder(source.bands, **(source.options | {"band_dropout": 0.0, "pixel_dropout": 0.0}))
        inside = {n: n.startswith(keep.removeprefix("-")) != keep.startswith("-") for n in source.state_dict()}
        kept = {n: t for n, t in source.state_dict().items() if inside[n]}
        encoder.load_state_dict(encoder.state_dict() | kept)
        return Segmenter(encoder.extend(spec), channels)

    return build


def _scratch(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    return Segmenter(Encoder.from_config(json.loads(c.shape), spec), channels)


def _unet(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    assert hparams.width and hparams.mode, hparams
    return UNet(spec, channels, hparams.width, hparams.mode, c.weights or None)


def _unet_map(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    source = _source(c, seed)
    assert isinstance(source, UNet), c.name
    return Segmenter(source.refit(spec), channels, kernel=3)


def _pixel(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    assert hparams.width, hparams
    return PixelMLP(spec, channels, hparams.width)


def _map_context(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    assert hparams.width, hparams
    return MapContext(spec, channels, hparams.width)


def _foreign(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    run = c.run(seed)
    backbone = open_backbone(spec, weights=run.folder if run else None, **json.loads(c.shape))
    return ForeignSegmenter(backbone, spec, channels)


def _continued(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
    source = _source(c, seed)
    assert isinstance(source, Continued), c.name
    return source.segmenter(spec, channels)


def _reading_the_map(build: Build) -> Build:
    """The same model with the map's classes as further input planes."""

    def wrapped(c: Contender, spec: Spec, channels: int, hparams: HParams, seed: int) -> nn.Module:
        return WithMap(build(c, spec_with_map(spec), channels, hparams, seed), len(spec.legends["map"]))

    return wrapped


# ---------------------------------------------------------------------------------------------------------------------
# Where the search starts. Every kind has every lever that its model has: search.LEVERS is the order for all.

SHARES = {"length": (1.0, 0.5, 0.25), "head_first": (False, True)}
INSIDE = {"encoder_factor": (1.0, 0.3, 0.1)}  # of models with an encoder to treat apart


def _space(lr: float, few: int, batch: int, values: dict[str, Any], **start: Any) -> Space:
    batches = tuple(sorted({few, batch}))
    return Space(HParams(lr, batch_size=few, **start), {**SHARES, "batch_size": batches, **values})


def _few(batch: int) -> int:
    return max(1, batch // 4)  # small budgets want many small steps


def _vit_space(spec: Spec, batch: int) -> Space:
    return _space(4e-3, _few(batch), batch, {**INSIDE, "freeze": ("", "tokens", "encoder")})


def _map_reader_space(spec: Spec, batch: int) -> Space:
    """A frozen encoder would never learn to read the map."""
    return _space(4e-3, _few(batch), batch, {**INSIDE, "freeze": ("", "tokens")})


def _frozen_space(spec: Spec, batch: int) -> Space:
    return _space(1e-2, _few(batch), batch, {}, freeze="encoder")


def _unet_space(spec: Spec, batch: int) -> Space:
    modes = ("stack", "shared") if max(spec.dates.values()) > 1 else ("stack",)  # with one date they are one model
    own = {"width": (8, 16, 32, 48, 64), "mode": modes, **INSIDE, "freeze": ("", "encoder")}
    return _space(1e-2, _few(batch), batch, own, width=8, mode="stack")


def _unet_map_space(spec: Spec, batch: int) -> Space:
    return _space(1e-2, _few(batch), batch, {**INSIDE, "freeze": ("", "encoder")})


def _pixel_space(spec: Spec, batch: int) -> Space:
    return _space(1e-2, _few(batch), batch, {"width": (32, 64, 128, 256)}, width=64)


def _foreign_space(spec: Spec, batch: int) -> Space:
    own = {"encoder_factor": (1.0, 0.3, 0.1, 0.03, 0.01), "freeze": ("", "encoder")}
    return _space(1e-3, _few(batch), batch, own, encoder_factor=0.1)  # large ViTs want 1e-5 to 1e-4 inside


def _no_space(spec: Spec, batch: int) -> Space:
    raise AssertionError("needs no training")


@dataclass(frozen=True, slots=True)
class Kind:
    """role: one of scores.ROLES; build: None where no training is needed; title: its name for people, where it has one
    of its own; suffix: else appended to the name of what was pretrained."""

    role: str
    build: Build | None
    space: Callable[[Spec, int], Space]
    title: str = ""
    suffix: str = ""


KINDS: dict[str, Kind] = {
    "pretrained": Kind("pretrained", _pretrained(), _vit_space),
    "pretrained_map_input": Kind(
        "pretrained", _reading_the_map(_pretrained()), _map_reader_space, suffix=", map as input"
    ),
    "foreign": Kind("pretrained", _foreign, _foreign_space),
    "continued": Kind("pretrained", _continued, _foreign_space),  # published, and trained further by train.py
    "frozen": Kind("part", _pretrained(), _frozen_space, suffix=", frozen"),  # all but a linear head
    "fresh_dense": Kind("part", _pretrained("-way_back."), _vit_space, suffix=", fresh way back"),
    "fresh_tokens": Kind("part", _pretrained("-vit."), _vit_space, suffix=", fresh tokens"),
    "foreign_frozen": Kind("part", _foreign, _frozen_space, suffix=", frozen"),  # our stem and way back are trained
    "unet": Kind("scratch", _unet, _unet_space, "U-Net"),
    "conv": Kind("scratch", _scratch, _vit_space, "conv"),  # our network without its ViT
    "scratch": Kind("scratch", _scratch, _vit_space, "ViT from scratch"),
    "pixel": Kind("scratch", _pixel, _pixel_space, "per-pixel MLP"),  # no context
    "unet_imagenet": Kind("scratch", _unet, _unet_space, "U-Net, ImageNet"),  # with unet.weights
    "unet_map": Kind("saw_map", _unet_map, _unet_map_space, "U-Net pretrained on the map"),
    "conv_map": Kind("saw_map", _pretrained(), _vit_space, "conv pretrained on the map"),
    "unet_map_input": Kind("saw_map", _reading_the_map(_unet), _unet_space, "U-Net, map as input"),
    "conv_map_input": Kind("saw_map", _reading_the_map(_scratch), _vit_space, "conv, map as input"),
    "scratch_map_input": Kind(
        "saw_map", _reading_the_map(_scratch), _map_reader_space, "ViT from scratch, map as input"
    ),
    "map_context": Kind("saw_map", _map_context, _pixel_space, "map's neighbourhood alone"),
    "map": Kind("untrained", None, _no_space, "map, recoded"),
    "index": Kind("untrained", None, _no_space, "spectral index"),
}
