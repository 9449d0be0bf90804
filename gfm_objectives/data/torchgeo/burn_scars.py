"""HLS Burn Scars (NASA and IBM 2023): 804 scenes of 512 x 512 px at 30 m, in the two layouts it is handed out in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.finding import day_of
from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import deal, lines_of, read_tif, shape_of
from gfm_objectives.errors import InputError

STEM, IMAGE, MASK = "subsetted_512x512_HLS.S30.", ".4_merged.tif", ".4.mask.tif"  # the separators differ


class BurnScars:
    """The tar (training/ and validation/) or the folder data/ with split lists, which ship here if it has none.

    In the tar's layout validation/ is the test split, as PANGAEA has it, and a tenth of the MGRS tiles of training/
    are val: PANGAEA draws them scene by scene, which puts one ground into both. An area is an MGRS tile.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        wanted = "train" if split == "pretrain" else split
        if (root / "data").is_dir():
            keys = _listed(root, wanted)
            self._paths = [root / "data" / f"{STEM}{key}{IMAGE}" for key in keys]
            if absent := [p for p in self._paths if not p.is_file()]:
                what = f"{len(absent)} of the {len(keys)} scenes of the {wanted} list are missing"
                raise InputError(f"{absent[0]}: no such file; {what}; fetch hls_burn_scars again")
        else:
            folder = root / ("validation" if wanted == "test" else "training")
            paths = sorted(folder.glob(f"{STEM}*{IMAGE}"))
            kept = {_tile(_key(p)) for p in paths}
            kept = kept if wanted == "test" else deal(kept, wanted)
            self._paths = [p for p in paths if _tile(_key(p)) in kept]
        self.names = [_key(p) for p in self._paths]
        self.areas = [_tile(name) for name in self.names]
        self.shapes = [shape_of(self._paths[0])] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return self._paths[k], _mask(self._paths[k])

    def load(self, k: int) -> Sample:
        x = read_tif(self._paths[k])[None]  # (1, 6, 512, 512); missing: NaN, -9999 or 9999, as the row says
        y = read_tif(_mask(self._paths[k]))[0].astype(np.int64)
        return Sample({"hls": Image(x, [day_of(self.names[k].split(".")[1])])}, {"burn": np.where(y < 0, -1, y)})


def _listed(root: Path, split: str) -> list[str]:
    own = root / "splits" / f"{split}.txt"
    return own.read_text().split() if own.is_file() else lines_of(f"burn_scars_{split}.txt")


def _key(path: Path) -> str:
    """T10SEJ.2018185.v1"""
    return path.name.removeprefix(STEM).removesuffix(IMAGE)


def _tile(key: str) -> str:
    return key.split(".")[0]


def _mask(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(IMAGE) + MASK)
