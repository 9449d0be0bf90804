"""Who is compared: pretrained encoders, their rivals, how each is built and the settings it may be tuned over."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gfm_objectives.batch import Spec
from gfm_objectives.checkpoint import load_encoder
from gfm_objectives.compare.runs import Run, group_runs
from gfm_objectives.config import load_choice
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import HParams
from gfm_objectives.gain.pairing import SAME_FLOPS
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.provenance import mix


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the comparison.

    kind: a key of KINDS; runs: its pretraining runs, in order of seed; encoder: the ViT's options as JSON; extra_flops:
    given to fine-tuning beyond F; weights: a file of ImageNet weights.
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


# ---------------------------------------------------------------------------------------------------------------------
# Settings: a few by experience, then the rest of the grid


def _vit_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)  # a ViT pays so much per sample that it needs many small steps
    axes = {
        "lr": (4e-3, 2e-3, 8e-3, 1e-3),
        "encoder_factor": (0.3, 1.0, 0.1),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
    }
    return _grid([(4e-3, 1.0, few, 1.0), (2e-3, 1.0, few, 1.0), (2e-3, 0.3, few, 1.0), (2e-3, 0.1, few, 0.25)], axes)


def _scratch_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {"lr": (4e-3, 2e-3, 8e-3, 1e-3), "batch_size": (few, batch), "length": (1.0, 0.25, 0.5)}
    return _grid([(4e-3, few, 1.0), (2e-3, few, 1.0), (8e-3, few, 1.0), (2e-3, few, 0.25)], axes)


def _frozen_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    axes = {"lr": (1e-2, 3e-3, 3e-2, 1e-3), "batch_size": (max(1, batch // 4), batch), "length": (1.0, 0.25, 0.5)}
    return [{**s, "encoder_factor": 0.0} for s in _grid([], axes)]


def _unet_settings(spec: Spec, batch: int) -> list[dict[str, Any]]:
    few = max(1, batch // 4)
    axes = {
        "lr": (1e-2, 3e-3, 1e-3),
        "width": (16, 8, 32, 48, 64),
        "mode": ("stack", "shared"),
        "batch_size": (few, batch),
        "length": (1.0, 0.25, 0.5),
    }
    first = [
        (1e-2, 8, "stack", few, 1.0),
        (3e-3, 16, "stack", few, 1.0),
        (1e-2, 8, "shared", few, 1.0),
        (1e-2, 8, "stack", few, 0.25),
        (1e-2, 8, "stack", batch, 1.0),
        (3e-3, 32, "stack", batch, 1.0),
        (3e-3, 16, "shared", batch, 1.0),
    ]
    # With one date the two modes are one model.
    return [s for s in _grid(first, axes) if s["mode"] == "stack" or max(spec.dates.values()) > 1]


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
    "unet_imagenet": Kind(_unet, _unet_settings),
    "map": Kind(None, _none),
    "index": Kind(None, _none),
}


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def contenders(kinds: Sequence[str], folders: Sequence[str], suite_size: int, weights: str | None) -> list[Contender]:
    """The rows that `kinds` ask for, given the pretraining runs in `folders`."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"contenders: no kind {kind!r}; choose from {', '.join(KINDS)}")
    encoders = group_runs(folders)
    rows: list[Contender] = []
    for kind in dict.fromkeys(kinds):
        if kind in ("pretrained", "frozen", "fresh_dense", "fresh_tokens"):
            suffix = "" if kind == "pretrained" else f" {kind.replace('_', ' ')}"
            shape = {n: _shape(load_encoder(runs[0].folder).options) for n, runs in encoders.items()}
            rows += [Contender(name + suffix, kind, runs, shape[name]) for name, runs in encoders.items()]
        elif kind == "scratch":
            shapes = [_shape(load_encoder(r.folder).options) for runs in encoders.values() for r in runs]
            names = _scratch_names(shapes or [_shape(load_choice("encoder", "nano"))])
            rows += [Contender(name, kind, encoder=shape) for shape, name in names.items()]
        elif kind == "unet_plus":
            rows += [Contender(f"unet+{e:.3g}", kind, extra_flops=e) for e in _extras(encoders, suite_size)]
        elif kind == "unet_imagenet":
            if weights:
                rows.append(Contender("unet imagenet", kind, weights=weights))
        else:
            rows.append(Contender(kind, kind))
    if not rows:
        raise InputError("nothing to compare: give checkpoint=runs/<name>, or contenders=scratch,unet")
    return rows


def _extras(encoders: Mapping[str, tuple[Run, ...]], suite_size: int) -> list[float]:
    """P/n for every distinct pretraining budget P and n = 1, suite size."""
    out: list[float] = []
    for runs in encoders.values():
        for n in (1, suite_size):
            extra = sum(r.flops for r in runs) / len(runs) / n
            if not any(math.isclose(extra, e, rel_tol=SAME_FLOPS) for e in out):
                out.append(extra)
    return out


def _shape(options: Mapping[str, Any]) -> str:
    """The options of an encoder as JSON, without those that act in pretraining alone."""
    return json.dumps({k: v for k, v in sorted(options.items()) if k not in ("name", "band_dropout")})


def _scratch_names(shapes: Sequence[str]) -> dict[str, str]:
    """Shape -> name of the row; one alone needs no figures in its name."""
    different = list(dict.fromkeys(shapes))
    if len(different) == 1:
        return {different[0]: "scratch"}
    return {s: "scratch {dim}x{depth} patch {patch}".format(**json.loads(s)) for s in different}
