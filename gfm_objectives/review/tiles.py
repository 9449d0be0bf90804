"""Chosen tiles as files: pictures to look at, and chips to be labelled that fine-tuning reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image as Picture

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.predict.ground import Ground
from gfm_objectives.predict.raster import class_codes, colours, describe_classes, profile, rgb, writing
from gfm_objectives.predict.scene import Scene
from gfm_objectives.report.pictures import dates
from gfm_objectives.review.choosing import Tile
from gfm_objectives.review.maps import ReadMap
from gfm_objectives.runs.segmenter import Card

SIDE = 256  # pixels of a picture
OVERVIEW = 960  # at most, of the picture of the whole map
LOOKS = (("image",), ("first", "last"))  # what a picture of the image is called, by how many there are


def write_chips(tiles: Sequence[Tile], m: ReadMap, scene: Scene, folder: Path) -> Path:
    """Of each tile images/<sensor>/<tile>.tif in the sensor's unit, guess/<tile>.tif as the map has it, and
    labels/<tile>.tif without any label, to be drawn into; and chips.yaml, which describes them to fine-tuning."""
    read, card = scene.reader(), scene.card
    codes, nothing = class_codes(card.legend)
    for part in ("labels", "guess", *(f"images/{s}" for s in scene.images)):
        (folder / part).mkdir(parents=True, exist_ok=True)
    days: dict[str, list[float]] = {}
    for tile in tiles:
        ground = scene.ground.part(*tile.box)
        for name, series in read(tile.box).sensors.items():
            days[name] = series.day[0].tolist()
            _write(folder / "images" / name / f"{tile.name}.tif", series.x[0].flatten(0, 1).numpy(), ground, np.nan)
        guess = np.where((said := m.read(tile.box)) < 0, codes.dtype.type(nothing), codes[said])
        for part, values in (("guess", guess), ("labels", np.full_like(guess, nothing))):
            path = folder / part / f"{tile.name}.tif"
            if part == "labels" and path.exists():
                continue  # somebody may have drawn into it
            _write(path, values[None], ground, nothing, card, codes)
    return _describe(folder, card, days, nothing)


def _write(
    path: Path, values: np.ndarray, ground: Ground, nothing: float, card: Card | None = None, codes: Any = None
) -> None:
    about = profile(ground, values.dtype, nothing) | {"count": len(values), "tiled": False}
    about = {k: v for k, v in about.items() if not k.startswith("block")}
    with writing(path, about) as file:
        if card is not None:
            describe_classes(file, card, codes)
        file.write(values)


def _describe(folder: Path, card: Card, days: dict[str, list[float]], nothing: int) -> Path:
    """chips.yaml: see docs/chips.md."""
    sensors: dict[str, Any] = {}
    for name, when in days.items():
        bands = {b: n for n, b in enumerate(card.spec.bands[name], 1)}
        sensors[name] = {"file": f"images/{name}/{{chip}}.tif", "bands": bands}
        dated = [(date(2000, 1, 1) + timedelta(days=round(d))).isoformat() for d in when]
        if len(when) > 1 or any(when):
            sensors[name]["dates"] = dated if any(when) else len(when)
        if name in card.levels:
            sensors[name]["level"] = card.levels[name]
    legend = card.legend
    layer: dict[str, Any] = {"file": "labels/{chip}.tif", "classes": list(legend.classes), "ignore": [nothing]}
    layer |= {k: list(v) for k, v in (("codes", legend.codes), ("colors", legend.colors)) if v}
    about = {"name": "chips", "root": str(folder.resolve()), "gsd": card.spec.gsd, "size": card.spec.size}
    path = folder / "chips.yaml"
    text = yaml.safe_dump(about | {"sensors": sensors, "layers": {card.task["layer"]: layer}}, sort_keys=False)
    disk.write(path, f"# Tiles to be labelled: draw into labels/; what has no label yet is left out.\n{text}")
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def write_pictures(tile: Tile, m: ReadMap, doubt: np.ndarray, batch: Batch, card: Card, folder: Path) -> dict[str, str]:
    """PNGs of the image (of a series, its first and last date that show anything), of the map and of the doubt (H, W,
    0..1); what each shows, and its name."""
    seen = (255 * dates(batch, 2)[0]).astype(np.uint8)
    pictures = dict(zip(LOOKS[len(seen) - 1], seen, strict=True))
    pictures |= {"map": painted(m.read(tile.box), card), "doubt": heat(doubt)}
    names = {what: f"{tile.name}_{what}.png" for what in pictures}
    for what, pixels in pictures.items():
        with disk.replacing(folder / names[what]) as scratch:
            Picture.fromarray(pixels).resize((SIDE, SIDE), Picture.Resampling.NEAREST).save(scratch)
    return names


def write_overview(m: ReadMap, card: Card, doubt: np.ndarray, folder: Path) -> None:
    """overview.png, the whole map, and doubt.png, how sure it is everywhere: doubt (H, W), 0..1, NaN = nothing."""
    for name, pixels in (("overview", painted(m.small(OVERVIEW), card)), ("doubt", heat(doubt))):
        with disk.replacing(folder / f"{name}.png") as scratch:
            Picture.fromarray(pixels).save(scratch)


def painted(labels: np.ndarray, card: Card) -> np.ndarray:
    """(H, W) labels, -1 = none, in the colours of their classes, (H, W, 3) uint8."""
    return np.array([rgb(c) for c in colours(card.legend)] + [(255, 255, 255)], np.uint8)[labels]


def heat(x: np.ndarray) -> np.ndarray:
    """0..1 (H, W), NaN = nothing, from black over orange to white, (H, W, 3) uint8."""
    stops = np.array([[0, 0, 0], [120, 30, 60], [235, 120, 30], [255, 225, 120], [255, 255, 255]], float)
    at = np.nan_to_num(x, nan=0).clip(0, 1) * (len(stops) - 1)
    return np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], -1).astype(np.uint8)
