"""SSL4EO-L (Stewart et al. 2023): Landsat 4 to 9 in four seasons, and its benchmark with the NLCD and CDL maps.

Values are bytes of a share of a range, as the makers' own scripts made them (torchgeo's repository,
experiments/ssl4eo/landsat/compress_*.sh): reflectance 0 to .3 of the surface, 0 to .4 at the top of the atmosphere. In
one version of these scripts what lies above the range wraps around to 0, so 0 in any band is invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.data.torchgeo import legends
from gfm_objectives.data.torchgeo.classes import PART, opened
from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, deal, read_tif, shape_of
from gfm_objectives.errors import InputError

SIX = ("blue", "green", "red", "nir", "swir1", "swir2")  # what all of these Landsats have
FILE = "all_bands.tif"
# Bands of all_bands.tif, from 1, that are the six. Coastal, panchromatic, cirrus and thermal ones are left out.
STORED = {
    "oli_sr": (2, 3, 4, 5, 6, 7),
    "etm_sr": (1, 2, 3, 4, 5, 6),
    "oli_tirs_toa": (2, 3, 4, 5, 6, 7),
    "etm_toa": (1, 2, 3, 4, 5, 8),  # 6 and 7 are the two gains of the thermal band
    "tm_toa": (1, 2, 3, 4, 5, 7),
}
MAPS = {"nlcd": legends.NLCD, "cdl": legends.CDL}


def chosen(product: str | None, known: Sequence[str]) -> str:
    """The product asked for, the first where none is."""
    if product is not None and product not in known:
        raise InputError(f"data.product={product}: no such product here; choose from {', '.join(known)}")
    return product or known[0]


class Ssl4eoL:
    """ssl4eo_l_<product>/<place>/<scene>/all_bands.tif, 264 x 264 px. val is a hundredth of the places, by hash.

    product: one of PRODUCTS; download: fetch what is missing, through torchgeo. An area is a place.
    """

    PRODUCTS: tuple[str, ...] = ("oli_sr", "etm_sr")

    def __init__(
        self,
        root: Path,
        split: str,
        dates: int,
        sensors: Sequence[str],
        product: str | None = None,
        download: bool = False,
    ) -> None:
        self._product = chosen(product, self.PRODUCTS)
        known = opened("SSL4EOL", root, split=self._product, download=download)
        kept = deal(known.scenes, split, val=0.01)
        self._folder, self._dates = root / f"ssl4eo_l_{self._product}", dates
        self.names = [place for place in known.scenes if place in kept]
        self.areas = self.names
        self.shapes = [shape_of(self._looks(0)[0] / FILE)] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return [look / FILE for look in self._looks(k)]

    def load(self, k: int) -> Sample:
        looks = self._looks(k)
        x = np.stack([read_tif(look / FILE, STORED[self._product]) for look in looks])
        return Sample({"hls": Image(x, [_day_of(look) for look in looks])}, {})

    def _looks(self, k: int) -> list[Path]:
        looks = sorted((p for p in (self._folder / self.names[k]).iterdir() if p.is_dir()), key=_day_of)
        return [looks[i] for i in spread(len(looks), self._dates)]


class Ssl4eoLTop(Ssl4eoL):
    PRODUCTS = ("oli_tirs_toa", "etm_toa", "tm_toa")


class Ssl4eoLBenchmark:
    """25,000 places of the United States with maps: ssl4eo_l_<product>_benchmark/ and ssl4eo_l_<instrument>_<map>/.

    torchgeo's splits, drawn at random (70, 15, 15). An area is a place. A map that is not on disk has no label
    anywhere, which a note says. product, download: as above; downloads fetch both maps.
    """

    PRODUCTS: tuple[str, ...] = ("oli_sr", "etm_sr")

    def __init__(
        self,
        root: Path,
        split: str,
        dates: int,
        sensors: Sequence[str],
        product: str | None = None,
        download: bool = False,
    ) -> None:
        self._product = chosen(product, self.PRODUCTS)
        instrument = self._product.split("_")[0]
        held = [m for m in MAPS if download or (root / f"ssl4eo_l_{instrument}_{m}").is_dir()]
        if not held:
            raise InputError(
                f"{root}: holds neither ssl4eo_l_{instrument}_nlcd/ nor ssl4eo_l_{instrument}_cdl/ of "
                f"data.product={self._product}; data.download=true fetches both"
            )
        state = np.random.get_state()  # torchgeo seeds numpy's own, for everybody
        rows = {
            m: opened(
                "SSL4EOLBenchmark", root, sensor=self._product, product=m, split=PART[split], download=download
            ).sample_collection
            for m in held
        }
        np.random.set_state(state)
        self.notes = [f"no {m} maps in {root}: that layer has no label" for m in MAPS if m not in held]
        images = [[Path(image) for image, _ in rows[m]] for m in held]
        if any(one != images[0] for one in images):
            raise InputError(f"{root}: torchgeo splits the {' and the '.join(held)} maps differently; fetch both again")
        self._images = images[0]
        self._maps = {m: [Path(path) for _, path in rows[m]] for m in held}
        self.names = ["_".join(p.parts[-3:-1]) for p in self._images]  # 0000001_LC08_...
        self.areas = [p.parts[-3] for p in self._images]
        self.shapes = [shape_of(self._images[0])] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return [self._images[k], *(paths[k] for paths in self._maps.values())]

    def load(self, k: int) -> Sample:
        x = read_tif(self._images[k], STORED[self._product])[None]
        labels = {name: np.full(x.shape[-2:], -1, np.int64) for name in MAPS}
        for name, paths in self._maps.items():
            codes = read_tif(paths[k])[0]
            for code, label in MAPS[name].lookup().items():
                labels[name][codes == code] = label
        return Sample({"hls": Image(x, [_day_of(self._images[k].parent)])}, labels)


class Ssl4eoLBenchmarkTop(Ssl4eoLBenchmark):
    PRODUCTS = ("oli_tirs_toa", "etm_toa", "tm_toa")


def _day_of(look: Path) -> float:
    """Of LC08_172034_20210829."""
    return day(look.name[-8:])
