"""Chips: a folder of rasters of any size, described by one yaml (see docs/chips.md)."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.cutting import Heads, Part, sides, tiled
from gfm_objectives.data.decoding import Decoder
from gfm_objectives.data.description import parse_sensors, select
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.footprints import Outline
from gfm_objectives.data.keys import number, whole
from gfm_objectives.data.labels import parse_layers
from gfm_objectives.data.rasters import FileFault
from gfm_objectives.data.remote import stamp
from gfm_objectives.data.source import SPLITS
from gfm_objectives.data.splits import Splits, parse_splits
from gfm_objectives.data.survey import KINDS, Found, few, figures, left_out, memo_file, remarked, sift, survey
from gfm_objectives.data.windows import At, Windows, cut, layout
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.sensors import Band, Sensor, figures_level, register

TILE = 2048  # pixels; what is larger is read, split by location and scored in tiles of this side


class Chips(Windows):
    """Places of one split of a folder; each is a chip, or a `size` x `size` window of one. Tiles are whole chips, or
    parts of `tile` pixels a side of those that are larger.

    root: the folder, with ~ and $VARIABLES; gsd: metres per pixel; sensors, layers, splits: see docs/chips.md; chips: a
    glob that ids must match; without: sensors and layers to leave out; grid: the sensor or layer whose pixels all
    others are brought to (None = the first sensor); size: side of the windows in pixels, see `Windows` for what becomes
    of edges (None = whole chips where all are one square of at most 512 pixels, else windows of a side that suits
    them); skip: kinds of faults, of KINDS, whose chips are left out with a warning; license: the line a report must
    carry; cache_mb: decoded chips kept in memory, per process; of what has no room there, windows are read one by one.
    All windows of a chip are in its split, but for tiles that are split by location. Every chip is read once at the
    start: InputError names the key or file that is wrong and counts the chips; InputWarning counts what files say
    against the yaml and those left out (`skip`; of pretraining and training, no valid pixel).

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
        tile: int = TILE,
        skip: Sequence[str] = (),
        license: str = "",
        cache_mb: float = 256.0,
    ) -> None:
        assert split in SPLITS, split
        self.license = license
        self._split, self._root = split, find_folder(root, far=True)
        self._gsd = number("data.gsd", gsd)
        if self._gsd <= 0:
            raise InputError(f"data.gsd={gsd}: expected metres per pixel, greater than 0")
        asked = None if size is None else whole("data.size", size, least=1)
        for kind in skip:
            if kind not in KINDS:
                raise InputError(f"data.skip={kind}: no such kind of fault; choose from {', '.join(KINDS)}")
        sensors, layers = select(sensors, layers, without)
        self._images = parse_sensors(sensors, self._gsd)
        self._decoder = Decoder(self._root, self._images, parse_layers(layers), grid, self._gsd)
        self._layers = self._decoder.layers
        self._heads, parts = self._choose(splits, chips, whole("data.tile", tile, least=1))
        self._side, self._cutting = (asked, "") if asked else sides(self._heads.shapes)
        looks = {k: {o: v for o, v in dict(d).items() if o != "colors"} for k, d in layers.items()}
        read = {k: [layer.how, list(layer.lookup.items())] for k, layer in self._layers.items()}
        described = [self._gsd, grid, size, tile, sensors, looks, read]  # colours that are not read change nothing
        self._own: list[tuple[Sensor, str]] = []
        self._before = -1  # the tile asked for last
        self._lines: list[str] = self._left_files()
        self._fit(parts, described)
        areas = dict(zip(parts.chips[split], parts.areas[split], strict=True))
        found = self._survey(list(areas), skip, described)
        self._tile_names = tuple(found)
        self._parts, self._shapes = [self._heads.parts[c] for c in found], [f.shape for f in found.values()]
        areas = {chip: areas[chip] for chip in found}
        valid = [f.valid for f in found.values()] if self._trains else None
        super().__init__(
            split, list(areas.values()), self._shapes, self._side, number("data.cache_mb", cache_mb), valid
        )
        self.spec = Spec(
            bands={k: tuple(image.bands) for k, image in self._images.items()},
            dates=self._decoder.dates,
            size=self._side,
            gsd=self._gsd,
            legends={k: layer.legend for k, layer in self._layers.items()},
        )
        scaled = [repr(image.calibration) for image in self._images.values()]
        content = [
            split,
            described,
            self._side,
            self.spec.dates,
            scaled,
            [(c, areas[c], f.digest) for c, f in found.items()],
        ]
        self.fingerprint = hashlib.sha256(json.dumps(content, default=_plain, sort_keys=True).encode()).hexdigest()[:16]

    def names(self) -> list[str]:
        """The chip id of each place."""
        return [self._parts[number].chip for number in self._windows[:, 0]]

    def footprints(self) -> list[Outline | None]:
        return [self._heads.outline(name) for name in self._tile_names]

    def notes(self) -> list[str]:
        chips = f"chips: {len({p.chip for p in self._parts})}, areas: {len(set(self._tile_areas))}, split {self._rule}"
        return [chips, *self._lines]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        for sensor, level in self._own:  # another process may not know them yet
            register(sensor, level)

    # ---------------------------------------------------------------- which places

    def _choose(self, splits: Mapping[str, Any] | None, glob: str, tile: int) -> tuple[Heads, Splits]:
        """What is known of chips before a pixel is read, and the chips, or tiles of them, of every split."""
        pattern, files = next(iter(self._decoder.files.items()))
        if not files:
            raise InputError(f"{self._root}: no file matches {pattern!r}; check data.root and the pattern")
        table = isinstance(splits, Mapping) and splits.get("file")
        known = list(files) if table else [chip for chip in files if fnmatchcase(chip, glob)]
        heads = Heads(self._decoder, [c for c in known if fnmatchcase(c, glob)])
        tiles = tiled(heads, tile)
        parts = parse_splits(self._root, splits, known, heads.outline, tiles, self._metres(heads))
        if self._split not in parts.chips:
            raise InputError(
                f"data.splits: needed for the {self._split} split; without it all chips are for pretraining"
            )
        chosen: dict[str, list[tuple[str, str]]] = {
            s: [(c, a) for c, a in zip(parts.chips[s], parts.areas[s], strict=True)
                if fnmatchcase(heads.part(c).chip, glob)]
            for s in parts.chips
        }  # fmt: skip
        if not chosen[self._split]:
            filtered = parts.chips[self._split] or not known
            why = f"no chip id matches data.chips={glob!r}" if filtered else "check data.splits.values and shares"
            raise InputError(f"{self._root}: the {self._split} split is empty; {why}")
        used = {heads.part(chip).chip for chips in parts.chips.values() for chip in chips}
        unused = [chip for chip in files if chip not in used and fnmatchcase(chip, glob)]
        self._rule = parts.rule + (f"; of the folder, {len(unused)} are in no split: {few(unused)}" if unused else "")
        return heads, Splits(
            {s: [c for c, _ in pairs] for s, pairs in chosen.items()},
            {s: [a for _, a in pairs] for s, pairs in chosen.items()},
            parts.rule,
        )

    def _metres(self, heads: Heads) -> Callable[[str], tuple[float, float] | None]:
        def metres(chip: str) -> tuple[float, float] | None:
            shape = heads.shapes.get(chip)
            return None if shape is None else (shape[0] * self._gsd, shape[1] * self._gsd)

        return metres

    @property
    def _trains(self) -> bool:
        """Whether what cannot be learned from is left out; what is scored is scored whole."""
        return self._split in ("pretrain", "train")

    def _fit(self, parts: Splits, described: list[Any]) -> None:
        """Means and deviations of sensors that have none, from the chips of the training split."""
        self._own = [(i.sensor, i.level) for i in self._images.values() if i.sensor.own]
        wanted = [name for name, image in self._images.items() if image.fit]
        if not wanted:
            return
        split = "train" if "train" in parts.chips else "pretrain"
        chips = [c for c in parts.chips[split] if self._decoder.missing(self._heads.part(c).chip) is None]
        memo = memo_file("fit", described, self._stats(chips))
        found = survey(chips, self._read, lambda shape: (max(shape), [(0, 0)]), memo, wanted)
        found = [f for f in found if f.fault is None]
        if not found:
            what = f"no {split} chip can be read, so that mean and std of {', '.join(wanted)} cannot be fitted"
            raise InputError(f"{self._root}: {what}; give both in the yaml, or mend the files")
        for name in wanted:
            image = self._images[name]
            rows = zip(image.sensor.bands, figures(found, name), strict=True)
            bands = tuple(Band(b.name, b.wavelength, mean, std) for b, (mean, std) in rows)
            sensor = replace(image.sensor, bands=bands)
            level = figures_level(sensor)
            self._images[name] = replace(image, sensor=sensor, level=level)
            register(sensor, level)
            shown = ", ".join(f"{b.name} {b.mean:.4g} ± {b.std:.4g}" for b in bands)
            self._lines.append(f"{name}: figures of {len(found)} {split} chips ({level}): {shown}")
        self._own = [(i.sensor, i.level) for i in self._images.values() if i.sensor.own]

    def _survey(self, names: list[str], skip: Sequence[str], described: list[Any]) -> dict[str, Found]:
        """What is found of the chips, or tiles, that are used. Settles what is told of them and the others."""
        total, split = len(names), self._split
        lacking = {name: self._decoder.missing(self._heads.part(name).chip) for name in names}
        faults = {c: FileFault(self._root, f"no file {name}", "missing") for c, name in lacking.items() if name}
        present = [name for name in names if name not in faults]
        memo = memo_file(split, self._side, described, self._stats(present))
        looked = survey(present, self._read, self._cuts, memo)
        found = dict(zip(present, looked, strict=True))
        faults |= {chip: f.fault for chip, f in found.items() if f.fault is not None}
        lines = sift(faults, skip, total, split)
        found = {chip: f for chip, f in found.items() if chip not in faults}
        odd, plain = remarked(found, split)
        lines += odd
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
        self._lines += [*lines, *plain, *self._heads.cut_note(found, self._side, self._trains, self._cutting)]
        return found

    def _left_files(self) -> list[str]:
        """Lines on files of the folder that are not used; those that may surprise are warned of."""
        lines = []
        first = next(iter(self._decoder.files.values()))
        for pattern, why in self._decoder.left.items():
            for words, names in why.items():
                lines.append(f"{len(names)} files that {pattern} finds {words} and are left out: {few(names)}")
                if words not in ("are hidden", "are folders"):
                    warnings.warn(lines[-1], InputWarning, stacklevel=2)
        for pattern, files in self._decoder.files.items():
            if alone := [chip for chip in files if chip not in first]:
                lines.append(f"{len(alone)} chips of {pattern} are no chips of the first sensor: {few(alone)}")
        return lines

    def _stats(self, names: Sequence[str]) -> list[Any]:
        """Sizes and times of change of all files of these chips."""
        chips = dict.fromkeys(self._heads.part(name).chip for name in names)
        files = self._decoder.files.values()
        every = [[c, [(str(f), *stamp(f)) for f in of[c].values()]] for of in files for c in chips]
        return [list(names), every]

    def _cuts(self, shape: tuple[int, int]) -> tuple[int, list[At]]:
        """Side of the windows of a chip, and where they lie."""
        return self._side, layout(shape, self._side, self._split)

    # ---------------------------------------------------------------- reading

    def _read(self, name: str, tell: Any = None) -> Any:
        part = self._heads.part(name)
        return self._decoder.read(part.chip, tell, part.window)

    def decode(self, number: int) -> Batch:
        part, shape = self._parts[number], self._shapes[number]
        return self._batch(part, shape, part.window)

    def place(self, number: int, top: int, left: int) -> Batch:
        """A window of a tile: from the cache where the tile is in it or has room there, else read alone.

        Windows of one tile that are asked for one after the other are cut from it.
        """
        (height, width), side = self._shapes[number], self._size
        again, self._before = number == self._before, number
        small = height * width <= 4 * side**2
        if again or small or number in self._cache or height * width * self._pixel <= self._room:
            return super().place(number, top, left)
        part = self._parts[number]
        y, x = (part.window or (0, 0))[:2]
        shape = min(side, height - top), min(side, width - left)
        return cut(self._batch(part, shape, (y + top, x + left, *shape)), 0, 0, side)

    @property
    def _pixel(self) -> int:
        """Bytes that a decoded pixel takes."""
        spec = self.spec
        return sum(spec.dates[k] * (4 * len(b) + 1) for k, b in spec.bands.items()) + 8 * len(spec.legends)

    def _batch(self, part: Part, shape: tuple[int, int], window: tuple[int, int, int, int] | None) -> Batch:
        decoded = self._decoder.read(part.chip, None, window)
        if decoded.shape != shape:
            now, before = (" x ".join(map(str, s)) for s in (decoded.shape, shape))
            what = f"is {now} pixels, but was {before} at the start; files must stay as they are"
            raise FileFault(next(iter(self._decoder.files[self._decoder.grid][part.chip].values())), what, "size")
        sensors = {
            name: Series(x[None], valid[None], day[None], tuple(image.bands), image.level)
            for (name, (x, valid, day)), image in zip(decoded.images.items(), self._images.values(), strict=True)
        }
        targets = {k: y[None] for k, y in decoded.labels.items()}
        return Batch(sensors, targets, torch.tensor([self._gsd]))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
