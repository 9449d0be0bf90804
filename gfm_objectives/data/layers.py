"""Raster files of a folder of chips: finding the file of each chip, and reading bands of GeoTIFF and PNG as arrays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gfm_objectives.errors import InputError

CHIP = "{chip}"


def find_files(root: Path, pattern: str) -> dict[str, Path]:
    """Chip id -> file, for every file under `root` that matches `pattern`, in the order of the ids.

    `{chip}` stands for the id and may occur twice (`{chip}/{chip}_S2.tif`); `*` is anything within one name, `**/` any
    folders. InputError where two files claim one chip.
    """
    if CHIP not in pattern or Path(pattern).is_absolute():
        raise InputError(f"file pattern {pattern!r}: write it relative to data.root, with {CHIP} where the id stands")
    regex = re.compile(_regex(pattern))
    found: dict[str, Path] = {}
    for path in sorted(root.glob(pattern.replace("[", "[[]").replace(CHIP, "*"))):
        match = regex.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            continue
        chip = match["chip"]
        if chip in found:
            raise InputError(
                f"file pattern {pattern!r}: {found[chip].name} and {path.name} both match chip {chip}; narrow it"
            )
        found[chip] = path
    return dict(sorted(found.items()))


def _regex(pattern: str) -> str:
    out, seen = "", False
    for part in re.split(r"(\{chip\}|\*\*/|\*|\?)", pattern):
        if part == CHIP:
            out += "(?P=chip)" if seen else "(?P<chip>[^/]+)"
            seen = True
        else:
            out += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return out


def read_bands(path: Path, bands: Sequence[int]) -> tuple[np.ndarray, float | None]:
    """The `bands` (counted from 1) of a file as (len(bands), H, W), as stored, and the no-data value the file declares.

    InputError for a format not in READERS, a band the file does not have, or a file that cannot be read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'files without an ending'}; known: {', '.join(READERS)}")
    return reader(path, bands)


def _read_tiff(path: Path, bands: Sequence[int]) -> tuple[np.ndarray, float | None]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips need no place on Earth
        try:
            with rasterio.open(path) as file:
                _check_bands(path, bands, file.count)
                return file.read(list(bands)), file.nodata
        except RasterioIOError as error:
            raise _unreadable(path, error) from error


def _read_png(path: Path, bands: Sequence[int]) -> tuple[np.ndarray, float | None]:
    from PIL import Image

    try:
        with Image.open(path) as file:
            values = np.atleast_3d(np.array(file))  # (H, W, C); of a palette image, the indices
    except (OSError, SyntaxError) as error:  # PIL reports some broken PNGs as SyntaxError
        raise _unreadable(path, error) from error
    _check_bands(path, bands, values.shape[2])
    return np.stack([values[..., b - 1] for b in bands]), None


# Lower-case ending -> reader. A new format is one function and one entry.
READERS: dict[str, Callable[[Path, Sequence[int]], tuple[np.ndarray, float | None]]] = {
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".png": _read_png,
}


def _check_bands(path: Path, bands: Sequence[int], count: int) -> None:
    for band in bands:
        if not 1 <= band <= count:
            raise InputError(f"{path}: has no band {band}; it has {count}, counted from 1")


def _unreadable(path: Path, error: BaseException) -> InputError:
    cause = error
    while cause.__cause__ is not None:  # GDAL's own words are at the bottom of rasterio's
        cause = cause.__cause__
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return InputError(f"{path}: cannot be read, truncated or not an image? ({reason})")
