"""Stored bands of a sensor as what they measure: in its unit, NaN where a pixel is not to be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.description import Image
from gfm_objectives.data.rasters import FileFault, Raster


def measured(image: Image, raster: Raster, numbers: Sequence[int], path: Path) -> np.ndarray:
    """(T, C, h, w) float32 of a raster that was read with the bands `numbers`: scaled as the yaml or the file says.

    NaN in all bands where no data, by yaml or file, a mask, an alpha band or a value that is none hides the pixel; the
    quality band is not among it. FileFault where the file holds numbers of colours.
    """
    if raster.palette is not None:
        what = "holds numbers of colours (a palette), no values; describe its colours as bands 1, 2 and 3"
        raise FileFault(path, what, "band")
    numbers = list(numbers)
    raw = raster.values[:, [numbers.index(b) for b in image.bands.values()]]
    dates, bands = raw.shape[:2]
    pick = [t * len(numbers) + numbers.index(b) for t in range(dates) for b in image.bands.values()]
    said = raster.said
    declared = [said.nodata[k] for k in pick] if said.nodata else [None] * len(pick)
    bad = image.nodata.hidden(raw, declared, image.sensor.unit == "reflectance") | ~np.isfinite(raw).all(1)
    if raster.valid is not None and image.nodata.values != ():
        bad |= ~raster.valid
    x = raw.astype(np.float32)
    if image.scale is not None:
        x *= np.float32(image.scale)
        x += np.float32(image.offset)
    elif said.scale:
        factor, shift = (np.array([v[k] for k in pick], np.float32).reshape(dates, bands, 1, 1)
                         for v in (said.scale, said.offset))  # fmt: skip
        x = x * factor + shift
    x[np.broadcast_to(bad[:, None], x.shape)] = np.nan
    return x
