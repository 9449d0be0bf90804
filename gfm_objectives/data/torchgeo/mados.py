"""MADOS (Kikaki et al. 2024): marine debris and oil spills, crops of 240 x 240 px at 10 m, one file for each band."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import read_square, read_tif
from gfm_objectives.errors import InputError

BANDS = 11
SIDE = 240


class Mados:
    """Folders Scene_<k>/{10,20,60}, and splits/{train,val,test}_X.txt, which say Scene_<k>_<crop>.

    A band is told by the rank of its wavelength, since Sentinel-2A and B differ by some nanometres. An area is a scene.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        self._root = root / "MADOS" if (root / "MADOS").is_dir() else root
        path = self._root / "splits" / f"{'train' if split == 'pretrain' else split}_X.txt"
        if not path.is_file():
            raise InputError(f"{path}: no such file; MADOS.zip holds the split lists, unpack all of it")
        self.names = path.read_text().split()
        self.areas = [name.rpartition("_")[0] for name in self.names]
        self.shapes = [(SIDE, SIDE)] * len(self.names)

    def files(self, k: int) -> Iterable[Path]:
        return *self._bands(k), self._label(k)

    def load(self, k: int) -> Sample:
        x = np.stack([read_square(p, SIDE) for p in self._bands(k)])[None]  # reflectance; NaN = missing
        y = read_tif(self._label(k))[0].astype(np.int64) - 1  # 0 is unlabelled
        return Sample({"s2": Image(x, [0.0])}, {"mados": y})

    def _bands(self, k: int) -> list[Path]:
        scene, _, crop = self.names[k].rpartition("_")
        found = {}
        for path in (self._root / scene).glob(f"*/{scene}_L2R_rhorc_*_{crop}.tif"):
            wavelength = re.fullmatch(rf".*_rhorc_(\d+)_{crop}\.tif", path.name)
            if wavelength:
                found[int(wavelength[1])] = path
        if len(found) != BANDS:
            raise InputError(
                f"{self._root / scene}: crop {crop} has {len(found)} bands of {BANDS}; unpack MADOS.zip again"
            )
        return [found[w] for w in sorted(found)]

    def _label(self, k: int) -> Path:
        scene, _, crop = self.names[k].rpartition("_")
        return self._root / scene / "10" / f"{scene}_L2R_cl_{crop}.tif"
