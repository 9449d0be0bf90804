"""HDF5, NetCDF and Zarr: one variable of a file, read as far as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.rasters import FileFault, Raster, Said, Window, from_array, told
from gfm_objectives.errors import InputError

AXES = {"time": ("time", "t", "date"), "y": ("y", "lat", "latitude", "row"), "x": ("x", "lon", "longitude", "column")}


def read_cube(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    """(y, x), (band, y, x) or (time, band, y, x), in any order where a file names its axes (NetCDF, Zarr). FileFault
    names the variables a file has where there is none, or no such one, to read."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        return _read_hdf5(path, bands, dates, window, variable)
    return _read_named(path, bands, dates, window, variable)


def _read_hdf5(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    try:
        import h5py
    except ImportError as error:
        raise InputError("reading HDF5 needs h5py: pip install 'gfm-objectives[cubes]'") from error
    with told(path), h5py.File(path) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        name = _choose(path, variable, [n for n in found if file[n].ndim in (2, 3, 4)])
        data = file[name]
        return stated(from_array(path, data, bands, dates, window), data.attrs)


def _read_named(path: Path, bands: Sequence[int], dates: int, window: Window | None, variable: str) -> Raster:
    """Through xarray; scale, offset and no data are taken from what the file states, as of any other file."""
    try:
        import xarray
    except ImportError as error:
        raise InputError(f"reading {path.suffix} needs xarray: pip install 'gfm-objectives[cubes]'") from error
    engine = "zarr" if path.suffix == ".zarr" else "h5netcdf"
    with (
        told(path),
        xarray.open_dataset(path, engine=engine, decode_times=False, mask_and_scale=False, chunks=None) as file,
    ):
        name = _choose(path, variable, [str(n) for n, v in file.data_vars.items() if v.ndim in (2, 3, 4)])
        data = file[name]
        roles = {str(d): next((k for k, names in AXES.items() if str(d).lower() in names), "band") for d in data.dims}
        order = [d for role in ("time", "band", "y", "x") for d in data.dims if roles[str(d)] == role]
        data = data.transpose(*order)
        if data.ndim == 3 and roles[str(order[0])] == "time":
            data = data.expand_dims("band", 1)
        raster = stated(from_array(path, _Lazy(data), bands, dates, window), data.attrs)
        return replace(raster, place=_place(file, data))


def _choose(path: Path, variable: str, found: Sequence[str]) -> str:
    if variable in found:
        return variable
    if not variable and len(found) == 1:
        return found[0]
    what = f"has no variable {variable!r}" if variable else "has several variables"
    known = f"it has {', '.join(found)}" if found else "it has none of two to four axes"
    raise FileFault(path, f"{what}; write `{path.suffix[1:]}::name` after the file's ending: {known}", "band")


def stated(raster: Raster, about: Mapping[str, Any]) -> Raster:
    """With what the attributes of a variable say by the conventions of NetCDF: scale, offset, no data, and whether
    whole numbers that the format keeps with a sign have none."""

    def first(key: str) -> float | None:
        found = np.ravel(about[key]) if about.get(key) is not None else np.empty(0)
        return float(found[0]) if len(found) else None

    values, fill = raster.values, first("_FillValue")
    fill = first("missing_value") if fill is None else fill
    if str(about.get("_Unsigned")).lower() == "true" and values.dtype.kind == "i":
        values = values.view(f"u{values.dtype.itemsize}")
        fill = fill if fill is None or fill >= 0 else fill + 2.0 ** (8 * values.dtype.itemsize)
    scale, offset = first("scale_factor"), first("add_offset")
    dates, bands = values.shape[:2]
    each = dates * bands
    said = Said(
        nodata=(fill,) * each,
        scale=(1.0 if scale is None else scale,) * each,
        offset=(offset or 0.0,) * each,
        names=("",) * bands,
        units=(str(about.get("units") or ""),) * bands,
        waves=(None,) * bands,
    )
    return replace(raster, values=values, said=said)


class _Lazy:
    """An xarray variable that is sliced as an array."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape, self.dtype = data, tuple(data.shape), data.dtype

    def __getitem__(self, at: Any) -> np.ndarray:
        return self.data[at].values


def _place(file: Any, data: Any) -> tuple[Any, Any] | None:
    """Coordinate system and transform, where the file has a grid mapping and even steps along both axes."""
    from rasterio import Affine
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    mapping = data.encoding.get("grid_mapping") or data.attrs.get("grid_mapping") or "spatial_ref"
    y, x = data.dims[-2:]
    if mapping not in file.variables or y not in file.coords or x not in file.coords:
        return None
    wkt = file[mapping].attrs.get("crs_wkt") or file[mapping].attrs.get("spatial_ref")
    rows, columns = file[y].values.astype(float), file[x].values.astype(float)
    steps = [np.diff(v) for v in (rows, columns)]
    if not wkt or any(not len(s) or np.ptp(s) > 1e-3 * abs(s[0]) for s in steps):
        return None
    dy, dx = steps[0][0], steps[1][0]
    try:
        return CRS.from_wkt(wkt), Affine(dx, 0, columns[0] - dx / 2, 0, dy, rows[0] - dy / 2)
    except CRSError:
        return None
