"""OSCD: cities before and after, and where they were built up (Daudt et al. 2018, arXiv 1810.08468), through torchgeo.

Thirteen Sentinel-2 Level-1C bands, resampled to 10 m on the grid of the first date; docs/torchgeo.md says what to know.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.folder import days, find_folder, fingerprint
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.windows import Windows
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, S2_L1C

ONERA = "Onera Satellite Change Detection dataset"
VAL_CITIES = ("bordeaux", "nantes")


class OSCD(Windows):
    """Windows of cities on two dates, as sensor s2 with T = 2, the earlier first, and the layer `change`.

    root: the folder that holds the three folders 'Onera Satellite Change Detection dataset - ...'; size: of a window in
    pixels of 10 m; bands: those read; val_cities: training cities kept for validation; license: the line reports carry;
    cache_mb: decoded cities kept in memory, per process.

    Test cities are torchgeo's; pretraining sees the training cities; the windows of a city are in one split and one
    group. A tile is a city; edges are as `Windows` has them. InputError names the missing file, city or band.

    The fingerprint covers the labels byte by byte, the dates and the figures of normalisation; of images the names and
    sizes only, which another download of the same archive shares and other pixels as a rule do not.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        size: int = 64,
        bands: Sequence[str] = S2_L1C.band_names,
        val_cities: Sequence[str] = VAL_CITIES,
        license: str = "",
        cache_mb: float = 1024.0,
    ) -> None:
        assert split in SPLITS, split
        if not isinstance(size, int) or size < 1:
            raise InputError(f"data.size={size}: expected a number of pixels, such as 64")
        try:
            S2_L1C.index(bands)
        except ValueError as error:
            raise InputError(f"data.bands: {error}") from error
        self.license, self._bands = license, tuple(bands)
        folder = find_folder(root)
        half = "test" if split == "test" else "train"
        check_complete(folder, half)
        self._dataset = open_torchgeo(folder, half, self._bands)
        places = {str(f["region"]): i for i, f in enumerate(self._dataset.files)}
        self._number = {city: places[city] for city in choose(sorted(places), split, val_cities)}
        files = [self._dataset.files[i] for i in self._number.values()]
        super().__init__(split, list(self._number), [shape(f["mask"]) for f in files], size, cache_mb)
        self.spec = Spec(
            bands={"s2": self._bands},
            dates={"s2": 2},
            size=size,
            gsd=S2_L1C.gsd,
            legends={"change": LEGENDS["change"]},
        )
        paths = [Path(p) for f in files for p in (*f["images1"], *f["images2"])]
        labels = [Path(f["mask"]) for f in files]
        when = [list(f["dates"]) for f in files]
        self.fingerprint = fingerprint(folder, paths, split, size, self._bands, when, repr(S2_L1C), whole=labels)

    def decode(self, number: int) -> Batch:
        place = self._number[self._tile_areas[number]]
        sample, about = self._dataset[place], self._dataset.files[place]
        raw = sample["image"][None]  # (1, 2, C, H, W), reflectance x 10000; no offset: all before January 2022
        valid = (raw > 0).all(2)  # 0 is no data
        day = torch.tensor([[days(d) for d in about["dates"]]], dtype=torch.float32)
        s2 = Series(raw * 1e-4, valid, day, self._bands, "L1C")
        return Batch({"s2": s2}, {"change": sample["mask"]}, torch.tensor([S2_L1C.gsd]))


def shape(path: str) -> tuple[int, int]:
    """(H, W) of an image, from its header."""
    with Image.open(path) as image:
        return image.height, image.width


def choose(cities: Sequence[str], split: str, val: Sequence[str]) -> list[str]:
    """The cities of a split, of those that torchgeo lists for it. InputError where a split would be empty."""
    if split == "test":
        return list(cities)
    for city in val:
        if city not in cities:
            raise InputError(f"data.val_cities={city}: no training city; choose from {', '.join(cities)}")
    if not val or len(set(val)) == len(cities):
        raise InputError(f"data.val_cities={','.join(val)}: choose some, not all, of {', '.join(cities)}")
    return [c for c in cities if (c in val) == (split == "val")]


def check_complete(root: Path, half: str) -> None:
    """InputError names the first file that a labelled city lacks: torchgeo would stop at an index out of range."""
    for city in sorted((root / f"{ONERA} - {half.capitalize()} Labels").glob("*/")):
        images = root / f"{ONERA} - Images" / city.name
        bands = [images / f"imgs_{k}_rect" / f"{b}.tif" for k in (1, 2) for b in S2_L1C.band_names]
        for path in (city / "cm" / "cm.png", images / "dates.txt", *bands):
            if not path.is_file():
                raise InputError(f"{path}: is missing; unpack the archives again, or take {city.name} out")


def open_torchgeo(root: Path, half: str, bands: Sequence[str]) -> Any:
    """torchgeo's dataset of the train or test half."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' deprecations, at import
        from torchgeo.datasets import OSCD as TorchGeoOSCD
        from torchgeo.datasets import DatasetNotFoundError
    try:
        dataset = TorchGeoOSCD(str(root), split=half, bands=bands, checksum=False)
    except DatasetNotFoundError:
        raise InputError(
            f"data.root={root}: holds no '{ONERA} - ...'; unpack the archives of rcdaudt.github.io/oscd there"
        ) from None
    if not dataset.files:
        raise InputError(f"data.root={root}: no city in '{ONERA} - {half.capitalize()} Labels'")
    return dataset
