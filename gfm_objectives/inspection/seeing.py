"""What a few files of a kind hold: bands, number type, values, codes, what they declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfm_objectives.data.fills import stray
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.rasters import FileFault, Raster, Window
from gfm_objectives.data.readers import read_bands
from gfm_objectives.data.telling import Telling
from gfm_objectives.data.validity import DECLARED, equals_any
from gfm_objectives.inspection.grouping import Group

FILES = 12  # of a kind that are looked into
STRAYS = 120  # in which values that look like no data are looked for
SIDE = 512  # pixels of each, from its middle
CORNER = 128  # pixels at each corner of what is larger: scenes are empty at their edges first
MANY = 40  # values from which whole numbers are no classes
LABEL = re.compile(
    r"mask|label|lbl|target|(?<![a-z])(gt|lc|lulc|class(es)?|truth)(?![a-z])|annot|landcover|water|cover|agbm?|biomass",
    re.I,
)
HEIGHT = re.compile(r"(?<![a-z])(dem|dsm|dtm|elev\w*)(?![a-z])", re.I)
RADAR = re.compile(r"(?<![a-z])(s1\w*|sar|radar|sentinel-?1|vv|vh)(?![a-z])", re.I)
S2 = re.compile(r"(?<![a-z])(s2\w*|sentinel-?2)(?![a-z])", re.I)


@dataclass
class Seen:
    """What a few files of a kind hold: bands, number type, values, what they declare; grid: of the first."""

    count: int
    kind: str
    values: np.ndarray  # (C, n) a sample of pixels that are no no data, neither declared nor by the usual values
    raster: Raster  # the header of the first
    grid: Grid
    shapes: set[tuple[int, int]]
    zeros: float  # share of pixels that are 0 in all bands
    odd: dict[float, float]  # value that is usually no data -> share of pixels that have it in a band
    codes: np.ndarray | None  # every whole number in band 1, where there are few
    flags: tuple[int, ...] = ()  # bands of many that measure nothing: quality, classes, cover
    faults: list[str] = field(default_factory=list)


def see(group: Group) -> Seen | None:
    """Look into some files of a group; None where none can be read, or none shows a valid pixel."""
    paths = [p for files in group.chips.values() for p in files]
    paths = [paths[k] for k in spread(len(paths), FILES)]
    seen: Seen | None = None
    codes: set[float] | None = set()
    samples, zeros, odd, pixels = [], 0, {-9999.0: 0, -32768.0: 0, 65535.0: 0}, 0
    faults = []
    for path in paths:
        try:
            head = read_bands(path, ())
            looks = [read_bands(path, range(1, head.count + 1), window=w) for w in _windows(head.shape)]
        except FileFault as fault:
            faults.append(str(fault))
            continue
        for raster in looks:
            x = raster.values[0]
            ok = np.isfinite(x).all(0) & (True if raster.valid is None else raster.valid[0])
            pixels += ok.size
            zeros += int(((x == 0).all(0) & ok).sum())
            for value in odd:
                odd[value] += int((x == value).any(0).sum())
            if codes is not None:
                codes |= set(np.unique(x[0][np.isfinite(x[0])]).tolist())
                codes = None if len(codes) > MANY else codes
            if seen is None:
                grid = Grid(*head.shape, head.place)
                seen = Seen(head.count, x.dtype.kind, x[:, ok][:, :1], raster, grid, set(), 0, {}, None)
            shown = ok & ~DECLARED.hidden(raster.values, raster.said.nodata, True)[0] & ~equals_any(x, [*odd]).any(0)
            shown &= (x != 0).any(0) if len(x) > 1 else True
            if x.shape[0] == seen.count:
                samples.append(x[:, shown][:, :: max(1, int(shown.sum()) // 4000)].astype(np.float64))
        if seen is not None:
            seen.shapes.add(head.shape)
    if seen is None:
        return None
    seen.values = np.concatenate(samples, 1)
    if not seen.values.shape[1]:
        return None
    seen.zeros, seen.odd = zeros / max(1, pixels), {v: n / max(1, pixels) for v, n in odd.items() if n}
    if seen.count > 4:
        seen.flags = tuple(i + 1 for i, v in enumerate(seen.values) if is_flag(v))
    whole = codes is not None and all(float(c).is_integer() for c in codes)
    seen.codes, seen.faults = (np.array(sorted(codes or ())) if whole else None), faults
    return seen


def strays(group: Group) -> tuple[dict[float, dict[int, int]], int]:
    """(value that looks like no data and that no file declares -> band -> files that hold it, files looked at): see
    `data.fills`. Of more files than see() looks into, as few of a folder may have it."""
    paths = [p for files in group.chips.values() for p in files]
    found: dict[float, dict[int, int]] = {}
    some = spread(len(paths), STRAYS)
    with Telling(f"files of {group.pattern} looked at", len(some)) as telling:
        for count, k in enumerate(some):
            telling.done(count)
            for band, value in _strays_of(paths[k]):
                files = found.setdefault(value, {})
                files[band] = files.get(band, 0) + 1
    return found, len(some)


def _strays_of(path: Path) -> Iterator[tuple[int, float]]:
    """(band, value) of the middle of a file; nothing of one that cannot be read, which see() tells."""
    try:
        head = read_bands(path, ())
        raster = read_bands(path, range(1, head.count + 1), window=_windows(head.shape)[0])
    except FileFault:
        return
    for i, x in enumerate(raster.values[0]):
        declared = raster.said.nodata[i] if raster.said.nodata else None
        seen = np.isfinite(x) & ~equals_any(x, [] if declared is None else [declared])
        seen &= True if raster.valid is None else raster.valid[0]
        if (value := stray(x[seen])) is not None:
            yield i + 1, value


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to n - 1, evenly spread."""
    return [int((i + 0.5) * n / min(most, n)) for i in range(min(most, n))]


def _windows(shape: tuple[int, int]) -> list[Window]:
    """The middle of a raster, and the corners of one that is larger."""
    height, width = min(SIDE, shape[0]), min(SIDE, shape[1])
    windows = [((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)]
    if max(shape) > SIDE:
        h, w = min(CORNER, shape[0]), min(CORNER, shape[1])
        windows += [(top, left, h, w) for top in {0, shape[0] - h} for left in {0, shape[1] - w}]
    return windows


def is_flag(values: np.ndarray) -> bool:
    """Whether values (n,) are few whole numbers, as of quality and classes, or one value for most, as of cover."""
    distinct, counts = np.unique(values, return_counts=True)
    return bool((len(distinct) <= MANY and (distinct % 1 == 0).all()) or counts.max() > len(values) / 2)


def is_label(group: Group, seen: Seen) -> bool:
    """By its name, or as it has one band of few whole numbers or of numbers of colours."""
    if LABEL.search(group.hint):
        return True
    if HEIGHT.search(group.hint) or RADAR.search(group.hint) or S2.search(group.hint):
        return False
    return seen.count == 1 and (seen.raster.palette is not None or (seen.codes is not None and len(seen.codes) <= MANY))


def metres(seen: Sequence[Seen]) -> float | None:
    """Metres per pixel by the first georeference."""
    return next((m for s in seen if (m := s.grid.metres) is not None), None)
