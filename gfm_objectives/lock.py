"""One process for a folder: a lock that the system takes away when its holder dies, however it dies.

A POSIX record lock on `<folder>/.lock`: workers that a process starts do not inherit it, and network file systems carry
it where their lock service runs. Where they do not, that is said, since nobody can know.
"""

from __future__ import annotations

import atexit
import errno
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gfm_objectives.disk import naming
from gfm_objectives.errors import InputError, InputWarning

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_held: dict[Path, int] = {}  # folder -> file descriptor; of this process
_made: dict[Path, list[Path]] = {}  # folder -> those above it that were not there, the nearest first


def lock(folder: Path) -> None:
    """Make `folder` this process's own until `release` or its end. InputError where another process has it.

    Warns where the file system has no locks, and where the last holder was another machine that did not let go.
    """
    key = folder.resolve()
    if key in _held:
        return
    above = [p for p in key.parents if not p.exists()]
    while True:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            told = os.pread(fd, 200, 0).decode(errors="replace").strip()
            sure = _taken(fd, folder, told)
            if not sure or os.fstat(fd).st_nlink:
                break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder let go and removed the file in between: what was locked is no longer there
    if sure:
        _sign(fd, folder, told)
    _held[key], _made[key] = fd, above


def _sign(fd: int, folder: Path, told: str) -> None:
    """Say in the file who has it; warn where the last holder was another machine that did not let go."""
    here = platform.node()
    if told and not told.startswith(f"{here} "):
        warnings.warn(
            f"{folder}: last used by {told}, which did not close it; if that still runs, stop one of the two: locks of "
            "this disk may not reach from one machine to the other",
            InputWarning,
            stacklevel=3,
        )
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{here} process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode(), 0)


def _taken(fd: int, folder: Path, told: str) -> bool:
    """Whether the lock was got; False where the file system cannot tell, which is warned of."""
    why = "this system has no file locks"
    if fcntl is not None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"{folder}: in use by another process ({told or 'unknown'}); wait for it, stop it, or give "
                    "another name="
                ) from None
            why = f"this disk has no file locks ({error.strerror})"
    message = f"{folder}: {why}, so nobody can know whether another process uses it; start one at a time"
    warnings.warn(message, InputWarning, stacklevel=3)
    return False


def holds(folder: Path) -> bool:
    """Whether this process has `folder`."""
    return folder.resolve() in _held


def release(folder: Path) -> None:
    """Let go of `folder`; an empty one goes away, and the empty ones above it that were made for it. Nothing where this
    process does not have it."""
    key = folder.resolve()
    fd = _held.pop(key, None)
    if fd is None:
        return
    with suppress(OSError):  # the folder may have been removed
        (key / NAME).unlink()
        for path in (key, *_made.pop(key)):
            path.rmdir()
    with suppress(OSError):
        os.close(fd)


@atexit.register
def _release_all() -> None:
    for folder in [*_held]:
        release(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """`lock` for the length of a block."""
    lock(folder)
    try:
        yield
    finally:
        release(folder)
