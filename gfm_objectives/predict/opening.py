"""From the words of input= to a scene: files found, bands matched, units, dates and pixels checked for the model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfm_objectives.batch import Batch
from gfm_objectives.config import read_yaml
from gfm_objectives.data.finding import day_of
from gfm_objectives.data.remote import is_remote, reach
from gfm_objectives.data.validity import parse_flags
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.predict.bands import match_bands
from gfm_objectives.predict.ground import Ground, open_raster, union
from gfm_objectives.predict.scene import Image, Quality, Scene
from gfm_objectives.runs.segmenter import Card
from gfm_objectives.sensors import SENSORS, Legend

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")
GSD = 0.25  # share by which a scene's pixels may differ from those the model was trained on
WIDE = 8192  # pixels across from which rows of a file that is not tiled take long to read by blocks
LOOK = 512  # pixels a side that are looked at before anything is computed
FEW = 256  # pixels with data below which nothing is said of their unit


def open_scene(inputs: Sequence[str], card: Card, options: Mapping[str, Any]) -> Scene:
    """The scene of input=: a yaml of sensors and dates, or files, folders and globs of one sensor and date.

    options: bands, scale, offset, nodata, date, sensor, gsd of the command. InputError, in one line, for what a model
    cannot be shown: a band that is missing, pixels of another size, values in another unit.
    """
    if not inputs:
        raise InputError("input: give a GeoTIFF, a VRT, a folder or list of them, or a yaml of sensors and dates")
    if options.get("scale") == 0:
        raise InputError("scale=0: makes every value the same; give what stored values are multiplied with")
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
            _check_types(f"{path}: sensors.{name}", block)
    gsd, layers = about.get("gsd"), about.get("layers") or {}
    if gsd is not None and not (_is_number(gsd) and gsd > 0):
        raise InputError(f"{path}: gsd={gsd}: expected metres per pixel, such as 10")
    if not isinstance(layers, dict):
        raise InputError(f"{path}: layers: expected map: {{file: lulc.tif}}")
    return blocks, gsd, layers, path.parent


def _check_types(where: str, block: Mapping[str, Any]) -> None:
    """InputError where a block of a scene's yaml holds another sort of value than its key has."""
    for key in ("scale", "offset", "nodata"):
        if block.get(key) is not None and not _is_number(block[key]):
            raise InputError(f"{where}.{key}={block[key]}: expected a number")
    files = block.get("file") or []
    if not all(isinstance(f, str) for f in (files if isinstance(files, list) else [files])):
        raise InputError(f"{where}.file={files}: expected a path, or a list of them")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        numbers, how, own, striped = _numbers(sensor, block, paths[0], wanted, trained)
        for path in paths[1:]:  # of a mosaic, whose files are read as the first one is
            theirs, _, scales, _ = _numbers(sensor, block, path, wanted, trained)
            if theirs != numbers:
                told = ", ".join(f"{b}={n}" for b, n in theirs.items())
                raise InputError(
                    f"{path}: its bands are {told}, which is not the order of {paths[0]}; store them alike"
                )
            own |= scales
        if striped > WIDE:
            notes.append(f"{paths[0]}: is stored in rows and wide, so it is read slowly; a tiled copy is faster")
        notes.append(f"{sensor}: bands {', '.join(f'{b}={n}' for b, n in numbers.items())}, {how}")
        parts = ((paths, numbers),)
        if len(own) > 1 and block.get("scale") is None:
            told = ", ".join(f"x {a:g} + {b:g}" for a, b in sorted(own))
            which = "its bands differ" if len(paths) == 1 else "the files of its mosaic differ, or their bands,"
            raise InputError(f"{paths[0]}: {which} in scale ({told}); store them alike, or say scale=")
        if len(own) == 1 and own != {(1.0, 0.0)}:  # the file's own word
            trained = {**trained, **dict(zip(("scale", "offset"), own.pop(), strict=True))}
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


def _numbers(
    sensor: str, block: Mapping[str, Any], path: Path, wanted: Sequence[str], trained: Mapping[str, Any]
) -> tuple[dict[str, int], str, set[tuple[float, float]], int]:
    """Of one file: band -> its number, how that is known, scales and offsets of those bands, and how wide its rows are
    if it is stored in rows, else 0."""
    bands = block.get("bands")
    with open_raster(path) as file:
        if isinstance(bands, dict):
            wrong = [b for b in wanted if not isinstance(bands.get(b), int) or not 1 <= bands[b] <= file.count]
            if wrong:
                raise InputError(f"{path}: no band {', '.join(wrong)} of {sensor}: it has {file.count} bands")
            numbers, how = {b: bands[b] for b in wanted}, "as described"
        else:
            names = block.get("names") or (bands if isinstance(bands, list) else [])
            numbers, how = match_bands(file, path, sensor, wanted, names, trained)
        own = {(file.scales[n - 1], file.offsets[n - 1]) for n in numbers.values()}
        return numbers, how, own, file.width if file.block_shapes[0][1] == file.width else 0


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
    return Quality(flags["band"], *parse_flags(f"input: sensors.{sensor}.valid", flags))


def _paths(words: Sequence[str], base: Path) -> tuple[Path, ...]:
    """Files, those in folders, and those that globs match, in order. InputError where there are none."""
    out: list[Path] = []
    for word in words:
        path = base / reach(os.path.expanduser(word))
        if is_remote(path):  # GDAL's to find
            found = [path]
        elif path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS)
        elif any(c in word for c in "*?["):
            found = sorted(path.parent.glob(path.name))
        else:
            found = [path]
        if not found:
            raise InputError(f"input={word}: no raster files there; known are {', '.join(RASTERS)}")
        out += found
    for path in out:
        if not is_remote(path) and not path.is_file():
            raise InputError(f"input={path}: no such file; check the path")
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
    """Refuse values in another unit: a part of the middle of the scene is looked at. Sensors that have no data there
    are noted in `scene.unseen`."""
    g = scene.ground
    h, w = min(LOOK, g.height), min(LOOK, g.width)
    batch = scene.reader()(((g.height - h) // 2, (g.width - w) // 2, h, w))
    scene.unseen.extend(name for name in batch.sensors if not check_unit(scene, batch, name))


def check_unit(scene: Scene, batch: Batch, name: str) -> bool:
    """InputError where the raw values of a sensor are in another unit; False where there are too few to tell by."""
    series = batch.sensors[name]
    x = series.x.movedim(2, -1)[series.valid]  # (n, C)
    if len(x) < FEW:
        return False
    x = x[:: max(1, len(x) // LOOK**2)]
    unit, middle = SENSORS[name].unit, float(x.median())
    image = scene.images[name][0]
    where = f"{image.files[0]}: {name} has values around {middle:.3g} after x {image.scale:g} + {image.offset:g}"
    if unit == "reflectance" and middle > 2:
        raise InputError(f"{where}, but is reflectance, 0 to 1; scale=0.0001 if it is stored x 10000")
    if unit == "reflectance" and 0 < float(x.abs().quantile(0.99) if len(x) < 2**14 else x.abs().max()) < 0.005:
        raise InputError(f"{where}, but is reflectance, 0 to 1; scale=1 if it is stored so")
    if unit == "decibel" and float(x.min()) >= 0:
        raise InputError(f"{where}, none below 0, but is in decibel; convert it: 10 log10 of the power")
    return True
