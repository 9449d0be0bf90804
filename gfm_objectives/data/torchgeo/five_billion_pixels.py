"""FiveBillionPixels (Tong et al. 2023): 150 scenes of Gaofen-2 at 4 m with 24 classes, cut where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import deal, read_tif, shape_of
from gfm_objectives.errors import InputError

CROP = 520  # pixels, PANGAEA's


class FiveBillionPixels:
    """The release: Image__8bit_NirRGB/ (near infrared, red, green, blue) and Annotation__index/.

    Tiles are crops of CROP px side by side; what is left at the right and bottom is a smaller one. PANGAEA's crops and
    lists are not published: scenes are dealt by the hash of their names, 60 : 20 : 20. An area is a scene.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        self._labels = root / "Annotation__index"
        paths = {p.stem: p for p in sorted((root / "Image__8bit_NirRGB").glob("*.tif*"))}
        kept = deal(paths, split, val=0.2, test=0.2)
        self._tiles = [
            (path, top, left, min(CROP, h - top), min(CROP, w - left))
            for name, path in paths.items()
            if name in kept
            for h, w in [shape_of(path)]
            for top in range(0, h, CROP)
            for left in range(0, w, CROP)
        ]
        self.names = [f"{path.stem}_{top}_{left}" for path, top, left, _, _ in self._tiles]
        self.areas = [path.stem for path, *_ in self._tiles]
        self.shapes = [(h, w) for *_, h, w in self._tiles]
        self._last: tuple[Path, np.ndarray] | None = None  # a label image is one compressed stream

    def files(self, k: int) -> Iterable[Path]:
        return self._tiles[k][0], self._label(self._tiles[k][0])

    def load(self, k: int) -> Sample:
        path, *window = self._tiles[k]
        top, left, h, w = window
        x = read_tif(path, window=(top, left, h, w), raw=True)[None]  # tagged as CMYK: colours must not be converted
        y = self._labelled(path)[top : top + h, left : left + w].astype(np.int64) - 1  # 0 is unlabelled
        return Sample({"gf2": Image(x, [0.0])}, {"gid24": y})

    def _label(self, path: Path) -> Path:
        return self._labels / f"{path.stem}_24label.png"

    def _labelled(self, path: Path) -> np.ndarray:
        if self._last is None or self._last[0] != path:
            label = self._label(path)
            if not label.is_file():
                raise InputError(f"{label}: no such file; unpack Annotation__index again")
            self._last = path, read_tif(label)[0]
        return self._last[1]
