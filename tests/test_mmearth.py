"""MMEarth by its files: band order, processing levels, both passes of s1, maps and no data; faults; it trains."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NANO

from gfm_objectives import config, pretrain
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.mmearth import BANDS, S2_BANDS, STORED
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, MIXED, S2_L1C, SENSORS, calibration

h5py = pytest.importorskip("h5py", reason="NOT TESTED: MMEarth; h5py is missing (pip install h5py)")

N, TILES = 16, 6
NAME = "data_1M_v001_64"
needs_data = pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: no MMEarth miniature")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiles, of levels l2a and l1c in turn; splits name rows out of order."""
    root = tmp_path_factory.mktemp("mmearth")
    (root / NAME).mkdir()
    row, column = np.mgrid[:N, :N]
    with h5py.File(root / NAME / f"{NAME}.h5", "w") as f:
        tile = np.arange(TILES)[:, None, None, None]
        s2 = 100 * tile + 10 * np.arange(13)[:, None, None] + row + column + 1  # tells tile, band and pixel
        s2[0, 4, 2, 2] = 0  # no data in one band of tile 0
        s2[::2, STORED.index("B10")] = 0  # Level-2A has no such band
        f["sentinel2"] = s2.astype(np.uint16)
        clouds = np.full((TILES, 1, N, N), 65535)
        clouds[1] = 0
        clouds[1, 0, 4, 4], clouds[1, 0, 4, 5] = 1 << 10, 1 << 3
        f["sentinel2_cloudmask"] = clouds.astype(np.uint16)
        scene = np.full((TILES, 1, N, N), 255)
        scene[0, 0, 6, 6:9] = 4, 3, 9  # vegetation, shadow, cloud
        f["sentinel2_scl"] = scene.astype(np.uint8)
        s1 = -8.0 - tile - np.arange(8)[:, None, None] + np.zeros((N, N))
        s1[3, 4:] = -np.inf  # tile 3 has no descending pass
        s1[:, [2, 3, 6, 7]] = -np.inf  # no HH and HV
        f["sentinel1"] = s1.astype(np.float32)
        height = np.stack([100 + 10 * row, 3 + 0 * row])[None].repeat(TILES, 0)
        height[2, 0, 0, 0] = -9999
        f["aster"] = height.astype(np.int16)
        f["esa_worldcover"] = np.choose((row + tile) % 4, (10, 80, 100, 255)).astype(np.uint8)
        f["dynamic_world"] = np.choose((column + tile) % 3, (0, 1, 9)).astype(np.uint8)
        canopy = np.stack([np.full((N, N), 31) - row, 2 + 0 * row]).astype(np.int16)[None].repeat(TILES, 0)
        canopy[:, 0, :9, 0] = 0, 1, 2, 3, 5, 6, 30, 31, 255
        f["canopy_height_eth"] = canopy.astype(np.uint8).view(np.int8)  # as torchgeo's sample, though 255 is no data
        names = np.array([(f"t{i}", "l1c" if i % 2 else "l2a") for i in range(TILES)], "S100,S10")
        f["metadata"] = names.astype([("tile_id", "S100"), ("S2_type", "S10")])
    splits = {"train": [3, 0, 1, 2], "val": [4], "test": []}
    (root / NAME / f"{NAME}_splits.json").write_text(json.dumps(splits))
    (root / NAME / f"{NAME}_tile_info.json").write_text(json.dumps({f"t{i}": about(i) for i in range(TILES)}))
    return root


def about(i: int) -> dict[str, Any]:
    return {
        "S2_DATE": f"2018-0{i + 1}-02",
        "S2_type": "l1c" if i % 2 else "l2a",
        "CRS": "EPSG:32721",
        "lat": 10.0 + i,
        "lon": -50.0 - i,
        "BANDS": {"sentinel2": ["B1", "B2"], "sentinel1_desc": None, "aster": ["b1", "slope"]},
    }


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "mmearth"))


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "mmearth", "root": str(root), **changes}


# ------------------------------------------------------------------------------------------------- what comes out


def test_each_level_is_scaled_by_its_own_figures_and_bands_are_sorted(template: Path) -> None:
    source = build_source(options(template), "train")
    batch = source.read([2, 3])  # tiles 1 (l1c) and 2 (l2a)
    s2 = batch.sensors["s2"]
    assert s2.x.shape == (2, 1, 12, N, N) and s2.x.dtype == torch.float32 and "B10" not in s2.bands
    row, column = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    for k, (tile, sensor) in enumerate([(1, S2_L1C), (2, SENSORS["s2"])]):
        alone = source.read([2 + k]).sensors["s2"]
        assert torch.equal(alone.x[0], s2.x[k]) and calibration("s2", alone.level) is sensor
        values = sensor.denormalise(s2.x[k, 0], S2_BANDS) * 1e4
        for c, band in enumerate(S2_BANDS):
            expected = (100 * tile + 10 * STORED.index(band) + row + column + 1).float()
            ok = s2.valid[k, 0]
            torch.testing.assert_close(values[c][ok], expected[ok], rtol=1e-4, atol=0.05)


def test_places_of_both_levels_come_in_the_order_asked_for(template: Path) -> None:
    source = build_source(options(template), "train")  # tiles 3, 0, 1, 2, of levels l1c and l2a in turn
    batch = source.read([2, 1, 0, 3])
    assert batch.sensors["s2"].level == MIXED == source.raw([2, 1]).sensors["s2"].level
    for k, i in enumerate([2, 1, 0, 3]):
        alone = source.read([i])
        assert all(torch.equal(alone.sensors[s].x[0], batch.sensors[s].x[k]) for s in BANDS)
        assert torch.equal(alone.targets["map"][0], batch.targets["map"][k])
    with pytest.raises(ValueError, match="sensor s2 has no level 'mixed'"):
        calibration("s2", MIXED)


def test_the_fingerprint_follows_labels_dates_and_the_sensor_table(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / NAME / f"{NAME}.h5"
    before = build_source(options(root), "train").fingerprint
    path.touch()
    assert build_source(options(root), "train").fingerprint == before
    with h5py.File(path, "r+") as file:
        file["esa_worldcover"][2] = 10  # a row of train
    inverted = build_source(options(root), "train").fingerprint
    monkeypatch.setitem(SENSORS, "dem", replace(SENSORS["dem"], gsd=31.0))
    other = build_source(options(root), "train").fingerprint
    monkeypatch.undo()
    info = root / NAME / f"{NAME}_tile_info.json"
    info.write_text(info.read_text().replace("2018-03-02", "2018-03-03"))
    assert len({before, inverted, other, build_source(options(root), "train").fingerprint}) == 4


def test_no_data_and_clouds_are_invalid(template: Path) -> None:
    valid = build_source(options(template), "train").read([1, 2, 3]).sensors["s2"].valid[:, 0]  # tiles 0, 1, 2
    assert (~valid).nonzero().tolist() == [[0, 2, 2], [0, 6, 7], [0, 6, 8], [1, 4, 4]]


def test_radar_has_both_passes_as_dates(template: Path) -> None:
    s1 = build_source(options(template), "train").read([0, 1]).sensors["s1"]  # tiles 3 and 0
    assert s1.x.shape == (2, 2, 2, N, N) and s1.bands == ("VV", "VH")
    assert s1.valid.flatten(2).all(2).tolist() == [[True, False], [True, True]] and (s1.x[0, 1] == 0).all()
    decibel = SENSORS["s1"].denormalise(s1.x[1], s1.bands)[..., 0, 0]
    torch.testing.assert_close(decibel, torch.tensor([[-8.0, -9.0], [-12.0, -13.0]]))


def test_height_is_relative(template: Path) -> None:
    dem = build_source(options(template), "train").read([3]).sensors["dem"]  # tile 2
    assert (~dem.valid).nonzero().tolist() == [[0, 0, 0, 0]] and dem.day.eq(0).all()
    torch.testing.assert_close(dem.x.sum(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(dem.x[0, 0, 0, 5] - dem.x[0, 0, 0, 4], torch.full((N,), 10 / 30))


@pytest.mark.parametrize(("map", "other"), [("worldcover", "dynamic_world"), ("dynamic_world", "worldcover")])
def test_either_map_may_be_the_map(template: Path, map: str, other: str) -> None:
    source = build_source(options(template, map=map), "train")
    targets = source.read([1]).targets  # tile 0
    assert source.spec.legends == {"map": LEGENDS[map], other: LEGENDS[other]}
    cover, dynamic = (targets["map" if map == name else name][0] for name in ("worldcover", "dynamic_world"))
    assert cover[:5, 0].tolist() == [0, 7, 10, -1, 0] and dynamic[0, :4].tolist() == [-1, 0, 8, -1]
    assert LEGENDS["dynamic_world"].classes[0] == "water" and len(LEGENDS["dynamic_world"]) == 9


def test_canopy_height_is_a_map_of_metres(template: Path) -> None:
    """Both maps keep their names beside it, and nothing else changes."""
    source = build_source(options(template, map="canopy_height"), "train")
    usual = build_source(options(template), "train")
    targets = source.read([1]).targets
    assert targets["map"][0, :9, 0].tolist() == [0, 1, 1, 2, 2, 3, 7, 8, -1]
    assert [source.spec.legends["map"].classes[i] for i in (0, 1, 8)] == ["no canopy", "1-2 m", "over 30 m"]
    assert torch.equal(targets["worldcover"], usual.read([1]).targets["map"])
    assert torch.equal(targets["dynamic_world"], usual.read([1]).targets["dynamic_world"])
    assert list(usual.spec.legends) == ["map", "dynamic_world"] and source.fingerprint != usual.fingerprint


def test_dates_places_and_splits_are_the_datasets(template: Path) -> None:
    source = build_source(options(template), "pretrain")
    batch = source.read(range(4))
    assert len(source) == 4 and batch.sensors["s2"].day[:, 0].tolist() == [6666, 6576, 6607, 6635]  # tiles 3, 0, 1, 2
    assert batch.sensors["s1"].day[0].tolist() == [6666, 6666]
    assert batch.lonlat is not None and batch.lonlat[0].tolist() == [-53, 13]
    assert build_source(options(template), "val").read([0]).lonlat.tolist() == [[-54, 14]]  # type: ignore[union-attr]
    with pytest.raises(InputError, match="the test split is empty; MMEarth is for pretraining"):
        build_source(options(template), "test")


def test_sensors_left_out_change_nothing_else(template: Path) -> None:
    whole, part = (build_source(options(template, sensors=s), "train") for s in (["s2", "s1", "dem"], ["s1"]))
    assert part.spec.bands == {"s1": BANDS["s1"]} and part.fingerprint != whole.fingerprint
    assert torch.equal(part.read([1]).sensors["s1"].x, whole.read([1]).sensors["s1"].x)


def test_an_open_source_goes_to_workers(template: Path) -> None:
    source = build_source(options(template), "train")
    here = source.read([2, 0])  # the file is open now
    there = pickle.loads(pickle.dumps(source)).read([2, 0])
    assert torch.equal(here.sensors["s2"].x, there.sensors["s2"].x)
    alone, worker = ([b.sensors["s1"].x for b in StepLoader(source, 2, seed=0, stop=2, workers=n)] for n in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(alone, worker, strict=True))


def test_a_forked_process_opens_the_file_anew(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it inherits shares one place in the file with its parent, and reads of the two would mix."""
    source = build_source(options(template), "train")
    here, inherited = source.read([2, 0]), source._file()
    assert source._file() is inherited, "a process opens it once"
    monkeypatch.setattr("gfm_objectives.data.mmearth.os.getpid", lambda: -1)  # as in a child
    there = source.read([2, 0])
    assert source._file() is not inherited
    inherited.close()  # and owes nothing to the parent's
    assert torch.equal(here.sensors["s2"].x, there.sensors["s2"].x)
    assert torch.equal(source.read([2, 0]).sensors["s1"].x, here.sensors["s1"].x)


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"root": "$NOT_SET/mmearth"}, "the environment variable NOT_SET is not set"),
        ({"root": "/nowhere"}, "no folder /nowhere"),
        ({"subset": "MMEarth100k"}, "data_100k_v001_splits.json: no such file; data.root must hold data_100k_v001"),
        ({"subset": "MMEarth32"}, "data.subset=MMEarth32: no such choice; choose from MMEarth, MMEarth64"),
        ({"sensors": ["s3"]}, "data.sensors=s3: no such choice; choose from s2, s1, dem"),
        ({"sensors": []}, "data.sensors: name at least one of s2, s1, dem"),
        ({"map": "corine"}, "data.map=corine: no such choice; choose from worldcover, dynamic_world"),
    ],
)
def test_mistakes_are_told_in_one_line(template: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        build_source(options(template) | changes, "train")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_faults_of_files_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / NAME / f"{NAME}.h5"
    info = root / NAME / f"{NAME}_tile_info.json"
    kept = info.read_text()
    info.write_text(json.dumps({f"t{i}": about(i) for i in (0, 1, 2)}))
    with pytest.raises(InputError, match=f"tile_info.json: lacks 1 tiles of {NAME}.h5; download both again"):
        build_source(options(root), "train")
    info.write_text(kept)
    (root / NAME / f"{NAME}_splits.json").write_text('{"train": [0, 6]}')
    with pytest.raises(InputError, match=r"splits.json: names row 6, but the .h5 file beside it has 6"):
        build_source(options(root), "train")
    with h5py.File(path, "a") as f:
        del f["aster"]
    with pytest.raises(InputError, match=r"h5: holds no aster; it has canopy_height_eth, dynamic_world, "):
        build_source(options(root), "train")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match=r"h5: cannot be read, truncated or no HDF5"):
        build_source(options(root), "train")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs h5py; install it: pip install h5py, or uv run --extra mmearth"):
        build_source(options(root), "train")


def rewritten(root: Path, name: str, change: Any) -> None:
    with h5py.File(root / NAME / f"{NAME}.h5", "a") as f:
        values = change(f[name][:])
        del f[name]
        f[name] = values


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sentinel2", lambda x: x[:, :12], r"sentinel2 is \(6, 12, 16, 16\), not \(6, 13, 16, 16\): places, channels"),
        ("sentinel1", lambda x: x[:3], r"sentinel1 is \(3, 8, 16, 16\), not \(6, 8, 16, 16\)"),
        ("sentinel2_scl", lambda x: x[..., :8, :8], r"sentinel2_scl is \(6, 1, 8, 8\), not \(6, 1, 16, 16\)"),
        ("esa_worldcover", lambda x: x[:, 0], r"esa_worldcover is \(6, 16, 16\), not \(6, 1, 16, 16\)"),
        ("sentinel2_cloudmask", lambda x: x.astype(np.float32), "sentinel2_cloudmask holds float32, no whole numbers"),
        ("metadata", lambda x: np.arange(6), "its metadata have no fields"),
    ],
)
def test_arrays_that_are_not_what_they_are_taken_for_are_refused(root: Path, name: str, change: Any, says: str) -> None:
    rewritten(root, name, change)
    with pytest.raises(InputError, match=says):
        build_source(options(root), "train")


@pytest.mark.parametrize(
    ("rows", "says"), [([-1, 0], "-1 is no row"), ([0.5], "0.5 is no row"), ([True], "True is"), ([0, 1, 0], "twice")]
)
def test_a_split_names_rows_once(root: Path, rows: list[Any], says: str) -> None:
    (root / NAME / f"{NAME}_splits.json").write_text(json.dumps({"train": rows}))
    with pytest.raises(InputError, match=f"splits.json: damaged .*{says}"):
        build_source(options(root), "train")


@pytest.mark.parametrize(
    "wrong",
    [{"S2_type": "L3"}, {"S2_type": None}, {"S2_DATE": None}, {"S2_DATE": "2018-13-01"}, {"lat": None}, {"lat": 95.0}],
)
def test_a_tile_says_its_day_level_and_place(root: Path, wrong: dict[str, Any]) -> None:
    info = root / NAME / f"{NAME}_tile_info.json"
    info.write_text(json.dumps({f"t{i}": about(i) | (wrong if i == 0 else {}) for i in range(TILES)}))
    with pytest.raises(InputError, match=r"tile_info.json: damaged"):
        build_source(options(root), "train")
    info.write_text("[1]")
    with pytest.raises(InputError, match=r"damaged .it holds no tiles by name"):
        build_source(options(root), "train")


def test_other_spellings_and_types_are_read_rightly(root: Path) -> None:
    """Levels in capitals; heights with NaN; flags and codes in other types."""
    plain = build_source(options(root), "train").raw([0, 1, 2, 3])
    info = root / NAME / f"{NAME}_tile_info.json"
    info.write_text(info.read_text().replace('"l1c"', '"L1C"'))

    def height(x: np.ndarray) -> np.ndarray:
        return np.where(x == -9999, np.nan, x).astype(np.float32)

    rewritten(root, "aster", height)
    rewritten(root, "sentinel2_cloudmask", lambda x: x.astype(np.uint16).view(np.int16))  # -1 = not known
    rewritten(root, "esa_worldcover", lambda x: np.where(x == 255, 266, x.astype(np.int16)))  # 266 is no 10
    raw = build_source(options(root), "train").raw([0, 1, 2, 3])
    for name, series in raw.sensors.items():
        assert torch.equal(series.valid, plain.sensors[name].valid) and series.level == plain.sensors[name].level
    assert torch.equal(raw.targets["map"], plain.targets["map"]) and raw.sensors["s2"].level == MIXED


def test_what_is_damaged_inside_is_one_line(root: Path) -> None:
    path = root / NAME / f"{NAME}.h5"
    with h5py.File(path, "a") as f:
        x = f["sentinel1"][:]
        del f["sentinel1"]
        at = f.create_dataset("sentinel1", data=x, chunks=x[:1].shape, compression="gzip").id.get_chunk_info(0)
    path.write_bytes(path.read_bytes().replace(path.read_bytes()[at.byte_offset :][:50], bytes(50)))
    with pytest.raises(InputError, match=r"h5: sentinel1 cannot be read, damaged\?"):
        build_source(options(root), "train").read([1])


@pytest.mark.slow  # a fresh interpreter with all of the trainer
def test_synthetic_training_loads_no_reader_of_files() -> None:
    code = (
        "import sys, gfm_objectives; from gfm_objectives.data import build_source; import gfm_objectives.pretrain\n"
        "build_source({'name': 'synthetic', 'size': 16, 'dates': 1}, 'train').read([0])\n"
        "print([m for m in ('torchgeo', 'h5py', 'rasterio', 'requests', 'geopandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------- training


@needs_data
def test_masked_seg_trains_on_the_miniature(tmp_path: Path) -> None:
    assert load_choice("data", "mmearth")["root"].startswith("$GFM_DATA")
    small = [f"encoder.{k}={v}" for k, v in NANO.items() if k != "name"]
    words = ["objective=masked_seg", "data=mmearth", f"runs={tmp_path}", "name=demo", "budget.flops=9e10"]
    rest = ["optim.batch_size=2", "loader.workers=0", "threads=1", "device=cpu"]
    (cfg,) = config.compose("train", [*small, *words, *rest])
    ledger = json.loads((pretrain.run(cfg) / "ledger.json").read_text())
    assert ledger["samples"] >= 100 and abs(ledger["flops_spent"] / 9e10 - 1) < 0.01
