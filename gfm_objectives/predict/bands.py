"""Which band of a file is which: by what it says of itself, by wavelength, or as the training data was read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfm_objectives.errors import InputError
from gfm_objectives.sensors import SENSORS

NEAR = 25.0  # nm between a band's centre and that of the one it stands for
SKIP = ("", "-", "_")  # in bands=, a band of the file that is not read
COLOURS = {"blue": 490.0, "green": 560.0, "red": 665.0, "nir": 835.0}  # nm; names that files use for lack of better


def match_bands(
    file: Any, path: Path, sensor: str, wanted: Sequence[str], given: Sequence[str], trained: Mapping[str, Any]
) -> tuple[dict[str, int], str]:
    """Band -> its number in the open `file`, for every one `wanted`, and how that was known.

    given: names of the file's bands in order, by the user; trained: how files of this sensor were read in training.
    InputError names a band that is missing and what there is.
    """
    if given:
        if len(given) != file.count:
            raise InputError(f"bands: names {len(given)} bands, but {path} has {file.count}; - skips one")
        found = {_plain(name): n for n, name in enumerate(given, 1) if name not in SKIP}
        return _complete(found, sensor, wanted, path, "bands="), "as bands= says"
    names = [_plain(d) if d else "" for d in file.descriptions]
    if {*names} & {*map(_plain, SENSORS[sensor].band_names), *COLOURS}:  # else they are no names of bands
        known = {name: n for n, name in reversed(list(enumerate(names, 1))) if name}
        if sum(_plain(b) in known for b in wanted) or not _waves(file):
            found = dict(known)
            for band in SENSORS[sensor].bands:  # red, green, ... of files that have no better names
                near = [c for c, w in COLOURS.items() if band.wavelength and abs(w - band.wavelength) <= NEAR]
                if _plain(band.name) not in found and near and near[0] in known:
                    found[_plain(band.name)] = known[near[0]]
            return _complete(found, sensor, wanted, path, "its band names"), "by the names of its bands"
    if waves := _waves(file):
        found = {}
        for band in SENSORS[sensor].bands:
            if band.wavelength is not None:
                off, n = min((abs(w - band.wavelength), n) for n, w in waves.items())
                if off <= NEAR:
                    found[_plain(band.name)] = n
        return _complete(found, sensor, wanted, path, "its wavelengths"), "by the wavelengths of its bands"
    numbers = trained.get("bands", {})
    if numbers and set(wanted) <= set(numbers) and max(numbers[b] for b in wanted) <= file.count:
        return {b: int(numbers[b]) for b in wanted}, "where training files have them: this one has no names of bands"
    if len(wanted) == 1 and file.count == 1:
        return {wanted[0]: 1}, "its only band"
    listed = ",".join(wanted)
    raise InputError(
        f"{path}: its {file.count} bands have no names; give them in the file's order, such as bands={listed} "
        "(- skips one)"
    )


def _complete(found: Mapping[str, int], sensor: str, wanted: Sequence[str], path: Path, by: str) -> dict[str, int]:
    missing = [b for b in wanted if _plain(b) not in found]
    if missing:
        there = ", ".join(found) or "none"
        raise InputError(
            f"{path}: no band {', '.join(missing)} of {sensor} by {by} ({there}); the model needs {', '.join(wanted)}"
        )
    return {b: found[_plain(b)] for b in wanted}


def _plain(name: str) -> str:
    """B2, b02, B02_10m and B02 are one band."""
    word = re.split(r"[\s,(]", name.strip().lower())[0].removesuffix("_10m").removesuffix("_20m").removesuffix("_60m")
    short = re.fullmatch(r"b(\d)(a?)", word)
    return f"b{int(short[1]):02d}" if short and not short[2] else word


def _waves(file: Any) -> dict[int, float]:
    """Band number -> centre wavelength in nm, where tags say it: GDAL's IMAGERY domain in micrometres, or ENVI's."""
    out = {}
    for n in range(1, file.count + 1):
        text = file.tags(n, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM") or file.tags(n).get("wavelength")
        try:
            value = float(text) if text else 0.0
        except ValueError:
            continue
        if value > 0:
            out[n] = value * 1000 if value < 100 else value
    return out
