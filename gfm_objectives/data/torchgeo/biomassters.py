"""BioMassters (Nascetti et al. 2023): above-ground biomass of Finnish forests, 256 x 256 px at 10 m, twelve months."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, deal, read_tif

SIDE = 256
MONTHS = 12  # 00 = September
CLOUD, UNKNOWN = 70, 255  # of CLP, the share of cloud in %: above, the authors' copy counts a pixel as cloudy


class BioMassters:
    """train_features/<chip>_S{1,2}_<month>.tif and train_agbm/; test_features/ and test_agbm/ where there are labels.

    Chips have no place. Without test_agbm a tenth of the training chips are test; a tenth is val; by the hash of their
    names: PANGAEA's lists are not published. Years differ and are not told: every season is taken to begin in September
    2019. A month without a file, a pass of -9999 and clouds are no look. An area is a chip.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        self._dates, self._sensors = dates, sensors
        own = (root / "test_agbm").is_dir()
        half = "test" if split == "test" and own else "train"
        self._features, self._agbm = root / f"{half}_features", root / f"{half}_agbm"
        chips = [p.name.removesuffix("_agbm.tif") for p in sorted(self._agbm.glob("*_agbm.tif"))]
        kept = set(chips) if half == "test" else deal(chips, split, val=0.1, test=0.0 if own else 0.1)
        self.names = [c for c in chips if c in kept]
        self.areas = self.names
        self.shapes = [(SIDE, SIDE)] * len(self.names)

    def files(self, k: int) -> Iterable[Path]:
        looks = (self._path(s, k, m) for s in self._sensors for m in range(MONTHS))
        return *(p for p in looks if p.is_file()), self._agbm / f"{self.names[k]}_agbm.tif"

    def load(self, k: int) -> Sample:
        make = {"s2": self._optical, "s1": self._radar}
        y = read_tif(self._agbm / f"{self.names[k]}_agbm.tif")[0].astype(np.float32)
        return Sample({s: make[s](k) for s in self._sensors}, {"biomass": np.where(y < 0, np.nan, y)})

    def _months(self, sensor: str, k: int) -> list[int]:
        """Those that are read, of those that there are."""
        there = [m for m in range(MONTHS) if self._path(sensor, k, m).is_file()]
        return [there[i] for i in spread(len(there), self._dates)]

    def _optical(self, k: int) -> Image:
        months = self._months("s2", k)
        x = np.stack([read_tif(self._path("s2", k, m)) for m in months]) if months else np.zeros((0, 11, SIDE, SIDE))
        cloud = x[:, 10]
        return Image(x[:, :10], [_day(m) for m in months], (cloud <= CLOUD) & (cloud != UNKNOWN))

    def _radar(self, k: int) -> Image:
        """Of each month the ascending pass, then the descending one."""
        months = self._months("s1", k)
        x = np.stack([read_tif(self._path("s1", k, m)) for m in months]) if months else np.zeros((0, 4, SIDE, SIDE))
        return Image(x.reshape(-1, 2, *x.shape[2:]), [_day(m) for m in months for _ in range(2)])

    def _path(self, sensor: str, k: int, month: int) -> Path:
        return self._features / f"{self.names[k]}_{sensor.upper()}_{month:02}.tif"


def _day(month: int) -> float:
    return day(f"{2019 if month < 4 else 2020}-{(month + 8) % MONTHS + 1:02}-15")
