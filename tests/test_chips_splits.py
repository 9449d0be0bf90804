"""Split rules: by a column, by groups, by location and at random; all windows of a chip and all of an area together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.spatial
import torch
from rasterio.warp import transform
from scenes import Scenes, ground, strangers, windows

from gfm_objectives.config import load_choice
from gfm_objectives.curation import curating, leakage
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.keep import Rules
from gfm_objectives.data import build_source
from gfm_objectives.data.footprints import joined, overlaps, square
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.splits import Splits, parse_splits
from gfm_objectives.errors import InputError, InputWarning

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


def home_of(parts: Splits) -> dict[str, str]:
    return {c: s for s in ("train", "val", "test") for c in parts.chips[s]}


RULES = {
    "location": {"by": "location", "km": 3},
    "random": {"by": "random"},
    "group": {"by": "group", "group": "{group}-*"},
}


@pytest.mark.parametrize("rule", RULES)
def test_ground_is_shared_across_utm_zones_dates_and_sizes(tmp_path: Path, rule: str):
    """Pairs on the seam of zones 32 and 33 (12 degrees east), each chip in the zone of its own; one place at three
    dates; a scene that holds small chips."""

    def utm(zone: int, x: float, y: float, side: float) -> np.ndarray:
        at = [(x, y), (x + side, y), (x + side, y - side), (x, y - side)]
        lon, lat = transform(f"EPSG:326{zone}", "EPSG:4326", *zip(*at, strict=True))
        return np.stack([lon, lat], 1)

    where, together = {}, []
    for i in range(12):
        lat = 40.0 + 0.3 * i
        (x,), (y,) = transform("EPSG:4326", "EPSG:32632", [11.99], [lat])
        west = utm(32, x, y, 2560)
        (x,), (y,) = transform("EPSG:4326", "EPSG:32633", [12.01], [lat])
        where |= {f"w{i:02d}-a": west, f"e{i:02d}-a": utm(33, x - 1000, y, 2560)}
        together.append((f"w{i:02d}-a", f"e{i:02d}-a"))
        dates = [f"{d}{i:02d}-b" for d in ("june", "july", "may")]
        where |= dict.fromkeys(dates, square(np.array([[20.0, lat]]), 1280, 1280))
        together += [(dates[0], d) for d in dates[1:]]
    scene = square(np.array([[50.0, 10.0]]), 20_000, 20_000)
    inside = {f"s{i}-c": square(np.array([[49.93 + 0.04 * i, 10.0]]), 640, 640) for i in range(4)}
    where |= {"scene-c": scene, **inside}
    together += [("scene-c", chip) for chip in inside]
    names = list(where)
    parts = split(tmp_path, RULES[rule], names, where.get)
    home = home_of(parts)
    assert all(home[a] == home[b] for a, b in together) and {*home.values()} == {"train", "val", "test"}
    assert home_of(split(tmp_path, RULES[rule], names[::-1], where.get)) == home  # whatever the order
    areas = {c: a for s in SPLITS for c, a in zip(parts.chips[s], parts.areas[s], strict=True)}
    if rule != "random":  # whose areas are those of before
        assert all(areas[a] == areas[b] for a, b in together)


def test_equal_footprints_and_chips_that_touch(tmp_path: Path):
    box = square(np.array([[5.0, 50.0]]), 1000, 1000)
    east = box + np.array([box[1, 0] - box[0, 0], 0])  # touches it
    found = overlaps([box, east, None, box, box[:1], box + 1e-3, box])
    assert (0, 1) not in found and {(0, 3), (0, 6), (0, 5)} <= {*found} and not any({2, 4} & {*p} for p in found)
    assert joined(list("gfedcba"), [(0, 3), (3, 6)]) == {
        "g": "a",
        "f": "f",
        "e": "e",
        "d": "a",
        "c": "c",
        "b": "b",
        "a": "a",
    }


def test_of_a_hundred_thousand_chips_few_pairs_are_looked_at(monkeypatch):
    looked = []

    class Counted(scipy.spatial.cKDTree):
        def sparse_distance_matrix(self, other, far, **kwargs):
            looked.append(int(self.count_neighbors(other, far)))
            assert looked[-1] < 2e6, "of 1e10"
            return super().sparse_distance_matrix(other, far, **kwargs)

    monkeypatch.setattr(scipy.spatial, "cKDTree", Counted)
    at = np.stack(np.meshgrid(0.03 * np.arange(320), 40 + 0.02 * np.arange(313)), -1).reshape(-1, 1, 2)
    outlines = [square(p, 2560, 2560) for p in at]  # next to each other: of a row apart, of a column they overlap
    found = overlaps([*outlines, square(np.array([[4.0, 43.0]]), 100_000, 100_000)])
    assert len(found) > 90_000 and sum(looked) > len(found), looked


def test_chips_that_only_a_table_places_are_joined_by_their_size(tmp_path: Path):
    """Blocks of 10 km alone would put neighbours that overlap on both sides of a border."""
    chips = [f"c{i:02d}" for i in range(40)]
    step = 9.995 / 111.2 / 2  # pairs around the borders of blocks, 2 km apart or so
    rows = [f"{c},{step * 4 * (i // 2) + (0.004 if i % 2 else -0.004)},5" for i, c in enumerate(chips)]
    (tmp_path / "t.csv").write_text("\n".join(["chip,x,y", *rows]))
    block = {"by": "location", "file": "t.csv", "lon": "x", "lat": "y"}

    def apart(side: float) -> int:
        home = home_of(parse_splits(tmp_path, block, chips, nowhere, None, lambda chip: (side, side)))
        return sum(home[chips[i]] != home[chips[i + 1]] for i in range(0, 40, 2))

    assert apart(1280) == 0 < apart(100)


PAIRS = [("rome_000", "oslo_001"), ("lima_000", "lima_002"), ("lima_000", "elsewhere")]


@pytest.mark.parametrize("rule", [{"by": "random"}, {"by": "group", "group": "{group}_*"}], ids=["random", "group"])
def test_chips_of_a_table_of_pairs_stay_together(tmp_path: Path, rule: dict[str, Any]):
    names = [*NAMES, *(f"t{i}_0" for i in range(20))]
    pairs = [*PAIRS, ("t0_0", "t1_0"), ("t1_0", "t2_0"), ("t3_0", "t9_0")]
    (tmp_path / "p.csv").write_text("chip_a,chip_b\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    parts = split(tmp_path, {**rule, "overlaps": "p.csv"}, names)
    home = home_of(parts)
    assert all(home[a] == home[b] for a, b in pairs if b in home) and len(home) == len(names)
    areas = {c: a for s in SPLITS for c, a in zip(parts.chips[s], parts.areas[s], strict=True)}
    assert rule["by"] == "random" or areas["rome_003"] == areas["oslo_004"]
    assert "overlap stay together" in parts.rule


def test_a_table_of_pairs_refuses_a_column_that_parts_them(tmp_path: Path):
    (tmp_path / "t.csv").write_text("chip,split\na,train\nb,test\nc,val\n")
    (tmp_path / "p.csv").write_text("chip_a,chip_b\nb,a\n")
    block = {"file": "t.csv", "overlaps": "p.csv"}
    with pytest.raises(InputError, match=r"t\.csv: b \(test\) and a \(train\) overlap on the ground, a leak"):
        split(tmp_path, block, ["a", "b", "c"])
    with pytest.raises(InputError, match=r"overlaps=q\.csv: choose allow, or a table of pairs; there is no .*q\.csv"):
        split(tmp_path, {**block, "overlaps": "q.csv"}, ["a", "b", "c"])
    (tmp_path / "p.csv").write_text("chip_a,chip_b\nx,y\n")
    with pytest.warns(InputWarning, match=r"p\.csv: none of its pairs is of these chips \(x, y; here a\)"):
        split(tmp_path, block, ["a", "b", "c"])


def test_an_area_too_large_for_the_shares_is_told_in_one_line(tmp_path: Path):
    names = [f"big_{i}" for i in range(90)] + [f"t{i}_0" for i in range(10)]
    with pytest.warns(
        InputWarning, match="one area is 90 of 100 chips .* is not divided: train 90%, .* train 60%"
    ) as told:
        split(tmp_path, {"by": "group", "group": "{group}_*"}, names)
    assert len(told) == 1 and "\n" not in str(told[0].message)


def test_what_curation_finds_is_what_splits_read(tmp_path: Path):
    scene = ground(3)
    places = Scenes(torch.cat([strangers(6), windows(scene, [(40, 40), (40, 60)])]))
    found = curating.curate(places, Limits(), Rules())
    curating.write_pairs(found.pairs, places, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("6,7,0,20,")
    names = places.names()
    for seed in range(8):
        home = home_of(split(tmp_path, {"by": "random", "overlaps": "p.csv", "seed": seed}, names))
        assert home["6"] == home["7"]


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


real = pytest.mark.skipif(
    "GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real hls_water chips are absent"
)
WANTED = {"train": 175, "val": 54, "test": 77}


@real
def test_hls_water_can_be_split_at_random_to_see_the_leak():
    by_area, at_random = (load_choice("task", name)["data"] for name in ("hls_water", "hls_water_random"))
    touched = []
    for options in (by_area, at_random):
        sources = {s: build_source(options, s) for s in ("train", "val", "test")}
        sizes = {s: len(v) for s, v in sources.items()}
        assert sum(sizes.values()) == 306 and all(abs(sizes[s] - n) < 10 for s, n in WANTED.items()), sizes
        (leak,) = leakage.leaks("train", sources["train"], {"test": sources["test"]})
        touched.append(leak.touched)
    assert touched[0] == 0 < 40 < touched[1]


@real
def test_the_split_hls_water_came_with_leaks_and_is_refused():
    options = load_choice("data", "hls_water")
    former = {**options["splits"], "by": "column"}
    with pytest.raises(InputError, match="overlap on the ground, a leak"):
        build_source({**options, "splits": former}, "train")
    allowed = {**options, "splits": {**former, "overlaps": "allow"}}
    train, test = (build_source(allowed, s) for s in ("train", "test"))
    (leak,) = leakage.leaks("train", train, {"test": test})
    assert (leak.touched, leak.copies, len(test)) == (33, 12, 77)
