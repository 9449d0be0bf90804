"""Crop types of South Sudan (Rustowicz et al. 2019), as SustainBench hands them out: series of 64 x 64 px."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives import disk
from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, rows_of
from gfm_objectives.errors import InputError

PARTITION = {"pretrain": "0", "train": "0", "val": "1", "test": "2"}
CROPS = 4  # 1 sorghum, 2 maize, 3 rice, 4 groundnut; others are no label


class SouthSudan:
    """list_eval_partition.csv, npy/southsudan_<id>.npz, truth/, s1/ and s2/ with the dates.

    Archives that cannot be opened are left out of every split and counted: handing out the next one instead, as is done
    elsewhere, repeats samples. Looks are spread over the season. An area is a grid cell.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        self._root, self._dates, self._sensors = root, dates, sensors
        path = root / "list_eval_partition.csv"
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; it is part of SustainBench's africa_crop_type_mapping_v1.0/southsudan"
            )
        ids = [f"{int(float(row['id'])):06d}" for row in rows_of(path) if row["partition"].strip() == PARTITION[split]]
        broken = [i for i in ids if not (_whole(self._npz("npy", i)) and _whole(self._npz("truth", i)))]
        self.names = [i for i in ids if i not in set(broken)]
        self.areas = self.names
        self.shapes = [(64, 64)] * len(self.names)
        some = ", ".join(broken[:3])
        self.notes = [f"{len(broken)} of {len(ids)} {split} archives are missing or damaged: {some}"] if broken else []

    def files(self, k: int) -> Iterable[Path]:
        return self._npz("npy", self.names[k]), self._npz("truth", self.names[k])

    def load(self, k: int) -> Sample:
        name = self.names[k]
        with np.load(self._npz("npy", name)) as held:
            images = {s: self._image(s, name, held[s]) for s in self._sensors}
        with np.load(self._npz("truth", name)) as held:
            y = held["truth"].astype(np.int64)
        return Sample(images, {"crop": np.where((y >= 1) & (y <= CROPS), y - 1, -1)})

    def _image(self, sensor: str, name: str, stored: np.ndarray) -> Image:
        """From (C, H, W, T) with the bands kept; a look of zeros is none."""
        x = np.moveaxis(stored, -1, 0)
        x = x[:, :2] if sensor == "s1" else x  # the third band is VH / VV
        path = self._root / sensor / f"{sensor}_southsudan_{name}.json"
        kept = disk.read_json(path, "unpack the archive again", ["dates"])["dates"] if path.is_file() else []
        days = [day(d) for d in kept]
        days = days if len(days) == len(x) else [0.0] * len(x)
        seen = [i for i in range(len(x)) if x[i].any()]
        order = sorted(seen, key=lambda i: days[i])  # stable: without dates the order of the file
        pick = [order[i] for i in spread(len(order), self._dates)]
        return Image(x[pick], [days[i] for i in pick])

    def _npz(self, kind: str, name: str) -> Path:
        return self._root / kind / f"southsudan_{name}.npz"


def _whole(path: Path) -> bool:
    """Whether an archive can be opened; its directory is at the end, so a cut one shows."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False
