"""A stratified probability sample of a map, to be labelled by people who do not see the map; and what it says."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.chance import mix
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.predict.ground import place
from gfm_objectives.review.areas import allocate, rows, stratified
from gfm_objectives.review.maps import ReadMap, read_map
from gfm_objectives.review.words import plus_minus, point, table, write_geojson

COLUMNS = ("id", "lon", "lat", "x", "y", "row", "column", "reference")
NOTED = ("classes", "codes", "pixels", "km2", "strata")  # of sample.json
UNSURE = ("", "unsure", "unknown", "?")


def draw(path: str, out: Path, n: int, least: int, seed: int) -> Path:
    """Write sample.csv and sample.geojson, to be filled in under `reference`, and sample.json, which holds the strata
    apart so that nobody labels what the map says. InputError where there is a sample already."""
    target = out / "sample.csv"
    if target.exists():
        raise InputError(f"{target}: exists, perhaps with labels; give another name=")
    m = read_map(path)
    pixels = m.counts()
    if not pixels.sum():
        raise InputError(f"sample={path}: the map holds no data")
    wanted = allocate(pixels, n, least)
    if (total := int(wanted.sum())) > n:
        told = f"n={n}: {total} places are drawn, since least={least} of each class is more"
        warnings.warn(told, InputWarning, stacklevel=2)
    rng = np.random.default_rng(mix(seed, "sample"))
    places = _places(
        m, [np.sort(rng.choice(p, k, replace=False)) for p, k in zip(pixels.tolist(), wanted.tolist(), strict=True)]
    )
    places = [places[i] for i in rng.permutation(len(places))]
    features, strata = [], {}
    with disk.replacing(target) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, (label, row, column) in enumerate(places):
            lonlat = m.lonlat(row + 0.5, column + 0.5)
            x, y = place(m.ground.transform, column + 0.5, row + 0.5) if m.ground.crs is not None else (column, row)
            lon, lat = (f"{v:.7f}" for v in lonlat) if lonlat else ("", "")
            line = {"id": f"s{number:05d}", "lon": lon, "lat": lat, "x": x, "y": y, "row": row, "column": column}
            writer.writerow(line | {"reference": ""})
            strata[line["id"]] = label
            features.append(point(lonlat or (x, y), {"id": line["id"], "reference": ""}))
    write_geojson(out / "sample.geojson", features)
    about = {
        "map": str(path),
        "classes": m.classes,
        "codes": m.codes,
        "pixels": pixels.tolist(),
        "km2": float(pixels.sum() * (m.gsd / 1000) ** 2),
        "strata": strata,
    }
    disk.write(out / "sample.json", json.dumps(about, indent=1) + "\n")
    drawn = ", ".join(f"{k} {c}" for k, c in zip(wanted.tolist(), m.classes, strict=True))
    print(f"{len(places)} places ({drawn}), in random order: label them under `reference` without looking at the map")
    print(f"  -> {target}\nthen: gfm review estimate={target}")
    return target


def _places(m: ReadMap, ranks: list[np.ndarray]) -> list[tuple[int, int, int]]:
    """(label, row, column) of the pixels of each class with these numbers among its pixels, from top left on."""
    out, before = [], np.zeros(len(ranks), np.int64)
    for top, labels in m.strips():
        for k, rank in enumerate(ranks):
            at = np.flatnonzero(labels == k)
            mine = rank[(rank >= before[k]) & (rank < before[k] + len(at))] - before[k]
            before[k] += len(at)
            out += [(k, top + i // labels.shape[1], i % labels.shape[1]) for i in at[mine].tolist()]
    return out


def estimate(path: str) -> dict[str, Any]:
    """What a labelled sample says of the map: areas and accuracies with intervals; printed, and written beside it."""
    file = Path(path)
    note = file.with_name("sample.json")
    if not file.is_file() or not note.is_file():
        raise InputError(
            f"estimate={path}: give a sample.csv that gfm review sample= wrote, with its sample.json beside it"
        )
    about = disk.read_json(
        note, "bring it back from a copy, or draw the sample again: its labels are in sample.csv", NOTED
    )
    labels = _labels(file, about)
    k = len(about["classes"])
    counts = np.zeros((k, k), np.int64)
    for name, label in labels.items():
        counts[about["strata"][name], label] += 1
    pixels = np.array(about["pixels"])
    empty = [c for c, n, p in zip(about["classes"], counts.sum(1), pixels, strict=True) if p and n < 2]
    if empty:
        raise InputError(f"{file}: fewer than two labelled places where the map says {', '.join(empty)}; label more")
    e = stratified(counts, pixels)
    left = len(about["strata"]) - len(labels)
    print(f"{len(labels)} labelled places, {left} left out as unsure or empty; 95 % intervals, Olofsson et al. 2014")
    print(table(rows(e, about["classes"], about["km2"])))
    print(f"overall accuracy {plus_minus(e.overall, e.overall_half)}")
    found = {
        "classes": about["classes"],
        "km2": about["km2"],
        "area_km2": (e.area * about["km2"]).tolist(),
        "area_half_km2": (e.area_half * about["km2"]).tolist(),
        "mapped_km2": (e.mapped * about["km2"]).tolist(),
        "overall": e.overall,
        "overall_half": e.overall_half,
        "counts": counts.tolist(),
    }
    target = file.with_name("areas.json")
    disk.write(target, json.dumps(found, indent=1) + "\n")
    print(f"  -> {target}")
    return found


def _labels(file: Path, about: Mapping[str, Any]) -> dict[str, int]:
    """id -> label of what is filled in: a name or a code of the map's classes. InputError names the line."""
    known = {str(c).lower(): i for i, c in enumerate(about["classes"])} | {
        str(c): i for i, c in enumerate(about["codes"])
    }
    out = {}
    for number, row in enumerate(_filled_in(file), 2):
        text = (row["reference"] or "").strip().lower()
        if text in UNSURE:
            continue
        if text not in known:
            raise InputError(f"{file}, line {number}: {text!r} is no class; known are {', '.join(about['classes'])}")
        if row["id"] not in about["strata"]:
            raise InputError(f"{file}, line {number}: {row['id']} was not drawn; leave the ids as they are")
        if row["id"] in out:
            raise InputError(f"{file}, line {number}: {row['id']} is there twice; keep one line of each place")
        out[row["id"]] = known[text]
    return out


def _filled_in(file: Path) -> csv.DictReader:
    """The lines of a sample.csv as people's programs save it: with a mark of UTF-8, with semicolons. InputError where
    it is none any more."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: no text in UTF-8; save it as CSV in UTF-8") from None
    head = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    if missing := {"id", "reference"} - {*(rows.fieldnames or ())}:
        raise InputError(f"{file}: no column {min(missing)}; leave the first line as gfm review wrote it")
    return rows
