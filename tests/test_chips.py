"""Chips: a described folder becomes batches; every fault of the description or the files is told in one line."""

from __future__ import annotations

import copy
import os
import pickle
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.finding import find_files
from gfm_objectives.data.source import SPLITS
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import SENSORS
from gfm_objectives.tasks import build_task
from gfm_objectives.tasks.baselines import recode_map, spectral_index

N = 16  # pixels
CODES = (10, 80, 40)  # WorldCover: tree cover, permanent water, cropland


def write_tiff(path: Path, values: np.ndarray, **profile: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(path, "w", **({"driver": "GTiff"} | shape | profile)) as file:
            file.write(values)


def write_chip(root: Path, chip: int) -> None:
    """Bands 1-2: reflectance x 10000; 3: height; 4: quality; 5: WorldCover. Label: halves 0 and 1, one pixel 255."""
    row, column = np.mgrid[:N, :N]
    image = np.stack([1000 + 10 * row, 2000 + 100 * chip + column, 5 * column, np.zeros((N, N)), np.zeros((N, N))])
    image[3, 0, :4] = (1, 2, 8, 16)  # only bits 1 and 3 are bad
    image[4] = np.choose((row + chip) % 3, CODES)
    image[4, 5, 5] = 33  # no WorldCover class
    image[2, 2, 2] = -9999
    write_tiff(root / f"images/{chip:02d}.tif", image.astype(np.int16))
    label = (column >= N // 2).astype(np.uint8)
    label[3, 3] = 255
    (root / "labels").mkdir(exist_ok=True)
    Image.fromarray(label).save(root / f"labels/{chip:02d}.png")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chips")
    for chip in range(8):
        write_chip(root, chip)
    parts = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = [f"{chip:02d},area{chip // 2},{part}" for chip, part in enumerate(parts)]
    (root / "chips.csv").write_text("\n".join(["chip,area,split", *rows]))
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "chips"))


@pytest.fixture
def options(root: Path) -> dict[str, Any]:
    return {
        "name": "chips",
        "root": str(root),
        "gsd": 30,
        "sensors": {
            "hls": {
                "file": "images/{chip}.tif",
                "bands": {"nir": 2, "green": 1},
                "scale": 1e-4,
                "valid": {"band": 4, "invalid_bits": [1, 3]},
            },
            "dem": {"file": "images/{chip}.tif", "bands": {"elevation": 3}, "nodata": -9999},
        },
        "layers": {
            "map": {"file": "images/{chip}.tif", "band": 5, "legend": "worldcover"},
            "label": {"file": "labels/{chip}.png", "classes": ["land", "water"], "ignore": 255},
        },
        "splits": {"file": "chips.csv", "group": "area"},
    }


def changed(options: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A copy with other values; `a__b=v` sets options["a"]["b"]."""
    options = copy.deepcopy(options)
    for key, value in values.items():
        *path, last = key.split("__")
        node = options
        for part in path:
            node = node[part]
        node[last] = value
    return options


# ------------------------------------------------------------------------------------------------- what comes out


def test_values_are_in_the_sensors_unit_then_normalised(options: dict[str, Any]):
    source = build_source(options, "train")
    batch = source.read([0, 3])
    hls = batch.sensors["hls"]
    assert hls.bands == ("nir", "green") and hls.x.shape == (2, 1, 2, N, N) and hls.x.dtype == torch.float32
    reflectance = SENSORS["hls"].denormalise(hls.x, hls.bands)[:, 0]
    row, column = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    ok = hls.valid[:, 0]
    for b, chip in enumerate((0, 3)):
        torch.testing.assert_close(reflectance[b, 0][ok[b]], ((2000 + 100 * chip + column) * 1e-4)[ok[b]])
        torch.testing.assert_close(reflectance[b, 1][ok[b]], ((1000 + 10 * row) * 1e-4)[ok[b]])
    assert batch.gsd.tolist() == [30, 30] and hls.day.eq(0).all() and batch.size == (N, N)


def test_quality_bits_and_no_data_are_invalid_for_their_own_sensor(options: dict[str, Any]):
    batch = build_source(options, "train").read([1])
    hls, dem = batch.sensors["hls"], batch.sensors["dem"]
    bad = torch.zeros(N, N, dtype=torch.bool)
    bad[0, 1] = bad[0, 2] = True  # flags 2 and 8; flags 1 and 16 are not listed
    assert torch.equal(hls.valid[0, 0], ~bad) and (hls.x[0, 0, :, bad] == 0).all()
    assert (~dem.valid).nonzero().tolist() == [[0, 0, 2, 2]] and dem.x[0, 0, 0, 2, 2] == 0
    torch.testing.assert_close(dem.x.sum(), torch.tensor(0.0), atol=1e-3, rtol=0)  # the chip's mean height is gone


def test_invalid_values_nan_and_declared_no_data(options: dict[str, Any], root: Path):
    values = np.full((2, N, N), 0.2, dtype=np.float32)
    values[0, 4, 4], values[1, 6, 6] = np.nan, -1
    for chip in range(4):
        write_tiff(root / f"float/{chip:02d}.tif", values, nodata=-1)
    hls = {"file": "float/{chip}.tif", "bands": {"red": 1, "nir": 2}}
    hls["valid"] = {"file": "images/{chip}.tif", "band": 4, "invalid_values": [16]}
    valid = build_source(changed(options, sensors__hls=hls), "train").read([0]).sensors["hls"].valid
    assert (~valid[0, 0]).nonzero().tolist() == [[0, 3], [4, 4], [6, 6]]


def test_layers_become_labels(options: dict[str, Any]):
    source = build_source(options, "train")
    batch = source.read([2])
    row = torch.arange(N)[:, None].expand(N, N)
    expected = torch.tensor([0, 7, 3])[(row + 2) % 3]  # the classes' places in the legend
    expected[5, 5] = -1
    assert torch.equal(batch.targets["map"][0], expected)
    label = (torch.arange(N) >= N // 2).long().expand(N, N).clone()
    label[3, 3] = -1
    assert torch.equal(batch.targets["label"][0], label)
    assert source.spec.legends["label"].classes == ("land", "water") and len(source.spec.legends["map"]) == 11


def test_spec_describes_the_batches(options: dict[str, Any]):
    source = build_source(options, "val")
    batch, dummy = source.read([0, 1]), source.spec.dummy(2, "cpu")
    assert batch.signature == dummy.signature and batch.targets.keys() == dummy.targets.keys()
    assert {k: v.dtype for k, v in batch.targets.items()} == {k: v.dtype for k, v in dummy.targets.items()}


def test_splits_and_areas(options: dict[str, Any]):
    sources = {s: build_source(options, s) for s in SPLITS}
    assert {s: len(v) for s, v in sources.items()} == {"pretrain": 4, "train": 4, "val": 2, "test": 2}
    assert sources["train"].groups() == ["area0", "area0", "area1", "area1"]
    some = changed(options, splits__values={"train": "train", "pretrain": ["train", "val"]}, splits__group=None)
    with pytest.raises(InputError, match="chip 04 is in both pretrain and val"):
        build_source(some, "pretrain")
    picked = build_source(changed(options, chips="0[01]"), "train")
    assert len(picked) == 2 and torch.equal(
        picked.read([1]).sensors["dem"].x, sources["train"].read([1]).sensors["dem"].x
    )


def test_without_a_split_file_everything_is_for_pretraining(options: dict[str, Any]):
    options = changed(options, splits=None, layers=None)
    assert len(build_source(options, "pretrain")) == 8
    with pytest.raises(InputError, match=r"data\.splits: needed for the test split"):
        build_source(options, "test")


def test_without_leaves_out_sensors_and_layers(options: dict[str, Any]):
    source = build_source(changed(options, without=["dem", "label"]), "train")
    batch = source.read([0])
    assert list(batch.sensors) == list(source.spec.bands) == ["hls"] and list(batch.targets) == ["map"]


@pytest.mark.parametrize(("split", "edge"), [("val", 14), ("train", 9)])
def test_size_cuts_chips_into_windows(options: dict[str, Any], split: str, edge: int):
    whole, cut = build_source(options, split), build_source(changed(options, size=7), split)
    assert len(cut) == 9 * len(whole) and cut.spec.size == 7 and cut.groups()[:9] == whole.groups()[:1] * 9
    y = whole.read([1])
    for k, (top, left) in {13: (7, 7), 14: (7, edge), 17: (edge, edge)}.items():  # of the second chip
        x, shown = cut.read([k]), (min(7, N - top), min(7, N - left))
        here = (..., slice(top, top + 7), slice(left, left + 7))
        assert torch.equal(x.targets["label"][0, : shown[0], : shown[1]], y.targets["label"][0][here])
        assert torch.equal(x.sensors["hls"].x[..., : shown[0], : shown[1]], y.sensors["hls"].x[here])
        assert x.targets["label"].ge(0).sum() == shown[0] * shown[1] - int((top, left) == (0, 0))
        assert x.sensors["hls"].valid.sum() == shown[0] * shown[1]
        assert abs(x.sensors["dem"].x.mean()) < 1e-5  # heights are relative to the window, not to the chip


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pixel_is_seen_and_every_labelled_one_scored_once(tmp_path: Path, split: str):
    """Tiles that are no multiple of the window, of unequal sides, and smaller than it."""
    shapes = {"a": (100, 100), "b": (127, 127), "c": (250, 250), "d": (40, 40), "e": (30, 150)}
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    for chip, (h, w) in shapes.items():
        np.save(tmp_path / f"x/{chip}.npy", np.arange(1, h * w + 1, dtype=np.float32).reshape(1, h, w))
        np.save(tmp_path / f"y/{chip}.npy", (np.indices((h, w)).sum(0) % 2).astype(np.uint8))
    (tmp_path / "t.csv").write_text("\n".join(["chip,split", *(f"{c},{split}" for c in shapes)]))
    options = {
        "name": "chips",
        "root": str(tmp_path),
        "gsd": 10,
        "size": 64,
        "sensors": {"s1": {"file": "x/{chip}.npy", "bands": {"VV": 1}}},
        "layers": {"label": {"file": "y/{chip}.npy", "classes": ["a", "b"]}},
        "splits": {"file": "t.csv"},
    }
    source = build_source(options, split)
    assert source.tiles() == 5 and source.tile_groups() == list(shapes)
    tiles = [source.tile(k) for k in range(5)]
    assert [t.size for t in tiles] == list(shapes.values()) and all(t.targets["label"].ge(0).all() for t in tiles)
    batch = source.raw(range(len(source)))
    s1, names = batch.sensors["s1"], np.array(source.names())  # type: ignore[attr-defined]
    assert torch.equal(s1.valid[:, 0], batch.targets["label"] >= 0)
    for chip, (h, w) in shapes.items():
        seen = s1.x[:, 0, 0][torch.from_numpy(names == chip)[:, None, None] & s1.valid[:, 0]].long() - 1
        assert torch.equal(seen.unique(), torch.arange(h * w))
        assert len(seen) == h * w or (split == "train" and chip != "d")
    if split == "train":  # nothing is made up where a window fits
        assert s1.valid[torch.from_numpy(np.isin(names, ["a", "b", "c"]))].all()


@pytest.mark.parametrize("cache_mb", [0, 0.02, 64])
def test_the_cache_changes_nothing(options: dict[str, Any], cache_mb: float, root: Path):
    source = build_source(changed(options, cache_mb=cache_mb), "train")
    first = source.read([0, 1, 2, 3])
    kept = first.map(torch.clone)
    first.sensors["hls"].x.zero_()  # a consumer that works in place
    shutil.copy(root / "images/07.tif", root / "images/03.tif")
    again = source.read([0, 1, 2, 3])
    same = [torch.equal(a, b) for a, b in zip(again.sensors["hls"].x, kept.sensors["hls"].x, strict=True)]
    assert same == [True, True, True, cache_mb == 64]  # only what is cached survives the file's change
    copied = pickle.loads(pickle.dumps(source))
    assert torch.equal(copied.read([1]).sensors["hls"].x, kept.sensors["hls"].x[1:2])
    assert len(pickle.dumps(source)) < 5000


def test_the_fingerprint_follows_files_and_description_but_not_the_folder(options: dict[str, Any], root: Path):
    original = build_source(options, "train").fingerprint
    moved = shutil.move(root, root.parent / "elsewhere")
    options = changed(options, root=str(moved))
    assert build_source(changed(options, cache_mb=1), "train").fingerprint == original
    assert build_source(options, "test").fingerprint != original
    assert build_source(changed(options, sensors__hls__scale=1e-3), "train").fingerprint != original
    for path in moved.rglob("*.*"):
        path.touch()
    assert build_source(options, "train").fingerprint == original


@pytest.mark.parametrize("what", ["02.png", "02.npy", "02.tif", "flags"])
def test_the_fingerprint_follows_content_in_files_of_equal_size(options: dict[str, Any], root: Path, what: str):
    kind = ".png" if what == "flags" else Path(what).suffix
    for path in (root / "labels").glob("*.png"):
        label = np.array(Image.open(path))
        if kind == ".npy":
            np.save(path.with_suffix(kind), label)
        elif kind == ".tif":
            write_tiff(path.with_suffix(kind), label[None])
    options = changed(options, layers__label__file=f"labels/{{chip}}{kind}")
    before = {s: build_source(options, s).fingerprint for s in ("train", "test")}
    path = root / ("images/02.tif" if what == "flags" else f"labels/{what}")
    size = path.stat().st_size
    if path.suffix == ".tif":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "r+") as file:
                band = min(4, file.count)
                file.write(inverted(file.read(band)), band)
    elif path.suffix == ".npy":
        np.save(path, inverted(np.load(path)))
    else:
        Image.fromarray(inverted(np.array(Image.open(path)))).save(path)
    assert path.stat().st_size == size or kind == ".png"
    after = {s: build_source(options, s).fingerprint for s in ("train", "test")}
    assert after["train"] != before["train"] and after["test"] == before["test"]


def inverted(label: np.ndarray) -> np.ndarray:
    """Classes 0 and 1 exchanged."""
    return np.where(label < 2, 1 - label, label).astype(label.dtype)


def test_the_fingerprint_follows_the_sensor_table(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    before = build_source(options, "train").fingerprint
    bands = SENSORS["hls"].bands
    wider = replace(SENSORS["hls"], bands=(*bands[:-1], replace(bands[-1], std=2 * bands[-1].std)))
    monkeypatch.setitem(SENSORS, "hls", wider)
    assert build_source(options, "train").fingerprint != before
    monkeypatch.undo()
    assert build_source(options, "train").fingerprint == before


def test_patterns_with_folders_and_wildcards(tmp_path: Path):
    for name in ("a1/s2/a1_2019.tif", "b/s2/b_2020.tif", "b/s2/c_2020.tif", "b/s2/b_2020.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_files(tmp_path, "{chip}/s2/{chip}_*.tif")) == ["a1", "b"]
    assert list(find_files(tmp_path, "**/{chip}_20??.tif")) == ["a1", "b", "c"]
    with pytest.raises(InputError, match=r"both match chip b"):
        find_files(tmp_path, "{chip}/s2/*_20*.t?*")
    with pytest.raises(InputError, match=r"relative to data\.root"):
        find_files(tmp_path, "s2/a.tif")


def test_the_example_of_the_docs_reads_the_folder_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parents[1] / "docs/chips.md").read_text()
    examples = re.findall(r"```yaml\n# (\S+\.yaml)(.*?)```", page, re.DOTALL)
    assert [name for name, _ in examples] == ["flood.yaml", "flood_task.yaml", "pairs.yaml", "pairs_task.yaml"]
    for name, text in examples:
        (tmp_path / name).write_text("#" + text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOOD_DATA", str(tmp_path))
    flood = tmp_path / "flood"
    for chip in ("rome_001", "rome_002"):
        bands = np.array([800, 900, 1000, 2500], np.int16)[:, None, None]
        write_tiff(flood / f"s2/{chip}.tif", np.broadcast_to(bands, (4, 128, 130)))
        write_tiff(flood / f"s1/{chip}.tif", np.full((2, 128, 130), -12, np.float32))
        write_tiff(flood / f"quality/{chip}.tif", np.eye(128, 130, dtype=np.uint8)[None] * 9)
        write_tiff(flood / f"cover/{chip}.tif", np.full((1, 128, 130), 80, np.uint8))
        (flood / "water").mkdir(exist_ok=True)
        Image.fromarray(np.full((128, 130), 1, np.uint8)).save(flood / f"water/{chip}.png")
    (flood / "chips.csv").write_text("chip,area,split\nrome_001,a,train\nrome_002,b,test\n")
    task = build_task("flood_task", load_choice("task", "./flood_task.yaml"))
    for split in ("train", "test"):
        source = build_source(task.data, split)
        assert len(source) == 6 and source.read(range(6)).signature == source.spec.dummy(6).signature
        batch = source.tile(0)
        assert (~batch.sensors["s2"].valid).sum() == 128 and batch.sensors["s1"].valid.all()
        assert recode_map(task, batch).eq(1).all() and batch.targets["label"].eq(1).all()
        assert spectral_index(task, batch).eq(0).all()


# ------------------------------------------------------------------------------------------------- what goes wrong

DESCRIPTION_FAULTS = {
    "gsd__": ({"gsd": "wide"}, r"data\.gsd='wide': expected a number"),
    "option": ({"lisense": "MIT"}, r"data\.lisense: chips has no such option; choose from root, gsd, .*license"),
    "missing": ({"sensors": None}, r"data\.sensors: is missing, and chips needs it"),
    "sensor": ({"sensors__s3": {}}, r"data\.sensors\.s3: no such sensor; choose from s2, s1, hls, "),
    "key": ({"sensors__hls__band": 1}, r"data\.sensors\.hls\.band: no such key; choose from file, bands, scale"),
    "band name": ({"sensors__hls__bands": {"gren": 1}}, r"data\.sensors\.hls\.bands: .*no band 'gren'; its bands are"),
    "no file": ({"sensors__hls__file": None}, r"data\.sensors\.hls\.file: is missing"),
    "block": ({"sensors__hls": "images"}, r"data\.sensors\.hls='images': expected a block"),
    "scale": ({"sensors__hls__scale": "1e-4x"}, r"data\.sensors\.hls\.scale='1e-4x': expected a number"),
    "band number": ({"sensors__hls__bands__nir": 9}, r"images/00\.tif: has no band 9; it has 5, counted from 1"),
    "png band": ({"layers__label__band": 2}, r"labels/00\.png: has no band 2; it has 1"),
    "flags": ({"sensors__hls__valid": {"band": 4}}, r"sensors\.hls\.valid: say which invalid_bits or invalid_values"),
    "legend": (
        {"layers__map__legend": "corine"},
        r"layers\.map\.legend=corine: no such legend; choose from worldcover",
    ),
    "no classes": ({"layers__map__legend": None}, r"layers\.map: give either `legend` .* or `classes`"),
    "codes": (
        {"layers__label__codes": [0]},
        r"layers\.label: legend label: 2 classes need 2 different codes, got \[0\]",
    ),
    "code": (
        {"layers__label__ignore": None},
        r"labels/00\.png: band 1 holds code 255, which is neither a class of label",
    ),
    "map code": ({"layers__map__unknown": "error"}, r"images/00\.tif: band 5 holds code 33, which is neither"),
    "unknown": ({"layers__map__unknown": "skip"}, r"layers\.map\.unknown=skip: choose ignore or error"),
    "pattern": ({"sensors__hls__file": "image/{chip}.tif"}, r"no file matches 'image/\{chip\}\.tif'; check data\.root"),
    "glob": ({"chips": "T33*"}, r"the train split is empty; no chip id matches data\.chips='T33\*'"),
    "empty": ({"splits__values": {"train": "fit"}}, r"the train split is empty; check data\.splits\.values"),
    "value": (
        {"splits__values": {"fit": "fit"}},
        r"data\.splits\.values\.fit: no such key; choose from pretrain, train",
    ),
    "csv": ({"splits__file": "split.csv"}, r"data\.splits\.file: no file .*split\.csv"),
    "column": ({"splits__column": "part"}, r"chips\.csv: no column 'part'; it has chip, area, split"),
    "size": ({"size": 0}, r"data\.size=0: expected a whole number, at least 1"),
    "level": (
        {"sensors__hls__level": "L1C"},
        r"sensors\.hls\.level: sensor hls has no level 'L1C'; leave it out or take TOA$",
    ),
    "without": ({"without": ["s1"]}, r"data\.without=s1: not described; choose from hls, dem, map, label"),
    "folder": ({"root": "/no/such"}, r"data\.root=/no/such: no folder /no/such; check the path or give data\.root"),
}


@pytest.mark.parametrize("fault", DESCRIPTION_FAULTS)
def test_faults_of_the_description_name_the_key(options: dict[str, Any], fault: str):
    change, message = DESCRIPTION_FAULTS[fault]
    with pytest.raises(InputError, match=message) as error:
        build_source(changed(options, **change), "train").read([0])
    assert "\n" not in str(error.value)


def test_an_unset_variable_in_root_is_named(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, root: Path):
    options = changed(options, root="$CHIPS_HERE/chips")
    monkeypatch.delenv("CHIPS_HERE", raising=False)
    with pytest.raises(InputError, match="environment variable CHIPS_HERE is not set; export CHIPS_HERE=/"):
        build_source(options, "train")
    monkeypatch.setenv("CHIPS_HERE", "/no/such")
    with pytest.raises(InputError, match="no folder /no/such/chips; check the environment variable CHIPS_HERE"):
        build_source(options, "train")
    monkeypatch.setenv("CHIPS_HERE", str(root.parent))
    assert len(build_source(options, "train")) == 4


def test_faults_of_files_name_the_file(options: dict[str, Any], root: Path):
    source = build_source(changed(options, cache_mb=0), "train")

    def fault(message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            source.read([1])
        assert "\n" not in str(error.value)
        write_chip(root, 1)

    image, label = root / "images/01.tif", root / "labels/01.png"
    image.write_bytes(image.read_bytes()[:700])
    fault(r"images/01\.tif: cannot be read, truncated or not an image\?")
    image.write_text("not an image")
    fault(r"images/01\.tif: cannot be read")
    label.write_bytes(label.read_bytes()[:60])
    fault(r"labels/01\.png: cannot be read")
    Image.fromarray(np.zeros((N, 20), np.uint8)).save(label)
    fault(r"labels/01\.png: is 16 x 20 pixels, but images/01\.tif is 16 x 16")
    write_tiff(image, np.zeros((5, 20, 20), np.int16))
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(label)
    fault(r"images/01\.tif: is 20 x 20 pixels, but was 16 x 16 at the start")
    image.unlink()
    with pytest.raises(InputError, match=r"no file images/01\.tif \(1 of 4 train chips lack a file\)"):
        build_source(options, "train")


def test_leaking_areas_and_repeated_chips_are_refused(options: dict[str, Any], root: Path):
    table = root / "chips.csv"
    text = table.read_text()
    table.write_text(text.replace("04,area2", "04,area1"))
    with pytest.raises(InputError, match=r"chips\.csv: area area1 is in both pretrain and val, a leak; split by area"):
        build_source(options, "test")
    table.write_text(text + "\n07,area3,test")
    with pytest.raises(InputError, match=r"chips\.csv: chip 07 is listed twice"):
        build_source(options, "test")


def test_other_formats_are_refused_by_name(options: dict[str, Any], root: Path):
    for chip in range(4):
        (root / f"labels/{chip:02d}.hdr").touch()
    with pytest.raises(InputError, match=r"labels/00\.hdr: cannot read \.hdr; known: \.tif, \.tiff, \.png"):
        build_source(changed(options, layers__label__file="labels/{chip}.hdr"), "train")


# ------------------------------------------------------------------------------------------------- the real folder

real = pytest.mark.skipif(
    "GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real hls_water chips are absent"
)


@real
def test_hls_water_reads_whole():
    options = load_choice("data", "hls_water")
    sources = {s: build_source(options, s) for s in SPLITS}
    assert {s: len(v) for s, v in sources.items()} == {"pretrain": 175, "train": 175, "val": 54, "test": 77}
    assert [len(set(sources[s].groups())) for s in ("train", "val", "test")] == [41, 14, 17]
    batch = sources["val"].read(range(54))
    assert batch.sensors["hls"].x.shape == (54, 1, 7, 128, 128) and batch.sensors["dem"].valid.all()
    for series in batch.sensors.values():
        assert series.x.isfinite().all() and series.x.abs().mean() < 2
    assert 0.98 < batch.sensors["hls"].valid.float().mean() < 1
    assert batch.targets["label"].unique().tolist() == [0, 1] and batch.targets["map"].min() >= 0


@real
def test_the_pictures_of_the_docs_become_windows_of_three_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The script and both yaml files of the page, on the folder they are written for."""
    page = (Path(__file__).parents[1] / "docs/chips.md").read_text()
    for name, text in re.findall(r"```(?:yaml|python)\n# (pairs\S*\.yaml|make_labels\.py)(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text("#" + text)
    monkeypatch.chdir(tmp_path)
    exec(compile((tmp_path / "make_labels.py").read_text(), "make_labels.py", "exec"), {})
    task = build_task("pairs", load_choice("task", "./pairs_task.yaml"))
    sources = {s: build_source(task.data, s) for s in ("train", "val", "test")}
    assert {s: len(v) for s, v in sources.items()} == {"train": 448, "val": 192, "test": 128}
    names = {s: set(v.names()) for s, v in sources.items()}  # type: ignore[attr-defined]
    assert {s: len(n) for s, n in names.items()} == {"train": 7, "val": 3, "test": 2}
    assert len(set.union(*names.values())) == 12  # no picture in two splits
    batch = sources["test"].read([0, 127])
    assert list(batch.sensors) == ["s1"] and batch.sensors["s1"].x.abs().mean() < 2 and batch.size == (128, 128)
