"""MMEarth: 1.2 million places with Sentinel-2, Sentinel-1, height and maps (Nedungadi et al. 2024, arXiv 2405.02771).

Read from its own files, one HDF5 and some json, rather than through torchgeo, which opens the file for each sample and
looks for no-data values after normalising, where they are gone. docs/torchgeo.md says what to know.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.folder import find_folder, fingerprint
from gfm_objectives.data.footprints import square
from gfm_objectives.data.mmearth_files import Tile, check_arrays, find_files, open_h5, read_rows, read_tiles, split_rows
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import LEGENDS, MIXED, S2_L1C, SENSORS, Legend

FOLDERS = {"MMEarth": "data_1M_v001", "MMEarth64": "data_1M_v001_64", "MMEarth100k": "data_100k_v001"}
# The order in the file, B8A before B08. B10 is read of neither level: Level-2A has none.
STORED = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B08", "B09", "B10", "B11", "B12")
S2_BANDS = tuple(b for b in SENSORS["s2"].band_names if b != "B10")
BANDS = {"s2": S2_BANDS, "s1": SENSORS["s1"].band_names, "dem": SENSORS["dem"].band_names}
DATES = {"s2": 1, "s1": 2, "dem": 1}  # of s1: the ascending pass, then the descending one
NEEDED = {"s2": ("sentinel2", "sentinel2_cloudmask", "sentinel2_scl"), "s1": ("sentinel1",), "dem": ("aster",)}
CHANNELS = {"sentinel2": 13, "sentinel1": 8}  # of others the first is read
FLAGS = ("sentinel2_cloudmask", "sentinel2_scl")
LAYERS = {"worldcover": "esa_worldcover", "dynamic_world": "dynamic_world"}  # handed out, whichever is the map
MAPS = {**LAYERS, "canopy_height": "canopy_height_eth"}
SHIFT = {"worldcover": 0, "dynamic_world": 1}  # stored code - legend's code: MMEarth keeps 0 for no data
# Lang et al. 2023, https://doi.org/10.1038/s41559-023-02206-6: metres of canopy, learned as classes. The last metre of
# each; 255 is no data.
METRES = (0, 2, 5, 10, 15, 20, 25, 30, 254)
CANOPY = Legend(
    "canopy_height",
    ("no canopy", "1-2 m", "3-5 m", "6-10 m", "11-15 m", "16-20 m", "21-25 m", "26-30 m", "over 30 m"),
    None,
    ("#d9d9d9", "#f7fcb9", "#d9f0a3", "#addd8e", "#78c679", "#41ab5d", "#238443", "#006837", "#004529"),
)
DIGESTED = 64  # places whose maps the fingerprint covers
QA60 = (1 << 10) | (1 << 11)  # opaque and cirrus clouds
SCL = (3, 8, 9, 10)  # scene classification of Level-2A: shadow, clouds, cirrus


class MMEarth(Source):
    """Places of 64 x 64 or 128 x 128 px at 10 m.

    root: the folder that holds one such as data_1M_v001_64; subset: MMEarth, MMEarth64 or MMEarth100k; sensors among
    s2 (12 bands, one date), s1 (VV, VH; both passes as two dates), dem; map: which of worldcover, dynamic_world and
    canopy_height is the layer `map`; of the first two the others keep their names; license: the line reports carry.

    Splits are the dataset's; pretraining sees `train`, as a rule the only one with places in it. Places of
    either processing level are sensor s2, each scaled by its own level's figures. InputError names what is missing.

    The fingerprint covers which places there are, with date, level and position, the figures of normalisation, and the
    maps of DIGESTED places spread over the split; of all other pixels, a terabyte, only the file's name and size.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        subset: str = "MMEarth64",
        sensors: Sequence[str] = ("s2", "s1", "dem"),
        map: str = "worldcover",
        license: str = "",
    ) -> None:
        assert split in SPLITS, split
        for key, given, known in (("subset", [subset], FOLDERS), ("sensors", sensors, BANDS), ("map", [map], MAPS)):
            for name in given:
                if name not in known:
                    raise InputError(f"data.{key}={name}: no such choice; choose from {', '.join(known)}")
        if not sensors:
            raise InputError(f"data.sensors: name at least one of {', '.join(BANDS)}")
        self.license = license
        self._sensors = tuple(s for s in BANDS if s in sensors)
        self._layers = {"map": map} | {name: name for name in LAYERS if name != map}
        self._opened: tuple[int, Any] | None = None
        folder, files = find_files(find_folder(root), FOLDERS[subset])
        self._path = files["h5"]
        with open_h5(self._path) as file:
            needed = [d for s in self._sensors for d in NEEDED[s]] + [MAPS[name] for name in self._layers.values()]
            size, names = check_arrays(
                self._path, file, {d: CHANNELS.get(d, 1) for d in needed}, {*FLAGS, *MAPS.values()}
            )
        self._rows = split_rows(files["splits"], "train" if split == "pretrain" else split, len(names))
        tiles = read_tiles(files["tile_info"])
        self._describe(files["tile_info"], [tiles.get(names[r]) for r in self._rows])
        self.spec = Spec(
            bands={s: BANDS[s] for s in self._sensors},
            dates={s: DATES[s] for s in self._sensors},
            size=size,
            gsd=10.0,
            legends={layer: legend_of(name) for layer, name in self._layers.items()},
        )
        figures = [repr(SENSORS[s]) for s in self._sensors]
        options = [split, self._sensors, map, figures, repr(S2_L1C)]
        self.fingerprint = fingerprint(folder, files.values(), *options, self._digest())

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # an open file neither pickles nor survives a fork

    def read(self, indices: Sequence[int]) -> Batch:
        """Each level is normalised by its own figures, then places come back in the order asked for."""
        index = np.asarray(indices, dtype=np.int64)
        parts = [np.flatnonzero(self._l1c[index] == early) for early in (False, True)]
        sorted_by_level = collate([Source.read(self, index[part].tolist()) for part in parts if len(part)])
        return sorted_by_level.take(torch.from_numpy(np.argsort(np.concatenate(parts))))

    def raw(self, indices: Sequence[int]) -> Batch:
        index = np.asarray(indices, dtype=np.int64)
        rows = self._rows[index].tolist()
        day = torch.from_numpy(self._day[index])[:, None]  # (B, 1)
        make = {"s2": self._optical, "s1": self._radar, "dem": self._height}
        sensors = {s: make[s](rows, index, day) for s in self._sensors}
        targets = {layer: self._labels(name, rows) for layer, name in self._layers.items()}
        gsd = torch.full((len(rows),), self.spec.gsd)
        return Batch(sensors, targets, gsd, torch.from_numpy(self._lonlat[index]))

    # ---------------------------------------------------------------- sensors and maps

    def _optical(self, rows: list[int], index: np.ndarray, day: Tensor) -> Series:
        raw = self._stored("sentinel2", rows)[:, [STORED.index(b) for b in S2_BANDS]]  # (B, C, H, W), 0 = no data
        quality = self._stored("sentinel2_cloudmask", rows)[:, 0].astype(np.uint16)
        clouds = (quality != 65535) & ((quality & QA60) != 0)  # 65535 = not known
        clouds |= np.isin(self._stored("sentinel2_scl", rows)[:, 0], SCL)
        valid = torch.from_numpy((raw > 0).all(1) & ~clouds)
        x = torch.from_numpy(raw.astype(np.float32) * np.float32(1e-4))  # harmonised: without the offset of 2022
        early = self._l1c[index]
        level = "L1C" if early.all() else MIXED if early.any() else ""
        return Series(x[:, None], valid[:, None], day, S2_BANDS, level)

    def _radar(self, rows: list[int], index: np.ndarray, day: Tensor) -> Series:
        raw = self._stored("sentinel1", rows)  # (B, 8, H, W) dB: VV, VH, HH, HV ascending, then descending; -inf = none
        x = torch.from_numpy(raw).float().unflatten(1, (2, 4))[:, :, :2]
        valid = x.isfinite().all(2)
        return Series(x, valid, day.expand(-1, 2).clone(), BANDS["s1"])  # the pass nearest to the Sentinel-2 date

    def _height(self, rows: list[int], index: np.ndarray, day: Tensor) -> Series:
        raw = self._stored("aster", rows)[:, None, :1]  # metres; its slope follows from it and is left out
        valid = torch.from_numpy((np.isfinite(raw) & (raw != -9999)).all(2))
        x = torch.from_numpy(raw.astype(np.float32))
        return Series(x, valid, torch.zeros_like(day), BANDS["dem"])  # of no date: 0, as elsewhere

    def _labels(self, name: str, rows: list[int]) -> Tensor:
        codes = self._stored(MAPS[name], rows)[:, 0].astype(np.int64)  # (B, H, W); of heights, deviations follow
        table = height_table() if name == "canopy_height" else label_table(LEGENDS[name], SHIFT[name])
        codes = np.where((codes < -128) | (codes > 255), 255, codes)  # in wider types, what is no code
        return torch.from_numpy(table[codes.astype(np.uint8)])  # heights may be signed: -1 is 255

    def _stored(self, dataset: str, rows: list[int]) -> np.ndarray:
        return read_rows(self._path, self._file(), dataset, rows)

    # ---------------------------------------------------------------- files

    def footprints(self) -> list[np.ndarray | None]:
        side = self.spec.size * self.spec.gsd
        return [square(at[None].astype(float), side, side) for at in self._lonlat]

    def _file(self) -> Any:
        """The HDF5 file, opened once by each process that reads."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_h5(self._path)
        return self._opened[1]

    def _describe(self, path: Path, tiles: Sequence[Tile | None]) -> None:
        """Keep what is needed of each place, as arrays: a million objects would be slow to hand to workers."""
        if None in tiles:
            raise InputError(f"{path}: lacks {tiles.count(None)} tiles of {self._path.name}; download both again")
        known = [t for t in tiles if t is not None]
        self._day = np.array([t.day for t in known], dtype=np.float32)
        self._l1c = np.array([t.level == "l1c" for t in known])
        self._lonlat = np.array([(t.lon, t.lat) for t in known], dtype=np.float32)

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for known in (self._rows, self._day, self._l1c, self._lonlat):
            digest.update(known.tobytes())
        sample = np.linspace(0, len(self) - 1, min(len(self), DIGESTED)).astype(int)
        with open_h5(self._path) as file:
            for row in self._rows[sample]:
                for name in (d for n, d in MAPS.items() if n in LAYERS or n in self._layers.values()):
                    digest.update(file[name][row].tobytes())
        return digest.hexdigest()


def label_table(legend: Legend, shift: int) -> np.ndarray:
    """Stored code (0 to 255) -> label, -1 where it is no class: (256,) int64."""
    table = np.full(256, -1, dtype=np.int64)
    for code, label in legend.lookup().items():
        table[code + shift] = label
    return table


def height_table() -> np.ndarray:
    """Metre (0 to 255) -> class of CANOPY, -1 where it is none: (256,) int64."""
    return np.append(np.searchsorted(METRES, np.arange(255)), -1).astype(np.int64)


def legend_of(name: str) -> Legend:
    return CANOPY if name == "canopy_height" else LEGENDS[name]
