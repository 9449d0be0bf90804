"""Copernicus-Pretrain (Wang et al. 2025, arXiv 2503.11849) in its edition of tar files: Sentinel-2 and Sentinel-1.

torchgeo's class streams these files in order and unpickles their parts. Here places are read by number, and parts
through `tensors`, which runs nothing of a pickle. By the makers' own script that wrote them: looks that a place lacks
are repeats of others, drawn at random, and what a cell lacks may have stayed from the cell before. Both are left out.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gfm_objectives.data.tensors import find
from gfm_objectives.data.torchgeo.dataset import Image, Sample, spread
from gfm_objectives.data.torchgeo.files import day, deal
from gfm_objectives.errors import InputError

PARTS = {"s2": "s2_toa", "s1": "s1_grd"}
SIDE = 264


class Part(NamedTuple):
    """One place in the tensor of its cell: the file, where that tensor's own file lies in it, and which looks."""

    path: Path
    at: int
    size: int
    number: int
    looks: tuple[int, ...]
    days: tuple[float, ...]


class CopernicusPretrain:
    """example-<n>.tar with <cell>.{s2_toa,s1_grd}.pth and .json, 264 x 264 px; Sentinel-3 and -5P and heights, which
    cover the whole cell of 25 km, are not read.

    A place has all of the sensors asked for. val is a hundredth of the cells, by hash. An area is a cell. Headers and
    descriptions of all files are read at the start.
    """

    def __init__(self, root: Path, split: str, dates: int, sensors: Sequence[str]) -> None:
        places: dict[str, dict[str, Part]] = {}
        for path in sorted(root.rglob("example-*.tar")):
            places |= _places(path, sensors, dates)
        kept = deal((name.split("/")[0] for name in places), split, val=0.01)
        self.names = [n for n, parts in places.items() if n.split("/")[0] in kept and len(parts) == len(sensors)]
        self._parts = [places[n] for n in self.names]
        self.areas = [n.split("/")[0] for n in self.names]
        self.shapes = [(SIDE, SIDE)] * len(self.names)

    def files(self, k: int) -> Iterable[Path]:
        return {part.path for part in self._parts[k].values()}

    def load(self, k: int) -> Sample:
        images = {}
        for sensor, part in self._parts[k].items():
            found = find(part.path, part.at, part.size)
            if len(found.shape) != 5 or part.number >= found.shape[0] or max(part.looks) >= found.shape[1]:
                raise InputError(f"{part.path}: {PARTS[sensor]} of {self.names[k]} has the shape {found.shape}")
            x = found.read(part.number)[list(part.looks)]
            images[sensor] = Image(x, part.days)
        lon, lat = self.names[k].split("_")[1:3]
        return Sample(images, {}, (float(lon), float(lat)))


def _places(path: Path, sensors: Sequence[str], dates: int) -> dict[str, dict[str, Part]]:
    """Of one tar: cell/place -> sensor -> part."""
    places: dict[str, dict[str, Part]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            members = {m.name.removeprefix("./"): m for m in archive if m.isfile()}
            for name, member in members.items():
                if name.endswith(".json"):
                    cell, about = name.removesuffix(".json"), json.load(archive.extractfile(member))  # type: ignore[arg-type]
                    for sensor in sensors:
                        if (tensor := members.get(f"{cell}.{PARTS[sensor]}.pth")) is not None:
                            for place, number, looks, days in _described(about.get(PARTS[sensor], ()), cell, dates):
                                part = Part(path, tensor.offset_data, tensor.size, number, looks, days)
                                places.setdefault(f"{cell}/{place}", {})[sensor] = part
    except (tarfile.TarError, OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch it again") from None
    return places


def _described(rows: Any, cell: str, dates: int) -> Iterable[tuple[str, int, tuple[int, ...], tuple[float, ...]]]:
    """Place, its number, its looks in order and their days, of texts such as <cell>_<lon>_<lat>/<place>_<lon>_<lat>/
    20221121, each perhaps in a list of one."""
    for number, row in enumerate(rows):
        texts = [t if isinstance(t, str) else t[0] for t in row]
        first: dict[float, int] = {}  # day -> its first look
        for look, text in enumerate(texts):
            first.setdefault(day(text.split("/")[-1]), look)
        if not texts or texts[0].split("/")[0].split("_")[0] != cell:
            continue  # of another cell
        days = sorted(first)
        days = [days[i] for i in spread(len(days), dates)]
        yield texts[0].split("/")[1], number, tuple(first[d] for d in days), tuple(days)
