"""Real crops of GEO-Bench-2, as tacoreader gives them, put back into their makers' layout: our readers give the same
values, and no guard has anything to say of them.

tacoreader below 1 reads these files: uv run --with 'tacoreader<1' pytest tests/test_tortillas.py
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import save, write_tif

from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.guards import doubts
from gfm_objectives.data.source import Source
from gfm_objectives.data.torchgeo.files import day, table_of
from gfm_objectives.errors import InputWarning
from gfm_objectives.sensors import S2_L1C, S2_TEN

S2_L2A = tuple(b for b in S2_L1C.band_names if b != "B10")
METRES = {"B01": 60, "B09": 60, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B11": 20, "B12": 20}
MONTHS = "September October November December January February March April May June July August".split()

taco = pytest.importorskip("tacoreader", reason="tacoreader<1 is not installed: no tortilla is read")
if int(taco.__version__.split(".")[0]) >= 1:
    pytest.skip(
        "tacoreader is 1 or later, which reads no tortilla: pip install 'tacoreader<1'", allow_module_level=True
    )

Parts = dict[str, np.ndarray]


@pytest.fixture
def crops(gfm_data):
    """name -> rows of (what the tortilla says of it, part -> array)."""

    def get(name: str, count: int = 99) -> list[tuple[dict[str, Any], Parts]]:
        table = taco.load(str(gfm_data / "formats" / "geobench2" / f"{name}.tortilla"))
        rows = []
        for i in range(min(count, len(table))):
            parts = table.read(i)
            names = parts["tortilla:id"].tolist()
            rows.append((table.iloc[i].to_dict(), {n: array(parts.read(j)) for j, n in enumerate(names)}))
        return rows

    return get


def array(subfile: str) -> np.ndarray:
    """Of /vsisubfile/<first byte>_<bytes>,<path>: a GeoTIFF, or HDF5 with one array."""
    import h5py
    import rasterio

    where, path = subfile.removeprefix("/vsisubfile/").split(",", 1)
    first, count = map(int, where.split("_"))
    with open(path, "rb") as file:
        file.seek(first)
        data = file.read(count)
    if data[:4] == b"\x89HDF":
        with h5py.File(io.BytesIO(data)) as file:
            return file["data"][...]
    with warnings.catch_warnings(), rasterio.open(io.BytesIO(data)) as file:
        warnings.simplefilter("ignore")
        return file.read()


def sound(root: Path, name: str, split: str, **options) -> Source:
    """The source; fails where a guard warns of these real pixels."""
    shipped = load_choice("data", name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tile is smaller", InputWarning)
        one = build_source({**shipped, "root": str(root), **options}, split)
    assert doubts([one.decode(k) for k in range(one.tiles())], one.row.name) == []
    return one


def test_pastis(crops, tmp_path):
    features, rows = [], crops("pastis")
    fold = {"train": 1, "validation": 4, "test": 5}
    for about, parts in rows:
        name, dates = about["patch_id"], {str(i): int(d) for i, d in enumerate(about["dates"])}
        for kind, part in (("S2", "s2"), ("S1A", "s1a"), ("S1D", "s1d")):
            save(tmp_path / f"DATA_{kind}" / f"{kind}_{name}.npy", parts[part])
        save(tmp_path / "ANNOTATIONS" / f"TARGET_{name}.npy", parts["semantic"])
        known = {f"dates-{kind}": dates for kind in ("S2", "S1A", "S1D")}
        known |= {"Fold": fold[about["tortilla:data_split"]], "ID_PATCH": name}
        features.append({"type": "Feature", "properties": known, "geometry": None})
    (tmp_path / "metadata.geojson").write_text(json.dumps({"features": features}))
    seen = 0
    for split in ("train", "val", "test"):
        one = sound(tmp_path, "pastis", split, sensors=["s2", "s1"], size=32)
        for k, name in enumerate(one.names()):
            about, parts = next(r for r in rows if r[0]["patch_id"] == name)
            tile, seen = one.decode(k), seen + 1
            s2, s1 = tile.sensors["s2"], tile.sensors["s1"]
            assert s2.bands == S2_TEN and np.array_equal((s2.x[0, :3] * 1e4).round(), parts["s2"])
            assert s2.day[0, :3].tolist() == [day(str(d)) for d in about["dates"]] and s2.valid[0, :3].all()
            assert np.array_equal(s1.x[0, 0:6:2], parts["s1a"][:, :2].astype(np.float32))  # both passes share days here
            assert np.array_equal(s1.x[0, 1:6:2], parts["s1d"][:, :2].astype(np.float32))
            crop = parts["semantic"][0].astype(int)
            assert np.array_equal(tile.targets["crop"][0], np.where(crop == 19, -1, crop))
    assert seen == len(rows) == 9


def test_biomassters(crops, tmp_path):
    rows = crops("biomassters", 2)
    for about, parts in rows:
        chip = next(iter(parts)).split("_")[0]
        about["chip"] = chip
        for name, x in parts.items():
            _, kind, *month = name.split("_")
            wide = np.tile(x, (1, 8, 8))  # crops of 32 pixels
            if kind == "AGBM":
                write_tif(tmp_path / "train_agbm" / f"{chip}_agbm.tif", wide)
            else:
                write_tif(tmp_path / "train_features" / f"{chip}_{kind}_{MONTHS.index(month[0]):02}.tif", wide)
    train = build_source({**load_choice("data", "biomassters"), "root": str(tmp_path), "dates": 12}, "train")
    assert doubts([train.decode(k) for k in range(train.tiles())], train.row.name) == []
    missing = 0
    for k, chip in enumerate(dict.fromkeys(train.names())):
        parts = next(p for a, p in rows if a["chip"] == chip)
        tile = train.decode(k)
        s2, s1 = tile.sensors["s2"], tile.sensors["s1"]
        for m, month in enumerate(MONTHS):
            radar = parts[f"{chip}_S1_{month}"]
            assert np.array_equal(s1.x[0, 2 * m : 2 * m + 2, :, :32, :32].flatten(0, 1), radar)  # VV, VH; VV, VH
            lacking = (radar[2:] == -9999).all()
            missing += lacking
            assert s1.valid[0, 2 * m + 1].any() != lacking
        there = [m for m in MONTHS if f"{chip}_S2_{m}" in parts]
        for t, month in enumerate(there):
            optical = parts[f"{chip}_S2_{month}"]
            assert np.array_equal((s2.x[0, t, :, :32, :32] * 1e4).round(), optical[:10])
            assert np.array_equal(s2.valid[0, t, :32, :32], (optical[10] <= 70) & (optical[:10] != 0).any(0))
        assert not s2.valid[0, len(there) :].any()
        assert np.array_equal(tile.targets["biomass"][0, :32, :32], parts[f"{chip}_AGBM"][0])
    assert missing  # the crops show passes that were not flown


def test_dynamic_earthnet(crops, tmp_path):
    rows, places = crops("dynamic_earthnet", 1), table_of("dynamic_earthnet.csv")
    seen = 0
    for about, parts in rows:
        month = about["original_id"].split("_")[-1]
        row = next(r for r in places if r["aoi"] == about["area_id"])
        cell = row["cell"]
        folder = tmp_path / "planet" / row["zone"] / cell / row["aoi"] / "PF-SR"
        for d in (1, 5, 10, 15, 20, 25):
            write_tif(folder / f"{month}-{d:02}.tif", np.tile(parts[f"planet_{d - 1}"], (1, 64, 64)))
        classes = np.tile(parts["label"][0].astype(int), (64, 64))
        where = tmp_path / "labels" / f"{row['aoi']}_{row['zone']}" / "Labels" / "Raster" / cell
        hot = (np.arange(7)[:, None, None] == classes).astype(np.uint8) * 255
        write_tif(where / f"{cell}-{month}-01.tif", hot, compress="deflate")
        one = sound(tmp_path, "dynamic_earthnet", row["split"])
        k = next(k for k, name in enumerate(one._reader.names) if name == f"{row['aoi']}_{month}")
        tile, seen = one.decode(k), seen + 1
        planet = tile.sensors["planet"]
        assert planet.bands == ("blue", "green", "red", "nir")
        for t, d in enumerate((1, 5, 10, 15, 20, 25)):
            assert np.array_equal((planet.x[0, t, :, :16, :16] * 1e4).round(), parts[f"planet_{d - 1}"])
            assert planet.day[0, t] == day(f"{month}-{d:02}")
        assert np.array_equal(tile.targets["land_cover"][0, :16, :16], np.where(classes == 6, -1, classes)[:16, :16])
    assert seen == 1


def test_spacenet7(crops, tmp_path):
    from rasterio.features import shapes

    rows, places = crops("spacenet7"), {r["aoi"]: r["split"] for r in table_of("spacenet7.csv")}
    buildings = 0
    for about, parts in rows:
        stem = about["source_img_file"].removesuffix(".tif")
        write_tif(tmp_path / "train" / about["aoi"] / "images_masked" / f"{stem}.tif", parts["images"])
        found = [g for g, value in shapes(parts["mask"][0], parts["mask"][0] > 0) if value]
        labels = tmp_path / "train" / about["aoi"] / "labels_match_pix" / about["source_mask_file"]
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(json.dumps({"features": [{"type": "Feature", "geometry": g} for g in found]}))
        one = sound(tmp_path, "spacenet7", places[about["aoi"]])
        tile = one.decode(list(dict.fromkeys(one.names())).index(stem))
        planet = tile.sensors["planet"]
        assert np.array_equal((planet.x[0, 0] * 255).round(), parts["images"][:3]) and planet.bands[0] == "red"
        assert planet.day[0, 0] == day(f"{about['year']}-{about['month']}-15")
        shown = parts["images"][3] == 255
        mask = parts["mask"][0].astype(int)
        assert np.array_equal(tile.targets["building"][0], np.where(shown, mask, -1))
        buildings += mask.sum()
    assert buildings > 1000


def test_bigearthnet(crops, tmp_path):
    """GEO-Bench-2 names the bands of its radar VV, VH, and holds VH, VV: the brighter one comes second."""
    import pandas as pd

    rows = crops("benv2", 5)
    table = []
    for about, parts in rows:
        patch = about["patch_id"]
        s1_name = f"S1A_IW_GRDH_1SDV_{patch.split('_')[2]}_{patch.split('_')[5][1:]}_{'_'.join(patch.split('_')[6:])}"
        for part, parent, name, folder in (
            ("s2", patch.rsplit("_", 2)[0], patch, "BigEarthNet-S2"),
            ("s1", s1_name.rsplit("_", 3)[0], s1_name, "BigEarthNet-S1"),
        ):
            for k, band in enumerate(S2_L2A if part == "s2" else ("VH", "VV")):
                step = METRES.get(band, 10) // 10
                write_tif(
                    tmp_path / folder / parent / name / f"{name}_{band}.tif", parts[part][k : k + 1, ::step, ::step]
                )
        codes = np.full((1, 120, 120), 211, np.uint16)
        write_tif(tmp_path / "Reference_Maps" / patch.rsplit("_", 2)[0] / patch / f"{patch}_reference_map.tif", codes)
        table.append({"patch_id": patch, "s1_name": s1_name, "split": "train", "labels": list(about["labels"])})
    pd.DataFrame(table).to_parquet(tmp_path / "metadata.parquet")
    shipped = load_choice("data", "bigearthnet") | {"root": str(tmp_path), "sensors": ["s2", "s1"], "map": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(rise and fall)", InputWarning)  # one is sea
        one = build_source(shipped, "train")
    names = list(one._reader._set.class_set)  # of which the legend's are short for
    for k, name in enumerate(one.names()):
        about, parts = next(r for r in rows if r[0]["patch_id"] == name)
        tile = one.decode(k)
        s2, s1 = tile.sensors["s2"], tile.sensors["s1"]
        for i, band in enumerate(S2_L2A):
            step = METRES.get(band, 10) // 10
            ours = (s2.x[0, 0, s2.bands.index(band), ::step, ::step] * 1e4).round()
            assert np.array_equal(ours, parts["s2"][i, ::step, ::step])
        assert np.array_equal(s1.x[0, 0].flip(0), parts["s1"]) and s1.x[0, 0, 0].mean() > s1.x[0, 0, 1].mean() + 3
        assert s2.day[0, 0] == day(name.split("_")[2][:8])
        assert {names[i] for i in tile.targets["labels"][0].nonzero()[:, 0]} == set(about["labels"])
    assert len(one) == 5
