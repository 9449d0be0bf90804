"""A scene: the sensors, dates and files that a map is made of, on one ground, read in blocks as raw batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series
from gfm_objectives.config import read_yaml
from gfm_objectives.data.layers import day_of
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.predict.bands import match_bands
from gfm_objectives.predict.ground import Files, Ground, open_raster, union
from gfm_objectives.runs.segmenter import Card
from gfm_objectives.sensors import SENSORS, Legend

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")
GSD = 0.25  # share by which a scene's pixels may differ from those the model was trained on
LOOK = 512  # pixels a side that are looked at before anything is computed
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True, slots=True)
class Quality:
    """A band that flags pixels not to be used: any of `bits` set, or one of `values`."""

    band: int
    bits: tuple[int, ...]
    values: tuple[int, ...]

    def raised(self, flags: np.ndarray) -> np.ndarray:
        codes = np.nan_to_num(flags).astype(np.int64)
        mask = sum(1 << b for b in self.bits)
        return np.isnan(flags) | ((codes & mask) != 0) | np.isin(codes, self.values)


@dataclass(frozen=True, slots=True)
class Image:
    """One date of one sensor. parts: (files of a mosaic, the first with data wins; band -> number in each of them);
    stored * scale + offset is in the sensor's unit; quality lies in the first part's files."""

    parts: tuple[tuple[tuple[Path, ...], dict[str, int]], ...]
    day: float
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    quality: Quality | None = None

    @property
    def files(self) -> list[Path]:
        return [f for files, _ in self.parts for f in files]


@dataclass(frozen=True, slots=True)
class Scene:
    """sensor -> its dates, in the model's order of sensors; the map, where the model reads it: (files, its legend)."""

    ground: Ground
    gsd: float
    images: dict[str, list[Image]]
    card: Card
    map: tuple[tuple[Path, ...], Legend] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        found = [f for dates in self.images.values() for image in dates for f in image.files]
        return list(dict.fromkeys([*found, *(self.map[0] if self.map else ())]))

    def reader(self) -> Callable[[Box], Batch]:
        """What reads the window `box` as a raw batch of one, for one thread."""
        files = Files(self.ground)
        return lambda box: self._read(files, box)

    def _read(self, files: Files, box: Box) -> Batch:
        sensors = {}
        for name, dates in self.images.items():
            bands = self.card.spec.bands[name]
            parts = [_date(files, image, bands, box) for image in dates]
            x = torch.from_numpy(np.stack(parts))[None]  # (1, T, C, h, w), NaN = invalid
            day = torch.tensor([[image.day for image in dates]])
            sensors[name] = Series(x, x.isfinite().all(2), day, bands, self.card.levels.get(name, ""))
        targets = {}
        if self.map is not None:
            targets["map"] = codes_to_labels(mosaic(files, self.map[0], [1], box, "nearest")[0], self.map[1])[None]
        return Batch(sensors, targets, torch.tensor([self.gsd]))


def _date(files: Files, image: Image, bands: Sequence[str], box: Box) -> np.ndarray:
    """(C, h, w) in the sensor's unit, NaN where any band has nothing or a flag is raised."""
    out = np.empty((len(bands), *box[2:]), np.float32)
    for paths, numbers in image.parts:
        mine = [b for b in bands if b in numbers]
        values = mosaic(files, paths, [numbers[b] for b in mine], box, "bilinear", image.nodata)
        out[[bands.index(b) for b in mine]] = values
    out *= np.float32(image.scale)
    out += np.float32(image.offset)
    bad = ~np.isfinite(out).all(0)
    if image.quality is not None:
        flags = mosaic(files, image.parts[0][0], [image.quality.band], box, "nearest")[0]
        bad |= image.quality.raised(flags)
    out[:, bad] = np.nan
    return out


def mosaic(
    files: Files, paths: Sequence[Path], bands: list[int], box: Box, how: str, nodata: float | None = None
) -> np.ndarray:
    """(C, h, w) float32: at each pixel the first file with data there; NaN where none has."""
    out: np.ndarray | None = None
    for path in paths:
        values = files.read(path, bands, box, how, nodata)
        if values is None:
            continue
        if out is None:
            out = values
        else:
            hole = np.isnan(out).any(0)
            out[:, hole] = values[:, hole]
        if not np.isnan(out).any():
            break
    return np.full((len(bands), *box[2:]), np.nan, np.float32) if out is None else out


def codes_to_labels(codes: np.ndarray, legend: Legend) -> torch.Tensor:
    """File codes (H, W) float, NaN = nothing, to labels (H, W) long, -1 where it is no code of the legend."""
    lookup = legend.lookup()
    values, where = np.unique(codes, return_inverse=True)
    table = np.array([-1 if v != v else lookup.get(int(v), -1) for v in values.tolist()], np.int64)
    return torch.from_numpy(table[where].reshape(codes.shape))


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def open_scene(inputs: Sequence[str], card: Card, options: Mapping[str, Any]) -> Scene:
    """The scene of input=: a yaml of sensors and dates, or files, folders and globs of one sensor and date.

    options: bands, scale, offset, nodata, date, sensor, gsd of the command. InputError, in one line, for what a model
    cannot be shown: a band that is missing, pixels of another size, values in another unit.
    """
    if not inputs:
        raise InputError("input: give a GeoTIFF, a VRT, a folder or list of them, or a yaml of sensors and dates")
    if len(inputs) == 1 and inputs[0].endswith((".yaml", ".yml")):
        blocks, own_gsd, layers, base = _described(Path(inputs[0]))
    else:
        sensors = [s for s in card.spec.bands if s != "map"]
        name = options.get("sensor") or (sensors[0] if len(sensors) == 1 else _shared(card, sensors))
        if name is None:
            raise InputError(f"input: the model reads {', '.join(sensors)}; describe them in a yaml (docs/deploy.md)")
        given = {k: options[k] for k in ("scale", "offset", "nodata", "date") if options.get(k) is not None}
        names = name.split(",")
        block = {"file": list(inputs), "names": list(options.get("bands") or []), **given}
        blocks, own_gsd, layers, base = {n: [block] for n in names}, None, {}, Path(".")
    for sensor in card.spec.bands:
        if sensor != "map" and sensor not in blocks:
            raise InputError(f"input: nothing for sensor {sensor}, which the model reads; describe it in a yaml")
    notes: list[str] = []
    images = {
        s: _dates(s, [_image(s, b, card, base, notes) for b in blocks[s]], card, notes)
        for s in card.spec.bands
        if s != "map"
    }
    first = next(iter(images.values()))[0].parts[0][0]
    grounds = []
    for path in first:
        with open_raster(path) as file:
            grounds.append(Ground.of(file))
    ground, gsd = _sized(union(grounds, list(first)), own_gsd, card, options.get("gsd"), notes)
    scene = Scene(ground, gsd, images, card, _map(layers, card, base), notes)
    _look(scene)
    return scene


def _shared(card: Card, sensors: list[str]) -> str | None:
    """All sensors, as one word, where training had them in one file: then so does the scene."""
    files = {card.reading.get(s, {}).get("file", s) for s in sensors}
    return ",".join(sensors) if len(files) == 1 else None


def _described(path: Path) -> tuple[dict[str, list[dict[str, Any]]], float | None, dict[str, Any], Path]:
    """The blocks of a scene's yaml, each sensor's as a list of dates."""
    about = read_yaml(path)
    unknown = about.keys() - {"sensors", "layers", "gsd"}
    if unknown or not isinstance(about.get("sensors"), dict):
        raise InputError(f"{path}: expected the keys sensors, layers, gsd; got {', '.join(map(str, about))}")
    blocks = {}
    for name, value in about["sensors"].items():
        if name not in SENSORS:
            raise InputError(f"{path}: sensors.{name}: no such sensor; choose from {', '.join(SENSORS)}")
        blocks[name] = value if isinstance(value, list) else [value]
        for block in blocks[name]:
            if not isinstance(block, dict) or block.keys() - set("file bands date scale offset nodata valid".split()):
                raise InputError(f"{path}: sensors.{name}: expected file, bands, date, scale, offset, nodata, valid")
    return blocks, about.get("gsd"), about.get("layers") or {}, path.parent


def _image(sensor: str, block: Mapping[str, Any], card: Card, base: Path, notes: list[str]) -> Image:
    """One date. What the block leaves out of scale, offset, no data and flags is as in training."""
    wanted, trained = card.spec.bands[sensor], card.reading.get(sensor, {})
    bands = block.get("bands")
    if isinstance(bands, dict) and all(isinstance(v, str) for v in bands.values()):  # a file for each band
        if missing := [b for b in wanted if b not in bands]:
            raise InputError(f"input: no file for band {', '.join(missing)} of {sensor}; the model needs them")
        parts = tuple((_paths([bands[b]], base), {b: 1}) for b in wanted)
    else:
        if not block.get("file"):
            raise InputError(f"input: sensors.{sensor}: give file, or bands with a file for each")
        paths = _paths(block["file"] if isinstance(block["file"], list) else [block["file"]], base)
        with open_raster(paths[0]) as file:
            if isinstance(bands, dict):
                wrong = [b for b in wanted if not isinstance(bands.get(b), int) or not 1 <= bands[b] <= file.count]
                if wrong:
                    raise InputError(f"{paths[0]}: no band {', '.join(wrong)} of {sensor}: it has {file.count} bands")
                numbers, how = {b: bands[b] for b in wanted}, "as described"
            else:
                names = block.get("names") or (bands if isinstance(bands, list) else [])
                numbers, how = match_bands(file, paths[0], sensor, wanted, names, trained)
            scales, offsets = set(file.scales), set(file.offsets)
        notes.append(f"{sensor}: bands {', '.join(f'{b}={n}' for b, n in numbers.items())}, {how}")
        parts = ((paths, numbers),)
        if (scales, offsets) != ({1.0}, {0.0}) and len(scales) == len(offsets) == 1:  # the file's own word
            trained = {**trained, "scale": scales.pop(), "offset": offsets.pop()}
    known = {k: block.get(k, trained.get(k)) for k in ("scale", "offset", "nodata")}
    date = block.get("date")
    try:
        day = 0.0 if date is None else day_of(str(date))
    except ValueError:
        raise InputError(f"date={date}: is no date; write 2019-04-12") from None
    if date is None and sensor in card.days:
        told = f"{sensor}: no date given, although the model learned from dated images; date=2019-04-12 says it"
        warnings.warn(told, InputWarning, stacklevel=4)
        day = sum(card.days[sensor]) / 2
    scale, offset = (float(v) if v is not None else d for v, d in ((known["scale"], 1.0), (known["offset"], 0.0)))
    return Image(parts, day, scale, offset, known["nodata"], _quality(sensor, block, trained, parts))


def _quality(sensor: str, block: Mapping[str, Any], trained: Mapping[str, Any], parts: Any) -> Quality | None:
    """The block's flags; those of training where the bands lie where training had them."""
    flags = block.get("valid")
    if flags is None and parts[0][1] == {b: trained.get("bands", {}).get(b) for b in parts[0][1]}:
        flags = trained.get("valid")
        if flags is not None and flags.get("file", trained.get("file")) != trained.get("file"):
            flags = None  # in a file of their own, which the scene does not have
    if flags is None:
        return None
    if not isinstance(flags, dict) or not isinstance(flags.get("band"), int):
        raise InputError(f"input: sensors.{sensor}.valid: expected band, and invalid_bits or invalid_values")
    return Quality(flags["band"], tuple(flags.get("invalid_bits") or ()), tuple(flags.get("invalid_values") or ()))


def _paths(words: Sequence[str], base: Path) -> tuple[Path, ...]:
    """Files, those in folders, and those that globs match, in order. InputError where there are none."""
    out: list[Path] = []
    for word in words:
        path = base / Path(word).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS)
        elif any(c in word for c in "*?["):
            found = sorted(path.parent.glob(path.name))
        else:
            found = [path]
        if not found:
            raise InputError(f"input={word}: no raster files there; known are {', '.join(RASTERS)}")
        out += found
    for path in out:
        if not path.is_file():
            raise InputError(f"input={path}: no such file")
    return tuple(out)


def _dates(sensor: str, images: list[Image], card: Card, notes: list[str]) -> list[Image]:
    """As many dates as the model was trained on: evenly chosen of more; the last one again, empty, for fewer."""
    wanted = card.spec.dates[sensor]
    images = sorted(images, key=lambda i: i.day)
    if len(images) > wanted:
        notes.append(f"{sensor}: {wanted} of {len(images)} dates are used, evenly spread, as many as in training")
        return [images[int((i + 0.5) * len(images) / wanted)] for i in range(wanted)]
    if len(images) < wanted:
        told = f"{sensor}: {len(images)} dates, the model learned from {wanted}; the others are shown as missing"
        warnings.warn(told, InputWarning, stacklevel=3)
        nothing = replace(images[-1], scale=float("nan"))
        images = [*images, *[nothing] * (wanted - len(images))]
    return images


def _sized(
    ground: Ground, given: float | None, card: Card, choice: str | None, notes: list[str]
) -> tuple[Ground, float]:
    """The ground and its metres per pixel, resampled to the model's where gsd=model asks for it."""
    trained, gsd = card.spec.gsd, ground.gsd or given
    if gsd is None:
        notes.append(f"pixels are taken to be of {trained:g} m, as in training: no file says where it lies")
        return ground, trained
    if abs(gsd / trained - 1) > GSD and choice is None:
        raise InputError(
            f"input: pixels of {gsd:.3g} m, the model was trained on {trained:g} m; gsd=model resamples to those, "
            "gsd=scene maps the pixels as they are"
        )
    if choice == "model" and abs(gsd / trained - 1) > 0.01:
        if ground.crs is None:
            raise InputError("gsd=model: the input has no coordinate system to resample by; resample it yourself")
        finer = ground.finer(gsd / trained)
        return finer, finer.gsd or trained
    return ground, gsd


def _map(layers: Mapping[str, Any], card: Card, base: Path) -> tuple[tuple[Path, ...], Legend] | None:
    if not card.reads_map:
        return None
    about = layers.get("map")
    if not isinstance(about, dict) or not about.get("file"):
        raise InputError("input: this model reads the map too; describe it in a yaml: layers: {map: {file: lulc.tif}}")
    return _paths([about["file"]], base), card.spec.legends["map"]


def _look(scene: Scene) -> None:
    """Refuse values in another unit: a part of the middle of the scene is looked at."""
    g = scene.ground
    h, w = min(LOOK, g.height), min(LOOK, g.width)
    batch = scene.reader()(((g.height - h) // 2, (g.width - w) // 2, h, w))
    for name, series in batch.sensors.items():
        x = series.x.movedim(2, -1)[series.valid]  # (n, C)
        if not len(x):
            continue
        unit, middle = SENSORS[name].unit, float(x.median())
        image = scene.images[name][0]
        where = f"{image.files[0]}: {name} has values around {middle:.3g} after x {image.scale:g} + {image.offset:g}"
        if unit == "reflectance" and middle > 2:
            raise InputError(f"{where}, but is reflectance, 0 to 1; scale=0.0001 if it is stored x 10000")
        if unit == "reflectance" and 0 < float(x.abs().quantile(0.99) if len(x) < 2**14 else x.abs().max()) < 0.005:
            raise InputError(f"{where}, but is reflectance, 0 to 1; scale=1 if it is stored so")
        if unit == "decibel" and float(x.min()) >= 0:
            raise InputError(f"{where}, none below 0, but is in decibel; convert it: 10 log10 of the power")
