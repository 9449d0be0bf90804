"""SSL4EO-L, SSL4EO-S12 v1.1 and Copernicus-Pretrain: against torchgeo's classes and miniatures, and what is special."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pretraining
import pytest
import torch
from pretraining import DAYS

from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.source import Source
from gfm_objectives.data.tensors import find
from gfm_objectives.data.torchgeo import classes, landsat, ssl4eo_v11
from gfm_objectives.data.torchgeo.files import day, read_tif
from gfm_objectives.errors import InputError, InputWarning


def source(root: Path, name: str, split: str = "pretrain", **options) -> Source:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(tile is smaller|medians|rise and fall|no valid pixel)", InputWarning)
        return build_source({**load_choice("data", name), "root": str(root), **options}, split)


# ---------------------------------------------------------------- SSL4EO-L


@pytest.mark.parametrize("product", ["oli_sr", "etm_sr", "oli_tirs_toa", "etm_toa", "tm_toa"])
def test_every_product_of_ssl4eo_l_equals_torchgeo(product, gfm_data):
    root, name = gfm_data / "formats/torchgeo/ssl4eo/l", "ssl4eo_l" if product.endswith("sr") else "ssl4eo_l_toa"
    one = source(root, name, product=product)
    theirs = classes.opened("SSL4EOL", root, split=product, seasons=4)
    seen = theirs[theirs.scenes.index(one.names()[0])]  # looks in an order of chance
    order = np.argsort(seen["t"].numpy())
    bands = len(theirs.metadata[product]["all_bands"])
    x = seen["image"].unflatten(0, (4, bands))[order][:, [b - 1 for b in landsat.STORED[product]]]
    tile = one.decode(0)
    series = tile.sensors["hls"]
    top = 0.3 if product.endswith("sr") else 0.4
    valid = (x > 0).all(1)
    assert torch.equal(series.valid[0], valid) and valid.any() and not valid.all()
    ours = series.x[0].movedim(1, -1)[valid]
    assert torch.allclose(ours, (x.movedim(1, -1)[valid] + 0.5) * top / 255, atol=1e-6) and ours.max() <= top + 1e-3
    days = series.day[0].tolist()
    assert days == sorted(days) and days[0] > 0 and series.level == ("" if product.endswith("sr") else "TOA")


def test_wavelengths_of_the_six_bands_are_those_torchgeo_names():
    from torchgeo.datasets import SSL4EOL
    from torchgeo.datasets.landsat import Landsat5TM, Landsat7, Landsat8

    from gfm_objectives.sensors import SENSORS

    ours = {b.name: b.wavelength for b in SENSORS["hls"].bands}
    for product, stored in landsat.STORED.items():
        base = Landsat8 if "oli" in product else Landsat7 if "etm" in product else Landsat5TM
        names = [SSL4EOL.metadata[product]["all_bands"][b - 1] for b in stored]
        for mine, theirs in zip(landsat.SIX, names, strict=True):
            assert 1000 * base.wavelengths[theirs] == pytest.approx(ours[mine], rel=0.05), (product, mine, theirs)


def test_maps_of_the_benchmark_are_torchgeos(tmp_path):
    pretraining.ssl4eo_l_benchmark(tmp_path, side=40)
    state = np.random.get_state()[1].copy()
    one = source(tmp_path, "ssl4eo_l_benchmark", "train", size=40)
    assert np.array_equal(np.random.get_state()[1], state)  # torchgeo's seeding of all is undone
    assert one.spec.legends["map"].name == "nlcd" and len(one.spec.legends["cdl"]) == 132
    for product in ("nlcd", "cdl"):
        theirs = classes.opened("SSL4EOLBenchmark", tmp_path, sensor="oli_sr", product=product, split="train")
        codes = np.array(theirs.classes)  # since 0.9 or 0.10 without 0: nothing, and the first class, are both 0
        legend = landsat.MAPS[product]
        nothing = {0, 81} if product == "cdl" else {0, 250}  # 250 since 0.9 or 0.10
        assert set(legend.codes) == set(codes.tolist()) - nothing
        for k in range(2):
            sample, tile = theirs[k], one.decode(k)
            ours = tile.targets["map" if product == "nlcd" else product][0]
            known = ours >= 0
            assert codes[0] or torch.equal(sample["mask"] > 0, known)
            assert np.array_equal(np.array(legend.codes)[ours[known]], codes[sample["mask"][known]])
    assert not tile.sensors["hls"].valid[0, 0, 0, :3].any() and not tile.sensors["hls"].valid[0, 0, 1, 1]
    split = {s: set(source(tmp_path, "ssl4eo_l_benchmark", s).tile_groups()) for s in ("train", "val", "test")}
    assert [len(names) for names in split.values()] == [14, 3, 3] and len(set.union(*split.values())) == 20


def test_a_benchmark_with_one_map_says_so(tmp_path):
    pretraining.ssl4eo_l_benchmark(tmp_path, places=8, side=40)
    for path in sorted((tmp_path / "ssl4eo_l_oli_cdl").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "ssl4eo_l_oli_cdl").rmdir()
    one = source(tmp_path, "ssl4eo_l_benchmark", "train")
    assert (one.decode(0).targets["cdl"] == -1).all() and any("no cdl maps" in line for line in one.notes())
    with pytest.raises(InputError, match=r"holds neither ssl4eo_l_etm_nlcd/ nor .*data.download=true"):
        source(tmp_path, "ssl4eo_l_benchmark", "train", product="etm_sr")
    with pytest.raises(
        InputError, match=r"data.product=oli_tirs_toa: no such product here; choose from oli_sr, etm_sr"
    ):
        source(tmp_path, "ssl4eo_l_benchmark", "train", product="oli_tirs_toa")


# ---------------------------------------------------------------- SSL4EO-S12 v1.1


@pytest.fixture(scope="module")
def v11(tmp_path_factory):
    pytest.importorskip("zarr")
    root = tmp_path_factory.mktemp("v11")
    pretraining.ssl4eo_v11(root)
    return root


@pytest.mark.parametrize("name", ["ssl4eo_s12_v11", "ssl4eo_s12_v11_l2a"])
def test_values_days_and_places_of_v11(name, v11):
    one = source(v11, name, size=32)
    assert one.names() == ["000001/00", "000001/01", "000001/02", "000002/00", "000002/01", "000002/02"]
    tile = one.decode(4)  # place 1 of file 2
    s2, s1 = tile.sensors["s2"], tile.sensors["s1"]
    blue = s2.x[0, :, s2.bands.index("B02"), 9, 9] * 1e4
    assert blue.tolist() == pytest.approx([210, 211, 212, 213], abs=0.1)  # without the offset
    vv, vh = s1.x[0, :, :, 9, 9].T.tolist()
    assert vv == pytest.approx([-10.1, -10.2, -10.3, -10.4], abs=0.02) and vh == pytest.approx(
        [v - 7 for v in vv], abs=0.02
    )
    assert s2.day[0].tolist() == s1.day[0].tolist() == [day(d) for d in DAYS]
    assert tile.lonlat[0].tolist() == [11.0, 41.0]
    first = one.decode(0)
    for sensor in ("s2", "s1"):
        valid = first.sensors[sensor].valid[0]
        assert not valid[0, 0, :5].any() and valid[0].sum() == 32 * 32 - 5 and valid[1:].all()
    two = source(v11, name, dates=2, size=32).decode(0).sensors["s2"]
    assert two.day[0].tolist() == [day(DAYS[1]), day(DAYS[3])]


def test_faults_of_v11_are_named(v11, tmp_path, monkeypatch):
    import zarr

    with pytest.raises(InputError, match="the test split of ssl4eo_s12_v11 has no tile"):
        source(v11, "ssl4eo_s12_v11", "test")
    pretraining.ssl4eo_v11(tmp_path, files=1)
    path = tmp_path / "train/S1GRD/ssl4eos12_train_seasonal_data_000001.zarr.zip"
    path.write_bytes((v11 / "train/S1GRD/ssl4eos12_train_seasonal_data_000002.zarr.zip").read_bytes())
    with pytest.raises(InputError, match=r"number 0 is not one place \(S2L1C 0000000, S1GRD 0000100\)"):
        source(tmp_path, "ssl4eo_s12_v11")
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"000001.zarr.zip: is no zarr.zip of format 2"):
        source(tmp_path, "ssl4eo_s12_v11")
    path.unlink()
    store = zarr.storage.ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    import numcodecs

    group.create_array("band", shape=(2,), dtype="i4", chunks=(2,), compressors=numcodecs.Pickle())
    store.close()
    with pytest.raises(InputError, match=r"000001.zarr.zip: .*pickle"):  # zarr 3 knows none of its arrays
        source(tmp_path, "ssl4eo_s12_v11")
    monkeypatch.setattr(ssl4eo_v11, "CODECS", set())
    with pytest.raises(InputError, match=r"band is packed by blosc, which may run code: refused"):
        source(v11, "ssl4eo_s12_v11")


def test_the_list_of_v11_has_64_places_to_a_file(gfm_data):
    import pandas as pd

    table = pd.read_parquet(gfm_data / "formats/real/ssl4eo_s12_v1_1/splits/val_metadata.parquet")
    assert (table.groupby("file").sample_id.nunique() == 64).all() and table.file.nunique() == 34
    assert table.groupby("sample_id").time.apply(lambda t: t.is_monotonic_increasing).all()  # looks come in order


# ---------------------------------------------------------------- Copernicus-Pretrain


def description(cell: str, places: dict[str, list[str]], wrap: bool = True) -> list:
    """As the makers' script writes it: each text in a list of its own, or (torchgeo's sample) plain."""
    rows = [[f"{cell}_-96.00_44.00/{place}/{d}" for d in days] for place, days in places.items()]
    return [[[text] for text in row] for row in rows] if wrap else rows


@pytest.fixture
def tar(tmp_path):
    """Two cells: one of two places, one look of which is a repeat; one whose radar stayed from the first."""
    x = torch.arange(2 * 4 * 13, dtype=torch.int16).view(2, 4, 13, 1, 1).expand(-1, -1, -1, 264, 264).contiguous() + 1
    r = (
        -(torch.arange(2 * 4 * 2, dtype=torch.float32).view(2, 4, 2, 1, 1)).expand(-1, -1, -1, 264, 264).contiguous()
        - 1
    )
    a, b = "0865831_-95.92_43.96", "0865832_-95.95_43.99"
    days = {a: ["20221121", "20220322", "20220620", "20220322"], b: list(DAYS)}
    radar = description("0772176", dict(reversed(days.items())))  # the other way round
    cells = {
        "0772176": {
            "s2_toa.pth": x,
            "s1_grd.pth": r,
            "json": {"s2_toa": description("0772176", days), "s1_grd": radar},
        },
        "0772177": {
            "s2_toa.pth": x[:1].clone(),
            "s1_grd.pth": r,
            "json": {"s2_toa": description("0772177", {a: list(DAYS)}, wrap=False), "s1_grd": radar},
        },
    }
    pretraining.copernicus(tmp_path / "aligned" / "example-000000.tar", cells)
    return tmp_path


def test_places_of_copernicus_pretrain(tar):
    one = source(tar, "copernicus_pretrain", size=264)
    assert one.names() == ["0772176/0865831_-95.92_43.96", "0772176/0865832_-95.95_43.99"]  # with radar of their own
    assert set(one.tile_groups()) == {"0772176"}
    tile = one.decode(0)
    s2, s1 = tile.sensors["s2"], tile.sensors["s1"]
    want = [day("20220322"), day("20220620"), day("20221121")]
    assert s2.day[0].tolist() == [*want, want[-1]] and s2.valid[0, :3].all() and not s2.valid[0, 3].any()
    assert (s2.x[0, :3, 0, 5, 5] * 1e4).round().tolist() == [14, 27, 1]  # looks 1, 2 and 0
    assert s1.x[0, :3, 0, 5, 5].tolist() == [-11, -13, -9]  # the second tensor of radar is the first place's
    assert tile.lonlat[0].tolist() == pytest.approx([-95.92, 43.96]) and s2.level == "L1C"
    alone = source(tar, "copernicus_pretrain", sensors=["s2"], size=264)
    assert len(alone) == 3 and alone.names()[2].startswith("0772177/")
    assert torch.equal(pickle.loads(pickle.dumps(one)).decode(1).sensors["s2"].x, one.decode(1).sensors["s2"].x)


def test_a_real_chip_in_a_tar_of_copernicus_pretrain(gfm_data, tmp_path):
    chip = read_tif(next((gfm_data / "formats/real/copernicus_pretrain").glob("*.tif")))
    x = torch.from_numpy(chip.astype(np.int16))[None, None].expand(1, 4, -1, -1, -1).contiguous()
    place = {"0000001_170.00_-40.00": ["20201002"] * 4}
    cells = {"0000009": {"s2_toa.pth": x, "json": {"s2_toa": description("0000009", place)}}}
    pretraining.copernicus(tmp_path / "example-000000.tar", cells)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)  # no guard has anything to say of it
        one = build_source({**load_choice("data", "copernicus_pretrain"), "root": str(tmp_path), "sensors": ["s2"],
                            "size": 264}, "pretrain")  # fmt: skip
    s2 = one.decode(0).sensors["s2"]
    assert np.array_equal((s2.x[0, 0] * 1e4).round().numpy(), chip.astype(np.float32))
    assert s2.valid[0, 0].all() and not s2.valid[0, 1:].any()  # four times the same look is one


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Evil.path),)


@pytest.mark.parametrize("what", ["code", "list", "compressed", "short", "no zip"])
def test_nothing_is_unpickled(what, tar, tmp_path):
    Evil.path = tmp_path / "made"
    file = tar / "part.pth"
    torch.save(torch.arange(6.0).view(2, 3), file)
    assert find(file).read(1).tolist() == [3, 4, 5]
    if what == "code":
        torch.save(Evil(), file)
    elif what == "list":
        torch.save([torch.zeros(3)], file)
    elif what == "compressed":
        import zipfile

        with zipfile.ZipFile(file) as old:
            parts = {n: old.read(n) for n in old.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for n, data in parts.items():
                new.writestr(n, data)
    else:
        file.write_bytes(b"\x80\x02" if what == "no zip" else file.read_bytes()[:-40])
    with pytest.raises(
        InputError, match=r"part.pth: (a part of it is no plain tensor \(|a tensor in it is compressed)"
    ):
        find(file)
    assert not Evil.path.exists()


@pytest.mark.parametrize("value", [torch.randn(3, 4), torch.arange(9).view(3, 3), torch.ones(2, 5, dtype=torch.half)])
def test_tensors_are_what_was_saved(value, tmp_path):
    torch.save(value, tmp_path / "x.pth")
    found = find(tmp_path / "x.pth")
    assert found.shape == tuple(value.shape)
    assert np.array_equal(np.stack([found.read(k) for k in range(len(value))]), value.numpy())
    torch.save(value.T if value.shape[0] != value.shape[1] else value[:, :2], tmp_path / "x.pth")
    with pytest.raises(InputError, match="another object, or not contiguous"):
        find(tmp_path / "x.pth")
