"""AI4SmallFarms (Persello et al. 2023): field boundaries of 62 tiles of Vietnam and Cambodia at 10 m."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample
from gfm_objectives.data.torchgeo.files import day, header, read_tif, table_of
from gfm_objectives.errors import InputError

FOLDERS = {"pretrain": "train", "train": "train", "val": "validate", "test": "test"}
BANDS = ("B02", "B03", "B04", "B08")
COUNTRIES = ("cambodia", "vietnam")


class AI4SmallFarms:
    """sentinel-2-asia/{train,validate,test}/{images,masks}/<number>_<country>.tif, of any size.

    stored: the names of a file's bands, for copies other than the archive's four. leave_out: a country that is in no
    split but test, which then is all of it: what is learned in the one, scored in the other. An area is a tile.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        dates: int,
        sensors: Sequence[str],
        stored: Sequence[str] | None = None,
        leave_out: str | None = None,
    ) -> None:
        if leave_out is not None and leave_out not in COUNTRIES:
            raise InputError(f"data.leave_out={leave_out}: no such country; choose from {', '.join(COUNTRIES)}")
        root = root / "sentinel-2-asia" if (root / "sentinel-2-asia").is_dir() else root
        halves = FOLDERS.values() if leave_out and split == "test" else [FOLDERS[split]]
        paths = {p.stem: p for half in halves for p in sorted((root / half / "images").glob("*.tif"))}
        if leave_out:
            paths = {k: p for k, p in paths.items() if k.endswith(leave_out) == (split == "test")}
        self._paths, self.names, self.areas = list(paths.values()), list(paths), list(paths)
        abouts = [header(p) for p in self._paths]
        self.shapes = [(a["height"], a["width"]) for a in abouts]
        self._pick = [_bands(p, a, stored) for p, a in zip(self._paths, abouts, strict=True)]
        months = {row["id"]: f"{row['year']}-{row['month']}-15" for row in table_of("ai4smallfarms.csv")}
        self._days = [day(months.get(name.partition("_")[0], "")) for name in self.names]

    def files(self, k: int) -> Iterable[Path]:
        return self._paths[k], self._mask(k)

    def load(self, k: int) -> Sample:
        x = read_tif(self._paths[k], self._pick[k])[None]
        y = (read_tif(self._mask(k))[0] > 0).astype(np.int64)
        if y.shape != self.shapes[k]:
            raise InputError(f"{self._mask(k)}: is {y.shape} pixels, its image {self.shapes[k]}; fetch both again")
        return Sample({"s2": Image(x, [self._days[k]])}, {"boundary": y})

    def _mask(self, k: int) -> Path:
        return self._paths[k].parents[1] / "masks" / self._paths[k].name


def _bands(path: Path, about: dict, stored: Sequence[str] | None) -> list[int]:
    """Numbers of BANDS in a file: as the user says, as it says itself, or as in the archive. Copies with three and
    with ten bands go round, and their order cannot be guessed."""
    named = list(stored or [d or "" for d in about["descriptions"]])
    named = [n.upper().replace("B", "B0") if len(n) == 2 else n for n in named]  # B2 is B02
    if all(b in named for b in BANDS) and len(named) == about["count"]:
        return [named.index(b) + 1 for b in BANDS]
    if about["count"] == len(BANDS) and stored is None:
        return [1, 2, 3, 4]
    raise InputError(
        f"{path}: has {about['count']} bands, the archive's have {len(BANDS)}; name them: data.stored=[B02,B03,...]"
    )
