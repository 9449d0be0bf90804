"""Tables as text, and GeoJSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives import disk


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Columns in line; the first to the left."""
    if not rows:
        return ""
    names = list(rows[0])
    width = {n: max(len(n), *(len(r[n]) for r in rows)) for n in names}
    lines = [{n: n for n in names}, *rows]
    return "\n".join(
        "  ".join(r[n].ljust(width[n]) if n == names[0] else r[n].rjust(width[n]) for n in names) for r in lines
    )


def plus_minus(value: float, half: float | None) -> str:
    """A figure and half the width of its interval, both to the second digit of that half; the figure alone where the
    half is not known, "unknown" where neither is."""
    if math.isnan(value):
        return "unknown"
    if half is None or math.isnan(half):
        return f"{value:.4g}"
    if half == 0:
        return f"{value:.4g} +- 0"
    places = 1 - math.floor(math.log10(half))
    return " +- ".join(f"{round(x, places):.{max(places, 0)}f}" for x in (value, half))


def point(at: Sequence[float], about: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": list(at)}, "properties": dict(about)}


def polygon(ring: Sequence[Sequence[float]], about: Mapping[str, Any]) -> dict[str, Any]:
    closed = [list(p) for p in (*ring, ring[0])]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [closed]}, "properties": dict(about)}


def write_geojson(path: Path, features: Sequence[Mapping[str, Any]]) -> None:
    """In degrees where the map has a place, else in its pixels."""
    disk.write(path, json.dumps({"type": "FeatureCollection", "features": list(features)}, indent=1) + "\n")
