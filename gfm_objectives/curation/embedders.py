"""What places are clustered by: statistics of bands, random convolutional features, or an encoder of ours."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.flops import measure
from gfm_objectives.sensors import SENSORS

STATISTICS, RCF = "statistics", "rcf"
FEATURES, KERNEL = 128, 4  # of the random convolutions


@dataclass(frozen=True, slots=True)
class Embedder:
    """figures: batch of normalised values -> (B, D), None = the statistics that the tests of a place give anyway;
    digest: what they depend on; flops: model FLOPs of one place, charged to whoever trains on the keep-list."""

    digest: str
    figures: Callable[[Batch], Tensor] | None = None
    flops: float = 0.0


def open_embedder(name: str, spec: Spec) -> Embedder:
    """STATISTICS, RCF, or the folder of a pretraining run. InputError where that holds no encoder."""
    if name == STATISTICS:
        return Embedder(name)
    if name == RCF:
        return _random_features(spec)
    from gfm_objectives.runs.checkpoint import load_encoder

    encoder = load_encoder(name)

    @torch.no_grad()
    def figures(batch: Batch) -> Tensor:
        return encoder.features(batch).mean((-2, -1)).float()

    flops = measure(encoder, spec.dummy(1), step=lambda model, batch: model.features(batch).sum()).forward  # type: ignore[operator]
    weights = (Path(name) / "encoder.safetensors").read_bytes()
    return Embedder(hashlib.sha256(weights).hexdigest(), figures, flops)


def _random_features(spec: Spec) -> Embedder:
    """Random convolutions of all bands, each the mean of its dates (MOSAIKS, Rolf et al. 2021, through torchgeo)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' deprecations, at import
        from torchgeo.models import RCF as TorchGeoRCF

    sensors = [name for name in spec.bands if not SENSORS[name].of_classes]
    bands = sum(len(spec.bands[name]) for name in sensors)
    model = TorchGeoRCF(in_channels=bands, features=FEATURES, kernel_size=KERNEL, seed=0)

    @torch.no_grad()
    def figures(batch: Batch) -> Tensor:
        means = []
        for name in sensors:
            s = batch.sensors[name]
            means.append(s.x.sum(1) / s.valid.sum(1).clamp(min=1)[:, None])  # values are 0 where invalid
        return model(torch.cat(means, 1))

    return Embedder(RCF, figures)  # fixed filters of one draw: nothing is learned, nothing is charged
