"""What glibc does with freed memory: keep it for the next step of training, or hand it back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@lru_cache
def keep_freed() -> None:
    """Keep what is freed for who asks next. A step of training frees what the next one asks for again; glibc handed
    large blocks back in between, and the system cleared every page anew: 1 to 15 % of a step on a CPU (LOG.md)."""
    if libc := _glibc("mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 1 << 30) or libc.mallopt(MMAP_THRESHOLD, 1 << 25)  # older ones allow no more
        libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


def give_back() -> None:
    """Hand free pages back to the system. glibc keeps them among small live blocks, where they are of no use for the
    next tile's large ones: without this, memory grows with the tiles although nothing holds them."""
    if libc := _glibc("malloc_trim"):
        libc.malloc_trim(0)


def _glibc(function: str) -> ctypes.CDLL | None:
    """The C library, where it has the function."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, function) else None
