"""Readers of data sets in their real layouts: bands, units, dates, splits, what is missing; stand-ins and files."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from layouts import MAKERS, write_tif

from gfm_objectives.batch import Batch
from gfm_objectives.cli import main
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.source import Source
from gfm_objectives.data.torchgeo import DATASETS, AbsentData
from gfm_objectives.data.torchgeo.files import deal, lines_of, read_tif, table_of
from gfm_objectives.data.torchgeo.table import TASKS
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.sensors import LEVELS, SENSORS, calibration

QUICK = [name for name in MAKERS if name not in ("dynamic_earthnet", "biomassters")]


def source(root: Path, name: str, split: str = "train", **options) -> Source:
    """As the shipped config has it. Stand-ins are small and odd, and that is warned of."""
    shipped = load_choice("data", name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(tile is smaller|medians|rise and fall|no valid pixel)", InputWarning)
        return build_source({**shipped, "root": str(root), **options}, split)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory):
    """Name -> folder of the stand-in, made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            MAKERS[name](made[name])
        return made[name]

    return get


def units(batch: Batch, sensor: str) -> torch.Tensor:
    """(T, C, H, W) of a raw batch of one."""
    return batch.sensors[sensor].x[0]


# ---------------------------------------------------------------- every row


@pytest.mark.parametrize("name", QUICK)
def test_splits_have_areas_of_their_own_and_reading_is_repeatable(name, stand_in):
    splits = {s: source(stand_in(name), name, s) for s in ("pretrain", "train", "val", "test")}
    areas = {s: set(each.tile_groups()) for s, each in splits.items()}
    assert areas["pretrain"] == areas["train"] and all(areas.values())
    if name != "sen1floods11":  # whose own lists share floods, as its note says
        assert not areas["train"] & areas["test"] and not areas["train"] & areas["val"]
    assert len({s.fingerprint for s in splits.values()}) == 4
    one = splits["train"]
    batch, row = one.read([0, len(one) - 1]), DATASETS[name]
    for sensor, series in batch.sensors.items():
        assert series.x.shape[1:3] == (one.spec.dates[sensor], len(row.sensors[sensor].bands))
        assert (
            series.x.isfinite().all()
            and series.valid.any()
            and (series.x[~series.valid[:, :, None].expand_as(series.x)] == 0).all()
        )
    for layer, legend in one.spec.legends.items():
        assert batch.targets[layer].min() >= -1 and batch.targets[layer].max() < len(legend)
    again = pickle.loads(pickle.dumps(one)).read([0, len(one) - 1])
    for sensor, series in batch.sensors.items():
        assert torch.equal(series.x, again.sensors[sensor].x) and torch.equal(series.valid, again.sensors[sensor].valid)


@pytest.mark.parametrize("row", DATASETS.values(), ids=lambda row: row.name)
def test_rows_name_known_bands_and_say_what_is_expected(row):
    for sensor, stored in row.sensors.items():
        assert (sensor, stored.level) in LEVELS or not stored.level
        calibration(sensor, stored.level).index(stored.bands)
    shipped = load_choice("data", row.name)
    assert shipped["name"] == row.name and shipped["size"] == row.size and shipped["license"] == row.license
    with pytest.raises(AbsentData, match=r"expected there: .*GB; to fetch: "):
        build_source({**shipped, "root": "/nowhere"}, "train")
    if row in TASKS:
        task = load_choice("task", row.name)
        assert task["layer"] in row.layers and row.name in load_choice("suite", "pangaea")["tasks"]


def test_options_are_checked(stand_in):
    root = stand_in("pastis")
    for options, match in (
        ({"sensors": ["s3"]}, r"data.sensors=s3: pastis has no such sensor; choose from s2, s1"),
        ({"dates": 0}, r"data.dates=0: expected"),
        ({"map": "landcover"}, r"data.map=landcover: pastis has the layers crop"),
        ({"bolivia": True}, r"data.bolivia: pastis has no such option; choose from .*folds"),
    ):
        with pytest.raises(InputError, match=match):
            source(root, "pastis", **options)
    assert source(root, "pastis", map="crop").spec.legends.keys() == {"map"}


# ---------------------------------------------------------------- what is special, one by one


def test_burn_scars_masks_every_kind_of_missing_and_knows_both_layouts(stand_in, tmp_path):
    root = stand_in("burn_scars")
    raw = source(root, "burn_scars").raw([0])
    valid = raw.sensors["hls"].valid[0, 0]
    assert valid[0, :4].tolist() == [False, False, False, True]  # -9999, 9999, NaN
    assert raw.targets["burn"][0, 1, :3].tolist() == [-1, 0, 1]
    assert raw.sensors["hls"].day[0, 0] == 6759  # day 185 of 2018
    tar = tmp_path / "tar"
    for split, half in (("train", "training"), ("val", "training"), ("test", "validation")):
        for key in (root / "splits" / f"{split}.txt").read_text().split():
            for path in (root / "data").glob(f"*{key}*"):
                (tar / half).mkdir(parents=True, exist_ok=True)
                (tar / half / path.name).symlink_to(path)
    assert source(tar, "burn_scars", "test").names() == source(root, "burn_scars", "test").names()
    train = source(tar, "burn_scars")
    assert len(train) + len(deal(["T10SEJ", "T10SFE", "T11SKU", "T13TCM", "T10TFP"], "val")) == 5


def test_burn_scar_lists_that_ship_are_the_published_ones():
    lists = {s: lines_of(f"burn_scars_{s}.txt") for s in ("train", "val", "test")}
    assert [len(keys) for keys in lists.values()] == [524, 160, 120]
    assert len({key for keys in lists.values() for key in keys}) == 804
    tiles = [{key.split(".")[0] for key in keys} for keys in lists.values()]
    shared = (tiles[0] & tiles[1]) | (tiles[0] & tiles[2]) | (tiles[1] & tiles[2])
    assert len(shared) == 75 and len(set.union(*tiles)) == 365  # as its note says


def test_mados_sorts_bands_by_wavelength_whatever_their_resolution(stand_in):
    raw = source(stand_in("mados"), "mados", size=240).raw([0])
    x = units(raw, "s2")[0]
    assert x[:, 100, 100].tolist() == pytest.approx([0.01 * k + 0.001 for k in range(11)])
    assert not raw.sensors["s2"].valid[0, 0, :6, :6].any() and raw.sensors["s2"].valid[0, 0, 6:].all()  # 60 m: NaN
    assert raw.targets["mados"][0, 0, :17].tolist() == [*range(-1, 15), -1]


def test_pastis_spreads_dates_and_fills_up_with_none(stand_in):
    one = source(stand_in("pastis"), "pastis", sensors=["s2", "s1"], dates=4)
    raw = one.raw(range(len(one)))
    s2 = raw.sensors["s2"]
    assert s2.valid[0, :, 0, 0].tolist() == [True, True, True, False]  # three dates
    assert (s2.x[4, :, 3, 0, 0] * 1e4).round().tolist() == [3, 203, 403, 603]  # 0, 2, 4, 6 of seven
    assert torch.equal(s2.day[4], s2.day[4].sort().values) and s2.day[4, 0] == 6821
    s1 = raw.sensors["s1"]
    assert s1.x.shape[1] == 8 and s1.valid[0, :, 0, 0].sum() == 3
    assert s1.x[0, :3, 0, 0, 0].tolist() == [-10, -12, -10]  # passes in order of time
    assert (raw.targets["crop"] == -1).any() and raw.targets["crop"].max() == 18
    assert (
        source(stand_in("pastis"), "pastis", folds={"train": [5], "val": [1], "test": [2]}).names()
        == source(stand_in("pastis"), "pastis", "test").names()
    )


def test_pastis_without_radar_says_so(tmp_path):
    layouts.pastis(tmp_path, radar=False)
    with pytest.raises(InputError, match="needs PASTIS-R"):
        source(tmp_path, "pastis", sensors=["s1"])


def test_sen1floods11_missing_radar_is_invalid_and_a_flood_is_held_out(stand_in):
    root = stand_in("sen1floods11")
    train = source(root, "sen1floods11")
    raw = train.raw([1])
    assert raw.sensors["s1"].valid[0, 0, 0, :3].tolist() == [True, False, True]  # NaN, and not 0 dB
    assert raw.sensors["s2"].valid[0, 0, 0, :3].tolist() == [
        False,
        True,
        True,
    ]  # cirrus is 0 everywhere, and that is right
    assert (raw.sensors["s1"].day[0, 0], raw.sensors["s2"].day[0, 0]) == (6791, 6790)  # Mekong is called Cambodia
    assert raw.targets["water"][0, 2, :3].tolist() == [-1, 0, 1]
    assert set(source(root, "sen1floods11", "test").tile_groups()) == {"Ghana", "Sri-Lanka"}
    held = source(root, "sen1floods11", "test", bolivia=True)
    assert held.tile_groups() == ["Bolivia_103757", "Bolivia_129334"]


def test_five_billion_pixels_keeps_stored_colours(stand_in):
    one = source(stand_in("five_billion_pixels"), "five_billion_pixels")
    raw = one.raw([0])
    assert (units(raw, "gf2")[0, :, 5, 5] * 255).round().tolist() == [200, 100, 90, 80]
    assert raw.targets["gid24"][0, :3, 0].tolist() == [-1, 0, 1]
    assert {tuple(one.tile(k).size) for k in range(2)} == {(520, 30), (20, 30)}


def test_dynamic_earthnet_reads_both_styles_of_date_and_days_that_are_there(stand_in):
    for split in ("train", "val"):
        one = source(stand_in("dynamic_earthnet"), "dynamic_earthnet", split)
        assert one.tiles() == 1
        raw = one.raw([0])
        planet = raw.sensors["planet"]
        assert planet.valid[0, :, 0, 0].tolist() == [True] * 3 + [False] * 3 and not planet.valid[0, 0, 1, 1]
        assert (planet.x[0, 0, :, 0, 0] * 1e4).round().tolist() == [500, 1000, 1500, 2000]
        assert planet.day[0, :3].tolist() == [6575, 6579, 6594]
    whole = one.tile(0).targets["land_cover"][0, 5]
    assert set(whole.tolist()) == {-1, *range(6)} and (one.tile(0).targets["land_cover"][0, 0] == -1).all()
    assert "1 labelled months have no image" in one.notes()[1]


def test_south_sudan_leaves_damaged_archives_out_and_empty_looks(stand_in):
    val = source(stand_in("south_sudan"), "south_sudan", "val")
    assert val.names() == ["000001", "000004"] and "1 of 3 val archives" in val.notes()[1]
    raw = val.raw([0])
    s2 = raw.sensors["s2"]
    assert s2.valid[0, :, 0, 0].tolist() == [True] * 3 + [False] * 3
    assert s2.x[0, :3, 0, 0, 0].tolist() == pytest.approx([0.2, 0.1, 0.4])  # in order of date; the third is empty
    assert units(raw, "s1")[0, :, 0, 0].tolist() == [-12, -13]
    assert raw.targets["crop"][0, 0, :7].tolist() == [-1, 0, 1, 2, 3, -1, -1]


def test_spacenet7_draws_polygons_on_their_pixels(stand_in):
    one = source(stand_in("spacenet7"), "spacenet7")
    assert one.tiles() == 2  # the second month of each place is not labelled
    y = one.tile(0).targets["building"][0]
    assert (y[20:30, 10:18] == 1).all() and y[4:].sum() == 80 and (y[:4, :4] == -1).all()
    raw = one.raw([0])
    assert (units(raw, "planet")[0, :, 10, 10] * 255).round().tolist() == [120, 100, 80]
    assert not raw.sensors["planet"].valid[0, 0, :4, :4].any() and raw.sensors["planet"].valid[0, 0, 5, 5]
    assert [sum(r["split"] == s for r in table_of("spacenet7.csv")) for s in ("train", "val", "test")] == [30, 15, 14]


def test_ai4smallfarms_asks_rather_than_guesses_bands(stand_in, tmp_path):
    raw = source(stand_in("ai4smallfarms"), "ai4smallfarms").raw([0])
    assert units(raw, "s2")[0, :, 0, 0].tolist() == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert raw.targets["boundary"][0, 0, :9].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    held = source(stand_in("ai4smallfarms"), "ai4smallfarms", "test", leave_out="cambodia")
    assert set(held.names()) == {"2_cambodia", "6_cambodia", "12_cambodia"}
    assert set(source(stand_in("ai4smallfarms"), "ai4smallfarms", leave_out="cambodia").names()) == {"0_vietnam"}
    layouts.ai4smallfarms(tmp_path, bands=5)
    with pytest.raises(InputError, match=r"has 5 bands, the archive's have 4; name them: data.stored="):
        source(tmp_path, "ai4smallfarms")
    told = source(tmp_path, "ai4smallfarms", stored=["B1", "B2", "B3", "B4", "B8"])
    assert units(told.raw([0]), "s2")[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.15, 0.2, 0.25])


def test_a_file_of_another_size_is_named(tmp_path):
    layouts.sen1floods11(tmp_path)
    hand = tmp_path / "v1.1" / "data" / "flood_events" / "HandLabeled"
    write_tif(hand / "S1Hand" / "USA_1010394_S1Hand.tif", np.zeros((2, 16, 16), "float32"))
    with pytest.raises(InputError, match=r"USA_1010394.*s1 is \(16, 16\) pixels, not 32 x 32"):
        source(tmp_path, "sen1floods11").raw([2])
    (hand / "S2Hand" / "USA_1010394_S2Hand.tif").unlink()
    with pytest.raises(InputError, match=r"USA_1010394_S2Hand.tif: no such file"):
        source(tmp_path, "sen1floods11")


# ---------------------------------------------------------------- real files


def test_biomassters_as_it_is(gfm_data):
    """Two whole chips: one has every kind of missing data."""
    root = gfm_data / "formats" / "real" / "biomassters"
    made = {s: source(root, "biomassters", s, size=256, dates=12) for s in ("train", "val", "test") if _has(root, s)}
    chips = {name: each.raw([k]) for each in made.values() for k, name in enumerate(each.names())}
    raw = chips["000aa810"]
    s1, s2 = raw.sensors["s1"], raw.sensors["s2"]
    assert s1.x.shape == (1, 24, 2, 256, 256) and s2.x.shape == (1, 12, 10, 256, 256)
    seen = s1.valid[0].flatten(1).any(1)
    assert seen[0::2].all() and seen[1::2].tolist() == [m not in range(2, 8) for m in range(12)]  # descending: -9999
    share = s2.valid[0].flatten(1).float().mean(1)  # of months 06 to 11; 09 is empty but for a few pixels
    assert (share[[0, 1, 2, 4]] > 0.9).all() and share[3] < 0.01 < 0.6 < share[5] < 0.7 and not share[6:].any()
    ascending = s1.x[0, 0::2, 0]
    assert -13 < ascending[s1.valid[0, 0::2]].mean() < -10  # decibel
    assert torch.equal(s1.day[0], s1.day[0].sort().values)
    whole = chips["0060c0a5"]
    assert whole.targets["biomass"].max() > 100 and whole.targets["biomass"].min() == 0
    near, red = (units(whole, "s2")[0, DATASETS["biomassters"].sensors["s2"].bands.index(b)] for b in ("B08", "B04"))
    assert 0.1 < near.median() < 0.4 and red.median() < 0.06


def _has(root: Path, split: str) -> bool:
    return bool(deal(["000aa810", "0060c0a5"], split, val=0.1, test=0.1))


def test_a_real_chip_of_sen1floods11(gfm_data, tmp_path):
    name, real = "Spain_7370579", gfm_data / "formats" / "sen1floods11"
    hand, lists = (tmp_path / "v1.1" / p for p in ("data/flood_events/HandLabeled", "splits/flood_handlabeled"))
    for folder, layer in (("S1", "S1Hand"), ("S2", "S2Hand"), ("Labels", "LabelHand")):
        (hand / layer).mkdir(parents=True)
        (hand / layer / f"{name}_{layer}.tif").symlink_to(real / folder / f"{name}_{layer}.tif")
    lists.mkdir(parents=True)
    (lists / "flood_train_data.csv").write_text(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
    facts = "formats/real/sen1floods11/v1.1/Sen1Floods11_Metadata.geojson"
    (tmp_path / "v1.1" / "Sen1Floods11_Metadata.geojson").symlink_to(gfm_data / facts)
    one = source(tmp_path, "sen1floods11", size=512)
    s2, s1 = one.raw([0]).sensors["s2"], one.raw([0]).sensors["s1"]
    assert s2.x.shape == (1, 1, 13, 512, 512) and s2.valid.all() and s1.valid.all()
    assert s2.x[0, 0, 0].mean() == pytest.approx(0.1483, abs=1e-4) and s1.x[0, 0].mean(
        (1, 2)
    ).tolist() == pytest.approx([-11.363, -19.109], abs=1e-3)
    assert (s2.day[0, 0], s1.day[0, 0]) == (7200, 7199)
    assert one.read([0]).sensors["s2"].x.mean((0, 1, 3, 4)).abs().max() < 3.0


def test_the_lists_of_sen1floods11_give_every_chip_a_day(gfm_data):
    from gfm_objectives.data.torchgeo.sen1floods11 import LOCATION, _dates

    root = gfm_data / "formats" / "real" / "sen1floods11"
    known = _dates(root / "v1.1" / "Sen1Floods11_Metadata.geojson")
    names = [n for path in (root / "splits_names").glob("*.txt") for n in path.read_text().split()]
    assert len(names) == 446
    for flood in {n.rpartition("_")[0] for n in names}:
        assert min(known[LOCATION.get(flood, flood)]) > 5800, flood  # 2016 or later


def test_mados_equals_what_its_authors_stack(gfm_data, tmp_path):
    real = gfm_data / "formats" / "real" / "mados"
    crops = ["Scene_0_1", "Scene_0_7", "Scene_1_6"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train_X.txt").write_text("\n".join(crops))
    for crop in crops:
        scene, _, number = crop.rpartition("_")
        for path in (real / "MADOS_rebuilt" / scene).glob(f"*/*_{number}.tif"):
            (tmp_path / scene / path.parent.name).mkdir(parents=True, exist_ok=True)
            (tmp_path / scene / path.parent.name / path.name).symlink_to(path)
        label = tmp_path / scene / "10" / f"{scene}_L2R_cl_{number}.tif"  # none came with the samples
        write_tif(label, np.zeros((1, 240, 240), "float32"))
    one = source(tmp_path, "mados", size=240)
    for k, crop in enumerate(crops):
        scene, _, number = crop.rpartition("_")
        stacked = read_tif(real / "MADOS_nearest" / scene / f"{scene}_L2R_rhorc_{number}.tif")
        assert np.array_equal(units(one.raw([k]), "s2")[0].numpy(), stacked)


def test_a_real_burn_scar_mask(gfm_data, tmp_path):
    key = "T10TGS.2018285.v1"
    name = f"subsetted_512x512_HLS.S30.{key}.4"
    (tmp_path / "data").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.txt").write_text(key)
    (tmp_path / "data" / f"{name}.mask.tif").symlink_to(
        gfm_data / "formats" / "real" / "hls_burn_scars" / "data" / f"{name}.mask.tif"
    )
    write_tif(tmp_path / "data" / f"{name}_merged.tif", np.full((6, 512, 512), 0.1, "float32"))
    y = source(tmp_path, "burn_scars", "test").tile(0).targets["burn"]
    assert y.unique().tolist() == [0, 1] and y.float().mean() == pytest.approx(0.193, abs=1e-3)


def test_pastis_equals_torchgeo(gfm_data, tmp_path):
    """torchgeo's miniature of PASTIS-R: the same patches, by its class and by ours."""
    with zipfile.ZipFile(gfm_data / "formats" / "torchgeo" / "pastis" / "PASTIS-R.zip") as file:
        file.extractall(tmp_path)
    root = tmp_path / "PASTIS-R"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchgeo.datasets import PASTIS
    for kind, sensor in (("s2", "s2"), ("s1a", "s1")):
        bands = getattr(PASTIS, f"{kind}_bands", kind)  # names of bands since 0.9 or 0.10
        theirs = PASTIS(str(tmp_path), folds=[1, 2, 3], bands=bands, mode="semantic", checksum=False)
        ours = source(root, "pastis", sensors=[sensor], dates=1000)
        expected = {str(theirs.idxs[k]): theirs[k] for k in range(len(theirs))}
        assert set(ours.names()) == set(expected)
        for k, name in enumerate(ours.names()):
            image = expected[name]["image"]  # (T, C, H, W)
            tile = ours.decode(k)
            assert torch.equal(
                tile.targets["crop"][0], torch.where(expected[name]["mask"] == 19, -1, expected[name]["mask"])
            )
            if sensor == "s2":
                seen = tile.sensors["s2"].x[0, : len(image)]
                assert torch.allclose(seen * 1e4, image, atol=0.51)


def test_dates_of_real_pastis(gfm_data):
    from gfm_objectives.data.torchgeo.pastis import _days

    about = json.loads((gfm_data / "formats/real/pastis/PASTIS/metadata.geojson").read_text())["features"]
    for feature in about:
        days = _days(feature["properties"]["dates-S2"])
        assert days == _days(json.dumps(feature["properties"]["dates-S2"]))  # as geopandas hands it back
        assert days == sorted(days) and days[0] > 6800 and 38 <= len(days) <= 61


def test_the_list_of_dynamic_earthnet_names_every_label(gfm_data):
    lists = gfm_data / "formats" / "real" / "dynamic_earthnet" / "lists_1320"
    for split, places in (("train", 45), ("val", 5), ("test", 5)):
        rows = [row for row in table_of("dynamic_earthnet.csv") if row["split"] == split]
        assert len(rows) == places
        folders = {f"labels/{r['aoi']}_{r['zone']}/Labels/Raster/{r['cell']}" for r in rows}
        listed = {line.split()[1].rpartition("/")[0] for line in (lists / f"{split}.txt").read_text().splitlines()}
        assert folders == listed


# ---------------------------------------------------------------- the command


def test_the_list_says_what_is_there_and_what_is_not(stand_in, monkeypatch, capsys):
    monkeypatch.setenv("GFM_DATA", str(stand_in("pastis").parent))
    (stand_in("pastis").parent / "pastis").exists() or (stand_in("pastis").parent / "pastis").symlink_to(
        stand_in("pastis")
    )
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DATASETS)
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert " yes " in lines["pastis"] and " no " in lines["mados"]
    assert "data=mados is not in" in out and "data=pastis is not in" not in out and "zenodo.org/records/10664073" in out
    assert main(["data", "lst"]) == 2


def test_sensors_of_the_table_have_figures():
    for name in ("planet", "gf2"):
        assert all(b.std > 0 and b.wavelength for b in SENSORS[name].bands)
