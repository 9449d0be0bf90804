"""Vector labels (GeoPackage, GeoJSON, shapefile) burnt into label rasters on the grid of the scenes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.rasters import told
from gfm_objectives.errors import InputError

FEW = 100  # classes that one attribute may have


def rasterise(
    vector: Path, scenes: Mapping[str, Path], attribute: str | None, out: Path
) -> tuple[list[str], str | None, int]:
    """Write `out`/<chip>.tif for every scene: 0 where no polygon lies, else 1 + the place of its value among all.

    A pixel belongs to the polygon that covers its centre (`all_touched` off). Returns the classes in order, the
    attribute that gave them, None = every polygon is of one class, named after the file, and how many polygons are not
    drawn, as their attribute is empty. attribute: None = the only
    column of few values there is. InputError names the columns there are.
    """
    import geopandas
    import rasterio
    from pyogrio.errors import DataSourceError
    from rasterio.features import rasterize

    try:
        with told(vector), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = geopandas.read_file(vector)
    except DataSourceError as error:
        raise InputError(f"{vector}: cannot be read as polygons ({str(error).splitlines()[0]})") from error
    shapes = shapes[shapes.geometry.notna() & ~shapes.geometry.is_empty]
    if not len(shapes):
        raise InputError(f"{vector}: holds no polygons")
    column = _column(vector, shapes, attribute)
    known = shapes if column is None else shapes[shapes[column].notna()]
    without, shapes = len(shapes) - len(known), known
    values = [vector.stem] * len(shapes) if column is None else [str(v) for v in shapes[column]]
    classes = sorted({*values})
    if len(classes) > FEW:
        raise InputError(f"{vector}: attribute={column} has {len(classes)} values; choose one with at most {FEW}")
    number = {c: i + 1 for i, c in enumerate(classes)}
    out.mkdir(parents=True, exist_ok=True)
    for chip, scene in scenes.items():
        with told(scene), rasterio.open(scene) as file:
            if file.crs is None:
                raise InputError(f"{scene}: is not georeferenced, so that {vector.name} cannot be laid over it")
            here = shapes if shapes.crs is None else shapes.to_crs(file.crs)
            pairs = [(g, number[v]) for g, v in zip(here.geometry, values, strict=True)]
            codes = rasterize(
                pairs, (file.height, file.width), transform=file.transform, all_touched=False, dtype="uint8"
            )
            about = {"driver": "GTiff", "height": file.height, "width": file.width, "count": 1, "dtype": "uint8",
                     "crs": file.crs, "transform": file.transform, "compress": "deflate", "tiled": True}  # fmt: skip
        if not codes.any():
            raise InputError(f"{vector}: none of its polygons lies on {scene.name}; check the coordinate systems")
        with rasterio.open(out / f"{chip}.tif", "w", **about) as file:
            file.write(codes, 1)
    return classes, column, without


def _column(vector: Path, shapes: Any, attribute: str | None) -> str | None:
    columns = [c for c in shapes.columns if c != shapes.geometry.name]
    if attribute is not None:
        if attribute not in columns:
            raise InputError(f"attribute={attribute}: {vector.name} has no such column; it has {', '.join(columns)}")
        return attribute
    few = [c for c in columns if 2 <= shapes[c].nunique() <= min(FEW, max(2, len(shapes) // 2))]
    text = [c for c in few if not np.issubdtype(shapes[c].dtype, np.number)] if len(few) > 1 else few
    if len(text or few) > 1:
        raise InputError(f"{vector.name}: which column is the class? Give attribute=, one of {', '.join(text or few)}")
    return (text or few)[0] if few else None
