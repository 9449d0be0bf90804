"""SSL4EO-S12 v1.1 (Blumenstiel et al. 2025, arXiv 2503.00168) in its edition of zarr.zip files of 64 places each.

By documentation: values of Sentinel-2 carry the offset of 1000 of processing baseline 04, whatever their date; those of
the later edition of tar files do not. Codes of cloud_mask are not documented where we looked, so that it is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import S2_L1C

OFFSET = 1000  # of stored values of Sentinel-2
S2_L2A = tuple(b for b in S2_L1C.band_names if b != "B10")
# What numcodecs may be asked to do with a file of others. Its pickle runs code.
CODECS = {"blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "shuffle", "delta", "fixedscaleoffset", "vlen-utf8"}


class Ssl4eoS12V11:
    """{train,val}/{S1GRD,S2L1C,S2L2A}/ssl4eos12_<split>_seasonal_data_<n>.zarr.zip, format 2, 264 x 264 px.

    Splits are its folders; there is no test. An area is a place. Files hold as many places as the first of them; one
    that does not is named when it is read.
    """

    FOLDER, BANDS = "S2L1C", S2_L1C.band_names

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        folder = root / ("train" if split == "pretrain" else split)
        self._folders = {s: folder / (self.FOLDER if s == "s2" else "S1GRD") for s in sensors}
        held = [{p.name for p in f.glob("ssl4eos12_*.zarr.zip")} for f in self._folders.values()]
        stems = sorted(set.intersection(*held))
        self._dates, self._places = dates, 0
        self.names: list[str] = []
        self.shapes: list[tuple[int, int]] = []
        for sensor, where in self._folders.items():
            if not stems:
                break
            group = Group(where / stems[0])
            bands = [str(b).upper() for b in group.array("band")[:]]
            wanted = list(self.BANDS) if sensor == "s2" else ["VV", "VH"]
            if bands != wanted:
                raise InputError(f"{group.path}: its bands are {', '.join(bands)}, not {', '.join(wanted)}")
            self._places, *_, height, width = group.array("bands").shape
            self.shapes = [(height, width)] * (self._places * len(stems))
        self._paths = [stem for stem in stems for _ in range(self._places)]
        self.names = [f"{s.split('.')[0].split('_')[-1]}/{i:02d}" for s in stems for i in range(self._places)]
        self.areas = self.names

    def files(self, k: int) -> Iterable[Path]:
        return [folder / self._paths[k] for folder in self._folders.values()]

    def load(self, k: int) -> Sample:
        images, place, i = {}, {}, k % self._places
        for sensor, folder in self._folders.items():
            group = Group(folder / self._paths[k])
            if (n := group.array("bands").shape[0]) != self._places:
                raise InputError(f"{group.path}: holds {n} places, the first file {self._places}; fetch it again")
            seen = np.array([_day_of(str(name)) for name in group.array("file_id")[i]])
            order = np.argsort(seen, kind="stable")
            looks = order[spread(len(order), self._dates)]
            x = np.asarray(group.array("bands")[i])[looks]
            # Nothing is there where all bands are at or below zero reflectance, or exactly 0 dB.
            valid = np.asarray((x > OFFSET if sensor == "s2" else x != 0).any(1))
            images[sensor] = Image(x, seen[looks].tolist(), valid)
            place[sensor] = str(group.array("sample")[i])
            lonlat = (float(group.array("center_lon")[i]), float(group.array("center_lat")[i]))
        if len(set(place.values())) > 1:
            said = ", ".join(f"{folder.name} {place[s]}" for s, folder in self._folders.items())
            raise InputError(f"{self._paths[k]}: number {i} is not one place ({said}); fetch both again")
        return Sample(images, {}, lonlat)


class Ssl4eoS12V11L2A(Ssl4eoS12V11):
    FOLDER, BANDS = "S2L2A", S2_L2A


class Group:
    """The arrays of one zarr.zip. InputError where it cannot be read, or asks for a codec that runs code."""

    def __init__(self, path: Path) -> None:
        try:
            import zarr
        except ImportError:
            raise InputError("reading zarr.zip needs zarr: pip install 'gfm-objectives[cubes]'") from None
        self.path = path
        try:
            self._group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", zarr_format=2)
        except Exception as error:  # zarr, zipfile and json each have their own
            raise InputError(f"{path}: is no zarr.zip of format 2 ({_line(error)}); fetch it again") from None

    def array(self, name: str) -> Any:
        try:
            found: Any = self._group[name]
            about: Any = found.metadata
        except Exception as error:
            raise InputError(f"{self.path}: holds no array {name} ({_line(error)}); fetch it again") from None
        for codec in (about.compressor, *(about.filters or ())):
            if codec is not None and codec.codec_id not in CODECS:
                raise InputError(f"{self.path}: {name} is packed by {codec.codec_id}, which may run code: refused")
        return found


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _day_of(name: str) -> float:
    """Of 20201116T023001_... and S1B_IW_GRDH_1SDV_20201127T214646_..."""
    return day(next((p[:8] for p in name.split("_") if p[:8].isdigit() and len(p) >= 8), ""))
