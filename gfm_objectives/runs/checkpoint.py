"""Encoder exports: weights as safetensors, their description as JSON. Nothing is unpickled."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gfm_objectives import disk
from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder, shape_of
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.sensors import own_sensors, restore

if TYPE_CHECKING:
    from gfm_objectives.models.continued import Continued
    from gfm_objectives.models.unet import UNet

FORMAT = 3  # 3: dates and sensors are merged in cells before the ViT


def save_encoder(encoder: Encoder | UNet | Continued, folder: str | Path) -> None:
    """Write `encoder.json` and `encoder.safetensors`: all that `load_model` needs, way back included."""
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    about = {"format": FORMAT, "options": encoder.options, "bands": {s: list(b) for s, b in encoder.bands.items()}}
    about |= {"sensors": described} if (described := own_sensors(encoder.bands)) else {}
    if not isinstance(encoder, Encoder):
        about |= {"model": json.loads(shape_of(encoder))["model"], "dates": encoder.dates}
    if shown := vars(encoder).get("spec"):
        about |= {"size": shown.size, "gsd": shown.gsd}
    disk.write(folder / "encoder.json", json.dumps(about, indent=2) + "\n")
    disk.write_tensors(folder / "encoder.safetensors", tensors)


def read_weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of one that torch saved; `key` is the option that names it. InputError
    where it is missing, damaged, or holds more than tensors, which is never executed."""
    if not path.is_file():
        raise InputError(f"{key}={path}: no such file; give the .pth or .safetensors as published")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{key}={path}: holds more than tensors, or is damaged; it is not opened; save its state_dict() alone"
        ) from None
    except OSError:
        raise
    except Exception:  # torch reads any file as instructions, which fail in any way
        raise InputError(f"{key}={path}: damaged, perhaps cut off; get it again") from None
    if not (isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values())):
        raise InputError(f"{key}={path}: no table of tensors; save its state_dict() alone")
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """What a run goes on from. A kill leaves what was there or the new one, never half of one."""
    whole = io.BytesIO()  # torch makes a RuntimeError of a full disk, which names nothing
    torch.save(state, whole)
    path.with_suffix(".tmp").write_bytes(whole.getbuffer())
    os.replace(path.with_suffix(".tmp"), path)


def check_state(path: Path) -> None:
    """InputError where the checkpoint of an unfinished run cannot be gone on from. Only tensors and plain values are
    read: what else a file holds is refused and never executed."""
    remedy = f"delete it, and the same command starts again, or bring back a copy of {path.name}"
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than tensors and plain values, or is damaged; it is not opened; {remedy}"
        ) from None
    except OSError as e:
        if e.errno != errno.EINVAL:  # an empty file cannot be mapped
            raise
        raise InputError(f"{path}: damaged, it is empty; {remedy}") from None
    except Exception:  # torch reads any file as instructions, which fail in any way
        raise InputError(f"{path}: damaged, perhaps cut off; {remedy}") from None
    if not (isinstance(state, dict) and isinstance(state.get("run"), dict) and "state_dict" in state):
        raise InputError(f"{path}: no checkpoint of a run; {remedy}")
    if "optimizer" not in state:
        raise InputError(f"{path}: of an earlier version, which kept other things; {remedy}")


def load_encoder(path: str | Path) -> Encoder:
    """The ViT of a run folder, or of the folder that holds a given `encoder.safetensors`, in eval mode on the CPU.

    InputError where files are missing, of another format, do not belong together, or hold a U-Net.
    """
    model = load_model(path)
    if not isinstance(model, Encoder):
        held = "pretrained U-Net" if json.loads(shape_of(model))["model"] == "unet" else "published encoder"
        raise InputError(f"{path}: holds a {held}, not a ViT of ours; runs.checkpoint.load_model reads it")
    return model


def load_model(path: str | Path) -> Encoder | UNet | Continued:
    """What a run has pretrained: a ViT, a U-Net without a head, or an encoder of others. In eval mode on the
    CPU; errors as load_encoder."""
    folder = Path(path).parent if str(path).endswith(".safetensors") else Path(path)
    for name in ("encoder.json", "encoder.safetensors"):
        if not (folder / name).is_file():
            hint = "the run has not finished" if (folder / "config.yaml").exists() else "not a run folder"
            raise InputError(f"{folder / name}: not found; {hint}")
    try:
        about = json.loads((folder / "encoder.json").read_text())
        if about["format"] > FORMAT:
            raise InputError(f"{folder}: written by a newer gfm-objectives (format {about['format']}); upgrade")
        if about["format"] < FORMAT and about.get("model", "vit") == "vit":
            raise InputError(
                f"{folder}: of an encoder that merged dates later (format {about['format']}); train it again"
            )
        restore(about.get("sensors", ()))
        state = load_file(folder / "encoder.safetensors")
        if (depth := about["options"].get("depth", 0)) > len(state):  # nobody builds a billion blocks to find out
            raise ValueError(f"depth={depth}, with {len(state)} tensors")
        encoder = _build(about)
        encoder.load_state_dict(state)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError, SafetensorError) as e:
        first = next((x.strip()[:160] for x in str(e).splitlines() if not x.endswith(":")), "?")
        raise InputError(
            f"{folder}: encoder.json and encoder.safetensors are damaged or do not match ({first}); bring them back "
            "from a copy, or train the run again"
        ) from None
    return encoder.eval()


def _build(about: dict[str, Any]) -> Encoder | UNet | Continued:
    model = about.get("model", "vit")
    if model == "vit":
        return Encoder(about["bands"], **about["options"])
    bands = {s: tuple(b) for s, b in about["bands"].items()}
    shown = Spec(bands, about["dates"], about.get("size", 0), about.get("gsd", 0.0), {})
    return build_encoder(about["options"] | {"model": model}, shown)
