"""Folders that GDAL reaches and the file system does not: archives, web servers, buckets. rasterio reads them."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import urlopen

from gfm_objectives.errors import InputError

SCHEMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "http": "/vsicurl/http://", "https": "/vsicurl/https://"}
ARCHIVE = re.compile(r"/vsi(zip|tar|gzip)/(?!\{)(.+?\.(?:zip|tar\.gz|tgz|tar|gz))(?=/|$)", re.I)
STARTED = time.time_ns()
PATIENCE, PAGE, DEPTH = 30.0, 10_000_000, 20  # seconds for a server's page of a folder, bytes of it, folders in folders
LOGINS = {
    "/vsis3/": "check the address and the login: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or, of a public bucket, "
    "AWS_NO_SIGN_REQUEST=YES",
    "/vsigs/": "check the address and the login: GOOGLE_APPLICATION_CREDENTIALS, or, of a public bucket, "
    "GS_NO_SIGN_REQUEST=YES",
    "/vsiaz/": "check the address and the login: AZURE_STORAGE_CONNECTION_STRING, or, of a public container, "
    "AZURE_STORAGE_ACCOUNT and AZURE_NO_SIGN_REQUEST=YES",
    "/vsicurl/": "check the address; the server must show what its folders hold",
}


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
    """Names of all files below a far folder, relative to it. InputError where none is found."""
    from pyogrio import vsi_listtree  # that of GDAL; rasterio has none

    start = gdal_name(root).rstrip("/")
    web = start.removeprefix("/vsicurl/") if start.startswith("/vsicurl/http") else ""
    why = ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            names = [n for n in vsi_listtree(start) if not n.endswith("/")]
        except OSError as error:
            names, why = [], str(error).splitlines()[0]
    why = " ".join(str(w.message).splitlines()[0] for w in said[:1]) or why
    files = sorted(n[len(start) :].lstrip("/") for n in names)
    if web and not files:
        try:
            files = sorted(_linked(web))
        except (OSError, HTTPException, ValueError) as error:
            why = str(error)
    if not files:
        remedy = next((words for scheme, words in LOGINS.items() if start.startswith(scheme)), "check the address")
        raise InputError(f"data.root={start}: no files are found there{f' ({why})' if why else ''}; {remedy}")
    yield from files


def _linked(url: str, below: str = "") -> Iterator[str]:
    """Names of files below a folder of a web server, by the links on its page: GDAL knows the pages of few servers."""
    with urlopen(f"{url}/{quote(below)}", timeout=PATIENCE) as page:
        text = page.read(PAGE).decode(errors="replace")
    for link in dict.fromkeys(re.findall(r"""href=["']([^"'?#:]+)["']""", text)):
        name = unquote(link).removeprefix("./")
        if not name or name.startswith(("/", ".")):
            continue  # up, or elsewhere
        if name.endswith("/") and below.count("/") < DEPTH:
            yield from _linked(url, below + name)
        elif not name.endswith("/"):
            yield below + name
