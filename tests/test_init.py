"""gfm init: the layouts people have become a yaml that reads them; what was guessed is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio import Affine
from test_chips import write_tiff

from gfm_objectives import cli
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.inspection.grouping import find, groups

RNG = np.random.default_rng(0)


def tif(path: Path, values: np.ndarray, x: float = 5e5, y: float = 5e6, step: float = 10.0, **more: Any) -> None:
    place = {"crs": "EPSG:32633", "transform": Affine(step, 0, x, 0, -step, y)}
    write_tiff(path, values if values.ndim == 3 else values[None], **(place | more))


def init(root: Path, capsys: Any, *words: str) -> tuple[dict[str, Any], str]:
    """(options of the yaml, what was said)"""
    assert cli.main(["init", str(root), *words]) == 0, capsys.readouterr().err
    return load_choice("data", f"./{root.name}.yaml"), capsys.readouterr().out


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_pictures_and_masks_with_a_palette(tmp_path: Path, capsys: Any):
    root = tmp_path / "fields"
    (root / "masks").mkdir(parents=True)
    (root / "images").mkdir()
    for i in range(20):
        Image.fromarray(RNG.integers(1, 255, (64, 64, 3)).astype(np.uint8)).save(root / f"images/img_{i:02d}.png")
        mask = Image.fromarray(RNG.choice([0, 1, 3], (64, 64)).astype(np.uint8), "P")
        mask.putpalette(bytes([10, 20, 30, 40, 50, 60, 0, 0, 0, 70, 80, 90]))
        mask.save(root / f"masks/mask_{i:02d}.png")
    options, said = init(root, capsys)
    assert options["sensors"]["optical"]["file"] == "images/img_{chip}.png"
    label = options["layers"]["label"]
    assert label["codes"] == [0, 1, 3] and label["colors"] == ["#0a141e", "#28323c", "#46505a"]
    assert "by hand:" in said and "gsd: files are not georeferenced" in said and "\n  gfm inspect fields.yaml\n" in said
    source = build_source(options, "train")
    batch = source.read([0])
    assert batch.sensors["optical"].bands == ("red", "green", "blue") and abs(batch.sensors["optical"].x.mean()) < 0.2
    task = load_choice("task", "./fields_task.yaml")
    assert build_source(task["data"], "test").read([0]).targets["label"].unique().tolist() == [0, 1, 2]
    assert cli.main(["init", str(root)]) == 2 and "is there already" in capsys.readouterr().err


def test_a_folder_for_each_place_with_dates_and_names_of_bands(tmp_path: Path, capsys: Any):
    import rasterio

    root = tmp_path / "places"
    for i in range(16):
        for month in (4, 7):
            path = root / f"p{i:02d}/s2_2020-0{month}-01.tif"
            tif(path, RNG.integers(1200, 4000, (3, 40, 50)).astype(np.uint16), 5e5 + 6000 * i)
            with rasterio.open(path, "r+") as file:
                file.descriptions = ("B08", "B04", "B03")
        tif(root / f"p{i:02d}/label.tif", RNG.choice([0, 1, 255], (40, 50)).astype(np.uint8), 5e5 + 6000 * i)
    options, said = init(root, capsys)
    s2 = options["sensors"]["s2"]
    assert s2["file"] == "{chip}/s2_{date}.tif" and s2["bands"] == {"B03": 3, "B04": 2, "B08": 1}
    assert (s2["scale"], s2["offset"], options["gsd"], options["layers"]["label"]["ignore"]) == (1e-4, -0.1, 10.0, 255)
    assert options["splits"]["by"] == "location" and "baseline 04.00" in said
    sources = {s: build_source(options, s) for s in ("train", "val", "test")}
    assert sum(source.tiles() for source in sources.values()) == 16 and sources["train"].spec.dates == {"s2": 2}


def test_one_scene_with_polygons(tmp_path: Path, capsys: Any):
    import geopandas
    import rasterio
    from shapely.geometry import box

    root = tmp_path / "farm"
    scene = RNG.integers(100, 4000, (4, 1300, 1500)).astype(np.uint16)
    scene[:, :, :40] = 0  # the edge of the swath, far from the middle
    tif(root / "scene.tif", scene)
    with rasterio.open(root / "scene.tif", "r+") as file:
        file.descriptions = ("blue", "green", "red", "nir")  # which any sensor may have: this is no hls
    parcels = [box(5e5 + 1000 * i, 5e6 - 1000 * j - 900, 5e5 + 1000 * i + 900, 5e6 - 1000 * j)
               for i in range(15) for j in range(13)]  # fmt: skip
    crops = [("wheat", "maize", "grass")[k % 3] for k in range(len(parcels))]
    crops[0] = None  # a field nobody visited
    table = geopandas.GeoDataFrame({"crop": crops, "id": range(len(parcels))}, geometry=parcels, crs="EPSG:32633")
    table.to_crs("EPSG:4326").to_file(root / "fields.gpkg")
    options, said = init(root, capsys, "attribute=crop")
    assert options["layers"]["label"]["classes"] == ["grass", "maize", "wheat"] and options["tile"] == 512
    assert [*options["sensors"]] == ["optical"] and options["size"] == 128
    assert options["sensors"]["optical"]["nodata"] == {"value": 0, "when": "all"}
    assert "1 polygons whose crop is empty are not drawn" in said and "the polygon that covers their centre" in said
    sources = {s: build_source(options, s) for s in ("train", "val", "test")}
    assert {s: source.tiles() > 0 for s, source in sources.items()} == dict.fromkeys(sources, True)
    assert sum(source.tiles() for source in sources.values()) == 9
    y = sources["train"].tile(0).targets["label"]
    assert 0.75 < (y >= 0).float().mean() < 0.87 and y.unique().tolist() == [-1, 0, 1, 2]  # 90 % of each side
    assert cli.main(["init", str(root), "attribute=kind", "out=other.yaml"]) == 2
    assert "attribute=kind: fields.gpkg has no such column; it has crop, id" in capsys.readouterr().err


def test_tables_of_splits_and_of_pairs_are_used(tmp_path: Path, capsys: Any):
    root = tmp_path / "ponds"
    (root / "labels").mkdir(parents=True)
    rows = ["chip,area,split", *(f"p{i:02d},{i // 2},{('train', 'val', 'test')[i // 2 % 3]}" for i in range(12))]
    for i in range(12):
        (root / "images").mkdir(exist_ok=True)
        np.save(root / f"images/p{i:02d}.npy", RNG.integers(1, 4000, (4, 32, 32)).astype(np.uint16))
        Image.fromarray(RNG.integers(0, 2, (32, 32)).astype(np.uint8)).save(root / f"labels/p{i:02d}.png")
    (root / "split.csv").write_text("\n".join(rows))
    (root / "pairs.csv").write_text("chip_a,chip_b,overlap\np00,p01,0.4\n")
    (root / "other.csv").write_text("chip_a,chip_b\nq00,q01\n")
    options, said = init(root, capsys)
    wanted = {"by": "column", "file": "split.csv", "id": "chip", "column": "split", "group": "area",
              "values": {"train": "train", "val": "val", "test": "test"}, "overlaps": "pairs.csv"}  # fmt: skip
    assert options["splits"] == wanted and "pairs.csv names chips that share ground" in said
    assert build_source(options, "val").names() == ["p02", "p03", "p08", "p09"]


LAYOUTS = {
    "suffixes": (["a/{}_merged.tif", "a/{}.mask.tif"], ["a/{chip}.mask.tif", "a/{chip}_merged.tif"]),
    "prefixes": (["i/img_{}.tif", "m/mask_{}.png"], ["i/img_{chip}.tif", "m/mask_{chip}.png"]),
    "words": (["x/ev_{}_pre_dis.png", "x/ev_{}_post_dis.png", "m/ev_{}.png"],
              ["m/{chip}.png", "x/{chip}_{date}_dis.png"]),
    "months": (["f/{}_S1_00.tif", "f/{}_S1_01.tif", "f/{}_S1_11.tif"], ["f/{chip}_S1_{date}.tif"]),
    "kinds": (["DEM/{}_3.tif", "S2L2A/{}_3.tif", "LULC/{}_3.tif"],
              ["DEM/{chip}.tif", "LULC/{chip}.tif", "S2L2A/{chip}.tif"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_files_become_patterns(tmp_path: Path, layout: str):
    names, patterns = LAYOUTS[layout]
    for chip in ("t01", "t02", "t05", "t17"):
        for name in names:
            path = tmp_path / name.format(chip)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    made = groups(tmp_path, find(tmp_path)[0])
    assert sorted(g.pattern for g in made) == patterns
    assert {len(g.chips) for g in made} == {4}


def test_kinds_of_file_that_show_no_pixel_are_told(tmp_path: Path, capsys: Any):
    root = tmp_path / "mixed"
    for i in range(4):
        tif(root / f"s2/a{i}.tif", RNG.integers(1, 4000, (4, 32, 32)).astype(np.uint16), 5e5 + 9e4 * i)
        tif(root / f"sar/a{i}.tif", np.full((2, 32, 32), -9999, np.float32), 5e5 + 9e4 * i, nodata=-9999)
        (root / "dem").mkdir(exist_ok=True)
        (root / f"dem/a{i}.tif").write_text("no raster")
    options, said = init(root, capsys)
    assert [*options["sensors"]] == ["s2"]
    assert said.count("left out, as no pixel of it can be read (4 chips)") == 2
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.tif").write_text("no raster")
    assert cli.main(["init", "none"]) == 2 and "no pixel of it can be read" in capsys.readouterr().err


def test_no_data_is_no_value_to_guess_by(tmp_path: Path, capsys: Any):
    """A radar in 8 bits filled with -9999 holds no decibels; baseline 04.00 no low value, but for an empty edge."""
    root = tmp_path / "sea"
    for i in range(4):
        radar, optical = RNG.integers(0, 255, (1, 40, 40)).astype(np.int16), RNG.integers(1200, 4000, (10, 40, 40))
        radar[:, :8], optical[:, :8] = -9999, 0
        tif(root / f"sar/a{i}.tif", radar, 5e5 + 9e4 * i, nodata=-9999)
        tif(root / f"s2/a{i}.tif", optical.astype(np.uint16), 5e5 + 9e4 * i, nodata=0)
    options, said = init(root, capsys)
    assert "no value is negative, so these are no decibels" in said and options["sensors"]["s2"]["offset"] == -0.1


def test_faults_of_the_command(tmp_path: Path, capsys: Any):
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["no/such"], "no/such: no such folder"),
        (["empty"], "holds no raster that can be read"),
        (["empty", "attribut=crop"], "attribut: no such key; choose from out, attribute"),
        (["empty", "out=x.txt"], "expected a name that ends in .yaml"),
        (["empty", "also"], "expected one folder, got empty, also"),
    ):
        assert cli.main(["init", *words]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["init", "--help"]) == 0 and "gfm init FOLDER" in capsys.readouterr().out


@pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real folders are absent")
@pytest.mark.parametrize("folder", ["multi_sensor", "formats/real/biomassters"])
def test_real_folders_are_drafted_and_read(folder: str, capsys: Any):
    options, _ = init(Path(os.environ["GFM_DATA"]).resolve() / folder, capsys)
    if "biomass" in folder:  # a pass that these two chips have in every month may lack elsewhere
        assert {name: options["sensors"][name].get("nodata") for name in ("s1", "s1_desc")} == dict.fromkeys(
            ("s1", "s1_desc"), -9999
        )
    build_source(options | {"skip": ["missing"]}, "pretrain" if "biomass" in folder else "train").read([0])


def test_a_folder_that_cannot_be_split_is_told_and_its_commands_can_be_typed(tmp_path: Path, capsys: Any):
    """Four dates of one place, called chips; and a name with a space."""
    root = tmp_path / "my chips"
    x = np.random.default_rng(0).integers(300, 3000, (4, 64, 64)).astype(np.int16)
    x[2, :3] = -9999
    for k in range(4):
        tif(root / "i" / f"c{k}.tif", np.roll(x, k, 2))
    options, said = init(root, capsys)
    assert "splits" not in options and "splits: the chips are 1 areas, as they overlap" in said
    assert "gfm inspect 'my chips.yaml'" in said and "gfm train 'data=my chips.yaml'" in said
    assert len(build_source(options, "pretrain")) == 4


@pytest.mark.parametrize(
    ("declared", "fill", "drafted"), [(None, -32767, -32767), (7, -32767, [7, -32767]), (None, 32767, None)]
)
def test_a_fill_in_few_files_is_found(tmp_path: Path, capsys: Any, declared: int, fill: int, drafted: Any):
    """In one of sixty, in one band; the first look into twelve may miss it. What may be a bright pixel is only told."""
    root = tmp_path / "fills"
    rng = np.random.default_rng(0)
    for k in range(60):
        x = rng.integers(100, 300, (2, 32, 32)).astype(np.int16)
        x[1, :3] = fill if k == 33 else x[1, :3]
        x[:, -1] = 7
        tif(root / f"c{k:02}.tif", x, x=5e5 + 5000 * k, **({} if declared is None else {"nodata": declared}))
    options, said = init(root, capsys)
    assert f"optical: band 2: {fill} in 1 of 60 files lies far from all other values, and no file declares it" in said
    assert options["sensors"]["optical"].get("nodata") == drafted
    assert ("it is taken for no data" in said, f"`nodata: {fill}`" in said) == (drafted is not None, drafted is None)


def test_bands_that_measure_nothing_or_hide_what_others_do_are_left_out(tmp_path: Path, capsys: Any):
    """Of six: reflectance, height, a class, reflectance, how often there is water, and a height that the sea lacks."""
    root = tmp_path / "mixed"
    for k in range(12):
        x = RNG.integers(100, 9000, (6, 32, 32)).astype(np.int16)
        x[1], x[2] = RNG.integers(0, 100, (32, 32)), RNG.choice([10, 20, 80], (32, 32))
        x[1, :12] = 0  # the sea: fewer than half
        x[4] = RNG.integers(0, 112, (32, 32)) * (RNG.random((32, 32)) > 0.7)
        x[5, :12] = -9999 if k == 3 else x[5, :12] // 90
        tif(root / f"c{k:02}.tif", x, x=5e5 + 5000 * k)
    options, said = init(root, capsys)
    optical = options["sensors"]["optical"]
    assert optical["bands"] == {"band1": 1, "band2": 2, "band4": 4} and "nodata" not in optical
    assert "bands 3, 5 hold few whole numbers, or one for most pixels (quality, classes, cover?): left out, as" in said
    assert "band 6: -9999 in 1 of 12 files" in said and "left out, as `nodata: -9999` would hide what the other" in said
