"""DynamicEarthNet (Toker et al. 2022): 55 places of 1024 x 1024 px at 3 m, daily PlanetScope, labels every month."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, read_tif, table_of
from gfm_objectives.errors import InputError

DAYS = (1, 5, 10, 15, 20, 25)  # of each month: PANGAEA's until 2025, when it took 1 to 6
SIDE = 1024
SNOW = 6  # band 7 of a label: no class


class DynamicEarthNet:
    """mediaTUM's release: planet/<zone>/<cell>/<aoi>/PF-SR/ and labels/<aoi>_<zone>/Labels/Raster/<cell>/.

    A tile is a place in a month; its looks are DAYS of it, fewer by data.dates; a day without a file is no look. What
    has no imagery (mediaTUM lacks a place) is left out and counted. An area is a place: 45, 5 and 5 of them.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        wanted = "train" if split == "pretrain" else split
        rows = [row for row in table_of("dynamic_earthnet.csv") if row["split"] == wanted]
        self._days = [DAYS[i] for i in spread(len(DAYS), dates)]
        self._tiles: list[tuple[Path, str, Path]] = []  # folder of the images, month, label
        self.names, self.areas, absent = [], [], []
        for row in rows:
            folder = _images(root, row)
            labels = root / "labels" / f"{row['aoi']}_{row['zone']}" / "Labels" / "Raster" / row["cell"]
            for path in sorted(labels.glob(f"{row['cell']}-*.tif")):
                month = path.stem.removeprefix(f"{row['cell']}-").replace("_", "-")[:7]  # both styles of date occur
                if folder is None or not any((folder / f"{month}-{d:02}.tif").is_file() for d in self._days):
                    absent.append(f"{row['aoi']} {month}")
                    continue
                self._tiles.append((folder, month, path))
                self.names.append(f"{row['aoi']}_{month}")
                self.areas.append(row["aoi"])
        self.shapes = [(SIDE, SIDE)] * len(self.names)
        self.notes = [f"{len(absent)} labelled months have no image: {', '.join(absent[:3])}, ..."] if absent else []

    def files(self, k: int) -> Iterable[Path]:
        return *self._looks(k), self._tiles[k][2]

    def load(self, k: int) -> Sample:
        paths = self._looks(k)
        x = np.stack([read_tif(p) for p in paths])  # (t, 4, H, W): blue, green, red, near infrared
        bands = read_tif(self._tiles[k][2])  # (7, H, W), 255 where it is that class
        if len(bands) != SNOW + 1:
            raise InputError(f"{self._tiles[k][2]}: has {len(bands)} bands, a label has {SNOW + 1}; fetch it again")
        y = np.where(bands[:SNOW].any(0), bands[:SNOW].argmax(0), -1)
        return Sample({"planet": Image(x, [day(p.stem) for p in paths])}, {"land_cover": y.astype(np.int64)})

    def _looks(self, k: int) -> list[Path]:
        folder, month, _ = self._tiles[k]
        paths = [folder / f"{month}-{d:02}.tif" for d in self._days]
        return [p for p in paths if p.is_file()]


def _images(root: Path, row: dict[str, str]) -> Path | None:
    folder = root / "planet" / row["zone"] / row["cell"]
    return next((p / "PF-SR" for p in sorted(folder.glob(f"{row['aoi']}*")) if (p / "PF-SR").is_dir()), None)
