"""The blocks of a map on disk: what is done is not done again, and what is half done is never seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.data.remote import is_remote, stamp
from gfm_objectives.errors import InputError
from gfm_objectives.predict.raster import no_room


class Job:
    """The folder `<output>.blocks`: job.json, which says what the blocks are of, and a file for each that is done.

    InputError where the folder holds blocks of another job; one that left none is forgotten.
    """

    def __init__(self, output: Path, about: Mapping[str, Any], count: int) -> None:
        self.folder, self.count = folder_of(output), count
        text = json.dumps(about, sort_keys=True, indent=1) + "\n"
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        note = self.folder / "job.json"
        if any(self.folder.glob("*.npz")) and note.exists() and note.read_text(errors="replace") != text:
            before = disk.read_json(note, f"delete {self.folder}, and the same command starts again")
            differ = ", ".join(k for k in about if before.get(k) != json.loads(text)[k])
            raise InputError(
                f"{self.folder}: holds blocks of another map ({differ} differ); delete it, or name another"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put(note, text.encode())
        except OSError as error:
            raise no_room(self.folder, error) from error

    def path(self, number: int) -> Path:
        return self.folder / f"{number:07d}.npz"

    def done(self, number: int) -> bool:
        return self.path(number).exists()

    def missing(self) -> list[int]:
        there = {p.name for p in self.folder.iterdir()}
        return [n for n in range(self.count) if self.path(n).name not in there]

    def put(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what was computed of a block; nothing at all where it is empty."""
        path = self.path(number)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise no_room(path, error) from error

    def get(self, number: int) -> dict[str, np.ndarray]:
        path = self.path(number)
        return disk.read_arrays(path, "delete it, and the same command computes it again")

    @property
    def nbytes(self) -> int:
        return sum(p.stat().st_size for p in self.folder.iterdir())

    def clear(self) -> None:
        shutil.rmtree(self.folder)

    def _put(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(content)
        os.replace(part, path)


def folder_of(output: Path) -> Path:
    """Where the blocks of a map lie until it is whole."""
    return output.with_name(output.name + ".blocks")


def identity(files: list[Path]) -> list[list[Any]]:
    """Names, sizes and times of change: blocks of files that have changed are not of this map."""
    return [[str(f if is_remote(f) else f.resolve()), *stamp(f)] for f in files]
