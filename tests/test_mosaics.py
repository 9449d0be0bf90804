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
from gfm_objectives.errors import InputError

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
