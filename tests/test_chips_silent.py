"""What files state is believed or told: validity, depth, colours, scales, names, dates, places."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform
from test_chips import write_tiff

from gfm_objectives.data import build_source, geotiff
from gfm_objectives.data.footprints import overlaps
from gfm_objectives.data.grid import Grid
from gfm_objectives.data.labels import distinct
from gfm_objectives.data.readers import read_bands
from gfm_objectives.data.resampling import resample_codes, resample_pixels
from gfm_objectives.data.validity import NoData, equals_any
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.sensors import SENSORS

N = 32
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(300, 3000, (3, N, N)).astype(np.uint16)
HALF = np.where(np.arange(N)[:, None] < N // 2, 0, 65535) * np.ones((1, N), int)
S2: dict[str, Any] = {"file": "s2/{chip}.tif", "bands": {"B02": 1, "B03": 2, "B04": 3}, "scale": 1e-4}
PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}


def tif(path: Path, values: np.ndarray, **profile: Any) -> Path:
    write_tiff(path, values if values.ndim == 3 else values[None], **(PLACE | profile))
    return path


def source(root: Path, sensors: dict[str, Any] | None = None, split: str = "pretrain", **more: Any):
    return build_source({"name": "chips", "root": str(root), "gsd": 10, "sensors": sensors or {"s2": S2}} | more, split)


def told(root: Path, *args: Any, **more: Any):
    """(source, batch, warnings)"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built = source(root, *args, **more)
        return built, built.read(range(len(built))), [str(w.message) for w in caught]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, codes: np.ndarray, bits: int, kind: int = 0, *chunks: bytes) -> None:
    """Of grey (kind 0) or numbers of colours (kind 3), with that many bits a pixel; or 16-bit colours (kind 2)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if bits < 16:
        flat = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :].reshape(len(codes), -1)
        rows = [b"\0" + np.packbits(row).tobytes() for row in flat]
    else:
        rows = [b"\0" + row.astype(">u2").tobytes() for row in codes]
    head = struct.pack(">IIBBBBB", codes.shape[1], len(codes), bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"".join(rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


# ------------------------------------------------------------------------------------------------- validity


def alpha_band(root: Path) -> dict[str, Any]:
    tif(root / "s2/a.tif", np.concatenate([IMAGE, HALF[None].astype(np.uint16)]), photometric="RGB", alpha="YES")
    return S2


def internal_mask(root: Path) -> dict[str, Any]:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tif(root / "s2/a.tif", IMAGE), "r+") as file:
        file.write_mask((HALF > 0).astype(np.uint8) * 255)
    return S2


def external_mask(root: Path) -> dict[str, Any]:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tif(root / "s2/a.tif", IMAGE), "r+") as file:
        file.write_mask((HALF > 0).astype(np.uint8) * 255)
    assert (root / "s2/a.tif.msk").exists()
    return S2


def png_alpha(root: Path) -> dict[str, Any]:
    (root / "s2").mkdir()
    rgba = np.concatenate([IMAGE // 16, (HALF[None] > 0) * 255]).astype(np.uint8)
    Image.fromarray(np.moveaxis(rgba, 0, -1)).save(root / "s2/a.png")
    return {**S2, "file": "s2/{chip}.png"}


def png_transparent_colour(root: Path) -> dict[str, Any]:
    colours = np.where(HALF[..., None] > 0, np.moveaxis(IMAGE, 0, -1), 7)
    png(root / "s2/a.png", colours, 16, 2, chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7)))
    return {**S2, "file": "s2/{chip}.png"}


def palette_with_a_clear_colour(root: Path) -> dict[str, Any]:
    colours = chunk(b"PLTE", bytes(range(12))), chunk(b"tRNS", bytes([0, 255]))
    png(root / "s2/a.png", np.where(HALF > 0, 2, 0), 2, 3, *colours)
    return {**S2, "file": "s2/{chip}.png"}


def every_band_its_own_no_data(root: Path) -> dict[str, Any]:
    values = np.where(HALF[None] > 0, IMAGE, 65535)
    tif(root / "s2/a.tif", values.astype(np.uint16), nodata=65535)
    return S2


STATED = [alpha_band, internal_mask, external_mask, png_alpha, png_transparent_colour, palette_with_a_clear_colour,
          every_band_its_own_no_data]  # fmt: skip


@pytest.mark.parametrize("way", STATED, ids=lambda f: f.__name__)
def test_what_a_file_hides_is_not_used_unless_it_is_not_to_be_believed(tmp_path: Path, way: Any):
    s2 = way(tmp_path)
    _, batch, _ = told(tmp_path, {"s2": s2})
    assert torch.equal(batch.sensors["s2"].valid[0, 0], torch.from_numpy(HALF > 0))
    _, batch, _ = told(tmp_path, {"s2": {**s2, "nodata": "none"}})
    assert batch.sensors["s2"].valid.all()


def test_a_fourth_band_of_values_is_no_alpha(tmp_path: Path):
    """GDAL calls the fourth band of 8-bit files alpha; in aerial pictures it is the near infrared."""
    tif(tmp_path / "s2/a.tif", RNG.integers(1, 255, (4, N, N)).astype(np.uint8))
    with pytest.warns(InputWarning, match=r"band 4 is called alpha but holds many values, and hides nothing: a$"):
        assert source(tmp_path).read([0]).sensors["s2"].valid.all()
    with_nir = {**S2, "bands": {**S2["bands"], "B08": 4}}
    _, batch, lines = told(tmp_path, {"s2": with_nir})
    assert batch.sensors["s2"].valid.all() and not lines


def test_a_zero_in_one_band_of_reflectance_is_a_value(tmp_path: Path):
    """Dark water measures 0 in one band: unless asked, only a pixel that is 0 in all bands is no data."""
    values = IMAGE.copy()
    values[0, 0, :8], values[:, 1, :8] = 0, 0
    tif(tmp_path / "s2/a.tif", values, nodata=0)
    for nodata, gone in ((None, 8), (0, 8), ({"when": "any"}, 16), ({"value": 0, "when": "any"}, 16)):
        batch = source(tmp_path, {"s2": {**S2, "nodata": nodata}}).read([0])
        assert (~batch.sensors["s2"].valid).sum() == gone, nodata
    with pytest.raises(InputError, match=r"sensors\.s2\.nodata\.when=both: choose all .* or any"):
        source(tmp_path, {"s2": {**S2, "nodata": {"when": "both"}}})


def test_no_data_is_judged_band_by_band_in_the_files_own_type():
    raw = np.array([[[[1.0, -3.4e38, 5.0]], [[1.0, 1.0, 9.0]]]], np.float32)
    assert NoData().hidden(raw, [None, 9.0], False)[0, 0].tolist() == [False, True, True]
    assert equals_any(raw[0, 0, 0], [-3.4e38]).tolist() == equals_any(raw[0, 0, 0], [-3.40282e38]).tolist()
    assert equals_any(np.array([0.1], np.float32), [0.1]).all() and equals_any(np.array([255], np.uint8), [255.0]).all()
    assert not equals_any(np.array([255], np.uint8), [-1, 511, 255.5]).any()


def test_ignore_is_compared_in_the_files_own_type(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    tif(tmp_path / "y/a.tif", np.where(HALF > 0, 1, -3.4e38).astype(np.float32))
    layer = {"file": "y/{chip}.tif", "classes": ["dry", "wet"], "ignore": -3.4e38}
    assert source(tmp_path, layers={"label": layer}).read([0]).targets["label"].unique().tolist() == [-1, 1]


def test_a_quality_pixel_of_no_data_is_not_fit_for_use(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    tif(tmp_path / "q/a.tif", np.where(HALF > 0, 4, 0).astype(np.uint8), nodata=0)
    quality = {"file": "q/{chip}.tif", "band": 1, "invalid_values": [3]}
    valid = source(tmp_path, {"s2": {**S2, "valid": quality}}).read([0]).sensors["s2"].valid
    assert torch.equal(valid[0, 0], torch.from_numpy(HALF > 0))


@pytest.mark.parametrize(
    ("codes", "flags", "says"),
    [
        (np.where(HALF > 0, 1e30, 0).astype(np.float32), {"invalid_bits": [0]}, ""),  # more than a code can be
        (np.where(HALF > 0, 8, 0).astype(np.uint64) | np.uint64(1 << 63), {"invalid_bits": [3]}, ""),
        (
            np.where(HALF > 0, 8, 0).astype(np.uint8),
            {"invalid_bits": [3, 11]},
            "is uint8, which has no bit 11: nothing",
        ),
        (np.where(HALF > 0, 8, 0).astype(np.uint8), {"invalid_values": [8, 300]}, "is uint8, which has no value 300"),
    ],
)
def test_flags_of_any_type(tmp_path: Path, codes: np.ndarray, flags: dict[str, Any], says: str):
    tif(tmp_path / "s2/a.tif", IMAGE)
    tif(tmp_path / "q/a.tif", codes)
    quality = {"file": "q/{chip}.tif", "band": 1, **flags}
    _, batch, lines = told(tmp_path, {"s2": {**S2, "valid": quality}})
    assert torch.equal(batch.sensors["s2"].valid[0, 0], torch.from_numpy(HALF == 0))
    assert [m for m in lines if says in m] == lines and len(lines) == bool(says)


@pytest.mark.parametrize("flags", [{"invalid_bits": [70]}, {"invalid_values": [2**64]}])
def test_flags_that_no_band_has_are_refused(tmp_path: Path, flags: dict[str, Any]):
    tif(tmp_path / "s2/a.tif", IMAGE)
    with pytest.raises(InputError, match=r"data.sensors.s2.valid.invalid_(bits=70|values=\d+): "):
        source(tmp_path, {"s2": {**S2, "valid": {"band": 1, **flags}}})


def test_declared_no_data_is_no_label_though_a_class_has_its_code(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    tif(tmp_path / "y/a.tif", (HALF > 0).astype(np.uint8), nodata=0)
    layer = {"file": "y/{chip}.tif", "classes": ["dry", "wet"]}
    with pytest.warns(
        InputWarning, match=r"^1 of 1 pretrain chips: label: declares 0 to be no data, the code of 'dry'"
    ):
        assert source(tmp_path, layers={"label": layer}).read([0]).targets["label"].unique().tolist() == [-1, 1]
    _, batch, lines = told(tmp_path, layers={"label": {**layer, "nodata": "none"}})
    assert batch.targets["label"].unique().tolist() == [0, 1] and not lines


# ------------------------------------------------------------------------------------------------- depth and colours


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [0, 3], ids=["grey", "palette"])
def test_codes_of_few_bits_are_what_was_written(tmp_path: Path, bits: int, kind: int):
    codes = RNG.integers(0, min(2**bits, 20), (N, N))
    tif(tmp_path / "s2/a.tif", IMAGE)
    palette = [chunk(b"PLTE", bytes(v for i in range(2**bits) for v in (i, 255 - i, 7)))] if kind else []
    png(tmp_path / "y/a.png", codes, bits, kind, *palette)
    layer = {"file": "y/{chip}.png", "classes": [f"c{i}" for i in range(min(2**bits, 20))]}
    built = source(tmp_path, layers={"label": layer, "map": layer})
    batch = built.read([0])
    for name in layer and ("label", "map"):
        assert torch.equal(batch.targets[name][0], torch.from_numpy(codes))
    colors = built.spec.legends["label"].colors
    assert (colors is None) if kind == 0 else colors[1] == "#01fe07"  # those of the palette


def test_sixteen_bits_of_three_colours_are_kept(tmp_path: Path):
    png(tmp_path / "s2/a.png", np.moveaxis(IMAGE, 0, -1), 16, 2)
    s = source(tmp_path, {"s2": {**S2, "file": "s2/{chip}.png"}}).read([0]).sensors["s2"]
    x = SENSORS["s2"].denormalise(s.x, s.bands)[0, 0]
    torch.testing.assert_close(x, torch.from_numpy(IMAGE.astype(np.float32)) * 1e-4)


@pytest.mark.parametrize("ending", ["png", "jpg", "jp2"])
def test_a_picture_that_is_cut_off_or_damaged_is_refused(tmp_path: Path, ending: str):
    """GDAL would fill what is missing and say nothing."""
    driver = {"png": "PNG", "jpg": "JPEG", "jp2": "JP2OpenJPEG"}[ending]
    path = tmp_path / f"a.{ending}"
    write_tiff(path, RNG.integers(0, 255, (3, 200, 200)).astype(np.uint8), driver=driver)
    whole = path.read_bytes()
    assert read_bands(path, (1,)).values.std() > 10
    path.write_bytes(whole[: len(whole) * 3 // 4])
    message = rf"a\.{ending}: cannot be read, .*\((the file ends before its last part|a part of the file is)"
    with pytest.raises(InputError, match=message):
        read_bands(path, (1,))
    if ending == "png":
        path.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
        with pytest.raises(InputError, match="a part of the file is damaged or cut off"):
            read_bands(path, (1,))


def test_a_large_png_is_read_window_by_window(tmp_path: Path):
    (tmp_path / "s1").mkdir()
    Image.new("1", (14000, 14000), 1).save(tmp_path / "s1/a.png")
    raster = read_bands(tmp_path / "s1/a.png", (1,), window=(13000, 13990, 20, 10))
    assert raster.shape == (14000, 14000) and raster.values.shape == (1, 1, 20, 10) and raster.values.all()


TRUTH = (HALF == 0) * 1  # north is 1
PAINT = np.array([(0, 0, 255), (0, 255, 0)], np.uint8)[TRUTH]  # water blue, land green


def painted(root: Path) -> dict[str, Any]:
    (root / "y").mkdir()
    Image.fromarray(PAINT).save(root / "y/a.png")
    return {"file": "y/{chip}.png", "classes": ["water", "land"]}


def test_a_mask_painted_in_colours_is_read_by_its_colours_and_refused_without(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    layer = painted(tmp_path)
    for more in ({}, {"codes": [0, 255]}):
        with pytest.raises(InputError, match=r"has 3 bands; say which band .*`band: 1`\), .*colors: .*one_hot: true"):
            source(tmp_path, layers={"label": layer | more})
    colors = {"colors": ["#0000FF", "#00ff00"]}
    batch = source(tmp_path, layers={"label": layer | colors}).read([0])
    assert torch.equal(batch.targets["label"][0], torch.from_numpy(TRUTH))
    with pytest.raises(InputError, match=r"holds the colour #0000ff, which is neither a class of label \(#00ff00\)"):
        source(tmp_path, layers={"label": {**layer, "classes": ["land"], "colors": ["#00ff00"]}})
    some = {**layer, "classes": ["land"], "colors": ["#00ff00"], "ignore": "#0000ff"}
    assert source(tmp_path, layers={"label": some}).read([0]).targets["label"].unique().tolist() == [-1, 0]


def test_colours_of_a_palette_find_their_classes_in_any_order(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    png(tmp_path / "y/a.png", TRUTH, 1, 3, chunk(b"PLTE", bytes([0, 0, 255, 0, 255, 0])))
    layer = {"file": "y/{chip}.png", "classes": ["land", "water"], "colors": ["#00ff00", "#0000ff"]}
    assert torch.equal(source(tmp_path, layers={"label": layer}).read([0]).targets["label"][0],
                       torch.from_numpy(1 - TRUTH))  # fmt: skip


def test_a_band_for_each_class(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    planes = np.stack([TRUTH == 0, TRUTH == 1]).astype(np.uint8)
    planes[:, 0, 0] = 0  # of no class
    tif(tmp_path / "y/a.tif", planes)
    layer = {"file": "y/{chip}.tif", "classes": ["water", "land"]}
    with pytest.raises(InputError, match="has 2 bands; say which band"):
        source(tmp_path, layers={"label": layer})
    y = source(tmp_path, layers={"label": {**layer, "one_hot": True}}).read([0]).targets["label"][0]
    assert y[0, 0] == -1 and torch.equal(y.flatten()[1:], torch.from_numpy(TRUTH).flatten()[1:])
    planes[:, 3, 3] = 1
    tif(tmp_path / "y/a.tif", planes)
    with pytest.raises(InputError, match=r"y/a\.tif: has pixels of 2 classes at once"):
        source(tmp_path, layers={"label": {**layer, "one_hot": True}})


def test_numbers_of_colours_are_no_values_of_a_sensor(tmp_path: Path):
    png(tmp_path / "s2/a.png", TRUTH, 1, 3, chunk(b"PLTE", bytes([1, 2, 3, 40, 50, 60])))
    file = {"file": "s2/{chip}.png", "scale": 1.0}
    with pytest.raises(InputError, match=r"a\.png: holds numbers of colours \(a palette\), no values; describe its"):
        source(tmp_path, {"s2": {**file, "bands": {"B02": 1}}})
    s = source(tmp_path, {"s2": {**file, "bands": {"B04": 1, "B03": 2, "B02": 3}}}).read([0]).sensors["s2"]
    assert SENSORS["s2"].denormalise(s.x, s.bands)[0, 0, :, 0, 0].round().tolist() == [40, 50, 60]


def test_a_layer_of_numbers(tmp_path: Path):
    tif(tmp_path / "s2/a.tif", IMAGE)
    tif(tmp_path / "agb/a.tif", np.where(HALF > 0, 250, -9999).astype(np.float32), nodata=-9999)
    layer = {"file": "agb/{chip}.tif", "unit": "t/ha", "scale": 0.1}
    built = source(tmp_path, layers={"biomass": layer}, size=20)
    y = built.tile(0).targets["biomass"][0]
    assert y[:16].isnan().all() and y[16:].eq(25).all() and built.spec.legends["biomass"].classes == ("t/ha",)
    assert built.read([3]).targets["biomass"].shape == (1, 20, 20)


# ------------------------------------------------------------------------------------------------- files against yaml


def scaled(root: Path) -> None:
    for day, add in (("2021-06-01", 0), ("2022-06-01", 1000)):  # before and after baseline 04.00
        with rasterio.open(tif(root / f"s2/a_{day}.tif", IMAGE + add), "r+") as file:
            file.scales, file.offsets = [1e-4] * 3, [-add * 1e-4] * 3


def test_scales_that_files_state_are_used_where_the_yaml_does_not_contradict_and_told_where_it_does(tmp_path: Path):
    scaled(tmp_path)
    s2 = {**S2, "file": "s2/{chip}_{date}.tif"}
    with pytest.warns(
        InputWarning, match=r"the file says \* 0\.0001 \+ -0\.1, the yaml \* 0\.0001 \+ 0, which is what"
    ):
        source(tmp_path, {"s2": s2})
    for scale in ("file", None):
        built, batch, lines = told(tmp_path, {"s2": {**s2, "scale": scale}})
        x = SENSORS["s2"].denormalise(batch.sensors["s2"].x, batch.sensors["s2"].bands)
        torch.testing.assert_close(x[0, 0], x[0, 1], atol=1e-5, rtol=0)
        assert not lines and any("values are scaled as files say, * 0.0001 + -0.1" in n for n in built.notes())
    with pytest.raises(InputError, match=r"sensors\.s2\.offset=-0\.1: files state the offset as they do the scale"):
        source(tmp_path, {"s2": {**s2, "scale": "file", "offset": -0.1}})


def test_bands_that_files_name_otherwise_are_told(tmp_path: Path):
    with rasterio.open(tif(tmp_path / "s2/a.tif", IMAGE), "r+") as file:
        file.descriptions = ("Red (B4)", "B03", "Band 2")
        file.update_tags(2, wavelength="0.865 um")
        file.set_band_unit(3, "DN")
    _, _, lines = told(tmp_path)
    assert [line.removeprefix("1 of 1 pretrain chips: s2: ") for line in lines] == [
        "band 1 is read as B02, but the file calls it 'Red (B4)': a",
        "B03 is at 560 nm, but the file says 865 nm: a",
        "band 3 is read as B04, but the file calls it 'Band 2': a",
        "B04 should be in reflectance, but the file says 'DN': a",
    ]
    _, _, lines = told(tmp_path, {"s2": {**S2, "bands": {"B04": 1, "B02": 3}}})
    assert [line for line in lines if "calls it" in line] == []


@pytest.mark.parametrize(
    ("crs", "affine", "metres"),
    [
        ("EPSG:32633", (20, 0, 5e5, 0, -20, 5e6), 20),
        ("EPSG:32633", (6, 8, 5e5, 8, -6, 5e6), 10),  # rotated: 10 m along both sides
        ("EPSG:4326", (1e-3, 0, 10, 0, -1e-3, 60), 78.6),
        ("EPSG:3857", (20, 0, 1e6, 0, -20, 8399738), 10),  # at 60 degrees north
        ("EPSG:2264", (32.808, 0, 2e6, 0, -32.808, 6e5), 10),  # feet
    ],
)
def test_the_pixel_size_that_every_file_says_is_compared(tmp_path: Path, crs: str, affine: Any, metres: float):
    tif(tmp_path / "s2/a.tif", IMAGE, crs=crs, transform=Affine(*affine))
    assert Grid(N, N, (CRS.from_string(crs), Affine(*affine))).metres == pytest.approx(metres, rel=0.01)
    _, _, lines = told(tmp_path)
    assert lines == ([] if metres == 10 else [f"1 of 1 pretrain chips: the file says {metres:.3g} m per pixel, "
                                              "data.gsd=10: a"])  # fmt: skip


def test_control_points_place_a_file(tmp_path: Path):
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(r, c, 5e5 + 10 * c, 5e6 - 10 * r) for r in (0, N) for c in (0, N)]
    path = tif(tmp_path / "s2/a.tif", IMAGE, crs=None, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no place yet
        with rasterio.open(path, "r+") as file:
            file.gcps = points, CRS.from_epsg(32633)
    raster = read_bands(path, ())
    assert raster.place is not None and raster.place[1].almost_equals(PLACE["transform"], 1e-3)
    assert "georeferenced by ground control points, taken as a plane" in raster.remarks[0]


def test_a_local_coordinate_system_is_read_by_its_corners_or_refused(tmp_path: Path):
    local = CRS.from_wkt('LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1]]')
    place = Affine(0.2, 0, 5e5, 0, -0.2, 6.5e6)
    tif(tmp_path / "s2/a.tif", IMAGE, crs="EPSG:2154", transform=place)
    label = {"label": {"file": "y/{chip}.tif", "classes": ["a", "b"]}}
    tif(tmp_path / "y/a.tif", TRUTH.astype(np.uint8), crs=local, transform=place)
    assert torch.equal(source(tmp_path, layers=label, gsd=0.2).read([0]).targets["label"][0], torch.from_numpy(TRUTH))
    with pytest.raises(InputError, match=r"^y|a: is not georeferenced, or in a coordinate system of its own"):
        source(tmp_path, {"s2": {**S2, "bands": {"B02": 1}, "file": "y/{chip}.tif"}}, "train", gsd=0.2,
               splits={"by": "location"})  # fmt: skip
    tif(tmp_path / "y/a.tif", TRUTH.astype(np.uint8), crs=local, transform=Affine(0.2, 0, 5e5 + 3, 0, -0.2, 6.5e6))
    with pytest.raises(InputError, match=r"y/a\.tif: lies in another coordinate system than s2/a\.tif"):
        source(tmp_path, layers=label, gsd=0.2)


# ------------------------------------------------------------------------------------------------- what is left out


def test_dates_are_understood_where_they_can_be_and_counted_where_not(tmp_path: Path):
    for day in ("2019-04-12", "2019-06-30", "2019-9-01", "20191001T100031", "12-11-2019", "2019-02-30"):
        tif(tmp_path / f"s2/rome_{day}.tif", IMAGE)
    (tmp_path / "s2/._rome_2019-04-12.tif").touch()
    (tmp_path / "s2/lost_2019-04-12.tif").symlink_to("nowhere")
    s2 = {**S2, "file": "s2/{chip}_{date}.tif"}
    with pytest.warns(InputWarning) as caught:
        built = source(tmp_path, {"s2": s2})
    assert built.spec.dates == {"s2": 4}
    lines = [str(w.message) for w in caught]
    assert any("1 files that s2/{chip}_{date}.tif finds are links that lead nowhere" in line for line in lines)
    assert any("2 files" in line and "have a date that cannot be read, or could be two" in line for line in lines)
    assert any("1 files" in line and "are hidden" in line for line in built.notes())


def test_dates_by_words_keep_their_order(tmp_path: Path):
    for k, word in enumerate(("pre", "post")):
        tif(tmp_path / f"s2/a_{word}.tif", IMAGE + 100 * k)
    s2 = {**S2, "file": "s2/{chip}_{date}.tif"}
    for first, days in (("2021-05-01", [7791, 7792]), (None, [0, 1])):
        s = source(tmp_path, {"s2": {**s2, "dates": {"pre": first, "post": None}}}).read([0]).sensors["s2"]
        assert s.day.tolist() == [days] and (s.x[0, 1] > s.x[0, 0]).all()
    with pytest.raises(InputError, match=r"sensors\.s2\.dates: words stand where \{date\} stands"):
        source(tmp_path, {"s2": {**S2, "dates": {"pre": None}}})


def test_tables_in_other_encodings_and_with_other_commas(tmp_path: Path):
    for chip in "ab":
        tif(tmp_path / f"s2/{chip}.tif", IMAGE)
    table, splits = tmp_path / "t.csv", {"splits": {"file": "t.csv", "overlaps": "allow"}}
    table.write_bytes("chip;split;place\na;train;Köln\nb;test;Rom\n".encode())
    assert len(source(tmp_path, split="train", **splits)) == 1
    for content, message in (
        ("chip,split\na,train,Köln".encode("latin-1"), r"t\.csv: is not text in UTF-8 \(.* at byte \d+\); save it as"),
        (b"chip,split\na\n", r"t\.csv: line 2 has fewer columns than the first"),
        (b'chip,split\n"a,train\n', r"t\.csv: cannot be read as a table"),
        (b"", r"t\.csv: no column 'chip'; it has none"),
    ):
        table.write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            source(tmp_path, split="train", **splits)
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- places on Earth


def chain(root: Path, at: list[float], crs: str = "EPSG:32760", y: float = 8_118_000) -> None:
    for i, x in enumerate(at):
        tif(root / f"s2/a{i:02d}.tif", IMAGE, crs=crs, transform=Affine(10, 0, x, 0, -10, y))


def test_chips_that_overlap_across_180_degrees_stay_together(tmp_path: Path):
    (x,), (y,) = transform("EPSG:4326", "EPSG:32760", [180.0], [-17.0])
    far = [x - 60000 - 30000 * i for i in range(8)]
    chain(tmp_path, [x + 160 * (i - 7) for i in range(13)] + far, y=y)
    home = {
        n: s for s in ("train", "val", "test") for n in source(tmp_path, split=s, splits={"by": "location"}).names()
    }
    assert len({home[f"a{i:02d}"] for i in range(13)}) == 1 and len({*home.values()}) == 3


@pytest.mark.parametrize("by", ["random", "group"])
def test_no_rule_deals_chips_that_overlap_to_two_sides(tmp_path: Path, by: str):
    chain(tmp_path, [5e5 + 1000 * (i // 2) + 160 * (i % 2) for i in range(24)])
    splits = {"by": by, "group": "a{group}"}
    home = {n: s for s in ("train", "val", "test") for n in source(tmp_path, split=s, splits=splits).names()}
    assert len(home) == 24 and {*home.values()} == {"train", "val", "test"}
    assert all(home[f"a{i:02d}"] == home[f"a{i + 1:02d}"] for i in range(0, 24, 2))


def test_a_table_that_puts_overlapping_chips_on_two_sides_is_refused_or_kept_when_asked(tmp_path: Path):
    chain(tmp_path, [5e5, 5e5 + 160, 5e5 + 9000, 5e5 + 9320])  # the last two only touch
    (tmp_path / "t.csv").write_text("chip,split\na00,train\na01,test\na02,val\na03,test\n")
    with pytest.raises(InputError, match=r"t\.csv: a00 \(train\) and a01 \(test\) overlap on the ground, a leak \(1 "):
        source(tmp_path, split="train", splits={"file": "t.csv"})
    assert len(source(tmp_path, split="test", splits={"file": "t.csv", "overlaps": "allow"})) == 2


def test_footprints_by_hand():
    box = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], float)
    diamond = np.array([(0.5, 1.2), (1.2, 0.5), (0.5, -0.2), (-0.2, 0.5)])

    def crossing(*moved: tuple[np.ndarray, float, float] | None) -> list[tuple[int, int]]:
        return overlaps([None if m is None else m[0] + np.array(m[1:]) for m in moved])

    row = crossing((box, 0, 0), (box, 0.5, 0.5), None, (box, 1, 0), (box, 0.99, 0))
    assert sorted(row) == [(0, 1), (1, 3), (1, 4), (3, 4)]
    assert crossing((box, 0, 0), (diamond, 1.25, 1.25)) == [] != crossing((box, 0, 0), (diamond, 0.7, 0.7))
    assert crossing((box, 179.5, 60), (box, -180.2, 60)) == [(0, 1)] == crossing((box, 10, 88.9), (box, 10.1, 88.9))


# ------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("placed", [True, False], ids=["warped", "by size"])
def test_each_kind_of_value_is_averaged_as_what_it_is(placed: bool):
    def grid(n: int) -> Grid:
        return Grid(n, n, (CRS.from_epsg(32633), Affine(240 / n, 0, 5e5, 0, -240 / n, 5e6)) if placed else None)

    fine, coarse = grid(24), grid(6)
    stripes = np.arange(24)[None, :] % 2 * np.ones((24, 1))

    def mean(low: float, high: float, unit: str) -> float:
        values = np.where(stripes > 0, high, low).astype(np.float32)[None, None]
        return float(resample_pixels(values, fine, coarse, unit)[0, 0, 3, 3])

    assert mean(0, 1, "reflectance") == pytest.approx(0.5, abs=0.02)
    assert mean(-20, -10, "decibel") == pytest.approx(10 * np.log10(0.055), abs=0.1)  # not -15
    assert mean(350, 20, "degree") == pytest.approx(5, abs=1)  # not 185
    codes = np.where(np.arange(24) % 4 == 1, 7, 3)[None, :] * np.ones((24, 1), int)  # the pixel nearest is the rarer
    assert (resample_codes(codes, fine, coarse, -1) == 3).all()
    flags = np.arange(24)[None, :] % 4 < 3 | np.zeros((24, 1), bool)
    assert resample_codes(flags, fine, coarse, True).all()
    assert (resample_codes(codes[:6, :6], coarse, fine, -1)[::4, ::4] == codes[:6, :6]).all()  # to smaller: the nearest


@pytest.mark.parametrize("way", ["", "ratio", "warp"])
@pytest.mark.parametrize("kind", ["tif", "npy"])
def test_a_window_shows_what_the_whole_chip_shows(tmp_path: Path, way: str, kind: str):
    """Read alone, or cut from the chip decoded whole."""
    if kind == "npy" and way == "warp":
        pytest.skip("an array has no place on Earth")
    n, m = 240, {"": 240, "ratio": 80, "warp": 100}[way]
    big = RNG.integers(300, 3000, (3, n, n)).astype(np.uint16)
    radar = RNG.normal(-12, 3, (1, m, m)).astype(np.float32)
    label = (RNG.random((m, m)) > 0.5).astype(np.uint8)
    for folder, values in (("s2", big), ("s1", radar), ("y", label[None])):
        place = {"crs": None, "transform": None}
        if way == "warp":
            side = 10 * n / values.shape[-1]
            place = {"crs": "EPSG:32633", "transform": Affine(side, 0, 5e5, 0, -side, 5e6)}
        tif(tmp_path / f"{folder}/a.tif", values, **place)
        np.save(tmp_path / f"{folder}/a.npy", values)
    sensors = {"s2": {**S2, "file": f"s2/{{chip}}.{kind}"}, "s1": {"file": f"s1/{{chip}}.{kind}", "bands": {"VV": 1}}}
    layers = {"label": {"file": f"y/{{chip}}.{kind}", "classes": ["a", "b"]}}
    whole, alone = (source(tmp_path, sensors, layers=layers, size=32, cache_mb=mb) for mb in (64, 0))
    assert len(whole) == len(alone) == 64 and whole.fingerprint == alone.fingerprint
    for index in (0, 9, 42, 63):
        a, b = whole.read([index]), alone.read([index])
        assert torch.equal(a.sensors["s2"].x, b.sensors["s2"].x)
        torch.testing.assert_close(a.sensors["s1"].x, b.sensors["s1"].x, atol=2e-2 if way == "warp" else 1e-5, rtol=0)
        assert torch.equal(a.sensors["s1"].valid, b.sensors["s1"].valid)
        assert (a.targets["label"] == b.targets["label"]).float().mean() > (0.99 if way == "warp" else 0.9999)


FAR_OFF = [
    (-9999, 100, 300, True),
    (65535, 200, 4000, True),
    (65535, 200, 65534, False),  # saturated, as its neighbours nearly are
    (255, 0, 100, True),
    (255, 0, 254, False),
    (-1, 100, 300, False),
]


@pytest.mark.parametrize(("value", "low", "high", "is_told"), FAR_OFF)
def test_a_value_far_from_all_others_that_nobody_declares_is_told(tmp_path, value, low, high, is_told):
    x = RNG.integers(low, high + 1, (3, N, N)).astype(np.int32)
    x[0, 0, :2], x[1:, 1, 1] = low, high
    x[1, 3, :5] = value
    tif(tmp_path / "s2" / "a.tif", x)
    tif(tmp_path / "s2" / "b.tif", np.where(x == value, low, x))
    _, _, lines = told(tmp_path)
    wanted = (
        f"1 of 2 pretrain chips: s2: B03 (band 2) holds {value}, far from its other values, and no file declares it; "
        f"where it is no data write `nodata: {value}`, else `nodata: none`: a"
    )
    assert [m for m in lines if "far from" in m] == [wanted] * is_told
    for nodata in (value, "none"):
        assert not any("far from its" in m for m in told(tmp_path, {"s2": S2 | {"nodata": nodata}})[2])
    tif(tmp_path / "s2" / "a.tif", x, nodata=value)
    assert not any("far from its" in m for m in told(tmp_path)[2])


def test_numbers_of_a_layer_hold_no_fill_without_a_word(tmp_path):
    tif(tmp_path / "s2" / "a.tif", IMAGE)
    height = RNG.uniform(2, 30, (N, N)).astype(np.float32)
    height[:2] = -9999
    tif(tmp_path / "y" / "a.tif", height)
    layer = {"file": "y/{chip}.tif", "unit": "metre"}
    _, batch, lines = told(tmp_path, layers={"y": layer})
    assert (
        any("y holds -9999, far from" in m and "`nodata: -9999`" in m for m in lines) and batch.targets["y"].min() < 0
    )
    _, batch, lines = told(tmp_path, layers={"y": layer | {"nodata": -9999}})
    assert not any("far from" in m for m in lines) and batch.targets["y"][0, :2].isnan().all()


@pytest.mark.parametrize(("nodata", "wanted"), [(255, -1), (0, 1)])
def test_no_data_of_a_band_for_each_class_is_no_class(tmp_path, nodata, wanted):
    """But for 0, which says that the class is not there, as files of such bands often declare it."""
    tif(tmp_path / "s2" / "a.tif", IMAGE)
    planes = np.stack([HALF > 0, HALF == 0]).astype(np.uint8)
    planes[:, 3, :] = np.array([0, nodata or 1])[:, None]
    tif(tmp_path / "y" / "a.tif", planes, nodata=nodata)
    layer = {"file": "y/{chip}.tif", "classes": ["south", "north"], "one_hot": True}
    label = told(tmp_path, layers={"y": layer})[1].targets["y"][0]
    assert label[3].unique().tolist() == [wanted] and label[2].unique().tolist() == [1]
    assert label[-1].unique().tolist() == [0]


def test_a_colour_declared_to_be_no_data_is_no_label(tmp_path):
    tif(tmp_path / "s2" / "a.tif", IMAGE)
    tif(tmp_path / "y" / "a.tif", np.stack([np.where(HALF > 0, 9, 0)] * 3).astype(np.uint8), nodata=0)
    layer = {"file": "y/{chip}.tif", "classes": ["grey"], "colors": ["#090909"]}
    _, batch, lines = told(tmp_path, layers={"y": layer})
    assert batch.targets["y"].unique().tolist() == [-1, 0] and not any("declares" in m for m in lines)
    both = layer | {"classes": ["grey", "black"], "colors": ["#090909", "#000000"]}
    _, batch, lines = told(tmp_path, layers={"y": both})
    assert batch.targets["y"].unique().tolist() == [-1, 0]
    assert any("declares #000000 to be no data, the colour of 'black'" in m for m in lines)
    assert told(tmp_path, layers={"y": both | {"nodata": "none"}})[1].targets["y"].unique().tolist() == [0, 1]


def test_scales_of_a_layer_of_numbers_are_those_that_files_state(tmp_path):
    tif(tmp_path / "s2" / "a.tif", IMAGE)
    path = tif(tmp_path / "y" / "a.tif", np.full((1, N, N), 120, np.int16))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.1], [-2.0]
    layer = {"file": "y/{chip}.tif", "unit": "metre"}
    for scale in ({}, {"scale": "file"}):
        source, batch, _ = told(tmp_path, layers={"y": layer | scale})
        assert batch.targets["y"].unique().tolist() == [pytest.approx(10.0)]
        assert any("y: values are scaled as files say, * 0.1 + -2" in m for m in source.notes())
    _, batch, lines = told(tmp_path, layers={"y": layer | {"scale": 1.0}})
    assert batch.targets["y"].unique().tolist() == [120] and any(
        "y: the file says * 0.1 + -2, the yaml" in m for m in lines
    )


def test_a_picture_to_be_turned_is_told(tmp_path):
    about = Image.Exif()
    about[274] = 6
    (tmp_path / "s2").mkdir()
    for name, exif in (("a", about), ("b", None)):
        picture = Image.fromarray(RNG.integers(0, 255, (N, N, 3)).astype(np.uint8))
        picture.save(tmp_path / "s2" / f"{name}.jpg", **({"exif": exif} if exif else {}))
    lines = told(tmp_path, {"rgb": S2 | {"file": "s2/{chip}.jpg", "unit": "number", "bands": {"red": 1}}})[2]
    assert [
        m.startswith("1 of 2 pretrain chips: rgb: is to be turned when it is shown (EXIF orientation 6)") for m in lines
    ]
    assert len(lines) == 1 and lines[0].endswith("save it upright: a")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32"])
def test_distinct_is_what_sorting_gives(dtype: str):
    raw = (RNG.integers(-100, 300, (7, 9)).astype("int64")).astype(dtype)
    codes, where = distinct(raw)
    wanted, inverse = np.unique(raw, return_inverse=True)
    assert codes.dtype == wanted.dtype and np.array_equal(codes, wanted)
    assert np.array_equal(where, inverse.reshape(raw.shape)) and where.dtype == inverse.dtype


def test_what_a_file_says_is_asked_once_and_anew_where_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tif(tmp_path / "a.tif", IMAGE, nodata=7)
    asked = []
    said = geotiff._said
    monkeypatch.setattr(geotiff, "_said", lambda *a: asked.append(a) or said(*a))
    first, again = (read_bands(path, [1, 3]) for _ in range(2))
    assert len(asked) == 1 and first.said == again.said and first.said.nodata == (7, 7)
    assert np.array_equal(first.values, again.values) and first.place == again.place
    read_bands(path, [2])
    assert len(asked) == 2  # of other bands it says other things
    tif(path, IMAGE, nodata=9)
    assert read_bands(path, [1, 3]).said.nodata == (9, 9) and len(asked) == 3
