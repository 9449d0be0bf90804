"""Files that are whole or not there at all: written beside their place, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_objectives.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SCRATCH = ".writing-"  # how names of files begin that are not whole yet; nothing else may read them


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A path to write to, with the suffix of `path`, which it replaces at the end; where writing fails, it goes.

    One process writes a folder at a time: what a killed one left is written over by the next.
    """
    path = Path(path)
    scratch = path.with_name(f"{SCRATCH}{path.name}")
    try:
        with naming(path):
            yield scratch
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write(path: Path | str, text: str) -> None:
    """All of `text`, in UTF-8, or what was there before."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """A .safetensors file, or what was there before; to be read by whom other files are.

    safetensors writes a temporary file of its own, readable by its owner alone, and renames it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode
        try:
            save_file(dict(tensors), scratch, None if notes is None else dict(notes))
        except SafetensorError as error:
            if told := re.search(r"\(os error (\d+)\)", str(error)):  # else a full disk would name no file
                raise OSError(int(told[1]), os.strerror(int(told[1]))) from error
            raise
        scratch.chmod(mode)


def copy(source: Path, path: Path) -> None:
    """The content of `source`, or what was there before; a fault names the copy."""
    with replacing(path) as scratch, source.open("rb") as file, scratch.open("wb") as made:
        shutil.copyfileobj(file, made)


def read_json(path: Path, remedy: str, needs: Iterable[str] | None = ()) -> Any:
    """What a JSON file holds: a dict with the keys it `needs`, a list of dicts where that is None. InputError with the
    `remedy` where it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    rows, keys = (found, ()) if needs is None else ([found], needs)
    if not isinstance(rows, list) or not all(isinstance(r, dict) and r.keys() >= {*keys} for r in rows):
        raise InputError(f"{path}: damaged, no JSON of ours; {remedy}")
    return found


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name. InputError with the `remedy` where it is damaged."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):  # cut off, as where the power went
        raise InputError(f"{path}: damaged; {remedy}") from None


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """An OSError that names no file, such as that of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
