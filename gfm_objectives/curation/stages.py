"""What `gfm curate` has found so far stays on disk: an interrupted call goes on after the last stage that is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gfm_objectives import disk
from gfm_objectives.errors import InputError

T = TypeVar("T")
REMEDY = "delete it, and the same command makes it again"


class Stages:
    """folder: of one data set read by one set of rules (see `describing`), None = nothing is left on disk. spent:
    seconds of CPU of the stages asked for so far, whichever call they were made by."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.spent = folder, 0.0

    def done(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """What `make` says, a dataclass of arrays: as an earlier call left it, else made now and left for the next.

        InputError where the file is damaged.
        """
        path = self.folder / f"{name}.npz" if self.folder else None
        names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
        if path is not None and path.is_file():
            held = disk.read_arrays(path, REMEDY)
            if held.keys() != {*names, "spent"}:
                raise InputError(f"{path}: damaged; {REMEDY}")
            self.spent += float(held["spent"])
            return kind(*(held[n] for n in names))
        began = time.process_time()
        made = make()
        spent = time.process_time() - began
        self.spent += spent
        if path is not None:
            arrays: dict[str, Any] = {n: getattr(made, n) for n in names}
            with disk.replacing(path) as scratch:
                np.savez(scratch, spent=np.float64(spent), **arrays)
        return made
