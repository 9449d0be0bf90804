"""Embeddings of places, and who is most alike: spherical k-means, then cosines inside of clusters.

The algorithm of SemDeDup (Abbas et al. 2023, https://arxiv.org/abs/2303.09540), as NeMo Curator runs it on GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gfm_objectives.curation.engines import Engine, Local
from gfm_objectives.errors import InputError

PER_CLUSTER = 500  # places, on average
ROUNDS = 20  # of k-means
SAMPLE = 256  # places for each centre that k-means is fitted on, at most
BLOCK = 1024  # places compared with a cluster at a time
EPSILONS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)  # of the sweep table


@dataclass(frozen=True, slots=True)
class Alike:
    """cluster (N,) int32; cosine (N,) with the most alike of the places of its cluster that come before it in order of
    preference, -1 where none does; twin (N,) int64, that place, or -1."""

    cluster: np.ndarray
    cosine: np.ndarray
    twin: np.ndarray

    @staticmethod
    def nobody(n: int) -> Alike:
        """Of n places that were not compared."""
        return Alike(np.zeros(n, np.int32), np.full(n, -1, np.float32), np.full(n, -1, np.int64))

    def sweep(self, kept: np.ndarray) -> list[tuple[float, int]]:
        """For each epsilon, how many of the places kept so far (N,) bool would be left out at it."""
        return [(eps, int((kept & (self.cosine > 1 - eps)).sum())) for eps in EPSILONS]


def standardised(figures: np.ndarray) -> np.ndarray:
    """(N, D) -> unit vectors of figures brought to zero mean and unit deviation over the places."""
    z = (figures - figures.mean(0)) / np.maximum(figures.std(0), 1e-6)
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def compare(
    vectors: np.ndarray, preference: np.ndarray, clusters: int | None, seed: int = 0, engine: Engine | None = None
) -> Alike:
    """Unit vectors (N, D) compared inside of clusters (None: one for PER_CLUSTER places); preference (N,): places in
    order, the first is kept of those alike."""
    n = len(vectors)
    cluster = assign(vectors, max(1, min(n, clusters or round(n / PER_CLUSTER))), seed)
    rank = np.empty(n, np.int64)
    rank[preference] = np.arange(n)
    cosine, twin = np.full(n, -1, np.float32), np.full(n, -1, np.int64)
    for place, most, other in (engine or Local()).clusters(within, vectors, cluster, rank):
        cosine[place], twin[place] = most, other
    twin[cosine == -1] = -1
    return Alike(cluster, cosine, twin)


def within(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of unit vectors (M, D) in order of preference, the greatest cosine (M,) with one before, -1 where none is, and
    the row (M,) of that one."""
    most, best = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), BLOCK):
        stop = min(start + BLOCK, len(vectors))
        c = vectors[start:stop] @ vectors[:stop].T
        c[np.arange(stop)[None] >= np.arange(start, stop)[:, None]] = -1  # itself and those after it
        best[start:stop] = c.argmax(1)
        most[start:stop] = c[np.arange(stop - start), best[start:stop]]
    return most, best


def assign(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N,) int32: the cluster of each unit vector, by spherical k-means."""
    if count < 2:
        return np.zeros(len(vectors), np.int32)
    faiss = needed()
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=ROUNDS,
        spherical=True,
        seed=seed,
        max_points_per_centroid=SAMPLE,
        min_points_per_centroid=1,
    )
    kmeans.train(vectors)
    return kmeans.index.search(vectors, 1)[1][:, 0].astype(np.int32)


def needed() -> Any:
    """faiss; InputError says how to install it."""
    try:
        import faiss
    except ImportError:
        raise InputError("gfm curate needs faiss: pip install 'gfm-objectives[curation]'") from None
    return faiss
