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

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.decoding import Decoder
from gfm_objectives.data.description import number, parse_layers, parse_sensors, select, whole
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.layers import FileFault
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.splits import parse_splits
from gfm_objectives.data.survey import KINDS, Found, few, left_out, memo_file, sift, survey
from gfm_objectives.data.windows import At, Windows, layout
from gfm_objectives.errors import InputError, InputWarning

WHOLE = 512  # pixels; chips with a longer side are cut only by a `size` that was chosen


class Chips(Windows):
    """Places of one split of a folder; each is a chip, or a `size` x `size` window of one. Tiles are whole chips.

    root: the folder, with ~ and $VARIABLES; gsd: metres per pixel; sensors, layers, splits: see docs/chips.md; chips: a
    glob that ids must match; without: sensors and layers to leave out; grid: the sensor or layer whose pixels all
    others are brought to (None = the first sensor); size: side of the windows in pixels, see `Windows` for what becomes
    of edges (None = whole chips); skip: kinds of faults, of KINDS, whose chips are left out with a warning; license:
    the line a report must carry; cache_mb: decoded chips kept in memory, per process.
    All windows of a chip are in its split. Every chip is read once at the start: InputError names the key or file that
    is wrong and counts the chips; InputWarning counts those left out (`skip`; of pretraining and training, no valid
    pixel).

    The fingerprint covers the description, the figures values are normalised by, and every stored value that is read:
    of each chip's bands, layers and quality flags, not of bands that nothing describes. A start that finds notes of an
    earlier one trusts them while the files have the same sizes and times of change.
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
        cache_mb: float = 256.0,
    ) -> None:
        assert split in SPLITS, split
        self.license = license
        self._split, self._root = split, find_folder(root)
        self._gsd = number("data.gsd", gsd)
        self._asked = None if size is None else whole("data.size", size, least=1)
        for kind in skip:
            if kind not in KINDS:
                raise InputError(f"data.skip={kind}: no such kind of fault; choose from {', '.join(KINDS)}")
        sensors, layers = select(sensors, layers, without)
        self._images = parse_sensors(sensors)
        self._layers = parse_layers(layers)
        self._decoder = Decoder(self._root, self._images, self._layers, grid)
        areas = self._choose(splits, chips)  # chip -> area
        looks = {k: {o: v for o, v in dict(d).items() if o != "colors"} for k, d in (layers or {}).items()}
        described = [split, self._gsd, grid, size, sensors, looks]  # colours change nothing
        found, side = self._survey(list(areas), skip, described)
        self._chips, self._shapes = list(found), [f.shape for f in found.values()]
        areas = {chip: areas[chip] for chip in found}
        keep = [f.valid for f in found.values()] if self._trains else None
        super().__init__(split, list(areas.values()), self._shapes, side, number("data.cache_mb", cache_mb), keep)
        self.spec = Spec(
            bands={k: tuple(image.bands) for k, image in self._images.items()},
            dates=self._decoder.dates,
            size=side,
            gsd=self._gsd,
            legends={k: layer.legend for k, layer in self._layers.items()},
        )
        figures = [repr(image.calibration) for image in self._images.values()]
        content = [described, side, self.spec.dates, figures, [(c, areas[c], f.digest) for c, f in found.items()]]
        self.fingerprint = hashlib.sha256(json.dumps(content, default=_plain, sort_keys=True).encode()).hexdigest()[:16]

    def names(self) -> list[str]:
        """The chip id of each place."""
        return [self._chips[number] for number in self._windows[:, 0]]

    def notes(self) -> list[str]:
        chips = f"chips: {len(self._chips)}, areas: {len(set(self._tile_areas))}, split {self._rule}"
        first = self._chips[0]
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

    @property
    def _trains(self) -> bool:
        """Whether what cannot be learned from is left out; what is scored is scored whole."""
        return self._split in ("pretrain", "train")

    def _survey(self, chips: list[str], skip: Sequence[str], described: list[Any]) -> tuple[dict[str, Found], int]:
        """What is found of the chips that are used, and the side of places. Settles what is told of the others."""
        total, split, files = len(chips), self._split, self._decoder.files
        lacking = {chip: self._decoder.missing(chip) for chip in chips}
        faults = {c: FileFault(self._root, f"no file {name}", "missing") for c, name in lacking.items() if name}
        present = [chip for chip in chips if chip not in faults]
        stats = [
            [c, [(str(f), s.st_size, s.st_mtime_ns) for f in files[p][c].values() for s in [f.stat()]]]
            for p in files
            for c in present
        ]
        looked = survey(present, self._decoder.read, self._cuts, memo_file(described, stats))
        found = dict(zip(present, looked, strict=True))
        faults |= {chip: f.fault for chip, f in found.items() if f.fault is not None}
        shapes = Counter(f.shape for f in found.values() if f.fault is None)
        usual = shapes.most_common(1)[0][0] if shapes else (0, 0)
        if self._asked is None:
            for chip, f in found.items():
                if f.fault is None and f.shape != usual:
                    what = f"is {_x(f.shape)} pixels, the other chips {_x(usual)}; data.size cuts all into windows"
                    faults[chip] = FileFault(self._reference(chip), what, "size")
        lines = sift(faults, skip, total, split)
        found = {chip: f for chip, f in found.items() if chip not in faults}
        empty = [chip for chip, f in found.items() if not f.valid]
        if empty and self._trains:
            lines.append(left_out(empty, total, split, "have no valid pixel"))
            found = {chip: f for chip, f in found.items() if f.valid}
        elif empty:
            lines.append(f"{len(empty)} of {total} {split} chips have no valid pixel and are scored: {few(empty)}")
        if not found:
            raise InputError(f"{self._root}: none is left for the {split} split: {'; '.join(lines)}")
        every = sum(len(self._cuts(f.shape)[1]) for f in found.values())
        lost = every - sum(len(f.valid) for f in found.values())
        if lost and self._trains:
            lines.append(f"{lost} of {every} windows of {split} chips have no valid pixel and are left out")
        for line in lines:
            warnings.warn(line, InputWarning, stacklevel=2)
        self._lines = lines
        return found, self._asked or _side(usual)

    def _cuts(self, shape: tuple[int, int]) -> tuple[int, list[At]]:
        """Side of the windows of a chip, and where they lie."""
        side = self._asked or max(shape)
        return side, layout(shape, side, self._split)

    def _reference(self, chip: str) -> Path:
        return next(iter(self._decoder.files[self._decoder.grid][chip].values()))

    # ---------------------------------------------------------------- reading

    def decode(self, number: int) -> Batch:
        chip, shape = self._chips[number], self._shapes[number]
        decoded = self._decoder.read(chip)
        if decoded.shape != shape:
            what = f"is {_x(decoded.shape)} pixels, but was {_x(shape)} at the start; files must stay as they are"
            raise FileFault(self._reference(chip), what, "size")
        sensors = {
            name: Series(x[None], valid[None], day[None], tuple(image.bands), image.level)
            for (name, (x, valid, day)), image in zip(decoded.images.items(), self._images.values(), strict=True)
        }
        targets = {k: y[None] for k, y in decoded.labels.items()}
        return Batch(sensors, targets, torch.tensor([self._gsd]))


def _side(usual: tuple[int, int]) -> int:
    """That of whole chips."""
    if usual[0] != usual[1]:
        raise InputError(f"data.size: chips are {_x(usual)} pixels; give the side of a square window")
    if usual[0] > WHOLE:
        raise InputError(f"data.size: chips are {_x(usual)} pixels; give the side of the windows to cut, such as 128")
    return usual[0]


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
