"""What kinds of file are: sensors, bands, scales, labels and their classes, guessed from a few files."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.fills import SURE
from gfm_objectives.data.rasters import FileFault
from gfm_objectives.data.readers import read_bands
from gfm_objectives.data.splits import PAIR
from gfm_objectives.inspection.grouping import Group
from gfm_objectives.inspection.seeing import FILES, HEIGHT, MANY, RADAR, S2, Seen, strays
from gfm_objectives.sensors import S2_TEN, SENSORS, USUAL_WAVES

# ---------------------------------------------------------------- sensors


def sensors(group: Group, seen: Seen, taken: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(name -> its block of the yaml, what was guessed). Files of two passes of a radar are two sensors."""
    if RADAR.search(group.hint) and seen.count == 4 and seen.kind == "f":
        parts = [("s1", {"VV": 1, "VH": 2}, {}), ("s1_desc", {"VV": 3, "VH": 4}, {"unit": "decibel"})]
        lines = ["s1, s1_desc: four bands, taken for VV and VH of the ascending, then of the descending pass: check"]
    else:
        name, bands, own, lines = _bands(group, seen)
        parts = [(name, bands, own)]
    out: dict[str, dict[str, Any]] = {}
    for base, bands, own in parts:
        name = next(n for n in (base, *(f"{base}_{k}" for k in range(2, 99))) if n not in {*taken, *out})
        if name != base and base in SENSORS:
            waves = {b.name: b.wavelength for b in SENSORS[base].bands if b.name in bands}
            own = own or {"unit": SENSORS[base].unit, "wavelengths": waves}
            lines.append(f"{name}: a second sensor of the kind of {base}, so it is described as one of your own")
        block: dict[str, Any] = {"file": group.pattern, "bands": bands, **own}
        if name == "s2" and re.search("l1c", group.hint, re.I):
            block["level"] = "L1C"
        if name == "s2" and seen.count == 11:
            block["valid"] = {"band": 11, "invalid_values": [255]}
            lines.append("s2: band 11 is taken for a cloud probability, of which 255 is no data: check")
        unit = str(own.get("unit") or (SENSORS[name].unit if name in SENSORS else "number"))
        lines += _scaled(name, unit, seen, block)
        (found, looked), before = strays(group), {*block["bands"].values()}
        lines += _holed(name, block, found, looked) if seen.flags else []
        gone = before - {*block["bands"].values()}
        lines += _empty(name, unit, seen, block, {value for value, files in found.items() if files.keys() & gone})
        lines += _undeclared(name, seen, block, found, looked)
        out[name] = block
    return out, lines


def _bands(group: Group, seen: Seen) -> tuple[str, dict[str, int], dict[str, Any], list[str]]:
    hint, n = group.hint, seen.count
    said = seen.raster.said.names
    named = {_plain(t): i + 1 for i, t in enumerate(said) if t}
    for name in ("s2", "s1", "hls"):
        bands = {b: named[_plain(b)] for b in SENSORS[name].band_names if _plain(b) in named}
        shared = name == "hls" and not re.search("hls", hint, re.I)  # names of colours, which any sensor may have
        least = len(SENSORS[name].bands) if shared else min(3, len(SENSORS[name].bands))
        if len(bands) >= least or (name == "s1" and bands):
            return name, bands, {}, [f"{name}: bands as the files name them"]
    usual = {b: named[b] for b in USUAL_WAVES if b in named}
    if len(usual) >= 3:
        return "optical", usual, _own(usual, None), ["optical: bands as the files name them; a sensor of your own"]
    if HEIGHT.search(hint) and n == 1:
        return "dem", {"elevation": 1}, {}, ["dem: height, by its name"]
    if RADAR.search(hint) and n <= 2:
        order = ("VH",) if n == 1 and re.search("vh", hint, re.I) else ("VV", "VH")[:n]
        return (
            "s1",
            {b: i + 1 for i, b in enumerate(order)},
            {},
            [f"s1: radar, by its name; bands {', '.join(order)}: check"],
        )
    alike = n == 3 and bool((seen.values[0] == seen.values[1]).all() and (seen.values[1] == seen.values[2]).all())
    if alike:
        band = "VH" if RADAR.search(hint) else "grey"
        line = "three bands that are alike: one is read"
        if RADAR.search(hint):
            return "s1", {band: 1}, {}, [f"s1: {line}, as {band}: check"]
        return "grey", {band: 1}, _own({band: 1}, None), [f"grey: {line}"]
    orders = {13: SENSORS["s2"].band_names, 12: [b for b in SENSORS["s2"].band_names if b != "B10"], 10: S2_TEN,
              11: S2_TEN}  # fmt: skip
    if seen.flags and n != 11:
        bands = {f"band{i + 1}": i + 1 for i in range(n) if i + 1 not in seen.flags}
        flags = ", ".join(map(str, seen.flags))
        line = f"bands {flags} hold few whole numbers, or one for most pixels (quality, classes, cover?): left out"
        line += ", as they could give labels away"
        return "optical", bands, {"unit": "number"}, [f"optical: {line}; say what all bands are: check"]
    if n in orders and seen.kind in "ui" and (S2.search(hint) or n in (10, 12, 13)):
        bands = {b: i + 1 for i, b in enumerate(orders[n])}
        return "s2", bands, {}, [f"s2: {n} bands, taken for Sentinel-2 in the usual order: check"]
    if S2.search(hint) and n in (3, 4):
        order = ("B04", "B03", "B02") if n == 3 else ("B02", "B03", "B04", "B08")
        return (
            "s2",
            {b: i + 1 for i, b in enumerate(order)},
            {},
            [f"s2: {n} bands, taken for {', '.join(order)}: check"],
        )
    if n == 3:
        order = ("red", "green", "blue")
    elif n == 4:
        order = (
            ("red", "green", "blue", "nir") if seen.raster.values.dtype == np.uint8 else ("blue", "green", "red", "nir")
        )
    else:
        order = tuple(f"band{i + 1}" for i in range(n))
    bands = {b: i + 1 for i, b in enumerate(order)}
    what = f"{n} bands, taken for {', '.join(order)}" if n in (3, 4) else f"{n} bands of unknown wavelengths"
    return "optical", bands, _own(bands, seen), [f"optical: {what}; check, and give `wavelengths` in nm"]


def _own(bands: Iterable[str], seen: Seen | None) -> dict[str, Any]:
    waves = {b: USUAL_WAVES.get(b) for b in bands}
    return {"unit": "number", "wavelengths": waves} if any(waves.values()) else {"unit": "number"}


def _plain(word: str) -> str:
    word = re.sub(r"[\s_\-]", "", word.lower()).replace("band", "b")
    return re.sub(r"^b0*(\d)", r"b\1", word)


def _scaled(name: str, unit: str, seen: Seen, block: dict[str, Any]) -> list[str]:
    said = seen.raster.said
    if any(pair != (1, 0) for pair in zip(said.scale, said.offset, strict=True)):
        return [f"{name}: scale and offset as each file states"]
    if unit == "reflectance" and seen.kind in "ui" and seen.values.max() > 2:
        block["scale"] = 1e-4
        out = [f"{name}: scale 1.0e-4, as reflectance is usually stored"]
        low = np.percentile(seen.values.min(0), 1)
        if low >= 1000:
            block["offset"] = -0.1
            out.append(f"{name}: offset -0.1, as no value lies below {low:.0f} (processing baseline 04.00): check")
        if seen.values.max() <= 255:
            del block["scale"]
            out = [f"{name}: 8-bit values have no unit; gfm inspect proposes a scale and offset"]
        return out
    if unit == "decibel" and seen.values.min() >= 0:
        return [f"{name}: no value is negative, so these are no decibels; gfm inspect proposes a scale and offset"]
    return []


def _empty(name: str, unit: str, seen: Seen, block: dict[str, Any], besides: Container[float] = ()) -> list[str]:
    """Lines on pixels without data. besides: values that are none of any band that is read."""
    declared = {v for v in seen.raster.said.nodata if v is not None}
    found = [v for v, share in seen.odd.items() if share > 0 and v not in declared and v not in besides]
    if found and not declared:
        block["nodata"] = found[0] if len(found) == 1 else found
        share, values = sum(seen.odd[v] for v in found), ", ".join(f"{v:g}" for v in found)
        return [f"{name}: {values} is taken for no data ({share:.1%} of pixels)"]
    if not declared and seen.zeros > 0.001 and name not in ("dem",):
        block["nodata"] = {"value": 0, "when": "all"}
        return [f"{name}: pixels that are 0 in all bands ({seen.zeros:.1%}) are taken for no data"]
    return [f"{name}: no data is {', '.join(f'{v:g}' for v in declared)}, as the files declare"] if declared else []


def _holed(name: str, block: dict[str, Any], found: Mapping[float, Mapping[int, int]], looked: int) -> list[str]:
    """Lines on bands of a stack of several sources that lack what others have: one hole would hide the pixel in all."""
    lines = []
    for value, files in found.items():
        mine = {band: n for band, n in files.items() if band in block["bands"].values()}
        if mine and value <= SURE and len(mine) < len(block["bands"]):
            block["bands"] = {k: v for k, v in block["bands"].items() if v not in mine}
            remedy = f"left out, as `nodata: {value:g}` would hide what the other bands have there"
            lines.append(_far(name, value, mine, looked, remedy))
    return lines


def _undeclared(
    name: str, seen: Seen, block: dict[str, Any], found: Mapping[float, Mapping[int, int]], looked: int
) -> list[str]:
    """Lines on values that look like no data in single bands of some files; those that cannot be measured are taken."""
    stated = block.get("nodata", sorted({v for v in seen.raster.said.nodata if v is not None}))
    by_rule = isinstance(stated, Mapping)  # of pixels that are 0 in all bands, which a value in one band cannot join
    taken = [] if by_rule else [*stated] if isinstance(stated, list) else [stated]
    lines = []
    for value, files in found.items():
        mine = {band: n for band, n in files.items() if band in block["bands"].values()}
        if not mine or value in taken:
            continue
        remedy = f"where it is no data write `nodata: {value:g}`, which hides the pixel in all bands"
        if value <= SURE and not by_rule:
            taken.append(value)
            block["nodata"] = taken if len(taken) > 1 else value
            remedy = "it is taken for no data, which hides the pixel in all bands"
        lines.append(_far(name, value, mine, looked, remedy))
    return lines


def _far(name: str, value: float, files: Mapping[int, int], looked: int, remedy: str) -> str:
    """files: band -> how many of those looked at hold the value."""
    bands = f"band{'s' * (len(files) > 1)} {', '.join(map(str, files))}"
    what = f"{name}: {bands}: {value:g} in {max(files.values())} of {looked} files lies far from all other values"
    return f"{what}, and no file declares it; {remedy}: check"


# ---------------------------------------------------------------- layers


def layer(group: Group, seen: Seen) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """(its block of the yaml, what was guessed, what must be done by hand)."""
    block: dict[str, Any] = {"file": group.pattern}
    if seen.count > 1:
        colours = _painted(group)
        if seen.count != 3 or colours is None:
            what = f"{group.pattern}: labels of {seen.count} bands and unknown meaning"
            return None, [], [f"{what}: say `band`, `colors` or `one_hot`, docs/chips.md"]
        block |= {"classes": [f"colour {c}" for c in colours], "colors": colours}
        return (
            block,
            [f"label: painted in {len(colours)} colours"],
            ["label: the classes are named after their colours"],
        )
    declared = {v for v in seen.raster.said.nodata if v is not None}
    codes = seen.codes
    if codes is None or (seen.kind == "f" and (len(codes) > 12 or (codes % 1 != 0).any())):
        block["unit"] = "number"
        lines = [f"label: numbers from {seen.values.min():.4g} to {seen.values.max():.4g}, so a regression"]
        lines += _empty("label", "", seen, block) if -9999.0 in seen.odd else []
        return block, lines, ["label: unit of the numbers"]
    ignore = [c for c in codes.tolist() if c < 0 or (c == 255 and codes.tolist() != [0, 255]) or c in declared]
    known = [int(c) for c in codes.tolist() if c not in ignore]
    block["classes"] = [f"class {c}" for c in known]
    if known != list(range(len(known))):
        block["codes"] = known
    if palette := seen.raster.palette:
        block["colors"] = [palette[c] for c in known if c < len(palette)]
    stated = [c for c in ignore if c not in declared]
    if stated:
        block["ignore"] = [int(c) for c in stated] if len(stated) > 1 else int(stated[0])
    lines = [f"label: codes {', '.join(map(str, known))} found in {min(FILES, len(group.chips))} files"]
    lines += [f"label: {', '.join(f'{c:g}' for c in ignore)} taken for no label"] if ignore else []
    return block, lines, ["label: names of the classes"]


def _painted(group: Group) -> list[str] | None:
    """The colours of painted masks, None where they are many."""
    colours: set[int] = set()
    for files in list(group.chips.values())[:FILES]:
        try:
            x = read_bands(files[0], (1, 2, 3)).values[0].astype(np.int64)
        except FileFault:
            continue
        colours |= set(np.unique(x[0] << 16 | x[1] << 8 | x[2]).tolist())
        if len(colours) > MANY:
            return None
    return [f"#{c:06x}" for c in sorted(colours)]


def table_of_splits(root: Path, tables: Sequence[str], chips: set[str]) -> dict[str, Any] | None:
    """A table that says where chips belong: one column holds their ids, another words such as train and test."""
    for name, columns in _columns(root, tables):
        ids = next(
            (k for k, v in columns.items() if len({*v} & chips) > 0.5 * len(chips) and len({*v}) == len(v)), None
        )
        split = next((k for k, v in columns.items() if {"train", "test"} <= {*v} and len({*v}) <= 6), None)
        if ids and split:
            area = next((k for k in columns if k.lower() in ("area", "group", "region", "aoi", "site", "event")), None)
            words = {*columns[split]}
            val = next((w for w in ("val", "valid", "validation", "dev") if w in words), None)
            block: dict[str, Any] = {"by": "column", "file": name, "id": ids, "column": split}
            block |= {"group": area} if area else {}
            return block | {"values": {"train": "train", **({"val": val} if val else {}), "test": "test"}}
    return None


def table_of_pairs(root: Path, tables: Sequence[str], chips: set[str]) -> str | None:
    """A table of chips that share ground, as `gfm curate` writes it."""
    for name, columns in _columns(root, tables):
        if {*PAIR} <= columns.keys() and {*columns[PAIR[0]], *columns[PAIR[1]]} & chips:
            return name
    return None


def _columns(root: Path, tables: Sequence[str]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The tables that can be read, each with its columns."""
    import csv

    for name in tables:
        try:
            rows = list(csv.DictReader((root / name).read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        yield name, {k: [r[k] for r in rows] for k in (rows[0] if rows else {}) if k}
