"""Encoders published by others, each behind one call: the images of every sensor and date -> a vector per patch.

What differs between them is here and nowhere else: bands, wavelengths, normalisation, input size, and where in their
code the patch vectors are. The libraries that hold them are imported by foreign.py, when used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.bands import nearest
from gfm_objectives.sensors import SENSORS

S2_BANDWIDTHS = (20, 65, 35, 30, 15, 15, 20, 115, 20, 20, 30, 90, 180)  # nm, B01 to B12; Sentinel-2 User Handbook
DAYS_1970_TO_2000 = 10957


class Backbone(nn.Module, ABC):
    """Batch -> {sensor: (B, T, grid * grid, dim)} for the sensors that the model can read.

    spec: what it will be shown; model: the module as its library builds it, for images of `size` pixels a side; patch
    in those pixels. Images are resized to `size` bilinearly. InputError where it can read none of the sensors.
    """

    model: Any  # what its library calls an attribute, mypy calls a Tensor or a Module

    def __init__(self, spec: Spec, model: Any, dim: int, size: int, patch: int) -> None:
        super().__init__()
        self.model, self.dim, self.size, self.grid = model, dim, size, size // patch
        self.sensors = tuple(s for s, bands in spec.bands.items() if self.reads(s, bands))
        if not self.sensors:
            raise InputError(f"{type(model).__name__} reads none of {', '.join(spec.bands)}; take another encoder=")

    @staticmethod
    @abstractmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        """Whether it was made for such images."""

    @abstractmethod
    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        """(N, C, size, size), normalised by the sensor table, N = B x T -> (N, grid * grid, dim)."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        seen = {s: batch.sensors[s] for s in self.sensors}
        return {s: self.patches(s, self.images(v), v).unflatten(0, v.day.shape) for s, v in seen.items()}

    def images(self, series: Series) -> Tensor:
        x = series.x.flatten(0, 1)
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=self.size < x.shape[-1])


def wavelengths(sensor: str, bands: tuple[str, ...]) -> list[float | None]:
    """Centres in nm."""
    return [SENSORS[sensor].bands[i].wavelength for i in SENSORS[sensor].index(bands)]


def optical(sensor: str, bands: tuple[str, ...]) -> bool:
    return None not in wavelengths(sensor, bands)


@contextmanager
def last_output(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """What the last block gives while the model runs: the models' own forward pools it away."""
    found: list[Tensor] = []
    hook = blocks[-1].register_forward_hook(lambda _, __, out: found.append(out))
    try:
        yield found
    finally:
        hook.remove()


class DOFA(Backbone):
    """Xiong et al. 2024 (arXiv:2403.15356): weights generated from wavelengths; input standardised per band.

    Sentinel-1 has the placeholder wavelength 3.75 um that its weights were trained with.
    """

    def __init__(self, spec: Spec, model: Any, size: int, patch: int) -> None:
        super().__init__(spec, model, model.embed_dim, size, patch)
        self.micrometres = {s: [(w or 3750) / 1000 for w in wavelengths(s, spec.bands[s])] for s in self.sensors}

    @staticmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        return sensor == "s1" or optical(sensor, bands)

    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        with last_output(self.model.blocks) as found:
            self.model.forward_features(images, self.micrometres[sensor])
        return found[0][:, 1:]


class CopernicusFM(Backbone):
    """Wang et al. 2025 (arXiv:2503.11849): weights generated from wavelength and bandwidth; day and scale are told.

    Places are not told (they name the test region), and relief, which it reads by the language embedding of a model
    that is not shipped, goes to the stem and the way back alone. What depends on no weights is computed once, here: the
    model's own forward looks at values, which the counting of FLOPs does not have.
    """

    def __init__(self, spec: Spec, model: Any, size: int, patch: int) -> None:
        super().__init__(spec, model, model.cls_token.shape[-1], size, patch)
        embed, self.patch = model.patch_embed_spectral, patch
        for s in self.sensors:
            wave = torch.tensor([w or 5e7 for w in wavelengths(s, spec.bands[s])])
            bandwidth = torch.tensor([float(w) for w in self.bandwidths(s, spec.bands[s])])
            code = embed.spectrum_central_expansion(wave, embed.hyper_dim)
            code = code + embed.spectrum_bandwidth_expansion(bandwidth, embed.hyper_dim)
            self.register_buffer(f"waves_{s}", code, persistent=False)  # (C, hyper_dim)
        area = (patch * spec.gsd * spec.size / size / 1000) ** 2  # km2 of a patch
        self.register_buffer("area", model.get_area_pos_embed(torch.tensor([area]), self.dim), persistent=False)

    @staticmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        return sensor == "s1" or optical(sensor, bands)

    @staticmethod
    def bandwidths(sensor: str, bands: tuple[str, ...]) -> list[float]:
        """In nm: of the Sentinel-2 band nearest in wavelength; of radar the value it was trained with."""
        if sensor == "s1":
            return [1e9] * len(bands)
        s2 = [b.wavelength for b in SENSORS["s2"].bands]
        return [S2_BANDWIDTHS[nearest(w, s2)[0]] for w in wavelengths(sensor, bands)]

    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        m, embed, c = self.model, self.model.patch_embed_spectral, images.shape[1]
        weight, bias = embed.weight_generator(embed.fclayer(self.get_buffer(f"waves_{sensor}")))
        weight = weight.view(c, self.patch, self.patch, self.dim).permute(3, 0, 1, 2) * embed.scaler
        x = F.conv2d(images, weight, bias.view(-1) * embed.scaler, stride=self.patch, padding=1)
        day = m.get_time_pos_embed(series.day.flatten() + DAYS_1970_TO_2000, self.dim)
        about = m.coord_fc(m.coord_token) + m.scale_fc(self.area) + m.time_fc(day)
        place = m.pos_embed + about  # (N, 1 + grid * grid, dim)
        x = torch.cat([m.cls_token + place[:, :1], x.flatten(2).transpose(1, 2) + place[:, 1:]], 1)
        for block in m.blocks:
            x = block(x)
        return x[:, 1:]


class Panopticon(Backbone):
    """Waldmann et al. 2025 (arXiv:2503.10845): attention over channels that know their wavelength or polarisation."""

    RADAR: ClassVar[dict[str, int]] = {"VV": -1, "VH": -2}  # of unknown orbit, as its code numbers them

    def __init__(self, spec: Spec, model: Any, size: int, patch: int) -> None:
        vit = model.model
        super().__init__(spec, model, vit.embed_dim, size, patch)
        # The code of a channel is looked up by number: its own way of finding it is data-dependent, which cannot be
        # counted. The three vectors behind radar's codes are then fixed; all else is trained.
        ids: list[float] = []
        self.channels: dict[str, tuple[int, int]] = {}  # sensor -> first and last of its rows in the table
        for s in self.sensors:
            new = [w or self.RADAR[b] for w, b in zip(wavelengths(s, spec.bands[s]), spec.bands[s], strict=True)]
            self.channels[s] = (len(ids), len(ids) + len(new))
            ids += new
        fusion = vit.patch_embed.chnfus
        with torch.no_grad():
            codes = fusion.chnemb(torch.tensor([ids]))[0]
        fusion.chnemb = nn.Embedding.from_pretrained(codes)

    @staticmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        return sensor == "s1" or optical(sensor, bands)

    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        ids = torch.arange(*self.channels[sensor], device=images.device).expand(len(images), -1)
        return self.model.model.forward_features({"imgs": images, "chn_ids": ids})[:, 1:]


class CROMA(Backbone):
    """Fuller et al. 2023 (arXiv:2311.00566): one encoder for radar, one for twelve optical bands, and one for both.

    A band that is absent is filled with the one nearest in wavelength; input is clipped at two deviations and brought
    to 0..1, as in its code. Each radar date is joined with the optical date nearest in time.
    """

    BANDS = tuple(b.wavelength for b in SENSORS["s2"].bands if b.name != "B10")

    def __init__(self, spec: Spec, model: Any, size: int, patch: int) -> None:
        super().__init__(spec, model, model.encoder_dim, size, patch)
        seen = [s for s in self.sensors if s != "s1"]
        self.pick = {s: [nearest(w, wavelengths(s, spec.bands[s]))[0] for w in self.BANDS] for s in seen}

    @staticmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        return (sensor == "s1" and set(bands) == {"VV", "VH"}) or optical(sensor, bands)

    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        m, images = self.model, ((images + 2) / 4).clamp(0, 1)
        if sensor != "s1":
            return m.s2_encoder(images[:, self.pick[sensor]], m.attn_bias)
        order = [series.bands.index(b) for b in ("VV", "VH")]
        return m.s1_encoder(images[:, order], m.attn_bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        found = super().forward(batch)
        if "s1" in found and self.pick:
            lead = next(iter(self.pick))
            radar, light = batch.sensors["s1"].day, batch.sensors[lead].day
            nearest_date = (radar[:, :, None] - light[:, None]).abs().argmin(2)  # (B, T)
            context = found[lead][torch.arange(len(batch), device=radar.device)[:, None], nearest_date]
            x, c, bias = found["s1"].flatten(0, 1), context.flatten(0, 1), self.model.attn_bias
            joint = self.model.joint_encoder(x=x, context=c, relative_position_bias=bias)
            found["s1"] = joint.unflatten(0, radar.shape)
        return found


class RGB(Backbone):
    """ViTs of timm, and Scale-MAE (Reed et al. 2023, arXiv:2212.14532): red, green and blue as in a photograph.

    Reflectance 0 to 0.3 becomes 0 to 1, then the mean and deviation that the weights were trained with (ImageNet's
    where they do not say). Other bands and sensors reach the stem and the way back alone.
    """

    COLOURS = (665.0, 560.0, 490.0)  # nm
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, spec: Spec, model: Any, size: int, patch: int) -> None:
        super().__init__(spec, model, model.embed_dim, size, patch)
        cfg = getattr(model, "pretrained_cfg", {})  # absent where the class was built directly
        for name, value in (("mean", cfg.get("mean", self.MEAN)), ("std", cfg.get("std", self.STD))):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)
        self.pick = {s: [nearest(w, wavelengths(s, spec.bands[s]))[0] for w in self.COLOURS] for s in self.sensors}

    @staticmethod
    def reads(sensor: str, bands: tuple[str, ...]) -> bool:
        waves = [w for w in wavelengths(sensor, bands) if w is not None]
        return all(any(abs(w - c) < 60 for w in waves) for c in RGB.COLOURS)

    def patches(self, sensor: str, images: Tensor, series: Series) -> Tensor:
        names = [series.bands[i] for i in self.pick[sensor]]
        picked = torch.stack([images[:, i] for i in self.pick[sensor]], 1)  # a list as an index would make a GPU wait
        colour = SENSORS[sensor].denormalise(picked, names)
        colour = ((colour / 0.3).clamp(0, 1) - self.get_buffer("mean")) / self.get_buffer("std")
        out = self.model.forward_features(colour)
        return out[:, self.model.num_prefix_tokens :]
