"""Which chip belongs to which split: by a column of a table, by groups, by location, or at random."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.footprints import Outline, blocks, chains, joined, overlaps, square
from gfm_objectives.data.keys import block_of, known_keys, mapping, number, several, whole
from gfm_objectives.data.source import SPLITS
from gfm_objectives.errors import InputError, InputWarning

RULES = ("column", "group", "location", "random")
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
KM = 10.0  # side of the blocks of a split by location
GROUP = "{group}"
PAIR = ("chip_a", "chip_b")  # columns of a table of chips that share ground, as `gfm curate` writes it
SHIPPED = Path(__file__).parent  # whose folder lists holds those of known data
MISSED = 0.1  # of the chips, by which a split may miss its share before that is said

Where = Callable[[str], Outline | None]  # of a chip or tile: its footprint
Side = Callable[[str], tuple[float, float] | None]  # of a chip: its height and width in metres


@dataclass(frozen=True, slots=True)
class Splits:
    """chips, areas: for each split, its chips in the order of the table and the area of each; rule: in words."""

    chips: dict[str, list[str]]
    areas: dict[str, list[str]]
    rule: str


def parse_splits(
    root: Path,
    splits: Mapping[str, Any] | None,
    known: Sequence[str],
    where: Where,
    tiles: Mapping[str, Sequence[str]] | None = None,
    side: Side = lambda chip: None,
) -> Splits:
    """The `splits` block applied to the chips of a table or, without one, to `known`.

    Chips that share ground are in one split under every rule: areas are what footprints that overlap, and the pairs of
    the table `overlaps`, join. Without the block all of `known` are for pretraining. where: footprints; side: of chips
    that only a table places. tiles: chip -> the tiles it is cut into; by location each goes with its own place, else
    all with their chip. InputError where an area leaks.
    """
    parts = _parse(root, splits, known, where, tiles or {}, side)
    if not tiles:
        return parts
    homes: dict[str, list[tuple[str, str]]] = {s: [] for s in parts.chips}
    for split, chips in parts.chips.items():
        for chip, area in zip(chips, parts.areas[split], strict=True):
            homes[split] += [(tile, area) for tile in tiles.get(chip, [chip])]
    return Splits(
        {s: [c for c, _ in pairs] for s, pairs in homes.items()},
        {s: [a for _, a in pairs] for s, pairs in homes.items()},
        parts.rule,
    )


def _parse(
    root: Path,
    splits: Mapping[str, Any] | None,
    known: Sequence[str],
    where: Where,
    tiles: Mapping[str, Sequence[str]],
    side: Side,
) -> Splits:
    if splits is None:
        return Splits({"pretrain": list(known)}, {"pretrain": list(known)}, "not at all: all are for pretraining")
    key = "data.splits"
    optional = ("by", "file", "id", "column", "group", "values", "shares", "seed", "km", "lon", "lat", "overlaps")
    block = block_of(key, splits, needed=(), optional=optional)
    by, path = block.get("by") or "column", root / str(block.get("file"))
    table = None if block.get("file") is None else path
    if by not in RULES:
        raise InputError(f"{key}.by={by}: no such rule; choose from {', '.join(RULES)}")
    if by == "column" and table is None:
        raise InputError(f"{key}.file: is missing; name a table with a column of splits, or deal the chips out: `by`")
    if by == "group" and block.get("group") is None:
        raise InputError(f"{key}.group: is missing; name a column of data.splits.file or a pattern such as '{GROUP}_*'")
    column, group = str(block.get("column") or "split"), block.get("group")
    group = None if group is None else str(group)
    point = [str(block[k]) for k in ("lon", "lat") if block.get(k) is not None] if by == "location" else []
    if point and (len(point) < 2 or table is None):
        raise InputError(f"{key}: lon and lat are columns of data.splits.file in degrees; give all three")
    columns = [*([column] if by == "column" else point), *([] if group is None or GROUP in group else [group])]
    rows = {c: {} for c in known} if table is None else _read_csv(table, str(block.get("id") or "chip"), columns)
    areas, inside = _groups(rows, group, table is not None), {*known}
    allowed = block.get("overlaps") == "allow"
    pairs = [] if allowed or block.get("overlaps") is None else _read_pairs(root, str(block["overlaps"]), rows)
    if by == "column":
        values = mapping(f"{key}.values", block.get("values") or {})
        known_keys(f"{key}.values", values, SPLITS)
        out = _by_column(rows, areas, column, values, f"by the column {column!r} of {path.name}")
        _refuse_leaks(out, str(path), group or "chip")
        return out if allowed else _refuse_overlaps(out, str(path), where, inside, pairs)
    shares, seed = _shares(f"{key}.shares", block.get("shares")), whole(f"{key}.seed", block.get("seed") or 0)
    if by == "location":
        km = float(number(f"{key}.km", KM if block.get("km") is None else block["km"]))
        if km <= 0:
            raise InputError(f"data.splits.km={km:g}: expected a side of blocks in kilometres, greater than 0")
        units = list(rows) if point or group is not None else [t for c in rows for t in tiles.get(c, [c])]
        places = [_point(path, c, rows[c], point) if point else _known(where, c) for c in units]
        placed = zip(units, places, strict=True)
        grounds = [_ground(c, p, where, side) if c in inside else None for c, p in placed] if point else places
        edges = chains(blocks(places, km)) if units else []
        edges += overlaps(grounds) + ([] if group is None else chains([areas[c] for c in units]))
        areas = joined(units, edges + _edges(units, pairs, tiles))
        rule = f"by blocks of {km:g} km, joined where chips overlap, seed {seed}"
        return _deal(areas, areas, shares, seed, rule)
    chips = list(rows)
    together = [] if allowed else overlaps([where(c) if c in inside else None for c in chips])
    together += _edges(chips, pairs, {})
    note = "; chips that overlap stay together" if together else ""
    if by == "group":
        if together:
            areas = joined(chips, together + chains([areas[c] for c in chips]))
        return _deal(areas, areas, shares, seed, f"by whole groups ({group}), seed {seed}{note}")
    rule = f"at random, seed {seed}, whatever the area{note}"
    return _deal(joined(chips, together), areas, shares, seed, rule)


def _known(where: Where, name: str) -> Outline:
    outline = where(name)
    if outline is None:
        raise InputError(
            f"{name}: is not georeferenced, or in a coordinate system of its own, so data.splits.by=location does not "
            "know where it lies; give a table with columns of degrees: data.splits.file, lon and lat"
        )
    return outline


def _ground(chip: str, middle: Outline, where: Where, side: Side) -> Outline | None:
    """Footprint of a chip that a table places by its middle: of its file or, without one, of its size."""
    outline, metres = where(chip), side(chip)
    return outline if outline is not None or metres is None else square(middle, *metres)


def _read_pairs(root: Path, name: str, chips: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of `chips` that share ground, of a table in data.root or one that is shipped."""
    path = next((p for p in (root / name, SHIPPED / name) if p.is_file()), None)
    if path is None:
        raise InputError(f"data.splits.overlaps={name}: choose allow, or a table of pairs; there is no {root / name}")
    every = [(row[PAIR[0]], row[PAIR[1]]) for row in _read_rows(path, PAIR)]
    pairs = [(a, b) for a, b in every if a in chips and b in chips]
    if every and not pairs:
        warnings.warn(
            f"{path}: none of its pairs is of these chips ({', '.join(every[0])}; here {next(iter(chips), 'none')})",
            InputWarning,
            stacklevel=2,
        )
    return pairs


def _edges(
    units: Sequence[str], pairs: Sequence[tuple[str, str]], tiles: Mapping[str, Sequence[str]]
) -> list[tuple[int, int]]:
    """Pairs of chips as places of the units, all tiles of both joined."""
    at = {unit: i for i, unit in enumerate(units)}
    edges = []
    for a, b in pairs:
        both = [at[u] for chip in (a, b) for u in (chip, *tiles.get(chip, ())) if u in at]
        edges += [(both[0], other) for other in both[1:]]
    return edges


# ---------------------------------------------------------------- by a column


def _by_column(
    rows: Mapping[str, Mapping[str, str]],
    areas: Mapping[str, str],
    column: str,
    values: Mapping[str, Any],
    rule: str,
) -> Splits:
    train = values.get("train", "train")
    chips: dict[str, list[str]] = {}
    for split in SPLITS:
        wanted = {str(v) for v in several(values.get(split, train if split == "pretrain" else split))}
        chips[split] = [chip for chip, row in rows.items() if row[column] in wanted]
    return Splits(chips, {s: [areas[c] for c in chips[s]] for s in SPLITS}, rule)


def _refuse_leaks(splits: Splits, path: str, group: str) -> None:
    for split in ("pretrain", "train", "val"):
        for other in SPLITS[SPLITS.index(split) + 1 :]:
            shared = set(splits.areas[split]) & set(splits.areas[other])
            if shared and (split, other) != ("pretrain", "train"):
                raise InputError(f"{path}: {group} {min(shared)} is in both {split} and {other}, a leak; split by area")


def _refuse_overlaps(
    splits: Splits, path: str, where: Where, known: set[str], listed: Sequence[tuple[str, str]]
) -> Splits:
    """InputError where chips of two splits share ground, by their footprints or as listed."""
    home = {c: s for s in ("train", "val", "test", "pretrain") for c in splits.chips[s] if c in known}
    home |= {c: "train" for c in splits.chips["train"] if c in known}
    chips = list(home)
    pairs = [(chips[a], chips[b]) for a, b in overlaps([where(c) for c in chips])]
    pairs += [(a, b) for a, b in listed if a in home and b in home]
    crossing = [(a, b) for a, b in pairs if home[a] != home[b] and {home[a], home[b]} != {"train", "pretrain"}]
    if crossing:
        a, b = crossing[0]
        raise InputError(
            f"{path}: {a} ({home[a]}) and {b} ({home[b]}) overlap on the ground, a leak ({len(crossing)} such pairs); "
            "split by area (`by: location`), or write `overlaps: allow` to keep a published split"
        )
    return splits


def _read_csv(path: Path, chip: str, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Chip id -> row."""
    rows: dict[str, dict[str, str]] = {}
    for row in _read_rows(path, (chip, *columns)):
        if row[chip] in rows:
            raise InputError(f"{path}: chip {row[chip]} is listed twice")
        rows[row[chip]] = row
    return rows


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError(f"data.splits.file: no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        comma = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
        for name in columns:
            if name not in (reader.fieldnames or ()):
                raise InputError(f"{path}: no column {name!r}; it has {', '.join(reader.fieldnames or ()) or 'none'}")
        rows = []
        for row in reader:
            if any(row[name] is None for name in columns):
                raise InputError(f"{path}: line {reader.line_num} has fewer columns than the first")
            rows.append(row)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start}); save it as such"
        ) from None
    except (csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None
    return rows


# ---------------------------------------------------------------- areas


def _groups(rows: Mapping[str, Mapping[str, str]], group: str | None, table: bool) -> dict[str, str]:
    """Chip -> its group: a column of the table, or the part of the id that {group} stands for; or the chip itself."""
    if group is None:
        return {chip: chip for chip in rows}
    if GROUP not in group:
        if not table:
            raise InputError(
                f"data.splits.group={group}: name a column of data.splits.file, or write how the group stands in the "
                f"id, such as '{GROUP}_*'"
            )
        return {chip: row[group] for chip, row in rows.items()}
    parts = re.split(r"(\{group\}|\*)", group)
    regex = re.compile("".join({GROUP: "(?P<group>.+?)", "*": ".*"}.get(p, re.escape(p)) for p in parts))
    areas = {}
    for chip in rows:
        match = regex.fullmatch(chip)
        if match is None:
            raise InputError(f"data.splits.group={group}: chip {chip} does not fit the pattern")
        areas[chip] = match["group"]
    return areas


def _point(path: Path, chip: str, row: Mapping[str, str], columns: Sequence[str]) -> Outline:
    try:
        lon, lat = (float(row[c]) for c in columns)
        if -180 <= lon <= 360 and abs(lat) <= 90:
            return np.array([[lon, lat]])
    except ValueError:
        pass
    values = ", ".join(f"{c}={row[c]}" for c in columns)
    raise InputError(f"{path}: chip {chip} has {values}; expected degrees, lon -180 to 180 and lat -90 to 90")


# ---------------------------------------------------------------- dealing out


def _shares(key: str, value: Any) -> dict[str, float]:
    shares = mapping(key, value or SHARES)
    known_keys(key, shares, tuple(SHARES))
    out = {k: float(number(f"{key}.{k}", v)) for k, v in shares.items()}
    if any(v < 0 for v in out.values()) or not sum(out.values()):
        raise InputError(f"{key}={dict(shares)}: expected shares such as {{train: 0.6, val: 0.2, test: 0.2}}")
    return {k: v for k, v in out.items() if v}


def _deal(
    units: Mapping[str, str], areas: Mapping[str, str], shares: Mapping[str, float], seed: int, rule: str
) -> Splits:
    """Units (chip -> unit) whole to splits, the largest first, each to the split that has least of its share."""
    size: dict[str, int] = {}
    for unit in units.values():
        size[unit] = size.get(unit, 0) + 1
    if 0 < len(size) < len(shares):
        raise InputError(
            f"data.splits: {len(units)} chips are {len(size)} areas ({rule}), too few for {len(shares)} splits; "
            "make areas smaller or give fewer shares"
        )
    have, home = dict.fromkeys(shares, 0), {}
    order = sorted(size, key=lambda u: (-size[u], hashlib.sha256(f"{seed}/{u}".encode()).digest()))
    for unit in order:
        home[unit] = min(have, key=lambda s: (have[s] / shares[s], -shares[s]))
        have[home[unit]] += size[unit]
    if order:
        _tell_missed(have, shares, order[0], size[order[0]])
    split_of = {chip: home[unit] for chip, unit in units.items()}
    parts = {s: [c for c in units if split_of[c] == s] for s in SHARES}
    parts = {"pretrain": parts["train"], **parts}
    return Splits(parts, {s: [areas[c] for c in cs] for s, cs in parts.items()}, rule)


def _tell_missed(have: Mapping[str, int], shares: Mapping[str, float], largest: str, chips: int) -> None:
    """InputWarning where one area is so large that the shares asked for cannot be met."""
    total, whole_share = sum(have.values()), sum(shares.values())
    wanted = {s: share / whole_share for s, share in shares.items()}
    missed = max(abs(have[s] / total - wanted[s]) for s in have)
    if chips > 1 and missed > MISSED and chips / total > MISSED:
        come, asked = (", ".join(f"{s} {v:.0%}" for s, v in each) for each in (
            [(s, n / total) for s, n in have.items()], wanted.items()))  # fmt: skip
        warnings.warn(
            f"data.splits: one area is {chips:,} of {total:,} chips (those that share ground with {largest}), and an "
            f"area is not divided: {come}, where {asked} was asked for",
            InputWarning,
            stacklevel=2,
        )
