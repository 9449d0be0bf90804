"""Polygons of a map: of each class what hangs together, without specks, with fewer corners if wanted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gfm_objectives.predict.ground import METRES_PER_DEGREE, Ground, open_raster
from gfm_objectives.predict.raster import class_codes, no_room
from gfm_objectives.sensors import Legend

SUFFIXES = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}


def polygonise(raster: Path, target: Path, legend: Legend, min_area: float, simplify: float) -> int:
    """Write the polygons of `raster` to `target`, columns code, class and area_m2; how many they are.

    min_area in square metres: smaller ones are left out; simplify: how far in metres an outline may move, 0 = pixels'
    edges. Square metres are counted in pixels, before simplification.
    """
    import geopandas
    import rasterio
    from rasterio.features import shapes
    from shapely.geometry import shape

    codes, _ = class_codes(legend)
    names = dict(zip(codes.tolist(), legend.classes, strict=True))
    with open_raster(raster) as file:
        ground = Ground.of(file)
        unit = 1.0 if ground.crs is None else abs(np.linalg.det(np.array(file.transform).reshape(3, 3)[:2, :2]))
        pixel = (ground.gsd or 1.0) ** 2  # square metres
        degrees = ground.crs is not None and ground.crs.is_geographic
        tolerance = simplify / METRES_PER_DEGREE if degrees else simplify
        rows = []
        for outline, code in shapes(rasterio.band(file, 1), transform=file.transform, connectivity=4):
            if int(code) not in names:
                continue
            polygon = shape(outline)
            area = polygon.area / unit * pixel
            if area < min_area:
                continue
            polygon = polygon.simplify(tolerance) if simplify else polygon
            rows.append((int(code), names[int(code)], area, polygon))
        columns = [list(c) for c in zip(*rows, strict=True)] or [[], [], [], []]
        table = geopandas.GeoDataFrame(
            {"code": columns[0], "class": columns[1], "area_m2": columns[2]}, geometry=columns[3], crs=ground.crs
        )
    part = raster.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")  # in the folder of the blocks
    try:
        table.to_file(part, driver=SUFFIXES[target.suffix.lower()], layer=target.stem)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise no_room(target, error) from error
    return len(rows)
