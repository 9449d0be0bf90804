"""The model as a map sees it: windows in raw units -> outputs, from a kept model or from its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.data.source import normalise
from gfm_objectives.device import autocast
from gfm_objectives.errors import InputError
from gfm_objectives.finetune.calibration import Watch, strangeness
from gfm_objectives.runs.segmenter import WEIGHTS, Card, FineTuned, load_segmenter, read_card
from gfm_objectives.tasks.kinds import KINDS, Kind, kind_of
from gfm_objectives.tasks.task import Task

ONNX = "model.onnx"
PIXELS = 2**16  # of windows shown at a time, one at least, on a CPU; GPUs are given GPU_FACTOR times as many
GPU_FACTOR = 32


@dataclass
class Predictor:
    """Raw batches of windows -> (n, outputs, size, size) float32 on the CPU; one more output, how strange a pixel's
    features are (0..1), where `strange`. seconds: spent in it."""

    card: Card
    run: Any  # Batch -> Tensor
    device: torch.device
    familiar: Mapping[str, Tensor] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    strange: bool = False

    @property
    def size(self) -> int:
        return self.card.spec.size

    @property
    def together(self) -> int:
        """Windows shown at a time."""
        room = PIXELS * (GPU_FACTOR if self.device.type == "cuda" else 1)
        return max(1, room // self.size**2)

    @torch.inference_mode()
    def __call__(self, raw: Batch) -> Tensor:
        batch = normalise(raw).to(self.device)
        with autocast(self.device, self.dtype):
            if not self.strange:
                return self.run(batch).float().cpu()
            with Watch(self.run, stride=1) as watch:
                out = self.run(batch).float().cpu()
        n, size = len(out), out.shape[-1]
        features = watch.take().unflatten(0, (n, -1))  # of windows that a model may have padded at the bottom and right
        side = round(features.shape[1] ** 0.5)
        features = features.unflatten(1, (side, side))[:, :size, :size].flatten(0, -2)
        return torch.cat([out, strangeness(features, self.familiar).view(n, 1, size, size)], 1)


def open_predictor(path: str | Path, device: torch.device, dtype: torch.dtype, strange: bool = False) -> Predictor:
    """The model of a folder that `gfm finetune` or `gfm export` wrote. InputError where it makes no maps."""
    path = Path(path)
    path = path.parent if path.name in (ONNX, WEIGHTS) else path
    card = read_card(path)
    if not KINDS[card.task["kind"]].dense:
        raise InputError(f"model={path}: kind={card.task['kind']} says one thing of a whole place; it makes no map")
    if (path / WEIGHTS).is_file():
        model: FineTuned = load_segmenter(path)
        if strange and not model.familiar:
            raise InputError(f"model={path}: keeps nothing of what is familiar to it; leave ood out of extra=")
        return Predictor(card, model.network.to(device), device, model.familiar, dtype, strange)
    if not (path / ONNX).is_file():
        raise InputError(f"model={path}: has neither {WEIGHTS} nor {ONNX}")
    if strange:
        raise InputError("extra=ood: an ONNX file tells nothing of its features; use the kept model itself")
    return Predictor(card, _session(path / ONNX), torch.device("cpu"))


def kind_of_card(card: Card) -> Kind:
    """The kind of the card's task, with offset and scale."""
    t = card.task
    return kind_of(Task(t["name"], {}, t["layer"], kind=t["kind"], offset=t.get("offset", 0), scale=t.get("scale", 1)))


def onnx_inputs(batch: Batch) -> dict[str, Tensor]:
    """The plain tensors that an exported model takes: of each sensor x, <sensor>_valid and <sensor>_day, and gsd."""
    out: dict[str, Tensor] = {}
    for name, s in batch.sensors.items():
        out |= {name: s.x, f"{name}_valid": s.valid, f"{name}_day": s.day}
    return out | {"gsd": batch.gsd}


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: needs onnxruntime; pip install 'gfm-objectives[onnx]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}

    def run(batch: Batch) -> Tensor:
        given = {k: v.numpy() for k, v in onnx_inputs(batch).items() if k in names}
        return torch.from_numpy(session.run(None, given)[0])

    return run
