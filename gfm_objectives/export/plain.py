"""Models as functions of plain tensors: what torch.export, ONNX and other libraries can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import calibration


class Plain(nn.Module):
    """forward(x, valid, day of each sensor in the spec's order, then gsd) -> (B, C, H, W) float32.

    x (B, T, C, H, W) normalised, valid (B, T, H, W) bool, day (B, T) since 2000-01-01, gsd (B,) metres. model: a
    network that takes a batch, or an encoder, whose features are given.
    """

    def __init__(self, model: nn.Module, spec: Spec, features: bool) -> None:
        super().__init__()
        self.model, self.bands, self.features = model, {s: b for s, b in spec.bands.items() if s != "map"}, features

    def forward(self, *tensors: Tensor) -> Tensor:
        *given, gsd = tensors
        sensors = {}
        for k, (name, bands) in enumerate(self.bands.items()):
            x, valid, day = given[3 * k : 3 * k + 3]
            sensors[name] = Series(x, valid, day, bands)
        batch = Batch(sensors, {}, gsd)
        return (self.model.features(batch) if self.features else self.model(batch)).float()  # type: ignore[operator]

    def names(self) -> list[str]:
        """Of the inputs, in order."""
        return [n for s in self.bands for n in (s, f"{s}_valid", f"{s}_day")] + ["gsd"]

    def example(self, spec: Spec, places: int, size: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of `places` places of size x size, drawn by `seed`."""
        g = torch.Generator().manual_seed(seed)
        out: list[Tensor] = []
        for name, bands in self.bands.items():
            t = spec.dates[name]
            valid = torch.rand(places, t, size, size, generator=g) > 0.1
            x = torch.randn(places, t, len(bands), size, size, generator=g).masked_fill(~valid[:, :, None], 0)
            out += [x, valid, torch.arange(t).float().expand(places, t) * 30 + 7000]
        return (*out, torch.full((places,), spec.gsd))


class ImageEncoder(nn.Module):
    """An encoder for libraries that know one image of one sensor: (B, C, H, W) in the sensor's unit (reflectance 0..1,
    decibel, metre), NaN where nothing is -> features (B, width, H, W).

    bands: of the image, in order, any that the encoder reads; gsd: metres per pixel; day: since 2000-01-01.
    """

    def __init__(
        self, encoder: nn.Module, sensor: str, bands: Sequence[str], gsd: float, day: float = 0.0, level: str = ""
    ) -> None:
        super().__init__()
        known: Mapping[str, tuple[str, ...]] = encoder.bands  # type: ignore[assignment]
        if sensor not in known:
            raise InputError(f"sensor={sensor}: the encoder reads {', '.join(known)}")
        if unknown := [b for b in bands if b not in known[sensor]]:
            raise InputError(f"bands: the encoder reads no {unknown[0]} of {sensor}, but {', '.join(known[sensor])}")
        self.encoder, self.sensor, self.bands = encoder, sensor, tuple(bands)
        self.gsd, self.day, self.level, self.width = gsd, day, level, int(encoder.width)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image[:, None], image.new_full((len(image), 1), self.day))

    def features(self, images: Tensor, day: Tensor) -> Tensor:
        """The same of several dates: images (B, T, C, H, W), day (B, T)."""
        return self.encoder.features(self.batch(images, day))  # type: ignore[operator]

    def batch(self, images: Tensor, day: Tensor) -> Batch:
        """Images (B, T, C, H, W) in the sensor's unit, days (B, T), as a normalised batch."""
        valid = images.isfinite().all(2)
        x = calibration(self.sensor, self.level).normalise(images, valid, self.bands)
        return Batch(
            {self.sensor: Series(x, valid, day, self.bands, self.level)}, {}, day.new_full((len(day),), self.gsd)
        )


def features(
    encoder: Any,
    image: Any,
    bands: Sequence[str] | None = None,
    sensor: str = "s2",
    gsd: float = 10.0,
    day: float = 0.0,
) -> Any:
    """Features (width, H, W) as a numpy array of one image (C, H, W) in the sensor's unit: a numpy array with the names
    of its `bands`, or an xarray.DataArray whose coordinate `band` has them."""
    import numpy as np

    names = [str(b) for b in (image["band"].values if bands is None else bands)]
    values = torch.from_numpy(np.ascontiguousarray(np.asarray(image), dtype=np.float32))
    with torch.inference_mode():
        return ImageEncoder(encoder, sensor, names, gsd, day)(values[None])[0].numpy()
