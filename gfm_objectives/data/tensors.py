"""A tensor that `torch.save` wrote, found in its file without unpickling: the pickle is taken apart and never run.

Of a pickle only what one plain tensor needs is understood, and nothing of it is imported or called. Whatever else it
holds is refused.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gfm_objectives.errors import InputError

KINDS = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Byte": "|u1", "Char": "|i1", "Short": "<i2", "Int": "<i4",
         "Long": "<i8"}  # fmt: skip
REBUILD, HOOKS = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
NAMES = {REBUILD, HOOKS, *(f"torch {kind}Storage" for kind in KINDS)}


class Refused(ValueError):
    """A pickle that is not that of one plain tensor."""


class Found(NamedTuple):
    """Where the values of a contiguous tensor lie: its shape, their type, and the byte of `path` they begin at."""

    path: Path
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self, k: int) -> np.ndarray:
        """Entry k of the first axis, as it is stored."""
        tail = self.shape[1:]
        count = int(np.prod(tail))
        x = np.fromfile(self.path, self.dtype, count, offset=self.start + k * count * self.dtype.itemsize)
        if len(x) < count:
            raise InputError(f"{self.path}: ends within a tensor; fetch it again")
        return x.reshape(tail)


def find(path: Path, at: int = 0, size: int | None = None) -> Found:
    """The tensor whose file lies `size` bytes long at byte `at` of `path`, in a tar for one. InputError where it is
    another thing, a pickle that asks for code among them."""
    with path.open("rb") as file:
        part = _Part(file, at, path.stat().st_size - at if size is None else size)
        try:
            with zipfile.ZipFile(part) as archive:
                inner = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                kind, key, count, first, shape = _one_tensor(archive.read(inner))
                data = archive.getinfo(f"{inner.removesuffix('data.pkl')}data/{key}")
                order = f"{inner.removesuffix('data.pkl')}byteorder"
                if order in archive.namelist() and archive.read(order) != b"little":
                    raise Refused("its byte order is not little")
        except (zipfile.BadZipFile, StopIteration, KeyError, Refused) as error:
            raise InputError(f"{path}: a part of it is no plain tensor ({error}); it is not unpickled") from None
        dtype = np.dtype(KINDS[kind])
        if data.compress_type != zipfile.ZIP_STORED or data.file_size != count * dtype.itemsize:
            raise InputError(f"{path}: a tensor in it is compressed or cut short; fetch it again")
        file.seek(at + data.header_offset + 26)
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    start = at + data.header_offset + 30 + lengths + first * dtype.itemsize
    return Found(path, start, dtype, shape)


def _one_tensor(pickled: bytes) -> tuple[str, str, int, int, tuple[int, ...]]:
    """Kind of storage, its key, length and first element, and the shape: of the call of REBUILD, which is not made."""
    match _taken_apart(pickled):
        case (str(call), ((str(storage), str(key), str(), int(count)), int(first), tuple(shape), tuple(stride), *_)):
            steps = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
            if call == REBUILD and list(stride) == steps and storage in NAMES - {REBUILD, HOOKS}:
                return storage.removeprefix("torch ").removesuffix("Storage"), key, count, first, shape
    raise Refused("another object, or not contiguous")


def _taken_apart(pickled: bytes) -> Any:
    """What a pickle would call, with what, as nested tuples of texts and numbers."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()
    try:
        for code, argument, _ in pickletools.genops(pickled):
            value: Any = argument
            match code.name:
                case "PROTO" | "FRAME":
                    continue
                case "GLOBAL":
                    if value not in NAMES:
                        raise Refused(f"its pickle names {value.replace(' ', '.')}")
                    stack.append(value)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                    stack.append(value)
                case "NEWFALSE" | "NEWTRUE" | "NONE":
                    stack.append(None)
                case "BINPUT" | "LONG_BINPUT":
                    memo[value] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[value])
                case "MARK":
                    stack.append(mark)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    at = len(stack) - 1 - stack[::-1].index(mark)
                    stack[at:] = [tuple(stack[at + 1 :])]
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(code.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "BINPERSID":
                    tag, *storage = stack.pop()
                    if tag != "storage":
                        raise Refused("its pickle refers to something outside")
                    stack.append(tuple(storage))
                case "REDUCE":
                    stack[-2:] = [tuple(stack[-2:])]
                case "STOP":
                    return stack[-1]
                case other:
                    raise Refused(f"its pickle does {other}")
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise error if isinstance(error, Refused) else Refused("its pickle is damaged") from None
    raise Refused("its pickle does not end")


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: io.BufferedReader, at: int, size: int) -> None:
        self._file, self._at, self._size, self._now = file, at, size, 0

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._at + self._now)
        got = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._now)])
        self._now += got
        return got

    def seek(self, offset: int, whence: int = 0) -> int:
        self._now = offset + (0, self._now, self._size)[whence]
        return self._now

    def tell(self) -> int:
        return self._now

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
