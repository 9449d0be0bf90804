"""Areas of classes with their intervals: from a probability sample of the map, or, with an assumption, from test chips.

Counting a map's pixels is biased by its errors. Estimators for a sample that is stratified by the map's classes:
Olofsson et al. 2014, doi:10.1016/j.rse.2014.02.015, equations 2 to 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gfm_objectives.review.words import plus_minus

LEVEL = 0.95
MIN_AREAS = 5  # test areas below which no interval is given


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of each class (K,): its mapped share, its area as a share of the map with half the width of its interval, and
    user's and producer's accuracy with theirs; and overall accuracy with its. NaN where the sample says nothing."""

    mapped: np.ndarray
    area: np.ndarray
    area_half: np.ndarray
    users: np.ndarray
    users_half: np.ndarray
    producers: np.ndarray
    producers_half: np.ndarray
    overall: float
    overall_half: float


def stratified(counts: np.ndarray, pixels: np.ndarray) -> Estimate:
    """counts (K, K): sampled pixels, rows = class of the map (the stratum), columns = class of the reference; pixels
    (K,): of each stratum in the map. A stratum of one sampled pixel has no variance: NaN."""
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    counts, pixels = np.asarray(counts, float), np.asarray(pixels, float)
    n = counts.sum(1)  # (K,)
    there = pixels > 0
    w = pixels / pixels.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(there[:, None], counts / n[:, None], 0)  # n_ij / n_i
        spread = np.where(there[:, None], share * (1 - share) / (n - 1)[:, None], 0)  # of a stratum's share
        p = w[:, None] * share
        area = p.sum(0)
        area_se = np.sqrt((w[:, None] ** 2 * spread).sum(0))
        users = np.where(there, share.diagonal(), np.nan)
        producers = p.diagonal() / area
        # Equation 7, with N_i. = the pixels of stratum i and N_.j = the estimated pixels of class j
        total = area * pixels.sum()
        own = pixels**2 * (1 - producers) ** 2 * spread.diagonal()
        cross = pixels[:, None] ** 2 * spread
        others = producers**2 * (cross.sum(0) - cross.diagonal())
        producers_se = np.sqrt(own + others) / total
    overall = float(p.diagonal().sum())
    overall_se = float(np.sqrt((w**2 * spread.diagonal()).sum()))
    users_half = z * np.sqrt(np.where(there, spread.diagonal(), np.nan))
    return Estimate(w, area, z * area_se, users, users_half, producers, z * producers_se, overall, z * overall_se)


def from_chips(areas: Sequence[np.ndarray], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Share of each class (K,) and half the width of its interval, from confusions (rows = truth, columns = prediction)
    of whole test areas, which are taken to represent the map of `pixels` (K,) by class.

    The interval is a jackknife over areas with Student's t; None below MIN_AREAS. A class that the map has and that was
    never predicted on the chips counts as it is mapped.
    """
    every = np.stack(areas).astype(float)  # (A, K, K)

    def shares(confusion: np.ndarray) -> np.ndarray:
        said = confusion.sum(0)
        right = np.where(said > 0, confusion / np.maximum(said, 1), np.eye(len(pixels)))  # P(truth | prediction)
        return right @ (pixels / pixels.sum())

    total = every.sum(0)
    estimate, n = shares(total), len(every)
    if n < MIN_AREAS:
        return estimate, None
    left_out = np.stack([shares(total - one) for one in every])
    se = np.sqrt((n - 1) / n * ((left_out - left_out.mean(0)) ** 2).sum(0))
    return estimate, stats.t.ppf(0.5 + LEVEL / 2, n - 1) * se


def allocate(pixels: np.ndarray, n: int, least: int) -> np.ndarray:
    """How many pixels are drawn of each class (K,), n in all or a few more: `least` of each that the map has (all, if
    it has fewer), the rest by area, as the paper advises (section 4.2)."""
    pixels = np.asarray(pixels)
    base = np.minimum(pixels, np.where(pixels > 0, least, 0))
    rest = max(0, n - int(base.sum()))
    more = np.floor(rest * pixels / max(pixels.sum(), 1)).astype(np.int64)
    return np.minimum(pixels, base + more)


def rows(estimate: Estimate, names: Sequence[str], unit: float) -> list[Mapping[str, str]]:
    """A line of words for each class; unit: km2 of the whole map."""
    e = estimate
    return [
        {
            "class": name,
            "mapped km2": f"{unit * e.mapped[k]:.4g}",
            "estimated km2": plus_minus(unit * e.area[k], unit * e.area_half[k]),
            "user's accuracy": plus_minus(e.users[k], e.users_half[k]),
            "producer's accuracy": plus_minus(e.producers[k], e.producers_half[k]),
        }
        for k, name in enumerate(names)
    ]
