"""What readers of a folder on disk share: the folder itself, its fingerprint, dates as days."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from gfm_objectives.data.remote import is_remote, reach
from gfm_objectives.errors import InputError


def find_folder(root: str, far: bool = False) -> Path:
    """The folder `root`, ~ and $VARIABLES filled in. far: whether it may be one that only GDAL reads (/vsizip/, s3://).
    InputError says which variable or path is wrong."""
    path = os.path.expandvars(os.path.expanduser(str(root)))
    unset = re.search(r"\$\{?(\w+)", path)
    if unset:
        raise InputError(
            f"data.root={root}: the environment variable {unset[1]} is not set; "
            f"export {unset[1]}=/folder/of/the/data or give data.root=/path"
        )
    folder = reach(path)
    if is_remote(folder):
        if far:
            return folder
        raise InputError(f"data.root={root}: this reader needs a folder of this machine; copy or mount it")
    if not folder.is_dir():
        variable = re.search(r"\$\{?(\w+)", str(root))
        hint = f"check the environment variable {variable[1]}" if variable else "check the path"
        raise InputError(f"data.root={root}: no folder {path}; {hint} or give data.root=/path")
    return folder


def fingerprint(root: Path, files: Iterable[Path], *described: object, whole: Iterable[Path] = ()) -> str:
    """Hash of what is described, of the names and sizes of `files`, and of every byte of the files in `whole`.

    The same wherever `root` lies and whenever its files were written.
    """
    sizes = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in files)
    digests = sorted((p.relative_to(root).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in whole)
    return hashlib.sha256(json.dumps([sizes, digests, *described]).encode()).hexdigest()[:16]


def cache_file(kind: str, suffix: str, *what: Any) -> Path:
    """Where what was found out about `what` (anything JSON can hold) is kept: in $GFM_CACHE, or the user's cache."""
    folder = os.environ.get("GFM_CACHE") or Path.home() / ".cache" / "gfm-objectives"
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return Path(folder) / f"{kind}-{key}{suffix}"


def days(text: str) -> int:
    """Days since 2000-01-01 of a date such as 2018-07-16 or 20180716; ValueError where it is none."""
    return (date.fromisoformat(text) - date(2000, 1, 1)).days
