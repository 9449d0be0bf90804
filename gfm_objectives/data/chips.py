"""Chips: a folder of GeoTIFF, PNG and NPY chips, described by one yaml (see docs/chips.md)."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.decoding import Decoded, Decoder
from gfm_objectives.data.description import number, parse_layers, parse_sensors, select, whole
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.layers import FileFault
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.data.splits import parse_splits
from gfm_objectives.data.survey import KINDS, Found, few, left_out, memo_file, sift, survey, windows
from gfm_objectives.errors import InputError, InputWarning

WHOLE = 512  # pixels; chips with a longer side are cut only by a `size` that was chosen


class Chips(Source):
    """Places of one split of a folder; each is a chip, or a `size` x `size` window of one.

    root: the folder, with ~ and $VARIABLES; gsd: metres per pixel; sensors, layers, splits: see docs/chips.md; chips: a
    glob that ids must match; without: sensors and layers to leave out; grid: the sensor or layer whose pixels all
    others are brought to (None = the first sensor); size: side of the windows in pixels, edges that do not fill one
    are dropped (None = whole chips); skip: kinds of faults, of KINDS, whose chips are left out with a warning;
    license: the line a report must carry; cache_mb: decoded places kept in memory, per process.
    All windows of a chip are in its split. Every chip is read once at the start: InputError names the key or file that
    is wrong and counts the chips; InputWarning counts those left out (no valid pixel, smaller than size, `skip`).
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        gsd: float,
        sensors: Mapping[str, Any],
        layers: Mapping[str, Any] | None = None,
        splits: Mapping[str, Any] | None = None,
        chips: str = "*",
        without: Sequence[str] = (),
        grid: str | None = None,
        size: int | None = None,
        skip: Sequence[str] = (),
        license: str = "",
        cache_mb: float = 512.0,
    ) -> None:
        assert split in SPLITS, split
        self.license = license
        self._split, self._root = split, find_folder(root)
        self._gsd = number("data.gsd", gsd)
        size = None if size is None else whole("data.size", size)
        for kind in skip:
            if kind not in KINDS:
                raise InputError(f"data.skip={kind}: no such kind of fault; choose from {', '.join(KINDS)}")
        sensors, layers = select(sensors, layers, without)
        self._images = parse_sensors(sensors)
        self._layers = parse_layers(layers)
        self._decoder = Decoder(self._root, self._images, self._layers, grid)
        self._areas = self._choose(splits, chips)  # chip -> area
        looks = {k: {o: v for o, v in dict(d).items() if o != "colors"} for k, d in (layers or {}).items()}
        described = [split, self._gsd, grid, size, sensors, looks]  # colours change nothing
        found = self._survey(size, skip, described)
        self._areas = {chip: self._areas[chip] for chip in found}
        self._found = found
        self._places = [(chip, k) for chip, f in found.items() for k in range(len(f.valid))]
        self.spec = Spec(
            bands={k: tuple(image.bands) for k, image in self._images.items()},
            dates=self._decoder.dates,
            size=self._size,
            gsd=self._gsd,
            legends={k: layer.legend for k, layer in self._layers.items()},
        )
        self.fingerprint = self._fingerprint(sensors, looks, grid)
        self._cache: dict[str, list[Batch]] = {}
        self._room = number("data.cache_mb", cache_mb) * 2**20  # bytes left

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}  # a loader worker fills its own; sending ours would take longer

    def read(self, indices: Sequence[int]) -> Batch:
        places = [self._places[i] for i in indices]
        return collate([self._tiles(chip)[k] for chip, k in places])

    def groups(self) -> list[str]:
        return [self._areas[chip] for chip, _ in self._places]

    def names(self) -> list[str]:
        """The chip id of each place."""
        return [chip for chip, _ in self._places]

    def notes(self) -> list[str]:
        chips = f"chips: {len(self._found)}, areas: {len(set(self._areas.values()))}, split {self._rule}"
        first = next(iter(self._found))
        return [chips, *self._lines, *self._decoder.resampled(first), *self._decoder.odd_gsd(first, self._gsd)]

    # ---------------------------------------------------------------- which places

    def _choose(self, splits: Mapping[str, Any] | None, glob: str) -> dict[str, str]:
        """The chips of the split, with their areas."""
        pattern, files = next(iter(self._decoder.files.items()))
        if not files:
            raise InputError(f"{self._root}: no file matches {pattern!r}; check data.root and the pattern")
        table = isinstance(splits, Mapping) and splits.get("file")
        known = list(files) if table else [chip for chip in files if fnmatchcase(chip, glob)]
        parts = parse_splits(self._root, splits, known, self._decoder.box)
        if self._split not in parts.chips:
            raise InputError(
                f"data.splits: needed for the {self._split} split; without it all chips are for pretraining"
            )
        pairs = zip(parts.chips[self._split], parts.areas[self._split], strict=True)
        areas = {chip: area for chip, area in pairs if fnmatchcase(chip, glob)}
        if not areas:
            filtered = parts.chips[self._split] or not known
            why = f"no chip id matches data.chips={glob!r}" if filtered else "check data.splits.values and shares"
            raise InputError(f"{self._root}: the {self._split} split is empty; {why}")
        used = {chip for chips in parts.chips.values() for chip in chips}
        unused = [chip for chip in files if chip not in used and fnmatchcase(chip, glob)]
        self._rule = parts.rule + (f"; of the folder, {len(unused)} are in no split: {few(unused)}" if unused else "")
        return areas

    def _survey(self, size: int | None, skip: Sequence[str], described: list[Any]) -> dict[str, Found]:
        """What is found of the chips that are used. Settles the side of windows, and what is told of the others."""
        total, split, files = len(self._areas), self._split, self._decoder.files
        lacking = {chip: self._decoder.missing(chip) for chip in self._areas}
        faults = {c: FileFault(self._root, f"no file {name}", "missing") for c, name in lacking.items() if name}
        present = [chip for chip in self._areas if chip not in faults]
        stats = [
            [c, [(str(f), s.st_size, s.st_mtime_ns) for f in files[p][c].values() for s in [f.stat()]]]
            for p in files
            for c in present
        ]
        looked = survey(present, self._decoder.read, size, memo_file(described, stats))
        found = dict(zip(present, looked, strict=True))
        faults |= {chip: f.fault for chip, f in found.items() if f.fault is not None}
        shapes = Counter(f.shape for f in found.values() if f.fault is None)
        usual = shapes.most_common(1)[0][0] if shapes else (0, 0)
        if size is None:
            for chip, f in found.items():
                if f.fault is None and f.shape != usual:
                    what = f"is {_x(f.shape)} pixels, the other chips {_x(usual)}; data.size cuts all into windows"
                    faults[chip] = FileFault(self._reference(chip), what, "size")
        lines = sift(faults, skip, total, split)
        found = {chip: f for chip, f in found.items() if chip not in faults}
        if found:
            self._size = _window(usual, max(min(f.shape) for f in found.values()), size)
            small = [chip for chip, f in found.items() if min(f.shape) < self._size]
            empty = [chip for chip, f in found.items() if chip not in small and not f.valid]
            found = {chip: f for chip, f in found.items() if f.valid}
            lines += [left_out(small, total, split, f"are smaller than data.size={size}")] if small else []
            lines += [left_out(empty, total, split, "have no valid pixel")] if empty else []
            every = sum(len(windows(f.shape, self._size)) for f in found.values())
            lost = every - sum(len(f.valid) for f in found.values())
            if lost:
                lines.append(f"{lost} of {every} windows of {split} chips have no valid pixel and are left out")
        if not found:
            raise InputError(f"{self._root}: none is left for the {split} split: {'; '.join(lines)}")
        for line in lines:
            warnings.warn(line, InputWarning, stacklevel=2)
        self._lines = lines
        return found

    def _fingerprint(self, sensors: Any, looks: Any, grid: str | None) -> str:
        """Of the description and the names and sizes of all files: cheap, and the same wherever the folder lies."""
        files: dict[str, list[Any]] = {}
        for pattern, found in self._decoder.files.items():
            sizes = [(c, [(day, f.stat().st_size) for day, f in found[c].items()]) for c in self._areas]
            one = all(len(days) == 1 and days[0][0] == 0 for _, days in sizes)
            files[pattern] = [(c, days[0][1]) for c, days in sizes] if one else sizes
        text: list[Any] = [self._split, self._size, self._gsd, list(self._areas.values()), files, sensors, looks]
        whole = all(len(f.valid) == len(windows(f.shape, self._size)) for f in self._found.values())
        text += [] if grid is None else [grid]
        text += [] if whole else [self._places]
        return hashlib.sha256(json.dumps(text, default=_plain, sort_keys=True).encode()).hexdigest()[:16]

    def _reference(self, chip: str) -> Path:
        return next(iter(self._decoder.files[self._decoder.grid][chip].values()))

    # ---------------------------------------------------------------- reading

    def _tiles(self, chip: str) -> list[Batch]:
        """All places of a chip, each a batch of one, from the cache or decoded.

        A full cache keeps what it has: in an epoch's random order evicting would only make every read a miss.
        """
        if chip in self._cache:
            return self._cache[chip]
        decoded, found = self._decoder.read(chip), self._found[chip]
        if decoded.shape != found.shape:
            what = f"is {_x(decoded.shape)} pixels, but was {_x(found.shape)} at the start; files must stay as they are"
            raise FileFault(self._reference(chip), what, "size")
        cuts = windows(decoded.shape, self._size)
        tiles = [self._tile(decoded, *cuts[i]) for i in found.valid]
        need = sum(_bytes(tile) for tile in tiles)
        if need <= self._room:
            self._room -= need
            self._cache[chip] = tiles
        return tiles

    def _tile(self, decoded: Decoded, rows: slice, cols: slice) -> Batch:
        sensors = {}
        for name, (x, valid, day) in decoded.images.items():
            bands, ok = tuple(self._images[name].bands), valid[:, rows, cols]
            x = self._images[name].sensor.normalise(x[:, :, rows, cols], ok, bands)  # (T, C, H, W)
            sensors[name] = Series(x[None], ok[None].clone(), day[None].clone(), bands)
        targets = {k: y[None, rows, cols].clone() for k, y in decoded.labels.items()}
        return Batch(sensors, targets, torch.tensor([self._gsd]))


def _window(usual: tuple[int, int], longest: int, size: int | None) -> int:
    """The side of the places: `size`, or that of whole chips. longest: the shorter side of the largest chip."""
    if size is not None:
        if not 1 <= size <= longest:
            raise InputError(f"data.size={size}: chips are {_x(usual)} pixels; choose at most the shorter side")
        return size
    if usual[0] != usual[1]:
        raise InputError(f"data.size: chips are {_x(usual)} pixels; give the side of a square window")
    if usual[0] > WHOLE:
        raise InputError(f"data.size: chips are {_x(usual)} pixels; give the side of the windows to cut, such as 128")
    return usual[0]


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _bytes(batch: Batch) -> int:
    tensors: list[torch.Tensor] = [*batch.targets.values()]
    for s in batch.sensors.values():
        tensors += [s.x, s.valid]
    return sum(t.nelement() * t.element_size() for t in tensors)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
