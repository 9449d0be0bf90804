"""Stand-ins of sources that are pretrained on, in the layout their makers' code writes; pixels given or made up."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from layouts import noise, write_tif
from rasterio.transform import Affine

from gfm_objectives.sensors import S2_L1C

L1C = S2_L1C.band_names
DAYS = ("20200115", "20200412", "20200720", "20201116")


def ssl4eo_l_benchmark(root: Path, product: str = "oli_sr", places: int = 20, side: int = 264) -> None:
    """As torchgeo's SSL4EOLBenchmark lays it out; map codes 0, 11, 42 and 81 of NLCD, 0, 1, 111 and 176 of CDL."""
    bands = {"oli_sr": 7, "etm_sr": 6, "oli_tirs_toa": 11, "etm_toa": 9, "tm_toa": 7}[product]
    instrument, year = product.split("_")[0], 2011 if product == "tm_toa" else 2019
    for k in range(places):
        where = f"{k:07d}/LC08_04403{k % 10}_{year}0810"
        grid = {"crs": "EPSG:32612", "transform": Affine(30, 0, 4e5 + 9e3 * k, 0, -30, 4e6)}
        x = noise(k, (bands, side, side), 1, 255, "uint8")
        x[:, 0, :3] = 0  # nothing there
        x[1, 1, 1] = 0  # wrapped around, or nothing
        write_tif(root / f"ssl4eo_l_{product}_benchmark" / where / "all_bands.tif", x, **grid)
        for name, codes in (("nlcd", (0, 11, 42, 81)), ("cdl", (0, 1, 111, 176))):
            y = np.random.default_rng(k).choice(np.array(codes, np.uint8), (1, side, side))
            write_tif(root / f"ssl4eo_l_{instrument}_{name}" / where / f"{name}_{year}.tif", y, **grid)


def ssl4eo_v11(root: Path, split: str = "train", files: int = 2, places: int = 3, side: int = 32) -> None:
    """zarr.zip of format 2 as its README shows them, written by xarray: place i, look t of file f has in its first
    bands 1000 + 100 (f + 1) + 10 i + t, and in VV and VH -10 and -17, less i and t tenths."""
    import xarray as xr

    for f in range(files):
        ids = [f"{100 * f + i:07d}" for i in range(places)]
        for folder, bands in (("S2L1C", L1C), ("S2L2A", tuple(b for b in L1C if b != "B10")), ("S1GRD", ("vv", "vh"))):
            i, t, c = np.meshgrid(range(places), range(4), range(len(bands)), indexing="ij")
            if folder == "S1GRD":
                x = (-10 - 7 * c - 0.1 * i - 0.1 * t).astype(np.float16)
                name = "S1B_IW_GRDH_1SDV_{}T214646_20201127T214711_024451_02E7F5"
            else:
                x = (1000 + 100 * (f + 1) + 10 * i + t + 500 * (c > 3)).astype(np.int16)
                name = "{}T023001_20201116T022955_T51TYH"
            x = np.broadcast_to(x[..., None, None], (*x.shape, side, side)).copy()
            x[0, 0, :, 0, :5] = 0
            table = xr.Dataset(
                {
                    "bands": (("sample", "time", "band", "y", "x"), x),
                    "center_lat": (("sample",), 40.0 + np.arange(places)),
                    "center_lon": (("sample",), 10.0 + np.arange(places)),
                    "file_id": (("sample", "time"), np.array([[name.format(d) for d in DAYS]] * places)),
                },
                {"band": list(bands), "sample": ids, "time": range(4)},
            )
            path = root / split / folder / f"ssl4eos12_{split}_seasonal_data_{f + 1:06d}.zarr.zip"
            chunks = {"bands": {"chunks": (places, 1, len(bands), side, side)}}
            loose = path.with_suffix("")
            table.to_zarr(loose, zarr_format=2, encoding=chunks)
            with zipfile.ZipFile(path, "w") as packed:
                for part in sorted(p for p in loose.rglob("*") if p.is_file()):
                    packed.write(part, part.relative_to(loose))
            shutil.rmtree(loose)


def packed(value: object) -> bytes:
    """As webdataset's writer packs it."""
    file = io.BytesIO()
    if isinstance(value, torch.Tensor):
        torch.save(value, file)
    else:
        file.write(value if isinstance(value, bytes) else json.dumps(value).encode())
    return file.getvalue()


def copernicus(path: Path, cells: dict[str, dict[str, object]]) -> None:
    """example-<n>.tar: cell -> ending (s2_toa.pth, json) -> tensor, description or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for cell, parts in cells.items():
            for ending, value in parts.items():
                data = packed(value)
                about = tarfile.TarInfo(f"{cell}.{ending}")
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
