"""Maps as files: a GeoTIFF filled block by block, then a cloud-optimised copy with colours, names and no data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from gfm_objectives import disk
from gfm_objectives.errors import InputError
from gfm_objectives.predict.ground import Ground
from gfm_objectives.runs.segmenter import Card
from gfm_objectives.sensors import Legend

SHARE = 250  # probabilities, entropies and the like are stored as whole 250ths
NOTHING = 255  # no data of shares, and of maps that do not use the code
CACHE_MB = 256  # of GDAL, whatever the machine's memory
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")  # Paul Tol, bright


def class_codes(legend: Legend) -> tuple[np.ndarray, int]:
    """Label -> the code a map stores (uint8, or uint16 where codes need it), and a code that means nothing."""
    codes = list(legend.codes or range(len(legend)))
    dtype = np.uint8 if max(codes) <= 255 and len(codes) < 256 else np.uint16
    most = int(np.iinfo(dtype).max)
    nothing = next(c for c in range(most, -1, -1) if c not in codes)
    return np.array(codes, dtype), nothing


def colours(legend: Legend) -> list[str]:
    return list(legend.colors or [COLOURS[i % len(COLOURS)] for i in range(len(legend))])


def shares(x: np.ndarray, nothing: np.ndarray) -> np.ndarray:
    """0..1 as whole SHAREs, uint8; NOTHING where `nothing`."""
    return np.where(nothing, NOTHING, np.round(x.clip(0, 1) * SHARE)).astype(np.uint8)


def profile(ground: Ground, dtype: Any, nothing: float) -> dict[str, Any]:
    """Of a tiled, compressed GeoTIFF of one band."""
    about = {"driver": "GTiff", "count": 1, "dtype": dtype, "nodata": nothing, "height": ground.height}
    about |= {"width": ground.width, "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    about |= {"bigtiff": "if_safer", "num_threads": 2, "predictor": 3 if np.dtype(dtype).kind == "f" else 1}
    return about | ({} if ground.crs is None else {"crs": ground.crs, "transform": ground.transform})


def beside(path: Path, name: str) -> Path:
    """The raster of `extra=name` that is written with a map."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}")


@contextmanager
def writing(path: Path, about: Mapping[str, Any]) -> Iterator[Any]:
    """The raster `path`, new, open for writing. InputError where the disk is full."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", **about) as file:
                yield file
    except (RasterioError, OSError) as error:
        raise no_room(path, error) from error


def finish(part: Path, target: Path, resampling: str, before: Callable[[], None] | None = None) -> None:
    """A cloud-optimised copy of the GeoTIFF `part`, with overviews, under its final name, whole or not at all; `before`
    is called when the copy is complete and has that name not yet."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.shutil import copy

    copied = part.with_name(f".copy{part.name}")  # in the folder of the blocks, where nothing half-written stays
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            copy(
                part,
                copied,
                driver="COG",
                compress="deflate",
                blocksize=512,
                resampling=resampling,
                bigtiff="if_safer",
                num_threads="2",
            )
        if before is not None:
            before()
        os.replace(copied, target)
    except (RasterioError, OSError) as error:
        raise no_room(target, error) from error
    finally:
        for left in (copied, copied.with_name(copied.name + ".aux.xml")):
            left.unlink(missing_ok=True)


def describe_classes(file: Any, card: Card, codes: np.ndarray) -> None:
    """Colours and names of classes, as GDAL and GIS know them."""
    if codes.dtype == np.uint8:
        table = {int(c): rgb(colour) for c, colour in zip(codes, colours(card.legend), strict=True)}
        file.write_colormap(1, table)
    names = {int(c): name for c, name in zip(codes, card.legend.classes, strict=True)}
    file.update_tags(1, **{f"class_{c}": name for c, name in names.items()})
    file.set_band_description(1, card.legend.name)


def write_names(target: Path, codes: np.ndarray, legend: Legend) -> None:
    """Beside the map, the names of its values where GDAL looks for them: <map>.aux.xml."""
    names = dict(zip(codes.tolist(), legend.classes, strict=True))
    rows = "".join(f"<Category>{escape(names.get(c, ''))}</Category>" for c in range(max(names) + 1))
    text = f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n'
    disk.write(target.with_name(target.name + ".aux.xml"), text)


def provenance(card: Card, model: str, digest: str, gsd: float) -> dict[str, str]:
    """Tags of a map: which model made it, and of how many metres its pixels are, which a file without a place tells
    nowhere else."""
    about = {"model": Path(model).resolve().name, "digest": digest, "task": card.task["name"], "gsd": gsd}
    licence = card.provenance.get("license", "")
    return {"gfm_objectives": json.dumps(about), **({"LICENSE": licence} if licence else {})}


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def no_room(path: Path, error: BaseException) -> InputError:
    """What went wrong while writing, with the remedy."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = (str(cause).splitlines() or [type(cause).__name__])[0]
    return InputError(
        f"{path}: cannot be written ({reason}); see to the folder and its room, then the same command goes on"
    )
