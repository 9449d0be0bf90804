"""Encoder exports: weights as safetensors, their description as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.sensors import own_sensors, restore

if TYPE_CHECKING:
    from gfm_objectives.models.unet import UNet

FORMAT = 2  # 2: the dense path pools dates before its first 3 x 3 convolution


def save_encoder(encoder: Encoder | UNet, folder: str | Path) -> None:
    """Write `encoder.json` and `encoder.safetensors`: all that `load_model` needs, dense path included."""
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    about = {"format": FORMAT, "options": encoder.options, "bands": {s: list(b) for s, b in encoder.bands.items()}}
    about |= {"sensors": described} if (described := own_sensors(encoder.bands)) else {}
    if not isinstance(encoder, Encoder):
        about |= {"model": "unet", "dates": encoder.dates}
    (folder / "encoder.json").write_text(json.dumps(about, indent=2) + "\n")
    save_file(tensors, folder / "encoder.safetensors")


def load_encoder(path: str | Path) -> Encoder:
    """The ViT of a run folder, or of the folder that holds a given `encoder.safetensors`, in eval mode on the CPU.

    InputError where files are missing, of another format, do not belong together, or hold a U-Net.
    """
    model = load_model(path)
    if not isinstance(model, Encoder):
        raise InputError(f"{path}: holds a pretrained U-Net, not a ViT; runs.checkpoint.load_model reads it")
    return model


def load_model(path: str | Path) -> Encoder | UNet:
    """What a run has pretrained: a ViT, or a U-Net without a head. In eval mode on the CPU; errors as load_encoder."""
    folder = Path(path).parent if str(path).endswith(".safetensors") else Path(path)
    for name in ("encoder.json", "encoder.safetensors"):
        if not (folder / name).is_file():
            hint = "the run has not finished" if (folder / "config.yaml").exists() else "not a run folder"
            raise InputError(f"{folder / name}: not found; {hint}")
    try:
        about = json.loads((folder / "encoder.json").read_text())
        if about["format"] > FORMAT:
            raise InputError(f"{folder}: written by a newer gfm-objectives (format {about['format']}); upgrade")
        if about["format"] < FORMAT and about.get("model") != "unet":
            raise InputError(
                f"{folder}: of an encoder with an older dense path (format {about['format']}); train it again"
            )
        restore(about.get("sensors", ()))
        encoder = _build(about)
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except (json.JSONDecodeError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        first = (str(e).splitlines() or ["?"])[0]
        raise InputError(f"{folder}: encoder.json and encoder.safetensors are damaged or do not match: {first}") from e
    return encoder.eval()


def _build(about: dict[str, Any]) -> Encoder | UNet:
    if about.get("model") != "unet":
        return Encoder(about["bands"], **about["options"])
    from gfm_objectives.models.unet import UNet

    bands = {s: tuple(b) for s, b in about["bands"].items()}
    return UNet(Spec(bands, about["dates"], 0, 0.0, {}), 0, **about["options"])
