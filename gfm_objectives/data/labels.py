"""Target layers: stored codes, painted colours, one band a class, or numbers become labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.description import parse_scale
from gfm_objectives.data.finding import DATE
from gfm_objectives.data.keys import block_of, number, several, whole
from gfm_objectives.data.rasters import FileFault, Raster
from gfm_objectives.data.validity import DECLARED, NoData, equals_any, parse_nodata
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, Legend, legend

CODES, PAINTED, ONE_HOT, NUMBERS = "codes", "colours", "one band a class", "numbers"
REMEDIES = (
    "say which band holds the codes (`band: 1`), give the colour of each class where it is painted (`colors: ['#...']`)"
    ", or say `one_hot: true` where each class has a band of its own"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A target layer. how: what files hold; bands: those read; lookup: code, or colour as 0xRRGGBB, -> label.

    `strict` layers refuse what is neither in the legend nor ignored. single: the band was not named, so that a file may
    have no other. nodata: values that are no label, by default those that files declare. scale, offset: of numbers;
    None = as each file states.
    """

    file: str
    bands: tuple[int, ...]
    legend: Legend
    ignore: tuple[float, ...]
    strict: bool
    how: str = CODES
    single: bool = False
    nodata: NoData = DECLARED
    scale: float | None = None
    offset: float = 0.0

    @property
    def numbers(self) -> bool:
        return self.how == NUMBERS

    @property
    def lookup(self) -> Mapping[int, int]:
        if self.how == PAINTED:
            return {int(c[1:], 16): i for i, c in enumerate(self.legend.colors or ())}
        return self.legend.lookup()

    def resolved(self, first: Raster) -> Layer:
        """With what only a file can tell, the header of the first: how labels are stored, and colours of a palette."""
        if self.how != CODES:
            return self
        colors, palette = self.legend.colors, first.palette
        painted = first.count >= 3 or (palette is not None and {*map(str.lower, colors or ())} <= {*palette})
        if self.single and colors and self.legend.codes is None and painted:
            if len({*colors}) < len(colors):
                raise InputError(f"data.layers.{self.legend.name}.colors: two classes are painted in one colour")
            return replace(self, how=PAINTED, bands=(1, 2, 3))
        if palette is not None and colors is None and max(self.lookup) < len(palette):
            return replace(self, legend=replace(self.legend, colors=tuple(palette[c] for c in self.lookup)))
        return self

    def labels(self, raster: Raster, bands: Sequence[int], path: Path) -> np.ndarray:
        """(h, w) of the raster's first date, read with `bands`: long, -1 where there is no label; float and NaN of
        numbers. FileFault names an unknown code."""
        raw = np.stack([raster.values[0, list(bands).index(b)] for b in self.bands])
        declared = raster.said.nodata[: len(bands)]
        believed = raster.valid is not None and self.nodata.values != ()
        hidden = ~raster.valid[0] if believed else np.zeros(raw.shape[1:], bool)  # type: ignore[index]
        if self.single and self.how == CODES and raster.count > 1:
            raise FileFault(path, f"has {raster.count} bands; {REMEDIES}", "band")
        hidden |= self._nothing(raw, [declared[list(bands).index(b)] if declared else None for b in self.bands])
        if self.how == NUMBERS:
            scale, offset = self.scale, self.offset
            if scale is None:
                scale, offset = self.stated(raster, bands)
            x = raw[0].astype(np.float32) * np.float32(scale) + np.float32(offset)
            hidden |= equals_any(raw[0], self.ignore) | ~np.isfinite(x)
            return np.where(hidden, np.float32(np.nan), x)
        if self.how == ONE_HOT:
            return self._of_planes(raw, path, hidden)
        if self.how == PAINTED:
            raw = (raw[0].astype(np.int64) << 16 | raw[1].astype(np.int64) << 8 | raw[2])[None]
        return self.of_codes(raw[0], path, hidden)

    def _nothing(self, raw: np.ndarray, declared: Sequence[float | None]) -> np.ndarray:
        """raw (bands, h, w) -> (h, w) bool: no data by value. Of colours, where all three have theirs; of one band a
        class, where any has, but for 0, which says that the class is not there."""
        own = self.nodata.values
        values = [[d for d in [v] if d is not None] if own is None else list(own) for v in declared]
        if self.how == ONE_HOT:
            return np.any([equals_any(x, [v for v in vs if v != 0]) for x, vs in zip(raw, values, strict=True)], axis=0)
        return np.all([equals_any(x, vs) for x, vs in zip(raw, values, strict=True)], axis=0)

    def stated(self, raster: Raster, bands: Sequence[int]) -> tuple[float, float]:
        """The scale and offset that a file states of the numbers of its first date."""
        k = list(bands).index(self.bands[0])
        return (raster.said.scale[k], raster.said.offset[k]) if raster.said.scale else (1.0, 0.0)

    def clash(self, raster: Raster, bands: Sequence[int]) -> str:
        """A line where the file declares the code or the colour of a class to be no data, or nothing."""
        if self.how not in (CODES, PAINTED) or self.nodata.values is not None or not raster.said.nodata:
            return ""
        stated = [raster.said.nodata[list(bands).index(b)] for b in self.bands]
        known = [int(v) for v in stated if v is not None and float(v).is_integer()]
        if len(known) < len(stated) or (self.how == PAINTED and not all(0 <= v < 256 for v in known)):
            return ""
        code = known[0] if self.how == CODES else known[0] << 16 | known[1] << 8 | known[2]
        if code not in self.lookup:
            return ""
        shown, what = (f"{code}", "code") if self.how == CODES else (f"#{code:06x}", "colour")
        name = self.legend.classes[self.lookup[code]]
        return (
            f"declares {shown} to be no data, the {what} of {name!r}: such pixels have no label; where they are "
            "labels, write `nodata: none`"
        )

    def _of_planes(self, raw: np.ndarray, path: Path, hidden: np.ndarray) -> np.ndarray:
        set_ = np.nan_to_num(raw) > 0
        many = set_.sum(0)
        if (many[~hidden] > 1).any() and self.strict:
            raise FileFault(path, f"has pixels of {many[~hidden].max()} classes at once; one_hot allows one", "code")
        return np.where(hidden | (many != 1), -1, set_.argmax(0)).astype(np.int64)

    def of_codes(self, raw: np.ndarray, path: Path, hidden: np.ndarray) -> np.ndarray:
        codes, where = distinct(raw)
        lookup = self.lookup
        ignored = equals_any(codes, self.ignore) | (codes != codes)  # NaN is no data
        table = np.array([-1 if i else lookup.get(c, -2) for c, i in zip(codes.tolist(), ignored, strict=True)])
        label = np.where(hidden, -1, table.astype(np.int64)[where])
        if self.strict and (label == -2).any():
            code = codes[where[label == -2].min()]
            shown, known = str(code), ", ".join(map(str, lookup))
            if self.how == PAINTED:
                shown, known = f"#{int(code):06x}", ", ".join(self.legend.colors or ())
            what = f"band {self.bands[0]} holds code {shown}" if self.how == CODES else f"holds the colour {shown}"
            raise FileFault(path, f"{what}, which is neither a class of {self.legend.name} ({known}) nor its `ignore`",
                            "code")  # fmt: skip
        return np.maximum(label, -1)


def distinct(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, in order, and for each place the number of its own. Of small integers by looking up, which
    takes a tenth of the time of sorting."""
    if raw.dtype.kind not in "iu" or raw.dtype.itemsize > 2:
        codes, where = np.unique(raw, return_inverse=True)
        return codes, where.reshape(raw.shape)
    low = int(np.iinfo(raw.dtype).min)
    at = raw.astype(np.int64) - low
    seen = np.zeros(1 << (8 * raw.dtype.itemsize), bool)
    seen[at.reshape(-1)] = True
    return (np.flatnonzero(seen) + low).astype(raw.dtype), (np.cumsum(seen) - 1)[at]


KEYS = ("band", "legend", "classes", "codes", "colors", "ignore", "unknown", "nodata", "one_hot", "unit", "scale")


def parse_layers(layers: Mapping[str, Any]) -> dict[str, Layer]:
    """The `layers` block."""
    out = {}
    for name, value in layers.items():
        key = f"data.layers.{name}"
        block = block_of(key, value, needed=("file",), optional=(*KEYS, "offset"))
        unknown = block.get("unknown", "ignore" if name == "map" else "error")
        if unknown not in ("ignore", "error"):
            raise InputError(f"{key}.unknown={unknown}: choose ignore or error")
        if DATE in str(block["file"]):
            raise InputError(f"{key}.file={block['file']}: a layer has one date; name one file for each chip")
        numbers, one_hot = block.get("unit") is not None, bool(block.get("one_hot"))
        names = legend(name, [str(block["unit"])]) if numbers else _legend(key, name, block)
        if numbers and (block.get("classes") or block.get("legend")):
            raise InputError(f"{key}: has both a unit, of numbers, and classes; remove one")
        if not numbers and {"scale", "offset"} & {*block}:
            raise InputError(f"{key}: scale and offset are of numbers; give their `unit`, or remove them")
        band = block.get("band")
        if one_hot and band is not None:
            raise InputError(f"{key}: one_hot reads a band for each class; remove `band`")
        scale, offset = parse_scale(key, block)
        bands = tuple(range(1, len(names) + 1)) if one_hot else (whole(f"{key}.band", 1 if band is None else band),)
        out[name] = Layer(
            file=str(block["file"]),
            bands=bands,
            legend=names,
            ignore=tuple(_ignored(f"{key}.ignore", v) for v in several(block.get("ignore"))),
            strict=unknown == "error",
            how=NUMBERS if numbers else ONE_HOT if one_hot else CODES,
            single=band is None and not one_hot,
            nodata=parse_nodata(f"{key}.nodata", block.get("nodata")),
            scale=scale,
            offset=offset,
        )
    return out


def _ignored(key: str, value: Any) -> float:
    """A code, or a colour as the number 0xRRGGBB."""
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:], 16)
        except ValueError:
            pass
    return number(key, value)


def _legend(key: str, name: str, block: Mapping[str, Any]) -> Legend:
    shared, classes = block.get("legend"), block.get("classes")
    if (shared is None) == (classes is None):
        raise InputError(
            f"{key}: give either `legend` (one of {', '.join(LEGENDS)}) or `classes` of your own; of numbers, `unit`"
        )
    if shared is not None:
        if shared not in LEGENDS:
            raise InputError(f"{key}.legend={shared}: no such legend; choose from {', '.join(LEGENDS)} or give classes")
        return LEGENDS[shared]
    codes = block.get("codes")
    try:
        own = None if codes is None else [whole(f"{key}.codes", c, -(2**31)) for c in several(codes)]
        colors = [str(c).lower() for c in several(block["colors"])] if block.get("colors") else None
        return legend(name, [str(c) for c in several(classes)], own, colors)
    except ValueError as error:
        raise InputError(str(error) if isinstance(error, InputError) else f"{key}: {error}") from error
