"""Readers that stand on torchgeo's own classes: which files there are, their splits and labels, and the download.

Pixels are torchgeo's where it keeps all of them. Where it does not, they are read here: its BigEarthNetV2 cuts decibels
to whole numbers and hands out VH before VV, its SSL4EO draws seasons at random, and none of the two gives dates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, deal, header, read_square, read_tif, shape_of
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import S2_L1C

PART = {"pretrain": "train", "train": "train", "val": "val", "test": "test"}
S2_L2A = tuple(b for b in S2_L1C.band_names if b != "B10")


def opened(cls: str, root: Path, **options: Any) -> Any:
    """torchgeo's dataset. InputError where it finds its files incomplete. Archives are not summed up at each opening,
    which is its default since 0.9 or 0.10: it takes hours, and refuses samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' deprecations, at import
        import torchgeo.datasets as known
    try:
        return getattr(known, cls)(str(root), **{"checksum": False, **options})
    except known.DatasetNotFoundError:
        raise InputError(
            f"{root}: torchgeo's {cls} does not find all its files there; data.download=true fetches them"
        ) from None


def taken(data: Any, k: int, files: Iterable[Path]) -> Any:
    """torchgeo's sample. InputError names the file that cannot be read, or says why they do not make one tile."""
    from rasterio.errors import NotGeoreferencedWarning

    paths = list(files)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of what is damaged
            return data[k]
    except (OSError, RuntimeError, IndexError, ValueError) as error:  # of rasterio, torch and numpy
        for path in paths:
            read_tif(path)
        told = str(error).splitlines()[0]
        raise InputError(f"{paths[0]}: its tile cannot be put together ({told}); fetch it again") from None


class Sen12MS:
    """Schmitt et al. 2019: ROIs<n>_<season>/{s1,s2,lc}_<scene>/. val is a twentieth of the training scenes, by hash.

    An area is a scene, whose patches overlap by half. No day is told.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        self._set = opened("SEN12MS", root, split="test" if split == "test" else "train")
        scene = {name: _scene(name) for name in self._set.ids}
        kept = set(scene.values()) if split == "test" else deal(scene.values(), split, val=0.05)
        self._rows = [k for k, name in enumerate(self._set.ids) if scene[name] in kept]
        self.names = [self._set.ids[k] for k in self._rows]
        self.areas = [scene[name] for name in self.names]
        self._root = root
        self.shapes = [shape_of(self._path(0, "s2"))] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return [self._path(k, kind) for kind in ("s1", "s2", "lc")]

    def load(self, k: int) -> Sample:
        sample = taken(self._set, self._rows[k], self.files(k))
        x, codes = sample["image"].numpy()[None], sample["mask"].numpy()  # (1, 15, H, W): VV, VH, thirteen bands
        images = {"s1": Image(x[:, :2], [0.0]), "s2": Image(x[:, 2:], [0.0])}
        return Sample(images, {"igbp": np.where((codes >= 1) & (codes <= 17), codes - 1, -1)})

    def _path(self, k: int, kind: str) -> Path:
        roi, season, _, scene, patch = self.names[k].split("_")
        return self._root / f"{roi}_{season}" / f"{kind}_{scene}" / f"{roi}_{season}_{kind}_{scene}_{patch}"


def _scene(name: str) -> str:
    """ROIs1158_spring_1 of ROIs1158_spring_s2_1_p1.tif."""
    roi, season, _, scene, _ = name.split("_")
    return f"{roi}_{season}_{scene}"


class BigEarthNet:
    """Clasen et al. 2024 (v2): patches of 120 x 120 px with CORINE maps and the labels of the whole patch.

    An area is a Sentinel-2 scene. download: fetch what is missing, through torchgeo.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str], download: bool = False) -> None:
        self._set = opened("BigEarthNetV2", root, split=PART[split], download=download)
        table = self._set.metadata_df
        self.names, self._radar = table["patch_id"].tolist(), table["s1_name"].tolist()
        self.areas = [name.split("_")[5] for name in self.names]  # T33UUP
        self.shapes = [(120, 120)] * len(self.names)
        self._root, self._sensors = root, sensors

    def files(self, k: int) -> Iterable[Path]:
        return [*self._optical(k), self._map(k)]

    def load(self, k: int) -> Sample:
        images = {}
        if "s2" in self._sensors:
            x = np.stack([read_square(p, 120) for p in self._optical(k)])[None]
            images["s2"] = Image(x, [day(self.names[k].split("_")[2][:8])])
        if "s1" in self._sensors:
            name = self._radar[k]
            folder = self._root / "BigEarthNet-S1" / name.rsplit("_", 3)[0] / name
            x = np.stack([read_square(folder / f"{name}_{p}.tif", 120) for p in ("VV", "VH")])[None]
            images["s1"] = Image(x, [day(name.split("_")[4][:8])])
        codes, known = read_tif(self._map(k))[0], self._set.clc_codes
        land = np.full(codes.shape, -1, np.int64)
        for code, label in known.items():
            land[codes == code] = label
        return Sample(images, {"clc": land, "labels": self._set._load_target(k).float().numpy()})

    def _optical(self, k: int) -> list[Path]:
        folder = self._root / "BigEarthNet-S2" / self.names[k].rsplit("_", 2)[0] / self.names[k]
        return [folder / f"{self.names[k]}_{band}.tif" for band in S2_L2A]

    def _map(self, k: int) -> Path:
        folder = self._root / "Reference_Maps" / self.names[k].rsplit("_", 2)[0] / self.names[k]
        return folder / f"{self.names[k]}_reference_map.tif"


class SeasoNet:
    """Kossmann et al. 2022: Germany in five seasons, 120 x 120 px with 33 land-cover classes.

    grids: 1, 2 or both, which overlap by half a patch: two would put one ground into two areas. An area is a place,
    whatever the season.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        dates: int,
        sensors: Sequence[str],
        grids: Sequence[int] = (1,),
        download: bool = False,
    ) -> None:
        self._set = opened("SeasoNet", root, split=PART[split], grids=list(grids), download=download)
        self._paths = [Path(paths[0]) for paths in self._set.files]
        self.names = [p.name for p in self._paths]
        self.areas = ["_".join(name.split("_")[2:]) for name in self.names]  # degrees
        self.shapes = [(120, 120)] * len(self.names)

    def files(self, k: int) -> Iterable[Path]:
        stem = self._paths[k]
        return [stem.with_name(f"{stem.name}_{kind}.tif") for kind in (*self._set.all_bands, "labels")]

    def load(self, k: int) -> Sample:
        for kind, path in zip(self._set.all_bands, self.files(k), strict=False):
            if path.is_file() and (count := header(path)["count"]) != self._set.band_nums[kind]:  # else left as it was
                raise InputError(f"{path}: {count} bands, not {self._set.band_nums[kind]}; fetch it again")
        sample = taken(self._set, k, self.files(k))
        y = sample["mask"].numpy()
        x = sample["image"].numpy()  # since 0.9 or 0.10 with an axis of seasons, of which there is one
        image = Image(x.reshape(1, -1, *x.shape[-2:]), [day(self.names[k].split("_")[1][:8])])
        lat, lon = ("{}.{}".format(*pair) for pair in (self.names[k].split("_")[2:4], self.names[k].split("_")[4:6]))
        return Sample({"s2": image}, {"land_cover": np.where(y < 33, y, -1)}, (float(lon), float(lat)))


class Ssl4eoS12:
    """Wang et al. 2023 (v1): {s1,s2c,s2a}/<place>/<product>/<band>.tif, 264 x 264 px, a look in each season.

    Of Level-1C (s2c) or Level-2A (s2a), each a row of its own: their figures differ. val is a hundredth of the places,
    by hash. An area is a place. download: fetch what is missing, through torchgeo.
    """

    LEVEL = "s2c"

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str], download: bool = False) -> None:
        level = self.LEVEL
        self._folders = {s: root / (level if s == "s2" else "s1") for s in sensors}
        if download:
            for folder in self._folders.values():
                opened("SSL4EOS12", root, split=folder.name, download=True)
        held = [{p.name for p in folder.glob("[0-9]*") if p.is_dir()} for folder in self._folders.values()]
        places = sorted(set.intersection(*held))
        kept = deal(places, split, val=0.01)
        self._dates, self._bands = dates, S2_L1C.band_names if level == "s2c" else S2_L2A
        self.names = [p for p in places if p in kept]
        self.areas = self.names
        self.shapes = [self._side(0)] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return [p for s in self._folders for look in self._looks(s, k) for p in self._paths(s, look)]

    def load(self, k: int) -> Sample:
        images = {}
        for sensor in self._folders:
            looks = self._looks(sensor, k)
            x = [[read_square(p, self.shapes[k][0]) for p in self._paths(sensor, look)] for look in looks]
            images[sensor] = Image(np.array(x, dtype=np.float32), [_day_of(look) for look in looks])
        return Sample(images, {})

    def _looks(self, sensor: str, k: int) -> list[Path]:
        looks = sorted((p for p in (self._folders[sensor] / self.names[k]).iterdir() if p.is_dir()), key=_day_of)
        return [looks[i] for i in spread(len(looks), self._dates)]

    def _paths(self, sensor: str, look: Path) -> list[Path]:
        names = ("VV", "VH") if sensor == "s1" else tuple(b.replace("B0", "B") for b in self._bands)
        return [look / f"{n}.tif" for n in names]

    def _side(self, k: int) -> tuple[int, int]:
        first = next(iter(self._folders))
        looks = self._looks(first, k)
        path = self._paths(first, looks[0])[0 if first == "s1" else 1]  # B2 has 10 m
        return shape_of(path)


class Ssl4eoS12L2A(Ssl4eoS12):
    LEVEL = "s2a"


def _day_of(look: Path) -> float:
    """Of 20200323T162931_... and S1A_IW_GRDH_1SDV_20200329T001515_..."""
    return day(next((p[:8] for p in look.name.split("_") if p[:8].isdigit() and len(p) >= 8), ""))


class EuroSat:
    """Helber et al. 2019: 27,000 patches of 64 x 64 px in ten classes of the whole patch; torchgeo's splits."""

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str], download: bool = False) -> None:
        self._set = opened("EuroSAT", root, split=PART[split], bands=S2_L1C.band_names, download=download)
        self._paths = [Path(path) for path, _ in self._set.samples]
        self.names = [p.stem for p in self._paths]
        self.areas = self.names
        self.shapes = [shape_of(self._paths[0])] * len(self.names) if self.names else []

    def files(self, k: int) -> Iterable[Path]:
        return [self._paths[k]]

    def load(self, k: int) -> Sample:
        sample = taken(self._set, k, self.files(k))
        return Sample(
            {"s2": Image(sample["image"].numpy()[None], [0.0])}, {"label": np.asarray(int(sample["label"]), np.int64)}
        )
