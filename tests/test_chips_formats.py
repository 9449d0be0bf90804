"""Chips beyond one GeoTIFF of one date: NPY, several dates, and files of other resolutions brought to one grid."""

from __future__ import annotations

import pickle
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rasterio import Affine
from test_chips import write_tiff

from gfm_objectives.data import build_source
from gfm_objectives.data.finding import day_of, find_files
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.resampling import resample_pixels
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.inspection import look
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.runs.checkpoint import load_encoder, save_encoder
from gfm_objectives.sensors import S2_L1C, SENSORS

N = 24  # pixels


def from_origin(west: float, north: float, width: float, height: float) -> Affine:
    return Affine(width, 0, west, 0, -height, north)  # rasterio's own warns of its own code


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def chips(root: Path, sensors: dict[str, Any], layers: dict[str, Any] | None = None, **more: Any):
    return build_source(
        {"name": "chips", "root": str(root), "gsd": 10, "sensors": sensors} | more | {"layers": layers}, "pretrain"
    )


def values(source, sensor: str, i: int = 0) -> torch.Tensor:
    """(T, C, H, W) in the sensor's unit."""
    s = source.read([i]).sensors[sensor]
    return SENSORS[sensor].denormalise(s.x, s.bands)[0]


# ------------------------------------------------------------------------------------------------- NPY


def test_npy_with_two_and_three_axes(tmp_path: Path):
    x = np.random.default_rng(0).random((3, N, N))
    save(tmp_path / "s2/a.npy", x)
    save(tmp_path / "label/a.npy", (x[0] > 0.5).astype(">i2"))
    s2 = {"file": "s2/{chip}.npy", "bands": {"B04": 3, "B02": 1}}
    source = chips(tmp_path, {"s2": s2}, {"label": {"file": "label/{chip}.npy", "classes": ["low", "high"]}})
    torch.testing.assert_close(values(source, "s2")[0], torch.from_numpy(x[[2, 0]]).float(), atol=1e-6, rtol=0)
    assert torch.equal(source.read([0]).targets["label"][0], torch.from_numpy((x[0] > 0.5).astype(int)))


NPY_FAULTS = {
    "text": (None, r"a\.npy: cannot be read, truncated or not an image\?"),
    "objects": (np.array([{}]), r"a\.npy: cannot be read"),
    "complex": (np.ones((N, N), complex), r"a\.npy: holds complex128 values; store whole or real numbers"),
    "axes": (np.ones((2, 2, 2, N, N)), r"a\.npy: has the shape \(2, 2, 2, 24, 24\); expected \(rows, columns\)"),
    "bands last": (np.ones((N, N, 3)), r"a\.npy: has the shape \(24, 24, 3\); save bands first: np\.moveaxis\(a, -1"),
    "dates": (np.ones((5, 1, N, N)), r"a\.npy: holds 5 dates, expected 1; `dates` of its sensor says how many"),
}


@pytest.mark.parametrize("fault", NPY_FAULTS)
def test_faults_of_npy(tmp_path: Path, fault: str):
    array, message = NPY_FAULTS[fault]
    if array is None:
        (tmp_path / "a.npy").write_text("not an array")
    else:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        chips(tmp_path, {"s1": {"file": "{chip}.npy", "bands": {"VV": 1}}})


def test_a_level_has_figures_of_its_own(tmp_path: Path):
    save(tmp_path / "a.npy", np.full((1, N, N), 2000))
    s2 = {"file": "{chip}.npy", "bands": {"B09": 1}, "scale": 1e-4}
    surface, top = (chips(tmp_path, {"s2": s2 | more}) for more in ({}, {"level": "L1C"}))
    s = top.read([0]).sensors["s2"]
    assert s.level == "L1C" and surface.fingerprint != top.fingerprint
    torch.testing.assert_close(s.x, S2_L1C.normalise(torch.full_like(s.x, 0.2), s.valid, s.bands))
    torch.testing.assert_close(values(surface, "s2"), torch.full((1, 1, N, N), 0.2))
    (tally,) = look(top, [0]).sensors.values()
    assert tally.levels == {"L1C"} and tally.bands["B09"].mean == pytest.approx(0.2, rel=1e-5)
    with pytest.raises(InputError, match=r"data\.sensors\.s2\.level: sensor s2 has no level 'L3'; .* or take L1C"):
        chips(tmp_path, {"s2": s2 | {"level": "L3"}})


# ------------------------------------------------------------------------------------------------- dates


def test_days():
    day = (date(2019, 4, 12) - date(2000, 1, 1)).days
    assert {day_of(t) for t in ("2019-04-12", "2019_04_12", "20190412", "2019102")} == {day}
    assert {day_of(t) for t in ("2019-4-12", "20190412T103021", "12-Apr-2019", "2019.04.12")} == {day}
    assert day_of("2019-04") == day + 3 and day_of("25-04-2019") == day_of("25042019") == day + 13
    for text in ("2019", "20191350", "april", "12-04-2019", "12042019", "2019400"):
        with pytest.raises(ValueError, match=text):
            day_of(text)


def test_dates_in_file_names(tmp_path: Path):
    """Chips may differ in their dates; the shorter is filled with empty ones, and quality goes with its date."""
    for chip, days in {"a": ["20200101", "20200201", "20200301"], "b": ["20200601"]}.items():
        for i, day in enumerate(days):
            save(tmp_path / f"s2/{chip}_{day}.npy", np.full((1, N, N), 1000 * (i + 1)))
            flags = np.zeros((N, N), np.uint8)
            flags[i] = 1
            save(tmp_path / f"qa/{chip}_{day}.npy", flags)
    s2: dict[str, Any] = {"file": "s2/{chip}_{date}.npy", "bands": {"B02": 1}, "scale": 1e-4}
    s2["valid"] = {"file": "qa/{chip}_{date}.npy", "band": 1, "invalid_bits": [0]}
    source = chips(tmp_path, {"s2": s2})
    assert source.spec.dates == {"s2": 3} and len(source) == 2
    batch = source.read([0, 1])
    assert batch.signature == source.spec.dummy(2).signature
    s = batch.sensors["s2"]
    assert s.day.tolist() == [[day_of(t) for t in ("20200101", "20200201", "20200301")], [day_of("20200601")] * 3]
    torch.testing.assert_close(values(source, "s2")[:, 0, 9, 9], torch.tensor([0.1, 0.2, 0.3]))
    assert s.valid[0].all(2).logical_not().nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert s.valid[1].any((1, 2)).tolist() == [True, False, False] and (s.x[1, 1:] == 0).all()
    two = chips(tmp_path, {"s2": {**s2, "dates": 2}})
    assert two.spec.dates == {"s2": 2} and two.read([0]).sensors["s2"].day.tolist() == [s.day[0, [0, 2]].tolist()]
    assert two.fingerprint != source.fingerprint
    (tmp_path / "qa/a_20200201.npy").unlink()
    with pytest.raises(
        InputError, match=r"a_20200101\.npy: .*qa/\{chip\}_\{date\}\.npy.* lacks a date .*skip: \[missing"
    ):
        chips(tmp_path, {"s2": s2})


@pytest.mark.parametrize("axes", ["npy", "stack"])
def test_dates_inside_a_file(tmp_path: Path, axes: str):
    x = np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1) * np.ones((N, N), np.float32)  # (T, C, H, W)
    save(tmp_path / "a.npy", x) if axes == "npy" else write_tiff(tmp_path / "a.tif", x.reshape(6, N, N))
    file = {"file": "{chip}.npy" if axes == "npy" else "{chip}.tif", "bands": {"VH": 2}}
    source = chips(tmp_path, {"s1": {**file, "dates": ["2020-01-01", 20200211, "2020-03-01"]}})
    torch.testing.assert_close(values(source, "s1")[:, 0, 0, 0], torch.tensor([1.0, 3.0, 5.0]))
    assert source.read([0]).sensors["s1"].day[0, 1] == day_of("2020-02-11")
    assert chips(tmp_path, {"s1": {**file, "dates": 3}}).read([0]).sensors["s1"].day.eq(0).all()
    with pytest.raises(InputError, match=r"holds 3 dates, expected 4|has 6 bands, which is no multiple of its 4 dates"):
        chips(tmp_path, {"s1": {**file, "dates": 4}})


def test_faults_of_dates(tmp_path: Path):
    s1 = {"file": "{chip}_{date}.npy", "bands": {"VV": 1}}
    save(tmp_path / "rome_april.npy", np.ones((N, N)))
    with pytest.raises(InputError, match=r"rome_april\.npy: no date where \{date\} stands; write 2019-04-12"):
        chips(tmp_path, {"s1": s1})
    for dates, message in ((["2020-01-01"], "the dates stand in the names"), (0, "expected at least 1")):
        with pytest.raises(InputError, match=message):
            chips(tmp_path, {"s1": {**s1, "dates": dates}})
    with pytest.raises(InputError, match=r"data\.sensors\.s1\.dates: april is no date"):
        chips(tmp_path, {"s1": {**s1, "file": "{chip}.npy", "dates": ["april"]}})
    with pytest.raises(InputError, match=r"data\.layers\.label\.file=.*: a layer has one date"):
        chips(tmp_path, {"s1": s1}, {"label": {"file": "{chip}_{date}.npy", "classes": ["a"]}})
    save(tmp_path / "s/rome_2020-02-30.npy", np.ones((N, N)))
    with pytest.raises(InputError, match=r"rome_2020-02-30\.npy: no date where \{date\} stands"):
        find_files(tmp_path, "s/{chip}_{date}.npy")


# ------------------------------------------------------------------------------------------------- one grid


def ramp(n: int) -> np.ndarray:
    """(n, n) values of a plane over the unit square, at the centres of pixels."""
    at = (np.arange(n) + 0.5) / n
    return (at[:, None] + 2 * at).astype(np.float32)


@pytest.mark.parametrize("placed", [True, False], ids=["warped", "by size"])
def test_sensors_of_other_resolutions_come_to_the_grid_of_the_first(tmp_path: Path, placed: bool):
    def place(n: int) -> dict[str, Any]:
        return {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 240 / n, 240 / n)} if placed else {}

    coarse = ramp(12)
    coarse[2, 3] = np.nan
    write_tiff(tmp_path / "s2/a.tif", ramp(24)[None], **place(24))
    write_tiff(tmp_path / "s1/a.tif", coarse[None], **place(12))
    write_tiff(tmp_path / "dem/a.tif", ramp(72)[None], **place(72))
    halves = np.repeat([[0, 1]], 8, 0).repeat(4, 1).astype(np.uint8)
    write_tiff(tmp_path / "label/a.tif", halves[None], **place(8))
    sensors = {
        "s2": {"file": "s2/{chip}.tif", "bands": {"B02": 1}},
        "s1": {"file": "s1/{chip}.tif", "bands": {"VV": 1}},
        "dem": {"file": "dem/{chip}.tif", "bands": {"elevation": 1}},
    }
    layers = {"label": {"file": "label/{chip}.tif", "classes": ["west", "east"]}}
    source = chips(tmp_path, sensors, layers)
    batch = source.read([0])
    plane = torch.from_numpy(ramp(24))
    inner = torch.zeros(24, 24, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    inner[3:7, 5:9] = False  # around the hole
    torch.testing.assert_close(values(source, "s1")[0, 0][inner], plane[inner], atol=1e-3, rtol=0)
    dem = values(source, "dem")[0, 0] + plane.mean()
    torch.testing.assert_close(dem[inner], plane[inner], atol=1e-2, rtol=0)
    holes = (~batch.sensors["s1"].valid[0, 0]).nonzero()
    assert 0 < len(holes) <= 4 and holes.float().mean(0).tolist() == [4.5, 6.5]
    assert batch.targets["label"][0].eq(torch.arange(24) >= 12).all()
    how = "warped by their georeferences" if placed else "resampled by their sizes"
    assert f"s1: 12 x 12 pixels become 24 x 24, {how}" in source.notes()
    assert chips(tmp_path, sensors, layers, grid="dem", gsd=240 / 72).spec.size == 72
    with pytest.raises(InputError, match=r"data\.grid=s3: not described; choose from s2, s1, dem, label"):
        chips(tmp_path, sensors, layers, grid="s3")


def test_a_georeferenced_file_that_covers_half_is_invalid_elsewhere(tmp_path: Path):
    transform, shifted = from_origin(5e5, 5e6, 10, 10), from_origin(5e5 + 120, 5e6, 10, 10)
    write_tiff(tmp_path / "s2/a.tif", np.ones((1, 24, 24), np.float32), crs="EPSG:32633", transform=transform)
    write_tiff(tmp_path / "label/a.tif", np.ones((1, 24, 24), np.uint8), crs="EPSG:32633", transform=shifted)
    write_tiff(tmp_path / "s1/a.tif", np.ones((1, 24, 24), np.float32), crs="EPSG:32633", transform=shifted)
    sensors = {k: {"file": f"{k}/{{chip}}.tif", "bands": {b: 1}} for k, b in (("s2", "B02"), ("s1", "VV"))}
    batch = chips(tmp_path, sensors, {"label": {"file": "label/{chip}.tif", "classes": ["a", "b"]}}).read([0])
    east = torch.arange(24) >= 12
    assert batch.sensors["s1"].valid[0, 0].eq(east).all() and batch.sensors["s2"].valid.all()
    assert batch.targets["label"][0].eq(torch.where(east, 1, -1)).all()


def test_which_grids_are_the_same_ground():
    def at(x: float, n: int = 24) -> Grid:
        return Grid(n, n, ("crs", from_origin(x, 0, 10, 10)))

    assert Grid(24, 24).way(Grid(24, 24)) == "" == at(0).way(at(4.9)) == at(0).way(Grid(24, 24))
    assert Grid(24, 24).way(Grid(8, 8)) == "ratio" == Grid(20, 40).way(Grid(30, 60))
    assert at(0).way(at(6)) == "warp" == at(0).way(at(0, 12))
    assert Grid(128, 128).way(Grid(127, 127)) is None and Grid(24, 24).way(Grid(12, 24)) is None
    x = np.random.default_rng(0).random((2, 3, 6, 6)).astype(np.float32)
    assert resample_pixels(x, Grid(6, 6), Grid(6, 6)) is x
    mean = resample_pixels(np.full_like(x, 7), Grid(6, 6), Grid(2, 2))
    assert mean.shape == (2, 3, 2, 2) and np.allclose(mean, 7)


# ------------------------------------------------------------------------------------------------- arrays with names


@pytest.mark.parametrize("kind", ["h5", "nc", "zarr"])
def test_a_variable_of_a_cube(tmp_path: Path, kind: str):
    """(time, band, y, x), and labels in the same file."""
    x = np.random.default_rng(0).random((2, 3, N, N)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    y = (x[0, 1] > 0.5).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["cube/bands"], file["labels"], file["cloud"] = x, y, 3.0
    else:
        xarray = pytest.importorskip("xarray")
        pytest.importorskip("h5netcdf" if kind == "nc" else "zarr")
        cube = xarray.Dataset(
            {"bands": (("y", "time", "x", "band"), x.transpose(2, 0, 3, 1)), "labels": (("y", "x"), y)}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cube.to_netcdf(path, engine="h5netcdf") if kind == "nc" else cube.to_zarr(path, zarr_format=2)
    name = "cube/bands" if kind == "h5" else "bands"
    s1 = {"file": f"{{chip}}.{kind}::{name}", "bands": {"VV": 3, "VH": 1}, "dates": 2}
    layers = {"label": {"file": f"{{chip}}.{kind}::labels", "classes": ["a", "b"]}}
    source = chips(tmp_path, {"s1": s1}, layers, size=10)
    s = source.tile(0).sensors["s1"]
    assert (~s.valid).nonzero().tolist() == [[0, 0, 0, 0]]
    read = SENSORS["s1"].denormalise(s.x, s.bands)[0]
    torch.testing.assert_close(read[1], torch.from_numpy(x[1, [2, 0]]), atol=1e-5, rtol=0)
    assert torch.equal(source.tile(0).targets["label"][0], torch.from_numpy(y).long())
    for variable, message in (("", "has several variables"), ("::fire", "has no variable 'fire'")):
        with pytest.raises(InputError, match=rf"a\.{kind}: {message}; write `{kind}::name` .*: it has .*labels"):
            chips(tmp_path, {"s1": {**s1, "file": f"{{chip}}.{kind}{variable}"}})


# ------------------------------------------------------------------------------------------------- sensors of one's own


@pytest.fixture
def table():
    """The sensor table as it was, whatever a test adds."""
    known = dict(SENSORS)
    yield
    SENSORS.clear()
    SENSORS.update(known)


OWN = {"file": "{chip}.npy", "bands": {"red": 1, "nir": 2}, "unit": "number", "wavelengths": {"nir": 842}}


def test_a_sensor_of_ones_own_is_fitted_on_the_training_split_alone(tmp_path: Path, table: None):
    rng = np.random.default_rng(0)
    for i, chip in enumerate("abcdef"):
        x = rng.normal((50, 90), (5, 20), (N, N, 2)) + (1000 if chip > "d" else 0)
        x[:, : i + 1] = -1
        save(tmp_path / f"{chip}.npy", np.moveaxis(x, -1, 0))
    (tmp_path / "t.csv").write_text(
        "chip,split\n" + "".join(f"{c},{'train' if c <= 'd' else 'test'}\n" for c in "abcdef")
    )
    options = {"name": "chips", "root": str(tmp_path), "gsd": 0.2, "sensors": {"aerial": OWN | {"nodata": -1}},
               "splits": {"file": "t.csv"}}  # fmt: skip
    train, test = (build_source(options, s) for s in ("train", "test"))
    s = train.read(range(4)).sensors["aerial"]
    for k in range(2):
        x = s.x[:, 0, k][s.valid[:, 0]]
        assert abs(x.mean()) < 1e-4 and x.std() == pytest.approx(1, abs=1e-3)
    t = test.read([0]).sensors["aerial"]
    assert t.level == s.level and t.x[t.valid.unsqueeze(2).expand_as(t.x)].mean() > 50
    assert [b.wavelength for b in SENSORS["aerial"].bands] == [660, 842] and SENSORS["aerial"].gsd == 0.2
    assert any(f"aerial: figures of 4 train chips ({s.level}): red 49.9" in n or "red 50" in n for n in train.notes())
    encoder = Encoder({"s2": ("B04", "B08")}, cell_dim=16, dim=16, depth=1, heads=2, patch=8, width=8)
    encoder.extend(train.spec)
    save_encoder(encoder, tmp_path)
    copied = pickle.dumps(test)
    del SENSORS["aerial"]  # another process
    assert "aerial" in load_encoder(tmp_path).bands
    del SENSORS["aerial"]
    assert torch.equal(pickle.loads(copied).read([0]).sensors["aerial"].x, t.x)


def test_faults_of_sensors_of_ones_own(tmp_path: Path, table: None):
    save(tmp_path / "a.npy", np.ones((2, N, N)))
    for more, message in (
        ({"wavelengths": {"blue": 480}}, r"sensors\.aerial\.wavelengths\.blue: no such key; choose from red, nir"),
        ({"mean": {"red": 1}}, r"sensors\.aerial: give mean and std of every band, or neither"),
        ({"mean": {"red": 1, "nir": 1}, "std": {"red": 0, "nir": 1}}, r"aerial\.std=.*greater than 0"),
        ({"unit": "class"}, r"aerial\.unit=class: a map of classes is described as a layer"),
    ):
        with pytest.raises(InputError, match=message):
            chips(tmp_path, {"aerial": OWN | more})
    chips(tmp_path, {"aerial": OWN})
    with pytest.raises(
        InputError, match=r"sensor aerial: its band nir is known at 842\.0 nm, not 900\.0; choose another"
    ):
        chips(tmp_path, {"aerial": OWN | {"wavelengths": {"nir": 900}}})
    with pytest.raises(
        InputError, match=r"data\.sensors\.rgb: no such sensor; choose from s2, s1, .*or describe your own"
    ):
        chips(tmp_path, {"rgb": {"file": "{chip}.npy", "bands": {"red": 1}}})


# ------------------------------------------------------------------------------------------------- what cubes state

STATED = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.int16(-9)}


def cube(path: Path, stored: np.ndarray, about: dict[str, Any]) -> None:
    """As NetCDF or HDF5, by the ending, with the attributes of the convention."""
    h5py = pytest.importorskip("h5py")
    if path.suffix == ".nc":
        xarray = pytest.importorskip("xarray")
        pytest.importorskip("h5netcdf")
        xarray.Dataset({"v": (("band", "row", "column"), stored)}).to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "a") as file:
        if path.suffix == ".h5":
            file["v"] = stored
        file["v"].attrs.update(about)


@pytest.mark.parametrize("kind", ["h5", "nc"])
def test_cubes_are_scaled_once_as_they_or_the_yaml_say(tmp_path: Path, kind: str):
    x = np.full((1, N, N), 2000, np.int16)
    x[0, :2] = -9
    cube(tmp_path / f"a.{kind}", x, STATED)
    s2: dict[str, Any] = {"file": f"{{chip}}.{kind}", "bands": {"B09": 1}}
    stated = chips(tmp_path, {"s2": s2})
    assert values(stated, "s2")[0, 0, 9, 9].item() == pytest.approx(0.1)
    assert stated.read([0]).sensors["s2"].valid[0, 0, :, 0].tolist() == [False] * 2 + [True] * (N - 2)
    assert any("s2: values are scaled as files say, * 0.0001 + -0.1" in note for note in stated.notes())
    with pytest.warns(InputWarning, match=r"s2: the file says \* 0.0001 \+ -0.1, the yaml \* 0.0002 \+ 0"):
        own = chips(tmp_path, {"s2": s2 | {"scale": 2e-4}})
    assert values(own, "s2")[0, 0, 9, 9].item() == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["h5", "nc"])
def test_whole_numbers_that_a_cube_keeps_with_a_sign(tmp_path: Path, kind: str):
    x = np.full((1, N, N), 250, np.uint8).view(np.int8)
    x[0, 0] = -1
    cube(tmp_path / f"a.{kind}", x, {"_Unsigned": "true", "_FillValue": np.int8(-1)})
    rgb = {"file": f"{{chip}}.{kind}", "bands": {"red": 1}, "unit": "number", "mean": {"red": 0.0}, "std": {"red": 1.0}}
    s = chips(tmp_path, {"rgb": rgb}).read([0]).sensors["rgb"]
    assert s.x[0, 0, 0, 5].unique().tolist() == [250.0] and not s.valid[0, 0, 0].any()
