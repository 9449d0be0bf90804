"""SpaceNet 7 (Van Etten et al. 2021): buildings month by month in 60 places of 1024 x 1024 px at 4 m."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives import disk
from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import day, read_tif, shape_of, table_of
from gfm_objectives.errors import InputError

OPAQUE = 255  # of the fourth band: the pixel shows something


class SpaceNet7:
    """train/<aoi>/images_masked/ and labels_match_pix/, whose polygons are in pixels and are drawn here.

    A tile is a place in a month; masks that PANGAEA's archive adds are not needed. What the image lacks has no label.
    Splits are PANGAEA's list of 30, 15 and 14 places, since no other is scored. An area is a place.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        wanted = "train" if split == "pretrain" else split
        root = root / "SN7_buildings" / "train" if (root / "SN7_buildings").is_dir() else root / "train"
        self._tiles: list[tuple[Path, Path]] = []
        self.names, self.areas, self.shapes = [], [], []
        for aoi in (row["aoi"] for row in table_of("spacenet7.csv") if row["split"] == wanted):
            images = sorted((root / aoi / "images_masked").glob("global_monthly_*.tif"))
            shape = shape_of(images[0]) if images else (0, 0)
            for image in images:
                polygons = root / aoi / "labels_match_pix" / f"{image.stem}_Buildings.geojson"
                if not polygons.is_file():
                    continue  # some months were too cloudy to label
                self._tiles.append((image, polygons))
                self.names.append(image.stem)
                self.areas.append(aoi)
                self.shapes.append(shape)

    def files(self, k: int) -> Iterable[Path]:
        return self._tiles[k]

    def load(self, k: int) -> Sample:
        image, polygons = self._tiles[k]
        x = read_tif(image)  # (4, H, W): red, green, blue, alpha
        if x.shape[1:] != self.shapes[k]:
            raise InputError(f"{image}: is {x.shape[1:]} pixels, its place {self.shapes[k]}; fetch it again")
        seen = x[3] == OPAQUE
        y = np.where(seen, drawn(polygons, self.shapes[k]), -1)
        when = re.search(r"global_monthly_(\d{4})_(\d{2})", image.name)
        days = [day(f"{when[1]}-{when[2]}-15") if when else 0.0]
        return Sample({"planet": Image(x[None, :3], days, seen[None])}, {"building": y})


def drawn(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) long: 1 inside the polygons of a geojson in pixel coordinates."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    features = disk.read_json(path, "unpack the archive again", ["features"])["features"]
    shapes = [f["geometry"] for f in features if f["geometry"] and f["geometry"].get("coordinates")]
    if not shapes:
        return np.zeros(shape, np.int64)
    return rasterize(shapes, out_shape=shape, transform=Affine.identity(), dtype="uint8").astype(np.int64)
