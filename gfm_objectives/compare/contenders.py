"""Who is compared: pretrained encoders, their rivals, how each is built and the settings it may be tuned over."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gfm_objectives.batch import Spec
from gfm_objectives.chance import mix
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.foreign import ForeignSegmenter, open_backbone
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import load_encoder, load_model
from gfm_objectives.runs.finished import Run


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the comparison.

    kind: a key of KINDS; runs: its pretraining runs, in order of seed; encoder: the pretrained or scratch model's
    options as JSON; extra_flops: given to fine-tuning beyond F; weights: a file of ImageNet weights for the U-Net.
    """

    name: str
    kind: str
    runs: tuple[Run, ...] = ()
    encoder: str = ""
    extra_flops: float = 0.0
    weights: str = ""

    @property
    def pretrain_flops(self) -> float:
        return sum(r.flops for r in self.runs) / len(self.runs) if self.runs else 0.0

    @property
    def trained(self) -> bool:
        return KINDS[self.kind].build is not None

    def run(self, seed: int) -> Run | None:
        """Seed s uses the s-th pretraining run, modulo how many there are; tuning uses the first."""
        return self.runs[max(seed, 0) % len(self.runs)] if self.runs else None

    def model_key(self, seed: int) -> str:
        """What decides the model before training, its settings aside: a U-Net with more FLOPs is the same U-Net."""
        run = self.run(seed)
        family = "unet" if self.kind == "unet_plus" else self.kind
        return "|".join([family, self.encoder, self.weights, run.identity if run else ""])

    def candidates(self, spec: Spec, trials: int, batch_size: int) -> list[HParams]:
        """The first `trials` settings of this contender's list, most promising first; `batch_size` is the largest."""
        found = KINDS[self.kind].settings(spec, batch_size)
        if trials > len(found):
            raise InputError(f"finetune.trials={trials}: {self.name} has only {len(found)} different settings")
        return [HParams(**s) for s in found[:trials]]

    def build(self, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
        """The model before fine-tuning; what is not pretrained is drawn by `seed`."""
        make = KINDS[self.kind].build
        assert make is not None, self.name
        torch.manual_seed(mix(seed, "init"))
        return make(self, spec, classes, hparams, seed)


# ---------------------------------------------------------------------------------------------------------------------
# Models


def _pretrained(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    run = c.run(seed)
    assert run is not None, c.name
    source = load_encoder(run.folder)
    encoder = Encoder(source.bands, **(source.options | {"band_dropout": 0.0}))  # it acts in pretraining alone
    kept = {n: t for n, t in source.state_dict().items() if _kept(c.kind, n.startswith("dense_path."))}
    encoder.load_state_dict(encoder.state_dict() | kept)
    return Segmenter(encoder.extend(spec), classes)


def _kept(kind: str, dense: bool) -> bool:
    """Whether a row of this kind keeps the pretrained weights of (or outside of) the dense path."""
    return {"fresh_dense": not dense, "fresh_tokens": dense}.get(kind, True)


def _scratch(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    return Segmenter(Encoder.from_config(json.loads(c.encoder), spec), classes)


def _unet(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    assert hparams.width and hparams.mode, hparams
    return UNet(spec, classes, hparams.width, hparams.mode, c.weights or None)


def _unet_map(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    run = c.run(seed)
    assert run is not None, c.name
    source = load_model(run.folder)
    assert isinstance(source, UNet), run.folder
    return Segmenter(source.refit(spec), classes, kernel=3)


def _pixel(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    assert hparams.width, hparams
    return PixelMLP(spec, classes, hparams.width)


def _foreign(c: Contender, spec: Spec, classes: int, hparams: HParams, seed: int) -> nn.Module:
    run = c.run(seed)
    backbone = open_backbone(spec, weights=run.folder if run else None, **json.loads(c.encoder))
    return ForeignSegmenter(backbone, spec, classes)


# ---------------------------------------------------------------------------------------------------------------------
# Settings: a few by experience, then the rest of the grid. Every list says early whether to fit the head first.

HEAD = (True, False)


def _vit_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)  # a ViT pays so much per sample that it needs many small steps
    axes = {
        "lr": (8e-3, 4e-3, 2e-3, 1e-3),
        "encoder_factor": (1.0, 0.3, 0.1),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [
        (8e-3, 1.0, few, 1.0, True),
        (4e-3, 1.0, few, 1.0, True),
        (4e-3, 1.0, few, 1.0, False),
        (2e-3, 0.3, few, 0.5, True),
    ]
    return _grid(first, axes)


def _scratch_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {
        "lr": (4e-3, 8e-3, 2e-3, 1e-3),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [(4e-3, few, 1.0, False), (8e-3, few, 1.0, True), (4e-3, few, 1.0, True), (8e-3, few, 1.0, False)]
    return _grid(first, axes)


def _frozen_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    axes = {
        "lr": (1e-2, 3e-3, 3e-2, 1e-3),
        "head_first": HEAD,
        "batch_size": (max(1, batch // 4), batch),
        "length": (1.0, 0.25, 0.5),
    }
    return [{**s, "encoder_factor": 0.0} for s in _grid([], axes)]


def _unet_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {
        "lr": (1e-2, 3e-3, 1e-3),
        "width": (16, 8, 32, 48, 64),
        "mode": ("stack", "shared"),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [
        (1e-2, 8, "stack", few, 1.0, False),
        (1e-2, 8, "stack", few, 1.0, True),
        (3e-3, 16, "stack", few, 1.0, False),
        (1e-2, 8, "shared", few, 1.0, False),
        (1e-2, 8, "stack", few, 0.25, True),
        (1e-2, 8, "stack", batch, 1.0, False),
        (3e-3, 32, "stack", batch, 1.0, False),
        (3e-3, 16, "shared", batch, 1.0, True),
    ]
    # With one date the two modes are one model.
    return [s for s in _grid(first, axes) if s["mode"] == "stack" or max(spec.dates.values()) > 1]


def _unet_map_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {
        "lr": (1e-2, 3e-3, 1e-3),
        "encoder_factor": (1.0, 0.3, 0.1),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [
        (1e-2, 1.0, few, 1.0, True),
        (1e-2, 1.0, few, 1.0, False),
        (3e-3, 1.0, few, 1.0, True),
        (1e-2, 0.3, few, 0.5, True),
    ]
    return _grid(first, axes)


def _pixel_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {
        "lr": (1e-2, 3e-3, 1e-3),
        "width": (64, 128, 256),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [
        (1e-2, 64, few, 1.0, False),
        (1e-2, 64, few, 1.0, True),
        (3e-3, 128, few, 1.0, False),
        (1e-2, 64, few, 0.25, True),
    ]
    return _grid(first, axes)


def _foreign_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)  # large ViTs are fine-tuned with 1e-5 to 1e-4: lr x encoder_factor
    axes = {
        "lr": (1e-3, 3e-3, 3e-4),
        "encoder_factor": (0.1, 0.03, 1.0),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
        "head_first": HEAD,
    }
    first = [
        (1e-3, 0.1, few, 1.0, False),
        (3e-3, 0.03, few, 1.0, True),
        (3e-3, 0.03, few, 1.0, False),
        (1e-3, 0.1, few, 0.25, True),
    ]
    return _grid(first, axes)


def _foreign_frozen_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    axes = {
        "lr": (3e-3, 1e-3, 1e-2),
        "head_first": (False, True),
        "batch_size": (max(1, batch // 4), batch),
        "length": (1.0, 0.25, 0.5),
    }
    return [{**s, "encoder_factor": 0.0} for s in _grid([], axes)]


def _grid(first: Sequence[tuple], axes: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """`first`, then what is missing of the product of `axes`."""
    return [dict(zip(axes, v, strict=True)) for v in dict.fromkeys([*first, *itertools.product(*axes.values())])]


def _none(spec: Spec, batch: int) -> list[dict[str, Any]]:
    return []


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of contender is built (None: it needs no training) and what it is tuned over."""

    build: Callable[[Contender, Spec, int, HParams, int], nn.Module] | None
    settings: Callable[[Spec, int], list[dict[str, Any]]]


KINDS: dict[str, Kind] = {
    "pretrained": Kind(_pretrained, _vit_settings),
    "frozen": Kind(_pretrained, _frozen_settings),  # encoder and dense path frozen, linear head
    "fresh_dense": Kind(_pretrained, _vit_settings),  # dense path as before pretraining
    "fresh_tokens": Kind(_pretrained, _vit_settings),  # only the dense path pretrained
    "scratch": Kind(_scratch, _scratch_settings),
    "unet": Kind(_unet, _unet_settings),
    "unet_plus": Kind(_unet, _unet_settings),  # with P/n more FLOPs, n = 1 and the size of the suite
    "unet_imagenet": Kind(_unet, _unet_settings),  # with unet.weights
    "unet_map": Kind(_unet_map, _unet_map_settings),  # pretrained by train.py objective=supervised encoder=unet
    "pixel": Kind(_pixel, _pixel_settings),  # no context
    "foreign": Kind(_foreign, _foreign_settings),  # encoders of others
    "foreign_frozen": Kind(_foreign, _foreign_frozen_settings),  # their weights frozen, our dense path trained
    "map": Kind(None, _none),
    "index": Kind(None, _none),
}
