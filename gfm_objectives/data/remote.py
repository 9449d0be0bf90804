"""Folders that GDAL reaches and the file system does not: archives, web servers, buckets. rasterio reads them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from gfm_objectives.errors import InputError

SCHEMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "http": "/vsicurl/http://", "https": "/vsicurl/https://"}
ARCHIVE = re.compile(r"/vsi(zip|tar|gzip)/(?!\{)(.+?\.(?:zip|tar\.gz|tgz|tar|gz))(?=/|$)", re.I)
STARTED = time.time_ns()


def reach(text: str) -> Path:
    """The path that an address means: of a file here, or below /vsi where GDAL is to read it.

    file:///data -> /data; s3://bucket/a -> /vsis3/bucket/a, and so gs, az, http and https; /vsizip//data/a.zip/b and
    its kin are written as /vsizip/{/data/a.zip}/b, GDAL's other way, as a Path keeps no two slashes in a row.
    """
    scheme, _, rest = text.partition("://")
    if rest and scheme == "file":
        return Path("/" + rest.partition("/")[2])
    if rest and scheme in SCHEMES:
        text = SCHEMES[scheme] + rest
    return Path(ARCHIVE.sub(r"/vsi\1/{\2}", text))


def is_remote(path: Path) -> bool:
    """Whether GDAL alone can read it."""
    return str(path).startswith("/vsi")


def gdal_name(path: Path) -> str:
    """What rasterio is to open."""
    return re.sub(r"^(/vsicurl/\w+):/(?!/)", r"\1://", str(path))


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change, from which a change of a file is seen; those of the archive where it lies in one. What
    lies further away tells neither cheaply, and counts as changed at every start."""
    if not is_remote(path):
        about = path.stat()
        return about.st_size, about.st_mtime_ns
    archive = re.match(r"/vsi\w+/\{(.+?)\}", str(path))
    if archive and Path(archive[1]).is_file():
        return stamp(Path(archive[1]))
    return 0, STARTED


def listed(root: Path) -> Iterator[str]:
    """Names of all files below a far folder, relative to it. InputError where GDAL finds none."""
    from pyogrio import vsi_listtree  # that of GDAL; rasterio has none

    start = gdal_name(root).rstrip("/")
    try:
        names = vsi_listtree(start)
    except OSError as error:
        raise InputError(f"data.root={start}: GDAL finds nothing there ({str(error).splitlines()[0]})") from error
    files = sorted(n for n in names if not n.endswith("/"))
    if not files:
        raise InputError(f"data.root={start}: GDAL finds no files there; check the address and the login")
    yield from (n[len(start) :].lstrip("/") for n in files)
