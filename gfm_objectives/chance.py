"""Deterministic draws: seeds and orders that are functions of what they are for, never of what was drawn before."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def mix(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts and on nothing else, on every platform."""
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_of(*key: object) -> int:
    """A 63-bit seed from a key, the same in every process."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def order(seed: int, n: int, positions: np.ndarray) -> np.ndarray:
    """Which of `n` places stands at each of `positions` (0, 1, ...) of an endless run through reshuffled epochs.

    Epoch e covers positions e*n .. e*n + n - 1, each place once, in an order that depends on (seed, e) alone.
    """
    out = np.empty(len(positions), dtype=np.int64)
    epochs = positions // n
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = _shuffled(seed, n, int(epoch))[positions[here] % n]
    return out


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _shuffled(seed: int, n: int, epoch: int) -> np.ndarray:
    # Sorting raw random words: numpy promises the words to stay the same between versions, its shuffles not.
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int32)  # 1e7 places: about a second and 40 MB, once an epoch
