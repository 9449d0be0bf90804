"""Which chip belongs to which split: by a column of a table, by groups, by location, or at random."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.description import block_of, known_keys, mapping, number, several, whole
from gfm_objectives.data.source import SPLITS
from gfm_objectives.errors import InputError

RULES = ("column", "group", "location", "random")
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
KM = 10.0  # side of the blocks of a split by location
KM_PER_DEGREE = 111.2
GROUP = "{group}"

Box = tuple[float, float, float, float]  # west, south, east, north in degrees


@dataclass(frozen=True, slots=True)
class Splits:
    """chips, areas: for each split, its chips in the order of the table and the area of each; rule: in words."""

    chips: dict[str, list[str]]
    areas: dict[str, list[str]]
    rule: str


def parse_splits(
    root: Path, splits: Mapping[str, Any] | None, known: Sequence[str], box: Callable[[str], Box]
) -> Splits:
    """The `splits` block applied to the chips of a table or, without one, to `known`.

    Without the block all of `known` are for pretraining. box: where a chip lies. InputError where an area leaks.
    """
    if splits is None:
        return Splits({"pretrain": list(known)}, {"pretrain": list(known)}, "not at all: all are for pretraining")
    key = "data.splits"
    optional = ("by", "file", "id", "column", "group", "values", "shares", "seed", "km", "lon", "lat")
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
    areas = _groups(rows, group, table is not None)
    if by == "column":
        values = mapping(f"{key}.values", block.get("values") or {})
        known_keys(f"{key}.values", values, SPLITS)
        out = _by_column(rows, areas, column, values, f"by the column {column!r} of {path.name}")
        _refuse_leaks(out, str(path), group or "chip")
        return out
    shares, seed = _shares(f"{key}.shares", block.get("shares")), whole(f"{key}.seed", block.get("seed") or 0)
    if by == "location":
        km = float(number(f"{key}.km", KM if block.get("km") is None else block["km"]))
        boxes = [_point(path, chip, row, point) if point else box(chip) for chip, row in rows.items()]
        areas = _places(list(rows), {} if group is None else areas, boxes, km)
        rule = f"by blocks of {km:g} km{'' if point else ', joined where chips overlap'}, seed {seed}"
    elif by == "group":
        rule = f"by whole groups ({group}), seed {seed}"
    else:
        rule = f"at random, seed {seed}, whatever the area"
    return _deal({c: c for c in rows} if by == "random" else areas, areas, shares, seed, rule)


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


def _read_csv(path: Path, chip: str, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Chip id -> row."""
    if not path.is_file():
        raise InputError(f"data.splits.file: no file {path}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for name in (chip, *columns):
            if name not in (reader.fieldnames or ()):
                raise InputError(f"{path}: no column {name!r}; it has {', '.join(reader.fieldnames or ()) or 'none'}")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if row[chip] in rows:
                raise InputError(f"{path}: chip {row[chip]} is listed twice")
            rows[row[chip]] = row
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


def _point(path: Path, chip: str, row: Mapping[str, str], columns: Sequence[str]) -> Box:
    try:
        lon, lat = (float(row[c]) for c in columns)
        if abs(lon) <= 180 and abs(lat) <= 90:
            return lon, lat, lon, lat
    except ValueError:
        pass
    values = ", ".join(f"{c}={row[c]}" for c in columns)
    raise InputError(f"{path}: chip {chip} has {values}; expected degrees, lon -180 to 180 and lat -90 to 90")


def _places(chips: Sequence[str], groups: Mapping[str, str], boxes: Sequence[Box], km: float) -> dict[str, str]:
    """Chip -> its area, named by its first chip: chips in one block of `km`, of one group or that overlap share one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not chips:
        return {}
    if km <= 0:
        raise InputError(f"data.splits.km={km:g}: expected a side of blocks in kilometres, greater than 0")
    west, south, east, north = np.array(boxes).T
    lon, lat = (west + east) / 2, (south + north) / 2
    row = np.floor(lat * KM_PER_DEGREE / km)
    # Blocks of a row have the width that `km` has at its middle.
    shrink = np.maximum(np.cos(np.radians((row + 0.5) * km / KM_PER_DEGREE)), 0.01)
    block = list(zip(row, np.floor(lon * KM_PER_DEGREE * shrink / km), strict=True))
    edges = _chains(block) + (_chains([groups[c] for c in chips]) if groups else [])
    width, height = east - west, north - south
    reach = float(max(width.max(), height.max()))
    if reach > 0:
        # Boxes in degrees are a little wide, as grids lean against north: neighbours that only touch are no overlap.
        for a, b in cKDTree(np.stack([lon, lat], 1)).query_pairs(reach, p=math.inf):
            across = abs(lon[a] - lon[b]) < 0.45 * (width[a] + width[b])
            if across and abs(lat[a] - lat[b]) < 0.45 * (height[a] + height[b]):
                edges.append((a, b))
    pairs = np.array(edges or [(0, 0)])
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(chips), len(chips)))
    _, label = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    return {chip: first.setdefault(int(k), chip) for chip, k in zip(chips, label, strict=True)}


def _chains(keys: Sequence[Any]) -> list[tuple[int, int]]:
    """Edges that join the places of equal keys."""
    last: dict[Any, int] = {}
    edges = []
    for i, k in enumerate(keys):
        if k in last:
            edges.append((last[k], i))
        last[k] = i
    return edges


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
    for unit in sorted(size, key=lambda u: (-size[u], hashlib.sha256(f"{seed}/{u}".encode()).digest())):
        home[unit] = min(have, key=lambda s: have[s] / shares[s])
        have[home[unit]] += size[unit]
    split_of = {chip: home[unit] for chip, unit in units.items()}
    parts = {s: [c for c in units if split_of[c] == s] for s in SHARES}
    parts = {"pretrain": parts["train"], **parts}
    return Splits(parts, {s: [areas[c] for c in cs] for s, cs in parts.items()}, rule)
