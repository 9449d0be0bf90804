"""Sources and tasks on torchgeo's own classes: against its miniatures, and where we know better than it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from rasterio.transform import Affine

from gfm_objectives.cli import main
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.source import Source
from gfm_objectives.data.torchgeo import DATASETS, classes
from gfm_objectives.data.torchgeo.leakage import shared
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.inspection.page import words
from gfm_objectives.inspection.tally import LayerTally, tally_whole
from gfm_objectives.tasks.kinds import KINDS

FOLDERS = {
    "bigearthnet": "bigearthnet/v2",
    "sen12ms": "sen12ms",
    "seasonet": "seasonet",
    "ssl4eo_s12": "ssl4eo/s12",
    "ssl4eo_s12_l2a": "ssl4eo/s12",
}


def source(root: Path, name: str, split: str = "pretrain", **options) -> Source:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(tile is smaller|medians|rise and fall|no valid pixel)", InputWarning)
        return build_source({**load_choice("data", name), "root": str(root), **options}, split)


@pytest.fixture
def root(gfm_data):
    return lambda name: gfm_data / "formats" / "torchgeo" / FOLDERS[name]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_source_reads_its_miniature(name, root):
    one = source(root(name), name)
    batch = one.read(range(min(2, len(one))))
    for sensor, series in batch.sensors.items():
        assert series.x.shape[1:3] == (one.spec.dates[sensor], len(DATASETS[name].sensors[sensor].bands))
        assert series.x.isfinite().all() and series.valid.any()
    assert ("map" in batch.targets) == (name in ("bigearthnet", "sen12ms", "seasonet"))
    for layer, legend in one.spec.legends.items():
        assert batch.targets[layer].max() < len(legend)
    if "ssl4eo" in name:
        day = batch.sensors["s2"].day[0]
        assert torch.equal(day, day.sort().values) and day[0] > 7000 and len(day.unique()) == 4  # in order, repeatably
        assert torch.equal(batch.sensors["s2"].x, source(root(name), name).read(range(len(batch))).sensors["s2"].x)


def test_bigearthnet_keeps_decibels_and_their_order(root):
    """torchgeo's class cuts Sentinel-1 to whole numbers, VH first; its 10 m bands, map and labels are sound."""
    one = source(root("bigearthnet"), "bigearthnet", "train", sensors=["s2", "s1"], map=None)
    theirs = classes.opened("BigEarthNetV2", root("bigearthnet"), split="train", bands="all")
    for k in range(one.tiles()):
        tile, sample = one.decode(k), theirs[k]
        for band in ("B02", "B03", "B04", "B08"):
            at = tile.sensors["s2"].bands.index(band)
            assert torch.equal((tile.sensors["s2"].x[0, 0, at] * 1e4).round(), sample["image_s2"][at])
        assert torch.equal(tile.sensors["s1"].x[0, 0].flip(0).trunc(), sample["image_s1"])
        assert torch.equal(tile.targets["labels"][0], sample["label"].float())
        land = sample["mask"][0]
        assert torch.equal(tile.targets["clc"][0], torch.where(land < 19, land, -1))
    assert (tile.sensors["s2"].day[0, 0], tile.sensors["s1"].day[0, 0]) == (6374, 6374)  # 14 June 2017
    assert one.spec.legends["labels"].classes[0] == "urban fabric" and tile.targets["labels"].shape == (1, 19)
    assert list(theirs.class_set)[:1] == ["Urban fabric"] and len(theirs.class_set) == 19


def test_real_bigearthnet_patches_in_decibel(gfm_data, tmp_path):
    """Three real pairs of v1, whose pixels v2 has too, put into v2's layout."""
    import pandas as pd

    real = gfm_data / "formats" / "real" / "bigearthnet_v1_real"
    s2, s1 = "S2A_MSIL2A_20170617T113321_36_85", "S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85"
    patch = "S2A_MSIL2A_20170617T113321_N9999_R080_T29UPU_36_85"
    for folder, old, new in (("BigEarthNet-S2", s2, patch), ("BigEarthNet-S1", s1, s1)):
        parent = new.rsplit("_", 2 if folder == "BigEarthNet-S2" else 3)[0]
        (tmp_path / folder / parent / new).mkdir(parents=True)
        for path in next(real.glob(f"*/{old}")).glob("*.tif"):
            (tmp_path / folder / parent / new / path.name.replace(old, new)).symlink_to(path)
    codes = np.full((1, 120, 120), 311, np.uint16)
    codes[0, 0, :2] = 999, 111
    parent = tmp_path / "Reference_Maps" / patch.rsplit("_", 2)[0] / patch
    layouts.write_tif(parent / f"{patch}_reference_map.tif", codes)
    table = {"patch_id": [patch], "s1_name": [s1], "split": ["train"], "labels": [["Pastures", "Inland waters"]]}
    pd.DataFrame(table).to_parquet(tmp_path / "metadata.parquet")
    raw = source(tmp_path, "bigearthnet", "train", sensors=["s2", "s1"], map=None).raw([0])
    radar = raw.sensors["s1"].x[0, 0]
    assert raw.sensors["s1"].bands == ("VV", "VH") and radar[0].mean() > radar[1].mean() + 3  # VV is the brighter
    assert -16 < radar[0].mean() < -6 and (radar != radar.round()).float().mean() > 0.99
    s2 = raw.sensors["s2"]
    red, near = (s2.x[0, 0, s2.bands.index(b)][s2.valid[0, 0]].median() for b in ("B04", "B08"))
    assert 0.01 < red < 0.1 < near < 0.6
    assert raw.targets["clc"][0, 0, :3].tolist() == [-1, 0, 8]
    assert raw.targets["labels"][0].nonzero()[:, 0].tolist() == [4, 17]


def test_seasonet_bands_are_named_as_they_lie(root):
    import rasterio

    one = source(root("seasonet"), "seasonet", "train", map=None)
    tile, stem = one.decode(0), one._reader._paths[0]
    bands = tile.sensors["s2"].bands
    for kind, names in (("10m_RGB", ("B04", "B03", "B02")), ("10m_IR", ("B08",))):
        with rasterio.open(f"{stem}_{kind}.tif") as file:
            for i, name in enumerate(names, 1):
                assert np.array_equal(
                    (tile.sensors["s2"].x[0, 0, bands.index(name)].double() * 1e4).round(), file.read(i)
                )
    assert tile.lonlat[0].tolist() == pytest.approx([7.503876, 53.928425]) and tile.sensors["s2"].day[0, 0] == 6682


def test_sen12ms_val_is_whole_scenes_of_train(root):
    train, test = (source(root("sen12ms"), "sen12ms", s) for s in ("train", "test"))
    assert all(area.startswith("ROIs") and area.count("_") == 2 for area in train.tile_groups())
    raw = train.raw([0])
    assert raw.sensors["s2"].x.shape[2] == 13 and raw.sensors["s1"].x.shape[2] == 2
    assert len(test) and raw.targets["map"].min() >= -1


@pytest.fixture
def eurosat(tmp_path):
    """EuroSAT as torchgeo unpacks it: ten folders; band b holds 100 (b + 1), the 13th is B8A."""
    base = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    names = [
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    ]
    for name in names:
        for k in (1, 2, 3):
            x = np.broadcast_to(100 * np.arange(1, 14)[:, None, None], (13, 64, 64)).astype(np.uint16)
            place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
            layouts.write_tif(base / name / f"{name}_{k}.tif", x, **place)
    for split, k in (("train", 1), ("val", 2), ("test", 3)):
        (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(f"{n}_{k}.jpg" for n in names))
    return tmp_path


def test_eurosat_knows_that_b8a_comes_last(eurosat):
    one = source(eurosat, "eurosat", "train")
    raw = one.raw([3])
    s2 = raw.sensors["s2"]
    value = {b: round(float(s2.x[0, 0, s2.bands.index(b), 0, 0]) * 1e4) for b in s2.bands}
    assert (value["B08"], value["B8A"], value["B09"], value["B12"]) == (800, 1300, 900, 1200)
    assert raw.targets["label"].tolist() == [3] and one.spec.legends["label"].classes[3] == "highway"
    assert len(one) == 10 and source(eurosat, "eurosat", "test").names()[0] == "AnnualCrop_3"


@pytest.mark.filterwarnings("ignore:.*(tile is smaller|medians|positive)")
@pytest.mark.parametrize("name", [*FOLDERS, "eurosat"])
def test_every_miniature_is_inspected(name, eurosat, root, tmp_path, capsys):
    """Whole labels are counted by tile and shown in words; a split that data for pretraining lacks is no fault."""
    where = eurosat if name == "eurosat" else root(name)
    assert main(["inspect", f"data={name}", f"data.root={where}", f"out={tmp_path}", "name=x"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "x" / "inspect.png").stat().st_size > 10_000
    if name in ("eurosat", "bigearthnet"):
        assert "share of tiles that show it class train val test" in said
    if name == "eurosat":
        assert said.count("10.0% 10.0% 10.0%") == 10 and "no label none none none" in said
    assert ("the val split of ssl4eo_s12 has no tile" in said) == (name == "ssl4eo_s12")


def test_labels_of_whole_tiles_are_counted():
    tally = LayerTally(np.zeros(4, np.int64), {})
    for y in (torch.tensor([[1.0, 0, 1]]), torch.tensor([[0.0, 0, torch.nan]]), torch.tensor([2]), torch.tensor([-1])):
        assert tally_whole(tally, y)
    assert tally.pixels.tolist() == [1, 0, 2, 2] and tally.empty == 2 and tally.whole
    assert not tally_whole(tally, torch.zeros(1, 2, 2))
    assert [words(y, "abc") for y in (torch.tensor([1.0, 0, 1]), torch.tensor(2), torch.tensor(-1))] == [
        "a\nc", "c", "no label",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["eurosat", "bigearthnet"])
def test_labels_of_whole_places_fit_their_kind(name, eurosat, request):
    where = eurosat if name == "eurosat" else request.getfixturevalue("root")(name)
    task = load_choice("task", name)
    one = source(where, name, "train", map=task["data"]["map"])
    kind, n = KINDS[task["kind"]], len(one.spec.legends[task["layer"]])
    target = one.read(range(2)).targets[task["layer"]]
    output = torch.randn(2, n, 8, 8)
    assert kind.loss(output, target).isfinite() and len(kind.observe(output, target, n)) == 2


def test_download_is_passed_on_and_refusals_are_told(tmp_path, monkeypatch):
    asked = []

    class Fetched:
        samples = ()

        def __init__(self, root, **options):
            asked.append(options)

    import torchgeo.datasets

    with pytest.raises(InputError, match=r"torchgeo's EuroSAT does not find all its files there; data.download=true"):
        (tmp_path / "eurosat-train.txt").write_text("")
        source(tmp_path, "eurosat", "val")
    monkeypatch.setattr(torchgeo.datasets, "EuroSAT", Fetched)
    with pytest.raises(InputError, match="has no tile"):
        source(tmp_path / "new", "eurosat", "train", download=True)
    assert asked[-1]["download"] is True and (tmp_path / "new").is_dir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def halved(path: Path) -> None:
    rewritten(path, lambda x: x[:, ::2, ::2])


def fewer(path: Path) -> None:
    rewritten(path, lambda x: x[:-1])


def odd(path: Path) -> None:
    rewritten(path, lambda x: np.pad(x, ((0, 0), (0, 0), (0, 3))))


def below(path: Path) -> None:
    rewritten(path, lambda x: np.full(x.shape, -5, np.int16))


def rewritten(path: Path, change) -> None:
    import rasterio

    with rasterio.open(path) as file:
        x = change(file.read())
    path.unlink()
    layouts.write_tif(path, x)


@pytest.mark.parametrize(
    ("name", "which", "what", "says"),
    [
        ("sen12ms", "*/s1_1/*_p1.tif", cut, r"_s1_1_p1.tif: cannot be read"),
        ("sen12ms", "*/lc_1/*_p1.tif", Path.unlink, r"_lc_1_p1.tif: cannot be read"),
        ("sen12ms", "*/s1_1/*_p1.tif", halved, r"_p1.tif: its tile cannot be put together"),
        ("seasonet", "spring/*/*/*_10m_IR.tif", cut, r"_10m_IR.tif: cannot be read"),
        ("seasonet", "spring/*/*/*_10m_RGB.tif", fewer, r"_10m_RGB.tif: 2 bands, not 3"),
        ("seasonet", "spring/*/*/*_labels.tif", below, r"land_cover holds -6 to -6, of 33 classes"),
        ("bigearthnet", "BigEarthNet-S2/*/*/*_B02.tif", odd, r"_B02.tif: 120 x 123 pixels do not make 120 x 120"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(name, which, what, says, root, tmp_path):
    """torchgeo's classes end in tracebacks, or leave memory as it was where a band is missing."""
    folder = Path(shutil.copytree(root(name), tmp_path / name, ignore=shutil.ignore_patterns("*.zip", "*.gz")))
    for path in folder.glob(which):
        what(path)
    with pytest.raises(InputError, match=says) as error:
        one = source(folder, name)
        one.read(range(len(one)))
    assert "\n" not in str(error.value)


def test_leakage_is_named():
    task = {"name": "bigearthnet", "root": "a"}
    assert "same data set" in shared(task, {"name": "bigearthnet", "root": "b"})
    assert "Finland" in shared({"name": "biomassters"}, {"name": "bigearthnet"})
    assert "cities" in shared({"name": "spacenet7"}, {"name": "ssl4eo_s12"})
    for name in ("ssl4eo_s12_l2a", "ssl4eo_s12_v11", "ssl4eo_l_toa"):
        assert (
            "cities" in shared({"name": "eurosat"}, {"name": name})
            and shared({"name": "pastis"}, {"name": name}) is None
        )
    assert "a million places" in shared({"name": "pastis"}, {"name": "copernicus_pretrain"})
    assert "1 % of its land" in shared({"name": "pastis"}, {"name": "mmearth"})
    assert shared({"name": "synthetic"}, {"name": "synthetic"}) is None
    assert shared({"name": "chips", "root": "a"}, {"name": "chips", "root": "b"}) is None
    assert shared({"name": "pastis"}, {"name": "synthetic"}) is None
