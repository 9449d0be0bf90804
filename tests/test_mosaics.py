"""Mosaics by torchgeo's intersection: scenes in two tiles and a coarser map, cut where both lie; splits by block."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import write_tif
from rasterio.transform import Affine

from gfm_objectives.data import build_source
from gfm_objectives.errors import InputError, InputWarning

# rasterio multiplies transforms the old way, in its merge too.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

WEST, NORTH = 500_000.0, 5_400_000.0  # UTM 33N
SENSORS = {"s2": {"file": "scenes/*.tif", "bands": {"B04": 1, "B08": 2}, "scale": 1e-4}}
LAYERS = {"map": {"file": "map/**/*.tif", "legend": "worldcover"}}
OPTIONS = {"name": "mosaics", "gsd": 10, "size": 16, "block_km": 0.5, "sensors": SENSORS, "layers": LAYERS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 100 x 100 px side by side: B04 holds the column in metres / 10, B08 the row. A map of 30 m in
    another projection's zone would move; here it is shifted, lacks the east, and is cropland east of 1,000 m."""
    root = tmp_path_factory.mktemp("mosaics")
    for tile in range(2):
        column = 1 + np.arange(100) + 100 * tile + np.zeros((100, 1))
        row = 1 + np.arange(100)[:, None] + np.zeros((1, 100))
        x = np.stack([column, row]).astype(np.uint16)
        x[:, 40, 40] = 0
        where = Affine(10, 0, WEST + 1000 * tile, 0, -10, NORTH)
        write_tif(root / "scenes" / f"{tile}.tif", x, crs="EPSG:32633", transform=where)
    codes = np.where(30 * np.arange(50) + 15 - 60 < 1000, 10, 40) + np.zeros((1, 40, 1))
    where = Affine(30, 0, WEST - 60, 0, -30, NORTH + 60)
    write_tif(root / "map" / "a" / "land.tif", codes.astype(np.uint8), crs="EPSG:32633", transform=where)
    return root


def test_cells_lie_where_both_do_and_pixels_where_they_should(root):
    one = build_source({**OPTIONS, "root": str(root), "shares": {"val": 0.0, "test": 0.0}}, "pretrain")
    assert len(one) == 9 * 6  # 1,440 m of the map's 1,500 - 60, and 1,000 m from north to south, in cells of 160 m
    raw = one.raw(range(len(one)))
    s2 = raw.sensors["s2"]
    for k, (west, north) in enumerate(one._cells.tolist()):
        column, row = (west - WEST) / 10, (NORTH - north) / 10
        seen = s2.valid[k, 0]
        expected = (1 + column + torch.arange(16)).expand(16, 16)
        assert torch.allclose(s2.x[k, 0, 0][seen] * 1e4, expected[seen], atol=0.01)
        assert torch.allclose(
            s2.x[k, 0, 1][seen] * 1e4, (1 + row + torch.arange(16)[:, None]).expand(16, 16)[seen], atol=0.01
        )
        east = (west - WEST + 10 * torch.arange(16) + 5) > 1005
        far = ((west - WEST + 10 * torch.arange(16) + 5) - 1005).abs() > 30
        label = torch.where(east, 3, 0).expand(16, 16)  # cropland, tree cover
        assert torch.equal(raw.targets["map"][k][:, far], label[:, far])
    assert (~s2.valid).sum() == 2  # the pixels of 0
    again = pickle.loads(pickle.dumps(one)).raw([5])
    assert torch.equal(again.sensors["s2"].x[0], s2.x[5]) and "cells: 54" in one.notes()[0]


def test_blocks_are_in_one_split(root):
    made = {}
    for split in ("train", "val", "test"):
        made[split] = build_source({**OPTIONS, "root": str(root), "shares": {"val": 0.3, "test": 0.3}}, split)
    areas = [set(s.groups()) for s in made.values()]
    assert sum(map(len, areas)) == len(set.union(*areas)) and sum(map(len, made.values())) == 54
    assert len({s.fingerprint for s in made.values()}) == 3


def test_what_is_missing_is_named(root, tmp_path):
    def options(**changes):
        return {**OPTIONS, "root": str(root), **changes}

    with pytest.raises(InputError, match=r"no file matches 'maps/\*.tif' of map"):
        build_source(options(layers={"map": {"file": "maps/*.tif", "legend": "worldcover"}}), "pretrain")
    with pytest.raises(InputError, match="the pretrain split has no cell"):
        build_source(options(size=200), "pretrain")
    write_tif(
        tmp_path / "scenes" / "a.tif",
        np.ones((2, 9, 9), np.uint8),
        crs="EPSG:4326",
        transform=Affine(1, 0, 5, 0, -1, 50),
    )
    with pytest.raises(InputError, match="is not in metres"):
        build_source(options(root=str(tmp_path), layers=None), "pretrain")


# ---------------------------------------------------------------- what files state, as of chips

N = 64
GREY = np.full((1, N, N), 1000, np.int16)
HALF = np.arange(N)[:, None] < N // 2  # north
CODES = np.where(HALF, 0, 1).astype(np.uint8)[None] * np.ones((1, 1, N), np.uint8)


def lay(root: Path, collection: str, x: np.ndarray, name: str = "a", gsd: float = 10, west: float = WEST, **about):
    """A file of 10 m pixels from (WEST, NORTH); mask: what is seen of it; scales: of its bands."""
    import rasterio

    mask, scales = about.pop("mask", None), about.pop("scales", None)
    where = Affine(gsd, 0, west, 0, -gsd, about.pop("north", NORTH))
    path = write_tif(root / collection / f"{name}.tif", x, **{"crs": "EPSG:32633", "transform": where, **about})
    if mask is not None or scales:
        with rasterio.open(path, "r+") as file:
            if scales:
                file.scales = scales
            if mask is not None:
                file.write_mask(mask)
    return path


def all_of(root: Path, sensors=None, layers=None, gsd: float = 10):
    """Every cell of a folder as one batch, in the order in which they lie."""
    options = {"name": "mosaics", "root": str(root), "gsd": gsd, "size": 16, "block_km": 100, "layers": layers}
    options |= {"sensors": sensors or {"s2": {"file": "s/*.tif", "bands": {"B04": 1}, "scale": 1e-4}}}
    made = build_source({**options, "shares": {"val": 0.0, "test": 0.0}}, "pretrain")
    return made.raw(range(len(made)))


def test_what_files_hide_is_not_used(tmp_path):
    x = np.where(HALF, -9999, GREY)
    for name, values, about in (
        ("value", x, {"nodata": -9999}),
        ("mask", GREY, {"mask": ~HALF * np.ones((1, N), bool)}),
    ):
        lay(tmp_path / name, "s", values, **about)
        s2 = all_of(tmp_path / name).sensors["s2"]
        assert s2.valid.float().mean() == 0.5 and s2.x[s2.valid[:, :, None]].unique().tolist() == [pytest.approx(0.1)]
    lay(tmp_path / "value", "s", 2 * GREY, "b")  # where the first has nothing, the second counts
    s2 = all_of(tmp_path / "value").sensors["s2"]
    assert s2.valid.all() and (s2.x > 0.15).float().mean() == 0.5


def test_heights_of_0_are_heights_and_scales_are_those_of_the_file(tmp_path):
    lay(tmp_path / "dem", "s", np.where(HALF, 0, GREY))
    dem = all_of(tmp_path / "dem", {"dem": {"file": "s/*.tif", "bands": {"elevation": 1}}}).sensors["dem"]
    assert dem.valid.all() and (dem.x == 0).float().mean() == 0.5
    lay(tmp_path / "scaled", "s", GREY, scales=[1e-3])
    with pytest.warns(InputWarning, match=r"1 of 1 files: s2: the file says \* 0.001 \+ 0, the yaml \* 0.0001"):
        all_of(tmp_path / "scaled")
    scaled = all_of(tmp_path / "scaled", {"s2": {"file": "s/*.tif", "bands": {"B04": 1}, "scale": "file"}})
    assert scaled.sensors["s2"].x.unique().tolist() == [pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("codes", "about", "more", "wanted"),
    [
        (CODES, {"nodata": 0}, {}, [-1, 1]),
        (CODES, {"nodata": 0}, {"nodata": "none"}, [0, 1]),
        (7 * CODES, {}, {"ignore": 7}, [-1, 0]),
        (np.concatenate([1 - CODES, CODES]), {}, {"one_hot": True}, [0, 1]),
        (np.concatenate([CODES, CODES, 9 * CODES]), {}, {"colors": ["#000000", "#010109"]}, [0, 1]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*declares 0 to be no data:gfm_objectives.errors.InputWarning")
def test_labels_are_those_that_chips_would_have(tmp_path, codes, about, more, wanted):
    lay(tmp_path, "s", GREY)
    lay(tmp_path, "m", codes, **about)
    label = all_of(tmp_path, layers={"y": {"file": "m/*.tif", "classes": ["no", "yes"], **more}}).targets["y"]
    assert label.unique().tolist() == wanted and (label == wanted[0]).float().mean() == 0.5


def test_numbers_are_a_layer_too(tmp_path):
    lay(tmp_path, "s", GREY)
    lay(tmp_path, "m", np.where(HALF, -9999, 12.5 + 0 * GREY).astype(np.float32), nodata=-9999)
    height = all_of(tmp_path, layers={"y": {"file": "m/*.tif", "unit": "metre"}}).targets["y"]
    assert height.isnan().float().mean() == 0.5 and height[~height.isnan()].unique().tolist() == [12.5]


def test_where_no_file_is_there_is_no_class(tmp_path):
    """The corners of a map from another zone, turned against the grid."""
    from rasterio.warp import transform

    lay(tmp_path, "s", np.tile(GREY, (1, 2, 2)))
    (x,), (y,) = transform("EPSG:32633", "EPSG:32634", [WEST + 640], [NORTH - 640])
    lay(tmp_path, "m", np.ones((1, 128, 128), np.uint8), crs="EPSG:32634", west=x - 640, north=y + 640)
    label = all_of(tmp_path, layers={"y": {"file": "m/*.tif", "classes": ["no", "yes"]}}).targets["y"]
    assert label.unique().tolist() == [-1, 1] and 0 < (label < 0).float().mean() < 0.3


def test_fine_pixels_are_averaged_as_what_they_are(tmp_path):
    lay(tmp_path, "m", (np.arange(4 * N) % 4 == 1)[None, None].repeat(4 * N, 1).astype(np.uint8))
    power = np.where(np.arange(4 * N) % 2, -30.0, 0.0).astype(np.float32)
    lay(tmp_path, "s", np.tile(power, (4 * N, 1))[None])
    radar = {"s1": {"file": "s/*.tif", "bands": {"VV": 1}}}
    batch = all_of(tmp_path, radar, {"y": {"file": "m/*.tif", "classes": ["no", "yes"]}}, gsd=40)
    assert batch.targets["y"].unique().tolist() == [0]  # three columns of four
    inner = batch.sensors["s1"].x[..., 2:-2, 2:-2]
    assert ((inner + 3.0).abs() < 1).all()  # half of the power, not -15 dB


def test_faults_of_files_are_told_before_anything_is_read(tmp_path):
    lay(tmp_path, "s", GREY)
    lay(tmp_path, "m", np.concatenate([CODES] * 2))
    with pytest.raises(InputError, match=r"m/a.tif: has 2 bands; say which band holds the codes"):
        all_of(tmp_path, layers={"y": {"file": "m/*.tif", "classes": ["no", "yes"]}})
    with pytest.raises(InputError, match=r"s/a.tif: has no band 3; it has 1"):
        all_of(tmp_path, {"s2": {"file": "s/*.tif", "bands": {"B04": 3}}})
    with pytest.raises(InputError, match=r"data.sensors.drone: of mosaics nothing is fitted; give `mean` and `std`"):
        all_of(tmp_path, {"drone": {"file": "s/*.tif", "bands": {"red": 1}, "unit": "number"}})
    (tmp_path / "s" / "b.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(InputError, match=r"s/b.tif: cannot be read, truncated or not an image"):
        all_of(tmp_path)
    (tmp_path / "s" / "b.tif").unlink()
    write_tif(tmp_path / "s" / "c.tif", GREY)
    with pytest.raises(InputError, match=r"s/c.tif: does not say where on Earth it lies"):
        all_of(tmp_path)


def test_pixels_of_another_size_are_told(tmp_path):
    """Brought to gsd, whatever they were: nobody is warned, and inspect says it."""
    lay(tmp_path, "s", GREY)
    lay(tmp_path, "s", GREY, "b", gsd=20)
    lay(tmp_path, "m", CODES)
    layers = {"y": {"file": "m/*.tif", "classes": ["no", "yes"], "codes": [1, 2]}}
    sensors = {"s2": {"file": "s/*.tif", "bands": {"B04": 1}, "scale": 1e-4}}
    options = {"name": "mosaics", "root": str(tmp_path), "gsd": 10, "size": 16, "block_km": 100, "layers": layers}
    notes = build_source({**options, "sensors": sensors, "shares": {"val": 0.0, "test": 0.0}}, "pretrain").notes()
    assert [line for line in notes if "become" in line] == ["1 of 2 files: s2: pixels of 20 m become 10 m"]
