"""Odd and broken files, made at random: the right values or one line, never a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from test_chips import write_tiff

from gfm_objectives.data import build_source
from gfm_objectives.data.rasters import FileFault
from gfm_objectives.data.readers import read_bands
from gfm_objectives.errors import InputError, InputWarning

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
PLACES = st.sampled_from(
    [("EPSG:32633", 5e5, 5e6, 10.0), ("EPSG:4326", 179.9, -17.0, 1e-4), ("EPSG:3857", 1e6, 6e6, 10.0)]
)
FEW = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture], "derandomize": True}


@st.composite
def files(draw: Any) -> tuple[np.ndarray, dict[str, Any], np.ndarray | None]:
    """(C, H, W) values, how they are written, and a mask (H, W)."""
    kind = draw(st.sampled_from(TYPES))
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, 100, shape).astype(kind)
    nodata = draw(st.sampled_from([None, 0, 7, 99, *([float("nan"), -3.4e38] if "float" in kind else [])]))
    if nodata is not None:
        values[:, rng.random(shape[1:]) < 0.2] = nodata
    crs, x, y, step = draw(PLACES)
    about: dict[str, Any] = {"nodata": nodata, "compress": draw(st.sampled_from(["none", "deflate", "lzw"]))}
    about |= {"interleave": draw(st.sampled_from(["pixel", "band"]))}
    if draw(st.booleans()):
        about |= {"crs": crs, "transform": Affine(step, 0, x, 0, -step, y)}
    return values, about, rng.random(shape[1:]) < 0.8 if draw(st.booleans()) else None


def write(path: Path, values: np.ndarray, about: dict[str, Any], mask: np.ndarray | None) -> None:
    Path(f"{path}.msk").unlink(missing_ok=True)
    write_tiff(path, values, **about)
    if mask is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "r+") as file:
                file.write_mask(mask)


def read(folder: Path, pattern: str, name: str, band: str) -> Any:
    """The first tile of a folder, as stored, by the reader of chips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # pixel sizes
        sensors = {name: {"file": pattern, "bands": {band: 1}, "scale": 1.0}}
        options = {"name": "chips", "root": str(folder), "gsd": 10, "size": 16, "sensors": sensors}
        return build_source(options, "pretrain")._decoded(0).sensors[name]  # type: ignore[attr-defined]


def shown(made: Any) -> np.ndarray:
    """(H, W): where band 1 is neither no data nor hidden."""
    values, about, mask = made
    wanted = np.isfinite(values[0])
    if about["nodata"] is not None:  # of one band, all is any
        wanted &= values[0] != values.dtype.type(about["nodata"])
    return wanted if mask is None else wanted & mask


def as_written(series: Any, values: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether validity and values of band 1 are those that were written."""
    x, valid = series.x[0, 0, 0].numpy(), series.valid[0, 0].numpy()
    return np.array_equal(valid, wanted) and np.array_equal(x[wanted], values[0][wanted].astype(np.float32))


@settings(max_examples=40, **FEW)
@given(made=files(), radar=st.booleans())
def test_what_was_written_is_read(made: Any, radar: bool, tmp_path: Path):
    write(tmp_path / "a.tif", *made)
    wanted = shown(made)
    try:
        series = read(tmp_path, "{chip}.tif", *(("s1", "VV") if radar else ("s2", "B02")))
    except InputError as error:
        assert not wanted.any() and "no valid pixel" in str(error) and "\n" not in str(error)
        return
    assert as_written(series, made[0], wanted)


def plain(path: Path, values: np.ndarray) -> np.ndarray:
    """Write values alone, in the format of the name; those that are in the file."""
    path.unlink(missing_ok=True)  # the one before it, which GDAL would try to read
    if path.suffix == ".npy":
        np.save(path, values)
        return values
    if path.suffix == ".vrt":
        plain(path.with_suffix(".tif"), values)
        (height, width), kind = values.shape[1:], values.dtype.name.capitalize().replace("Uint", "UInt")
        band = f"dataType='{kind.replace('UInt8', 'Byte')}'"
        source = f"<SourceFilename relativeToVRT='1'>{path.stem}.tif</SourceFilename><SourceBand>1</SourceBand>"
        path.write_text(
            f"<VRTDataset rasterXSize='{width}' rasterYSize='{height}'><VRTRasterBand {band} band='1'>"
            f"<SimpleSource>{source}</SimpleSource></VRTRasterBand></VRTDataset>"
        )
        return values[:1]
    driver = {".tif": "GTiff", ".png": "PNG", ".jp2": "JP2OpenJPEG"}[path.suffix]
    values = values[:1] if len(values) == 2 else values[:3]  # a second or fourth band would be alpha
    more = {"QUALITY": 100, "REVERSIBLE": "YES"} if path.suffix == ".jp2" else {}
    values = values if path.suffix == ".tif" else np.nan_to_num(values).clip(0, 255).astype("uint8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, count=len(values), height=values.shape[1], width=values.shape[2],
                           dtype=values.dtype, **more) as file:  # fmt: skip
            file.write(values)
    return values


def damage(path: Path, cut: float, flips: list[tuple[float, int]]) -> None:
    """The file ends early, and some of its bytes are others."""
    data = bytearray(path.read_bytes()[: int(cut * path.stat().st_size) + 1])
    for at, byte in flips:
        data[int(at * (len(data) - 1))] = byte
    path.write_bytes(bytes(data))


ENDINGS = (".tif", ".png", ".npy", ".jp2", ".vrt")
FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)


@settings(max_examples=32, **FEW)
@given(made=files(), cut=st.floats(0, 1), flips=FLIPS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_broken_file_is_one_line(made: Any, cut: float, flips: list[tuple[float, int]], ending: str, tmp_path: Path):
    path = tmp_path / f"a{ending}"
    plain(path, made[0])
    damage(path, cut, flips)
    try:
        read_bands(path, (1,))
    except FileFault as fault:
        assert "\n" not in str(fault) and str(path) in str(fault)
