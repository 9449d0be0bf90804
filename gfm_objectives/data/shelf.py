"""Shelf: batches of one place or tile in a file without a name, which every process of the user maps into memory."""

from __future__ import annotations

import atexit
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch

ALIGN = 64  # bytes
DESCRIPTORS = Path("/proc/self/fd")  # Linux: other processes of the user can open a file by its owner's descriptor


class Shelf:
    """Batches, each of any shape, put once and read from any process: it pickles as the way to its file.

    The process that made it holds the file's only descriptor, and the file has no name: however that process ends,
    killed or not, nothing of the file stays on disk. Where the system has no /proc, the file lies in a folder that is
    removed when the process ends, or when the next one begins. What is read is a copy-on-write view of the file.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None
        self._file, self._path = _nameless_file()
        weakref.finalize(self, self._file.close)
        self._templates: dict[str, Batch] = {}  # what batches look like, in words -> such a batch on the meta device
        self._records: list[tuple[str, int]] = []  # of each batch: its template and where it begins
        self._map: mmap.mmap | None = None
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def put(self, batch: Batch) -> None:
        assert self._file is not None and self._map is None, "a shelf is filled by its maker, before it is read"
        parts: list[Tensor] = []

        def take(t: Tensor) -> Tensor:
            parts.append(t)
            return torch.empty_like(t, device="meta")

        template = batch.map(take)
        key = sys.intern(repr(template))  # pickled once, however many batches look alike
        self._templates.setdefault(key, template)
        self._records.append((key, self.nbytes))
        for t in parts:
            self._file.write(t.contiguous().numpy().data)
            self._file.write(bytes(-t.nbytes % ALIGN))
            self.nbytes += t.nbytes + -t.nbytes % ALIGN

    def __getitem__(self, k: int) -> Batch:
        key, at = self._records[k]
        source = self._mapped()

        def read(t: Tensor) -> Tensor:
            nonlocal at
            dtype = torch.empty((), dtype=t.dtype).numpy().dtype
            array: np.ndarray = np.ndarray(tuple(t.shape), dtype, source, at)
            at += t.nbytes + -t.nbytes % ALIGN
            return torch.from_numpy(array)

        return self._templates[key].map(read)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            if self._file is not None:
                self._file.flush()
            with open(self._path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: no reader changes the file
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        if self._file is not None:
            self._file.flush()
        return {**self.__dict__, "_file": None, "_map": None}


def _nameless_file() -> tuple[BinaryIO, str]:
    """A file that ends with this process, and a path by which processes that run beside it can open it."""
    if DESCRIPTORS.is_dir():
        file: Any = tempfile.TemporaryFile(prefix="gfm-")  # is unlinked before anything is written
        return file, f"/proc/{os.getpid()}/fd/{file.fileno()}"
    number, path = tempfile.mkstemp(dir=_own_folder())
    return os.fdopen(number, "w+b"), path


def _own_folder() -> Path:
    """A temporary folder named after this process; those of processes that are gone are swept."""
    base = Path(tempfile.gettempdir()) / f"gfm-objectives-{os.getuid()}"
    for folder in base.glob("[0-9]*"):
        if not _alive(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    own = base / str(os.getpid())
    if not own.exists():
        own.mkdir(parents=True, mode=0o700)
        atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
