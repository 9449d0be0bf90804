"""PASTIS and PASTIS-R (Garnot and Landrieu 2021): crop types of 2,433 patches of 128 x 128 px over a year."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day
from gfm_objectives.errors import InputError

FOLDS = {"train": [1, 2, 3], "val": [4], "test": [5]}  # PANGAEA's; the benchmark's own protocol rotates them
VOID = 19
ORBITS = {"S1A": "ascending", "S1D": "descending"}


class Pastis:
    """metadata.geojson with the dates, DATA_S2/, ANNOTATIONS/, and of PASTIS-R DATA_S1A/ and DATA_S1D/.

    folds: which make train, val and test. Patches of one length have as many dates as were flown; of both radar passes
    as many, in order of time. An area is a patch: folds lie apart, patches of one fold may be neighbours.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        dates: int,
        sensors: Sequence[str],
        folds: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._root, self._dates, self._sensors = root, dates, sensors
        wanted = set((folds or FOLDS)["train" if split == "pretrain" else split])
        path = root / "metadata.geojson"
        try:
            features = json.loads(path.read_text())["features"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: cannot be read ({error}); unpack the archive again") from None
        about = [f["properties"] for f in features if int(f["properties"]["Fold"]) in wanted]
        about.sort(key=lambda a: int(a["ID_PATCH"]))
        self._days = [{k[6:]: _days(v) for k, v in a.items() if k.startswith("dates-")} for a in about]
        self.names = [str(a["ID_PATCH"]) for a in about]
        self.areas = self.names
        if "s1" in sensors and not all((root / f"DATA_{orbit}").is_dir() for orbit in ORBITS):
            raise InputError(
                f"{root}: has no DATA_S1A and DATA_S1D; this is PASTIS, and data.sensors=[s1] needs PASTIS-R"
            )
        self.shapes = [self._side()] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        kinds = [kind for kind, sensor in (("S2", "s2"), *((o, "s1") for o in ORBITS)) if sensor in self._sensors]
        return *(self._path(kind, k) for kind in kinds), self._target(k)

    def load(self, k: int) -> Sample:
        images = {}
        if "s2" in self._sensors:
            images["s2"] = Image(*self._looks("S2", k, slice(None)))
        if "s1" in self._sensors:  # the third band is VV - VH
            looks = [self._looks(orbit, k, slice(0, 2)) for orbit in ORBITS]
            days = np.concatenate([days for _, days in looks])
            order = np.argsort(days, kind="stable")
            images["s1"] = Image(np.concatenate([x for x, _ in looks])[order], days[order].tolist())
        y = np.load(self._target(k))
        y = (y[0] if y.ndim == 3 else y).astype(np.int64)
        return Sample(images, {"crop": np.where(y == VOID, -1, y)})

    def _looks(self, kind: str, k: int, bands: slice) -> tuple[np.ndarray, list[float]]:
        """Evenly spread looks of one sensor, (t, C, H, W), and their days."""
        stored = np.load(self._path(kind, k), mmap_mode="r")
        days = self._days[k].get(kind) or [0.0] * len(stored)  # not told
        if len(stored) != len(days):
            raise InputError(f"{self._path(kind, k)}: {len(stored)} dates, but metadata.geojson lists {len(days)}")
        pick = spread(len(days), self._dates)
        return np.stack([stored[i, bands] for i in pick]), [days[i] for i in pick]

    def _side(self) -> tuple[int, int]:
        path = self._target(0)
        if not path.is_file():
            raise InputError(f"{path}: no such file; unpack the archive again")
        h, w = np.load(path, mmap_mode="r").shape[-2:]
        return h, w

    def _path(self, kind: str, k: int) -> Path:
        return self._root / f"DATA_{kind}" / f"{kind}_{self.names[k]}.npy"

    def _target(self, k: int) -> Path:
        return self._root / "ANNOTATIONS" / f"TARGET_{self.names[k]}.npy"


def _days(dates: Any) -> list[float]:
    """Of {"0": 20180924, ...}, which geopandas writes back as text."""
    dates = json.loads(dates) if isinstance(dates, str) else dates
    return [day(str(dates[i])) for i in sorted(dates, key=int)]
