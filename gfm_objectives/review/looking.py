"""A map with its model and its scene, reviewed: calibration, areas, and the tiles to label next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.predict.ground import open_raster, unreadable
from gfm_objectives.predict.opening import open_scene
from gfm_objectives.predict.raster import NOTHING, SHARE, beside
from gfm_objectives.review.areas import MIN_AREAS, from_chips
from gfm_objectives.review.choosing import Tile, doubtful
from gfm_objectives.review.maps import ReadMap, read_map
from gfm_objectives.review.page import write_page
from gfm_objectives.review.tiles import OVERVIEW, write_chips, write_overview, write_pictures
from gfm_objectives.review.words import plus_minus, polygon, table, write_geojson
from gfm_objectives.runs.segmenter import Card, read_card


def look(options: Mapping[str, Any], out: Path) -> None:
    """Write the page, the tiles as GeoJSON and as chips to label, and tell how to learn from them."""
    if not options["model"] or not options["input"]:
        raise InputError("map: give model= and input= too, as in gfm predict")
    card = read_card(options["model"])
    m = read_map(options["map"], card.spec.gsd)
    if set(m.classes) != set(card.legend.classes):
        raise InputError(
            f"map={m.path}: has the classes {', '.join(m.classes)}, the model {', '.join(card.legend.classes)}"
        )
    m = m.in_order(card.legend.classes)
    scene = open_scene(options["input"], card, options)
    if (scene.ground.height, scene.ground.width) != (m.ground.height, m.ground.width):
        raise InputError(f"map={m.path}: is not of this input: {m.ground.height} x {m.ground.width} pixels")
    tiles = doubtful(m, options["size"] or card.spec.size, options["tiles"])
    pictures, entropy = out / "pictures", beside(m.path, "entropy")
    pictures.mkdir(parents=True, exist_ok=True)
    read, features, shown = scene.reader(), [], []
    for tile in tiles:
        doubt = _doubt(entropy, tile.box)
        names = write_pictures(tile, m, doubt, read(tile.box), card, pictures)
        shown.append((tile, names))
        features.append(polygon(_ring(m, tile), _about(tile, card, names)))
    write_overview(m, card, _doubt(entropy, m.whole, m.shape(OVERVIEW)), pictures)
    write_geojson(out / "tiles.geojson", features)
    described = write_chips(tiles, m, scene, out)
    rows, notes = _areas(m, card), _notes(card)
    write_page(out / "index.html", card, shown, rows, notes, (m.ground.height, m.ground.width))
    print("\n".join([*notes, table(rows)]))
    print(f"{len(tiles)} tiles -> {out / 'index.html'}, {out / 'tiles.geojson'}")
    model = Path(options["model"])
    print(f"draw into {out / 'labels'}; then: gfm finetune config={model} also={described} name={model.name}-2")


def _doubt(path: Path, box: tuple[int, int, int, int], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """(H, W) entropy of a window (top, left, height, width), 0..1, NaN = nothing; shape: of fewer pixels."""
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    top, left, height, width = box
    try:
        with open_raster(path) as file:
            values = file.read(1, window=Window(left, top, width, height), out_shape=shape)  # type: ignore[call-arg]
    except (RasterioError, OSError) as error:
        raise unreadable(path, error) from error
    return np.where(values == NOTHING, np.nan, values / SHARE)


def _ring(m: ReadMap, tile: Tile) -> list[tuple[float, float]]:
    bottom, right = tile.row + tile.size, tile.column + tile.size
    corners = [(tile.row, tile.column), (tile.row, right), (bottom, right), (bottom, tile.column)]
    return [m.lonlat(r, c) or (float(c), float(r)) for r, c in corners]


def _about(tile: Tile, card: Card, names: Mapping[str, str]) -> dict[str, Any]:
    shares = {c: round(s, 4) for c, s in zip(card.legend.classes, tile.shares, strict=True)}
    files = {f"thumbnail_{what}": f"pictures/{name}" for what, name in names.items()}
    return {"id": tile.name, "doubt": round(tile.doubt, 4), **shares, **files, "label": f"labels/{tile.name}.tif"}


def _notes(card: Card) -> list[str]:
    c = card.calibration
    if not c:
        return ["This model keeps no calibration."]
    return [
        f"Calibration error on test {c['ece_before']:.3f}; {c['ece_after']:.3f} with {c['temperature']:.2f}, the "
        "temperature that validation chose. Probability and doubt are with it."
    ]


def _areas(m: ReadMap, card: Card) -> list[dict[str, str]]:
    """Mapped areas, and, where the model was tested on areas, what those say they are."""
    pixels = m.counts()
    km2 = pixels.sum() * (m.gsd / 1000) ** 2
    rows = [
        {"class": c, "mapped km2": f"{km2 * p / max(pixels.sum(), 1):.4g}"}
        for c, p in zip(card.legend.classes, pixels, strict=True)
    ]
    if not card.areas or not pixels.sum():
        return rows
    share, half = from_chips([np.array(a) for a in card.areas.values()], pixels)
    key = "km2, assumes that the test chips represent the map"
    few = f" (no interval from fewer than {MIN_AREAS} test areas)"
    for k, row in enumerate(rows):
        row[key] = plus_minus(km2 * share[k], km2 * half[k]) if half is not None else f"{km2 * share[k]:.4g}{few}"
    return rows
