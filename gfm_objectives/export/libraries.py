"""The encoder as other libraries expect one: timm, torchgeo and TerraTorch by class, PANGAEA by a file.

No token encoder of ours is a `VisionTransformer`: it reads several sensors and dates, and its features are dense. What
these libraries get is a module of their interface around the whole encoder, which says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives import disk
from gfm_objectives.errors import InputError
from gfm_objectives.export.plain import ImageEncoder
from gfm_objectives.runs.checkpoint import load_model
from gfm_objectives.sensors import S2_TEN, SENSORS, calibration


def open_image_encoder(
    folder: str | Path,
    sensor: str = "s2",
    bands: Sequence[str] | None = None,
    gsd: float | None = None,
    level: str = "",
) -> ImageEncoder:
    """The encoder of a run folder for images of one sensor; bands None = all that it reads of it."""
    encoder = load_model(folder)
    if sensor not in encoder.bands:
        raise InputError(f"sensor={sensor}: the encoder in {folder} reads {', '.join(encoder.bands)}")
    return ImageEncoder(encoder, sensor, bands or encoder.bands[sensor], gsd or SENSORS[sensor].gsd, level=level)


# ---------------------------------------------------------------------------------------------------------------------
# timm


class TimmEncoder(nn.Module):
    """timm's interface of a feature extractor: forward_features (B, C, H, W) -> (B, num_features, H, W), forward_head,
    reset_classifier. It is no VisionTransformer: there is one dense map of features and no class token."""

    def __init__(self, encoder: ImageEncoder, num_classes: int = 0) -> None:
        super().__init__()
        self.encoder, self.num_features = encoder, encoder.width
        self.in_chans = len(encoder.bands)
        self.pretrained_cfg = {"architecture": "gfm_encoder", "input_size": (self.in_chans, 64, 64)}
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((-2, -1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def register_timm() -> None:
    """Make timm.create_model('gfm_encoder', folder='runs/demo', sensor='s2', bands=[...]) work."""
    from timm.models import is_model, register_model

    if not is_model("gfm_encoder"):
        register_model(gfm_encoder)


def gfm_encoder(pretrained: bool = False, **options: Any) -> TimmEncoder:
    """folder: of the run; sensor, bands, gsd, level: of the images; num_classes: of a linear head."""
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # what timm adds of its own
        options.pop(name, None)
    classes = options.pop("num_classes", 0)
    return TimmEncoder(open_image_encoder(**options), classes)


# ---------------------------------------------------------------------------------------------------------------------
# torchgeo


def torchgeo_weights(folder: str | Path, sensor: str = "s2", bands: Sequence[str] | None = None) -> Any:
    """A torchvision `Weights` record, as torchgeo's are: url of the file of weights, the transforms that bring raw
    values to what the model reads, and meta (model, publication, bands, in_chans, resolution)."""
    from torchvision.models._api import Weights

    encoder = open_image_encoder(folder, sensor, bands)
    meta = {
        "dataset": Path(folder).name,
        "sensor": encoder.sensor,
        "model": "gfm_encoder",
        "publication": None,
        "repo": "gfm-objectives",
        "in_chans": len(encoder.bands),
        "bands": list(encoder.bands),
        "resolution": encoder.gsd,
        "features": encoder.width,
    }
    url = (Path(folder).resolve() / "encoder.safetensors").as_uri()
    return Weights(url=url, transforms=Normalised(encoder.sensor, encoder.bands, encoder.level), meta=meta)


def torchgeo_model(weights: Any) -> ImageEncoder:
    """The module that a record of `torchgeo_weights` tells of, with the weights its url names; torchgeo's own models
    are functions of `weights=` too."""
    folder = Path(url2pathname(urlparse(weights.url).path)).parent
    return open_image_encoder(folder, weights.meta["sensor"], weights.meta["bands"], weights.meta["resolution"])


class Normalised(nn.Module):
    """Raw values (..., C, H, W) of a sensor as the encoder's own normalisation makes them: for a look at them.
    The modules here take raw values and normalise themselves."""

    def __init__(self, sensor: str, bands: Sequence[str], level: str = "") -> None:
        super().__init__()
        self.sensor, self.bands, self.level = sensor, tuple(bands), level

    def forward(self, image: Tensor) -> Tensor:
        return calibration(self.sensor, self.level).normalise(image, image.isfinite().all(-3), self.bands)


# ---------------------------------------------------------------------------------------------------------------------
# TerraTorch


class TerraTorchEncoder(nn.Module):
    """TerraTorch's interface of a backbone: forward(x) -> list of feature maps, `out_channels` for each.

    x (B, C, H, W) or (B, C, T, H, W) of one sensor in its unit. Four levels, as its decoders expect of a pyramid: full
    resolution, then a half each time, by averaging.
    """

    LEVELS = 4

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = [encoder.width] * self.LEVELS

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.ndim == 4:
            dense = self.encoder(x)
        else:
            images = x.movedim(2, 1)  # (B, T, C, H, W)
            day = torch.full(images.shape[:2], self.encoder.day, device=x.device)
            dense = self.encoder.features(images, day)
        return [dense if k == 0 else F.avg_pool2d(dense, 2**k) for k in range(self.LEVELS)]


def register_terratorch() -> None:
    """Make `backbone: gfm_encoder` work in TerraTorch, with `backbone_folder:` of the run; 1.2.13 wants Python 3.12.
    InputError where it is not installed."""
    try:
        from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
    except ImportError:
        raise InputError("TerraTorch is not installed; it wants Python 3.12: an environment of its own") from None

    @TERRATORCH_BACKBONE_REGISTRY.register
    def gfm_encoder(pretrained: bool = False, **options: Any) -> TerraTorchEncoder:
        return TerraTorchEncoder(open_image_encoder(**options))


# ---------------------------------------------------------------------------------------------------------------------
# PANGAEA

PANGAEA = '''"""An encoder of gfm-objectives for PANGAEA (github.com/VMarsocci/pangaea-bench).

It belongs in pangaea/encoders/, its yaml in configs/encoder/.

NOT LOADED IN THE LIBRARY: written against its documented interface, pangaea.encoders.base.Encoder. It gives raw
reflectance to a model that normalises it itself: set the preprocessing's normalisation of data to none.
"""

from logging import Logger

import torch
from pangaea.encoders.base import Encoder

from gfm_objectives.export.libraries import open_image_encoder


class GFMEncoder(Encoder):
    def __init__(self, encoder_weights, input_bands, input_size, output_layers=(0,), scale={scale!r}):
        bands = {bands!r}
        model = open_image_encoder(encoder_weights, {sensor!r}, bands)
        super().__init__(
            model_name="gfm_encoder",
            encoder_weights=encoder_weights,
            input_bands=input_bands,
            input_size=input_size,
            embed_dim=model.width,
            output_layers=list(output_layers),
            output_dim=[model.width] * len(output_layers),
            multi_temporal=True,
            multi_temporal_output=False,
            pyramid_output=False,
            download_url="",
        )
        self.model, self.scale = model, scale

    def load_encoder_weights(self, logger: Logger) -> None:
        logger.info("gfm_encoder: weights were read from its run folder")

    def forward(self, image: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        x = image["optical" if {optical!r} else "sar"]  # (B, C, T, H, W) or (B, C, H, W)
        x = (x[:, :, None] if x.ndim == 4 else x).movedim(2, 1) * self.scale  # (B, T, C, H, W)
        day = torch.zeros(x.shape[:2], device=x.device)
        dense = self.model.features(x, day)  # (B, width, H, W)
        return [dense for _ in self.output_layers]
'''

PANGAEA_YAML = """# configs/encoder/gfm_encoder.yaml of PANGAEA; not loaded in the library
_target_: pangaea.encoders.gfm_encoder.GFMEncoder
encoder_weights: {folder}
input_size: 64
output_layers: [0]
input_bands:
  {group}: [{bands}]
"""


def write_pangaea(folder: str | Path, out: Path, sensor: str) -> list[Path]:
    """gfm_encoder.py and gfm_encoder.yaml for the encoder of a run, with the bands of `sensor` PANGAEA's data has."""
    encoder = load_model(folder)
    if sensor not in encoder.bands:
        raise InputError(f"sensor={sensor}: the encoder in {folder} reads {', '.join(encoder.bands)}")
    known = encoder.bands[sensor]
    bands = [b for b in S2_TEN if b in known] if sensor == "s2" else list(known)
    optical = SENSORS[sensor].unit == "reflectance"
    about = {"sensor": sensor, "bands": bands, "optical": optical, "scale": 1e-4 if optical else 1.0}
    files = {"gfm_encoder.py": PANGAEA.format(**about)}
    group = "optical" if optical else "sar"
    names = ", ".join(b.replace("B0", "B") for b in bands)  # B2 where the sensor table has B02
    files["gfm_encoder.yaml"] = PANGAEA_YAML.format(folder=Path(folder).resolve(), group=group, bands=names)
    for name, text in files.items():
        disk.write(out / name, text)
    return [out / name for name in files]
