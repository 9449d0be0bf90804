"""The encoder that a run begins with: fresh, or with weights of another run or of a file (continued pretraining)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder
from gfm_objectives.models.continued import Continued
from gfm_objectives.models.costs import COSTS
from gfm_objectives.models.encoder import IN_PRETRAINING, Encoder
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import load_model, read_weights
from gfm_objectives.runs.ledger import Ledger

WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True, slots=True)
class Initial:
    """What weights a run begins with. name: of the run or file, with their digest; '' = fresh. flops: what they cost,
    that of the weights they began with included; None = unknown."""

    name: str = ""
    flops: float | None = 0.0


def begin(cfg: DictConfig, spec: Spec) -> tuple[Encoder | UNet | Continued, Initial]:
    """The encoder of `cfg` for what `spec` shows. InputError where `cfg.init` does not fit it, in one line.

    `init=` names a finished run, of whose weights the sensors and bands may be others, or a file of an encoder's
    weights, whose cost nobody knows; of encoder=published the published file, whose cost is derived where it can be.
    """
    if str(cfg.init).startswith(("torchgeo:", "timm:")):
        raise InputError(
            f"init={cfg.init}: nothing is downloaded; encoder=published encoder.of={cfg.init} init=<its .pth or "
            ".safetensors> goes on with published weights, init=null with random ones"
        )
    torch.manual_seed(cfg.seed)
    if cfg.init and cfg.encoder.get("model") == "published" and Path(cfg.init).is_file():
        return _published(cfg, spec)
    encoder = build_encoder(cfg.encoder, spec)
    if cfg.init is None:
        return encoder, Initial()
    path = Path(cfg.init)
    if path.name == WEIGHTS and (path.parent / "ledger.json").is_file():
        path = path.parent
    if not path.exists():
        raise InputError(f"init={path}: no such run folder or file; give one such as runs/demo, or a file of weights")
    if not path.is_dir():
        load(encoder, read_weights(path, "init"), f"init={path}")
        return encoder, Initial(_named(path, path), None)
    if not (path / "ledger.json").is_file():
        raise InputError(f"init={path}: no ledger.json in it: not a run folder, or the run has not finished")
    with torch.random.fork_rng(devices=[]):  # what begins fresh is drawn as beside a file of the same weights
        theirs = load_model(path)
    ledger = Ledger.read(path / "ledger.json")
    _check_options(encoder, theirs, path)
    if isinstance(encoder, Encoder) and encoder.bands != theirs.bands:
        encoder = build_encoder(cfg.encoder, dataclasses.replace(spec, bands=theirs.bands))
        load(encoder, theirs.state_dict(), f"init={path}")
        encoder.extend(spec)  # type: ignore[operator]
    else:
        load(encoder, theirs.state_dict(), f"init={path}")
    before = None if ledger.flops_initial is None else ledger.flops_spent + ledger.flops_initial
    return encoder, Initial(_named(path, path / WEIGHTS), before)


def _published(cfg: DictConfig, spec: Spec) -> tuple[Encoder | UNet | Continued, Initial]:
    path = Path(cfg.init)
    if path.name == WEIGHTS and (path.parent / "ledger.json").is_file():
        raise InputError(f"init={path}: the weights of a run that trained here; give its folder, init={path.parent}")
    try:
        encoder = build_encoder({**cfg.encoder, "weights": path}, spec)
    except InputError as error:
        raise InputError(str(error).replace("weights=", "init=", 1)) from None
    cost = COSTS.get(cfg.encoder.of.partition(":")[2])
    return encoder, Initial(f"{cfg.encoder.of} {_named(path, path)}", cost.flops if cost else None)


def _named(path: Path, weights: Path) -> str:
    with weights.open("rb") as file:
        return f"{path.name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"


def _check_options(ours: nn.Module, theirs: nn.Module, path: Path) -> None:
    """InputError where a run holds another network, with the options that differ."""
    a, b = ({"model": type(m).__name__} | vars(m)["options"] for m in (ours, theirs))
    keys = [k for k in a.keys() | b if k not in IN_PRETRAINING and a.get(k) != b.get(k)]
    if keys:
        told = ", ".join(f"{k}={b.get(k)} there and {a.get(k)} here" for k in sorted(keys))
        raise InputError(f"init={path}: another encoder: {told}; give encoder= and encoder.<key>= as there")


def load(model: nn.Module, state: Mapping[str, Tensor], told: str) -> None:
    """Read the weights of an encoder, alone or as a part `encoder.` of an objective, into `model`.

    InputError names what has another shape, is missing, or has no place.
    """
    prefix = "encoder."
    if any(k.startswith(prefix) for k in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    own = model.state_dict()
    wrong = [
        f"{k} is {_shape(state[k])} there and {_shape(v)} here"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    wrong += [f"{k} is not there" for k in own if k not in state]
    wrong += [f"{k} has no place here" for k in state if k not in own]
    fractions = [k for k, v in own.items() if k in state and v.is_floating_point()]
    wrong += [f"{k} holds {str(state[k].dtype)[6:]}" for k in fractions if not state[k].is_floating_point()]
    if wrong:
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise InputError(f"{told}: weights of another encoder: {wrong[0]}{more}; choose encoder= as it was pretrained")
    if bad := next((k for k in fractions if not state[k].isfinite().all()), None):
        raise InputError(f"{told}: {bad} is not finite: weights of a run that diverged, or damaged; take another file")
    model.load_state_dict(dict(state))


def _shape(t: Tensor) -> str:
    return "x".join(map(str, t.shape)) or "a number"
