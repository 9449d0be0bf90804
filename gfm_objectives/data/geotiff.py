"""What GDAL reads: GeoTIFF, PNG, JPEG, JPEG 2000, VRT; bands and all that the file says of them."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.rasters import Raster, Said, Window, at, positions, told
from gfm_objectives.data.remote import gdal_name, is_remote, stamp

OPAQUE = 128  # of 255: from which alpha on a pixel counts as shown
SOFT = 0.5  # share of values between nothing and full above which a band called alpha is none (near infrared, mostly)


ROOM, DENSEST = 1e8, 2e4  # pixels that any file may have, and one byte may stand for: beyond, a header is damaged
TAIL = 4096  # bytes, in which the mark that ends a JPEG or JPEG 2000 stands


@lru_cache(maxsize=65536)
def _check(path: Path, stamp: tuple[int, int]) -> None:
    """FileFault where a PNG, JPEG or JPEG 2000 is cut off or, of a PNG, damaged: GDAL fills what is missing with
    whatever it has and says nothing. And where a VRT is no UTF-8. stamp: size and time of change, so that each file is
    checked once."""
    kind = path.suffix.lower()
    with told(path), path.open("rb") as file:
        if kind == ".png":
            file.seek(8)
            while (name := _chunk(file, stamp[0])) != b"IEND":
                if not name:
                    raise ValueError("the file ends before its last part")
        elif kind in (".jpg", ".jpeg", ".jp2"):
            file.seek(-min(TAIL, stamp[0]), 2)
            if b"\xff\xd9" not in file.read():
                raise ValueError("the file ends before its last part")
        elif kind == ".vrt":
            file.read().decode()  # of other bytes rasterio prints a traceback of its own


def _chunk(file: Any, size: int) -> bytes:
    """The name of the next part of a PNG, nothing at the end of the file; ValueError where it is damaged."""
    head = file.read(8)
    if len(head) < 8:
        return b""
    length = int.from_bytes(head[:4], "big")
    data = file.read(min(length, size))
    if zlib.crc32(data, zlib.crc32(head[4:])) != int.from_bytes(file.read(4), "big"):
        raise ValueError("a part of the file is damaged or cut off")
    return head[4:]


@dataclass(frozen=True, slots=True)
class _Head:
    """What a file says of itself and of the bands asked for. flags: what masks each; alpha: which bands are called so,
    from 0; clear: numbers of a palette's transparent colours."""

    palette: tuple[str, ...] | None
    pick: list[int]
    flags: list[list[Any]]
    alpha: list[int]
    clear: list[int]
    place: tuple[Any, Any] | None
    remarks: list[str]
    said: Said


_heads: dict[tuple[Any, ...], _Head] = {}
HEADS = 2**14  # of so many files what they say is remembered: GDAL takes as long to say it as to read a small chip


def _head(file: Any, path: Path, bands: Sequence[int], dates: int, stated: Any) -> _Head:
    """Asked once of a file of this machine that stays as it is."""
    from rasterio.enums import ColorInterp

    key = str(path), stated, tuple(bands), dates
    if (found := _heads.get(key)) is None or is_remote(path):
        palette = _palette(file)
        painted = palette is not None and max(bands, default=1) > 1
        pick = positions(path, [1] if painted else bands, file.count, dates)
        flags = file.mask_flag_enums
        place, more = _place(file)
        alpha = [i for i, what in enumerate(file.colorinterp) if what == ColorInterp.alpha]
        said = _said(file, pick, dates, flags)
        clear, more = _clear(file) if pick else [], [*more, *_turned(file)]
        found = _Head(palette, pick, list(flags), alpha, clear, place, more, said)
        if len(_heads) >= HEADS:
            _heads.clear()
        _heads[key] = found
    return found


def read_gdal(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str = "") -> Raster:
    """Bands of what GDAL opens, with masks, declared values, scales, names and place; see `readers.read_bands`. Such a
    file holds one variable, so its name is not asked for."""
    import rasterio
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning
    from rasterio.windows import Window as Cut

    with told(path):
        stated = stamp(path)
    if not is_remote(path):
        _check(path, stated)
    with warnings.catch_warnings(), told(path):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips need no place on Earth
        warnings.simplefilter("ignore", NodataShadowWarning)
        with rasterio.open(gdal_name(path)) as file:
            here = path.suffix.lower() != ".vrt" and not is_remote(path)
            if here and file.height * file.width > ROOM + DENSEST * stated[0]:
                raise ValueError(f"its header says {file.height} x {file.width} pixels, more than it can hold")
            head = _head(file, path, bands, dates, stated)
            palette, pick, said = head.palette, head.pick, head.said
            top, left, height, width = window or (0, 0, file.height, file.width)
            cut = Cut(left, top, width, height)
            some = bool(pick) and height > 0 and width > 0  # else the header alone, or nothing of the file is wanted
            valid, remarks = _masks(file, head, dates, cut) if some else (None, [])
            values = np.empty((len(pick), height, width), file.dtypes[0])
            values = file.read([p + 1 for p in pick], window=cut) if some else values
            if some and head.clear:
                seen = ~np.isin(values, head.clear)
                valid = seen if valid is None else valid & seen
            if palette is not None and max(bands, default=1) > 1:
                positions(path, bands, 3, 1)
                values = np.array([_rgb(c) for c in palette], np.uint8).T[[b - 1 for b in bands]][:, values[0]]
                said, palette = Said(), None
            values = values.reshape(dates, len(values) // dates, height, width)
            shape = (file.height, file.width)
            count = file.count - len(head.alpha)
            return Raster(values, shape, valid, said, palette, count, head.place, (*remarks, *head.remarks))


def _turned(file: Any) -> list[str]:
    """What a picture says of how it is to be held: masks drawn over it as shown would lie otherwise."""
    orientation = file.tags().get("EXIF_Orientation", "1")
    if orientation == "1":
        return []
    return [
        f"is to be turned when it is shown (EXIF orientation {orientation}), and is read as stored: save it upright"
    ]


def _palette(file: Any) -> tuple[str, ...] | None:
    """The colours of a file of one band that stores numbers of colours, as hex."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return None
    colors = file.colormap(1)
    return tuple("#{:02x}{:02x}{:02x}".format(*colors[i][:3]) for i in sorted(colors))


def _clear(file: Any) -> list[int]:
    """The numbers of a palette's colours that are transparent."""
    from rasterio.enums import ColorInterp

    if file.count != 1 or file.colorinterp[0] != ColorInterp.palette:
        return []
    return [i for i, color in file.colormap(1).items() if color[3] < OPAQUE]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _masks(file: Any, head: _Head, dates: int, cut: Any) -> tuple[np.ndarray | None, list[str]]:
    """(T, h, w): what masks and an alpha band leave to be seen of the bands, None = all of it; and what to say.

    No data that is declared by a value is not among it: that is judged band by band.
    """
    from rasterio.enums import MaskFlags

    pick, alpha = head.pick, head.alpha
    shown: list[np.ndarray | None] = [None] * dates
    remarks: list[str] = []
    step = max(1, len(pick) // dates)
    for date in range(dates):
        for position in pick[date * step : (date + 1) * step]:
            flags = head.flags[position]
            if MaskFlags.all_valid in flags or flags == [MaskFlags.nodata]:
                continue
            if MaskFlags.alpha in flags and {*alpha} & {*pick}:
                continue  # the band is described as one of the image
            mask = file.read_masks(position + 1, window=cut)
            if MaskFlags.alpha in flags and np.mean((mask > 0) & (mask < 255)) > SOFT:
                line = f"band {alpha[0] + 1} is called alpha but holds many values, and hides nothing"
                remarks += [] if line in remarks else [line]
                continue
            seen = mask >= OPAQUE
            before = shown[date]
            shown[date] = seen if before is None else before & seen
            if MaskFlags.per_dataset in flags:
                break  # the same for all bands
    if all(s is None for s in shown):
        return None, remarks
    every = np.ones((round(cut.height), round(cut.width)), bool)
    return np.stack([every if s is None else s for s in shown]), remarks


def _place(file: Any) -> tuple[tuple[Any, Any] | None, list[str]]:
    """Coordinate system and transform; of ground control points, the plane nearest to them."""
    from rasterio.transform import from_gcps

    if file.crs is not None and not file.transform.is_identity:
        return (file.crs, file.transform), []
    points, crs = file.gcps
    if len(points) < 3 or crs is None:
        return None, []
    transform = from_gcps(points)
    off = max(np.hypot(c - p.col, r - p.row) for p in points for c, r in [at(~transform, p.x, p.y)])
    line = "is georeferenced by ground control points, taken as a plane"
    return (crs, transform), [line + (f" that is up to {off:.1f} pixels off" if off > 0.5 else "")]


def _said(file: Any, pick: Sequence[int], dates: int, flags: Sequence[Any]) -> Said:
    from rasterio.enums import MaskFlags

    if not pick:
        return Said()
    first = pick[: len(pick) // dates]
    together = {MaskFlags.per_dataset, MaskFlags.nodata}  # values that are no data where all bands have theirs: a mask
    nodata, scales, offsets = file.nodatavals, file.scales, file.offsets  # each asks every band
    names, units = file.descriptions, file.units
    return Said(
        nodata=tuple(None if together <= {*flags[p]} else nodata[p] for p in pick),
        scale=tuple(scales[p] for p in pick),
        offset=tuple(offsets[p] for p in pick),
        names=tuple(names[p] or "" for p in first),
        units=tuple(units[p] or "" for p in first),
        waves=tuple(_wavelength(file, p + 1) for p in first),
    )


def _wavelength(file: Any, band: int) -> float | None:
    """Central wavelength in nm, where tags of the band state one."""
    tags = {k.lower(): v for ns in (None, "IMAGERY") for k, v in file.tags(band, ns=ns).items()}
    for key, text in tags.items():
        number = re.match(r"\s*(\d+(?:\.\d+)?)", text)
        if "wavelength" in key and "unit" not in key and number:
            value = float(number[1])
            return value * 1000 if value < 100 else value  # micrometres
    return None
