"""Split rules: by a column, by groups, by location and at random; all windows of a chip and all of an area together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.splits import Splits, parse_splits
from gfm_objectives.errors import InputError

NAMES = [f"{town}_{i:03d}" for town, n in (("rome", 9), ("oslo", 6), ("lima", 3), ("bonn", 2)) for i in range(n)]


def nowhere(chip: str) -> None:
    return None


def split(tmp_path: Path, block: dict[str, Any] | None, names: list[str] = NAMES, where: Any = nowhere) -> Splits:
    return parse_splits(tmp_path, block, names, where)


def corners(west: float, south: float, east: float, north: float) -> np.ndarray:
    return np.array([(west, north), (east, north), (east, south), (west, south)])


def towns(chips: list[str]) -> set[str]:
    return {c.split("_")[0] for c in chips}


def test_groups_from_the_id_stay_whole(tmp_path: Path):
    parts = split(tmp_path, {"by": "group", "group": "{group}_*"}).chips
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == sorted(NAMES)
    assert parts["pretrain"] == parts["train"]
    assert not (towns(parts["train"]) & towns(parts["test"]) or towns(parts["train"]) & towns(parts["val"]))
    assert "rome" in towns(parts["train"]) and all(parts[s] for s in SPLITS)  # the largest first


def test_random_deals_chips_one_by_one_in_exact_shares_and_keeps_areas_for_intervals(tmp_path: Path):
    block = {"by": "random", "group": "{group}_*", "shares": {"train": 10, "val": 4, "test": 6}}
    parts = split(tmp_path, block)
    assert {s: len(c) for s, c in parts.chips.items()} == {"pretrain": 10, "train": 10, "val": 4, "test": 6}
    assert set(parts.areas["train"]) & set(parts.areas["test"]) == towns(parts.chips["train"]) & set(
        parts.areas["test"]
    )
    assert split(tmp_path, block) == parts  # no history, no chance
    assert split(tmp_path, {**block, "seed": 1}).chips != parts.chips
    assert split(tmp_path, block, NAMES[::-1]).chips["test"] == parts.chips["test"][::-1]  # whatever the order


def test_location_keeps_blocks_and_overlapping_chips_together(tmp_path: Path):
    step = 0.01  # degrees; chips of about 1.1 km at the equator, in a row
    names = [f"c{i:02d}" for i in range(40)]

    def row(overlap: float):
        return lambda chip: corners(step * int(chip[1:]), 0.0, step * (int(chip[1:]) + 1 + overlap), step)

    parts = split(tmp_path, {"by": "location", "km": 5.56}, names, row(0)).chips
    home = {c: s for s in ("train", "val", "test") for c in parts[s]}
    assert len(home) == 40 and all(home[names[i]] == home[names[i - 1]] for i in range(40) if i % 5)
    with pytest.raises(InputError, match=r"40 chips are 1 areas .*too few for 3 splits; make areas smaller"):
        split(tmp_path, {"by": "location", "km": 5.56}, names, row(0.5))  # each overlaps the next: one chain


def test_location_from_columns_also_joins_groups(tmp_path: Path):
    lines = [f"{chip},{14 * i - 150},{i},{'ab'[i % 2] if i < 2 else i // 2}" for i, chip in enumerate(NAMES)]
    (tmp_path / "t.csv").write_text("\n".join(["id,x,y,site", *lines]))
    block = {"by": "location", "file": "t.csv", "id": "id", "lon": "x", "lat": "y", "group": "site"}
    parts = split(tmp_path, block)
    areas = {c: a for s in SPLITS for c, a in zip(parts.chips[s], parts.areas[s], strict=True)}
    assert areas[NAMES[2]] == areas[NAMES[3]] != areas[NAMES[4]] and areas[NAMES[0]] != areas[NAMES[1]]


FAULTS = {
    "rule": ({"by": "area"}, r"data\.splits\.by=area: no such rule; choose from column, group, location, random"),
    "file": ({}, r"data\.splits\.file: is missing; name a table"),
    "group": ({"by": "group"}, r"data\.splits\.group: is missing; name a column"),
    "pattern": ({"by": "group", "group": "town"}, r"data\.splits\.group=town: name a column of data\.splits\.file, or"),
    "id": ({"by": "group", "group": "{group}-*"}, r"group=\{group\}-\*: chip rome_000 does not fit the pattern"),
    "share": ({"by": "random", "shares": {"train": -1}}, r"data\.splits\.shares=\{'train': -1\}: expected shares"),
    "shares": ({"by": "random", "shares": {"dev": 1}}, r"data\.splits\.shares\.dev: no such key; choose from train"),
    "seed": ({"by": "random", "seed": "a"}, r"data\.splits\.seed='a': expected a whole number"),
    "lonely lon": ({"by": "location", "lon": "x"}, r"data\.splits: lon and lat are columns of data\.splits\.file"),
    "degrees": (
        {"by": "location", "file": "t.csv", "lon": "x", "lat": "y"},
        r"t\.csv: chip rome_000 has x=500000, y=1; expected degrees",
    ),
    "km": ({"by": "location", "file": "d.csv", "lon": "x", "lat": "y", "km": -1}, r"data\.splits\.km=-1: expected"),
    "nowhere": ({"by": "location"}, r"rome_000: is not georeferenced"),
    "few": ({"by": "group", "group": "{group}_00*"}, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_split_rules(tmp_path: Path, fault: str):
    (tmp_path / "t.csv").write_text("chip,x,y\nrome_000,500000,1\n")
    (tmp_path / "d.csv").write_text("chip,x,y\nrome_000,5,1\n")
    block, message = FAULTS[fault]
    if message is None:  # not a fault: the rest of the pattern is free
        assert split(tmp_path, block).chips["train"]
        return
    with pytest.raises(InputError, match=message) as error:
        split(tmp_path, block)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real hls_water chips are absent")
def test_hls_water_can_be_split_at_random_to_see_the_leak():
    by_area, at_random = (load_choice("task", name)["data"] for name in ("hls_water", "hls_water_random"))
    crossing = []
    for options in (by_area, at_random):
        sources = {s: build_source(options, s) for s in ("train", "val", "test")}
        assert {s: len(v) for s, v in sources.items()} == {"train": 175, "val": 54, "test": 77}
        crossing.append(len(set(sources["train"].groups()) & set(sources["test"].groups())))
    assert crossing[0] == 0 and crossing[1] > 20
