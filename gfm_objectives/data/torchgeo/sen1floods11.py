"""Sen1Floods11 (Bonafilia et al. 2020): 446 hand-labelled chips of 512 x 512 px of eleven floods."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives import disk
from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import day, read_tif, shape_of
from gfm_objectives.errors import InputError

LISTS = {"pretrain": "train", "train": "train", "val": "valid", "test": "test"}
LOCATION = {"Mekong": "Cambodia"}  # chips and metadata call the flood differently


class Sen1Floods11:
    """v1.1/ of the bucket: data/flood_events/HandLabeled, splits/flood_handlabeled, Sen1Floods11_Metadata.geojson.

    bolivia: the held-out flood as the test split instead of the usual one; its areas are chips then, else floods.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str], bolivia: bool = False) -> None:
        root = root / "v1.1" if (root / "v1.1").is_dir() else root
        name = "bolivia" if bolivia and split == "test" else LISTS[split]
        path = root / "splits" / "flood_handlabeled" / f"flood_{name}_data.csv"
        if not path.is_file():
            raise InputError(f"{path}: no such file; the bucket's v1.1/splits holds it")
        with path.open(newline="") as file:
            self.names = [row[0].removesuffix("_S1Hand.tif") for row in csv.reader(file) if row]
        floods = [name.rpartition("_")[0] for name in self.names]
        self.areas = self.names if name == "bolivia" else floods
        self._folder = root / "data" / "flood_events" / "HandLabeled"
        self._sensors, known = sensors, _dates(root / "Sen1Floods11_Metadata.geojson")
        absent = [
            self._path(layer, k)
            for k in range(len(self.names))
            for layer in self._read()
            if not self._path(layer, k).is_file()
        ]
        if absent:
            raise InputError(
                f"{absent[0]}: no such file, as {len(absent)} others of the {name} list; fetch the bucket's v1.1 again"
            )
        self.shapes = [shape_of(self._path("LabelHand", 0))] * len(self.names) if self.names else []
        self._days = [known.get(LOCATION.get(flood, flood), (0.0, 0.0)) for flood in floods]

    def files(self, k: int) -> Iterable[Path]:
        return [self._path(layer, k) for layer in self._read()]

    def _read(self) -> list[str]:
        return [*(f"{s.upper()}Hand" for s in self._sensors), "LabelHand"]

    def load(self, k: int) -> Sample:
        s1, s2 = self._days[k]
        images = {}
        if "s2" in self._sensors:
            images["s2"] = Image(read_tif(self._path("S2Hand", k))[None], [s2])
        if "s1" in self._sensors:
            images["s1"] = Image(read_tif(self._path("S1Hand", k))[None], [s1])  # NaN = missing, never 0 dB
        return Sample(images, {"water": read_tif(self._path("LabelHand", k))[0].astype(np.int64)})

    def _path(self, layer: str, k: int) -> Path:
        return self._folder / layer / f"{self.names[k]}_{layer}.tif"


def _dates(path: Path) -> dict[str, tuple[float, float]]:
    """Location -> days of Sentinel-1 and Sentinel-2. Without the file no day is known."""
    if not path.is_file():
        return {}
    rows = [f["properties"] for f in disk.read_json(path, "unpack the archive again", ["features"])["features"]]
    return {r["location"]: (day(r["s1_date"]), day(r["s2_date"])) for r in rows}
