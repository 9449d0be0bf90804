"""The U-Net to beat: segmentation-models-pytorch parts, every sensor and date, tunable width and handling of time.

Two ways with time, chosen on validation: `stack` reads all sensors and dates as channels of one image; `shared` runs
one encoder on each date and pools the dates at every skip by learned attention.

It can be pretrained too: without a head it gives features at full resolution, as the ViT does, so `train.py` takes it
as an encoder, and the comparison puts a new head on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead, initialization
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.bands import nearest
from gfm_objectives.sensors import SENSORS

MODES = ("stack", "shared")
YEAR = 365.25  # days
FIRST = "encoder.0.0.0.weight"  # (width, planes, 3, 3): the only weights that know sensors, bands and dates


class UNet(nn.Module):
    """Batch -> logits (B, classes, H, W), float32; `features` gives (B, width, H, W), what the head reads.

    spec: the sensors, bands and dates it reads; classes: 0 = no head; width: channels at full resolution, doubled at
    each of the levels (by default until the coarsest has 8 pixels a side); mode: one of MODES; weights: a file with
    ImageNet weights of torchvision's resnet34, which then replaces the plain encoder (the width no longer matters).
    """

    def __init__(
        self,
        spec: Spec,
        classes: int,
        width: int = 32,
        mode: str = "stack",
        weights: str | Path | None = None,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        assert mode in MODES, mode
        self.bands, self.dates, self.mode = dict(spec.bands), dict(spec.dates), mode
        per_date = sum(len(b) + 1 for b in spec.bands.values()) + 2
        stacked = sum(spec.dates[s] * (len(b) + 3) for s, b in spec.bands.items())
        channels = stacked if mode == "stack" else per_date
        levels = levels or min(4, max(1, (spec.size // 8).bit_length() - 1))
        self.options: dict[str, Any] = dict(width=width, mode=mode, levels=levels)
        self.encoder = Resnet34(channels, levels + 1, weights) if weights else DoubleConvs(channels, width, levels)
        outs = self.encoder.channels  # fine to coarse
        # smp's decoder drops the first feature map, so it is given a placeholder there and keeps full resolution.
        ups = list(outs[-2::-1]) if not weights else [256, 128, 64, 32, 16][-levels - 1 :]
        self.decoder = UnetDecoder((0, *outs), ups, n_blocks=len(ups))
        self.width = ups[-1]
        self.multiple = 2 ** (levels + bool(weights))  # pixels of the coarsest level; ImageNet's begins at half size
        self.head = SegmentationHead(ups[-1], classes, kernel_size=3) if classes else None
        self.pool = nn.ModuleList(DatePool(c) for c in outs) if mode == "shared" else None
        initialization.initialize_decoder(self.decoder)
        if self.head is not None:
            initialization.initialize_head(self.head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, options: Mapping[str, Any], spec: Spec) -> UNet:
        """Without a head, of `configs/encoder/unet.yaml`. InputError for a mode that does not exist."""
        if options["mode"] not in MODES:
            raise InputError(f"encoder.mode={options['mode']}: choose from {', '.join(MODES)}")
        return cls(spec, 0, options["width"], options["mode"], levels=options.get("levels"))

    def forward(self, batch: Batch) -> Tensor:
        assert self.head is not None, "a U-Net without a head gives features"
        return self.head(self.features(batch)).float()

    def features(self, batch: Batch) -> Tensor:
        height, width = batch.size
        batch = batch.pad_to(self.multiple)
        if self.pool is None:
            image = stack(batch)
            features = self.encoder(image.contiguous(memory_format=torch.channels_last))
        else:
            frames, seen = by_date(batch)  # (B, T, C, H, W), (B, T, H, W)
            image, t = frames.flatten(0, 1), frames.shape[1]
            features = self.encoder(image.contiguous(memory_format=torch.channels_last))
            features = [pool(f.unflatten(0, (-1, t)), seen) for pool, f in zip(self.pool, features, strict=True)]
        full = features[0].new_empty(features[0].shape[0], 0, *batch.size)  # len() would fix the batch of exports
        return self.decoder([full, *features])[:, :, :height, :width]

    def refit(self, spec: Spec) -> UNet:
        """A copy without a head for the sensors, bands and dates of `spec`, which keeps what was learned.

        The first convolution has a plane for every band (and, stacked, date) it reads: one it knows keeps its weights,
        at the date nearest in the series; a new band copies the one nearest in wavelength; those of a map start from 0,
        so that they disturb nothing; any other plane is new.
        """
        new = UNet(spec, 0, **self.options)
        state, mine, theirs = self.state_dict(), planes(self.bands, self.dates, self.mode), new.state_dict()
        for i, plane in enumerate(planes(new.bands, new.dates, new.mode)):
            if (donor := _donor(plane, mine)) is not None:
                theirs[FIRST][:, i] = state[FIRST][:, donor]
            elif plane.sensor and SENSORS[plane.sensor].of_classes:
                theirs[FIRST][:, i] = 0
        new.load_state_dict(state | {FIRST: theirs[FIRST]})
        return new


class DoubleConvs(nn.ModuleList):
    """The classic encoder (Ronneberger et al. 2015, arXiv:1505.04597): two 3 x 3 convolutions, then pooling."""

    def __init__(self, inputs: int, width: int, levels: int) -> None:
        self.channels = [width * 2**i for i in range(levels + 1)]
        super().__init__(
            nn.Sequential(Conv2dReLU(a, b, 3, padding=1), Conv2dReLU(b, b, 3, padding=1))
            for a, b in zip([inputs, *self.channels], self.channels, strict=False)
        )
        initialization.initialize_decoder(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every level, fine to coarse."""
        out = [self[0](x)]
        for i in range(1, len(self)):
            out.append(self[i](F.max_pool2d(out[-1], 2)))
        return out


class Resnet34(nn.Module):
    """smp's resnet34 with weights from a local file; its first convolution is spread over the input channels."""

    def __init__(self, inputs: int, depth: int, weights: str | Path) -> None:
        super().__init__()
        self.encoder = get_encoder("resnet34", in_channels=3, depth=depth, weights=None)
        self.encoder.load_state_dict(_read_weights(Path(weights)))
        self.encoder.set_in_channels(inputs, pretrained=True)
        self.channels = list(self.encoder.out_channels[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)[1:]


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise InputError(f"unet.weights={path}: not found; give torchvision's resnet34 (.pth or .safetensors) or null")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


class DatePool(nn.Module):
    """Dates to one map by attention over them at each position; groups of channels may choose different dates.

    The scores read the features, which know the day of the year; as in U-TAE (Garnot and Landrieu 2021,
    arXiv:2107.07933), but at every level instead of once at the coarsest.
    """

    def __init__(self, channels: int, heads: int = 8) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, heads, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x (B, T, C, h, w), seen (B, T, H, W) bool -> (B, C, h, w); unseen dates do not count where one is seen."""
        seen = F.adaptive_max_pool2d(seen.float(), x.shape[-2:]) > 0
        score = self.score(x.flatten(0, 1)).unflatten(0, x.shape[:2]).float()  # (B, T, heads, h, w)
        weight = score.masked_fill(~seen[:, :, None], -1e4).softmax(1).to(x.dtype)
        grouped = x.unflatten(2, (weight.shape[2], -1))  # (B, T, heads, C / heads, h, w)
        return (grouped * weight[:, :, :, None]).sum(1).flatten(1, 2).contiguous(memory_format=torch.channels_last)


def stack(batch: Batch) -> Tensor:
    """(B, C, H, W): the bands, validity and cyclic day of the year of every sensor and date."""
    planes: list[Tensor] = []
    for s in batch.sensors.values():
        planes += [s.x.flatten(1, 2), s.valid.to(s.x.dtype), _season(s.day, s).flatten(1, 2)]
    return torch.cat(planes, 1)


def by_date(batch: Batch) -> tuple[Tensor, Tensor]:
    """Joint images (B, T, C, H, W) and where any sensor that changes is valid, (B, T, H, W).

    The dates are those of the sensor with most; each other sensor gives its image nearest in time, so that a single
    one, such as relief, is there on every date.
    """
    lead = max(batch.sensors.values(), key=lambda s: s.x.shape[1])
    planes, seen = [], []
    for s in batch.sensors.values():
        x, valid = s.x, s.valid
        if s is not lead:  # whose dates may share a day, such as two that are not known
            nearest = (lead.day[:, :, None] - s.day[:, None]).abs().argmin(2)  # (B, T)
            row = torch.arange(nearest.shape[0], device=nearest.device)[:, None]
            x, valid = x[row, nearest], valid[row, nearest]
        planes += [x, valid[:, :, None].to(x.dtype)]
        if s.x.shape[1] > 1 or lead.x.shape[1] == 1:
            seen.append(valid)
    return torch.cat([*planes, _season(lead.day, lead)], 2), torch.stack(seen).any(0)


class Plane(NamedTuple):
    """One input channel: a band, 'valid', 'cos' or 'sin', and where its date lies in the series, 0 to 1."""

    sensor: str
    name: str
    at: float

    @property
    def wavelength(self) -> float | None:
        known = {b.name: b.wavelength for b in SENSORS[self.sensor].bands} if self.sensor else {}
        return known.get(self.name)


def planes(bands: Mapping[str, tuple[str, ...]], dates: Mapping[str, int], mode: str) -> list[Plane]:
    """What the channels of `stack` or, for one date, of `by_date` are, in their order."""
    if mode == "shared":
        out = [Plane(s, name, 0.0) for s, names in bands.items() for name in (*names, "valid")]
        return [*out, Plane("", "cos", 0.0), Plane("", "sin", 0.0)]
    out = []
    for s, names in bands.items():
        when = [t / max(1, dates[s] - 1) for t in range(dates[s])]
        for group in (names, ("valid",), ("cos", "sin")):
            out += [Plane(s, name, at) for at in when for name in group]
    return out


def _donor(plane: Plane, known: list[Plane]) -> int | None:
    """Which of the known planes `plane` starts from."""
    same = [i for i, p in enumerate(known) if p[:2] == plane[:2]]
    waves = [p.wavelength for p in known]
    if not same and plane.wavelength is not None and any(w is not None for w in waves):
        like = known[nearest(plane.wavelength, waves)[0]]
        same = [i for i, p in enumerate(known) if p[:2] == like[:2]]
    return min(same, key=lambda i: abs(known[i].at - plane.at)) if same else None


def _season(day: Tensor, s: Series) -> Tensor:
    """(B, T, 2, H, W): cosine and sine of the day of the year."""
    angle = day * (2 * torch.pi / YEAR)
    return torch.stack([angle.cos(), angle.sin()], -1)[..., None, None].expand(-1, -1, -1, *s.x.shape[-2:])
