"""Which places show the same ground: fingerprints that nearly agree, and that agree on how far the windows are shifted.

Candidates come from locality-sensitive hashing (Indyk and Motwani 1998): tables keyed by some of the bits, so that time
grows little faster than the number of places. Within a table's bucket each fingerprint meets the first ones, which a
crowd of copies has in common, and those next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gfm_objectives.chance import seed_of
from gfm_objectives.curation.fingerprints import BITS, Channel, Points

TABLES = 8  # of the hashing
NEAR = 8  # bits by which two fingerprints of one point may differ
FIRST, NEXT = 4, 6  # of its bucket, those that a fingerprint is compared with
CELL = 4  # pixels: agreeing points closer than this are one vote
ROW = np.uint64(2**32 - 1)  # where a word of the hashing holds the number of its row
AT_ONCE = 16384  # pairs whose points are laid side by side
VOTES = 4  # from which two places show the same ground


@dataclass(frozen=True, slots=True)
class Pairs:
    """Places that show the same ground, one row for each pair: a, b (P,) int64, a < b; dy, dx (P,) pixels by which what
    is at (y, x) in a lies further on in a than in b; votes (P,): points that say so; share (P,) of the points of the
    common ground that say so, over the dates of a; repeated (P,): the same of the pictures alone that change with the
    seasons, each date of a with the date of b that is most like it."""

    a: np.ndarray
    b: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    votes: np.ndarray
    share: np.ndarray
    repeated: np.ndarray

    def __len__(self) -> int:
        return len(self.a)

    def take(self, index: np.ndarray) -> Pairs:
        return Pairs(*(getattr(self, name)[index] for name in self.__slots__))

    def overlap(self, size: int) -> np.ndarray:
        """Share of a place's ground that both show, of square places of `size` pixels."""
        return (size - np.abs(self.dy)).clip(0) * (size - np.abs(self.dx)).clip(0) / size**2


def find_pairs(
    points: Points,
    channels: list[Channel],
    votes: int = VOTES,
    progress: Callable[[str], None] = lambda stage: None,
    across: int | None = None,
) -> Pairs:
    """All pairs of places of which at least `votes` points agree; `points` come in the order of their places.

    across: only pairs of a place numbered below it and one from it on.
    """
    found = []
    for number, channel in enumerate(channels):
        progress(f"comparing {channel.name}")
        here = np.flatnonzero(points.channel == number)
        i, j = candidates(points.code[here], points.place[here], across)
        found.append((here[i], here[j]))
    i, j = (np.concatenate(side) if side else np.zeros(0, np.int64) for side in zip(*found, strict=True))
    some = often(points.place, i, j, votes) if len(i) else i
    i, j = i[some], j[some]
    static = np.array([c.static for c in channels], dtype=bool)
    return _vote(points, i, j, static, votes)


def candidates(code: np.ndarray, place: np.ndarray, across: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows i < j of fingerprints at most NEAR bits apart, of two places; most of all there are. `place` is sorted."""
    n = len(code)
    if n < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    width = min(32, max(12, int(np.ceil(np.log2(n))) + 2))
    rng = np.random.Generator(np.random.Philox(seed_of("tables", BITS)))
    row, found = np.arange(n, dtype=np.uint64), []
    for _ in range(TABLES):
        mask = np.bitwise_or.reduce(np.uint64(1) << rng.permutation(BITS)[:width].astype(np.uint64))
        # key and row in one word: sorted by themselves, numbers take a tenth of the time of an order of two columns
        word = ((code & mask) * np.uint64(0x9E3779B97F4A7C15)) & ~ROW | row
        word.sort()
        key, order = (word >> np.uint64(32)).astype(np.uint32), (word & ROW).astype(np.int64)
        # a point that is the same on several dates of a place is there once, or it would crowd out other places
        home = place[order]
        fresh = np.ones(n, bool)
        fresh[1:] = (key[1:] != key[:-1]) | (home[1:] != home[:-1])
        order, key, home = order[fresh], key[fresh], home[fresh]
        for i, j in _bucket_pairs(key, code[order], home, across):
            found.append(order[i] * n + order[j])
    seen = _sorted_once(np.concatenate(found))
    return seen // n, seen % n


def _bucket_pairs(
    key: np.ndarray, code: np.ndarray, home: np.ndarray, across: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows of one key and two places at most NEAR bits apart; rows come sorted by key, then place."""

    def chosen(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        good = (np.bitwise_count(code[i] ^ code[j]) <= NEAR) & (home[i] != home[j])
        if across is not None:
            good &= (home[i] < across) != (home[j] < across)
        return i[good], j[good]

    for step in range(1, NEXT + 1):
        i = np.flatnonzero(key[step:] == key[:-step])
        yield chosen(i, i + step)
    later = np.flatnonzero(key[NEXT + 1 :] == key[: -NEXT - 1]) + NEXT + 1  # of buckets beyond those
    start = np.searchsorted(key, key[later])
    for k in range(FIRST):
        some = later - start > NEXT + k
        yield chosen(start[some] + k, later[some])


def often(place: np.ndarray, i: np.ndarray, j: np.ndarray, least: int) -> np.ndarray:
    """Numbers of the matches whose two places have `least` or more in common: most chance matches are alone."""
    top = np.uint64(int(place[-1]) + 1)
    size = 1 << max(12, int(np.ceil(np.log2(len(i) + 1))))
    pair = place[i].astype(np.uint64) * top + place[j].astype(np.uint64)
    cell = ((pair * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(65 - size.bit_length())).astype(np.int64)
    some = np.flatnonzero(np.bincount(cell, minlength=size)[cell] >= least)  # a cell may hold several pairs
    _, inverse, count = np.unique(pair[some], return_inverse=True, return_counts=True)
    return some[count[inverse] >= least]


def _sorted_once(values: np.ndarray) -> np.ndarray:
    """np.unique of numbers: that hashes them, which takes ten times as long as to sort these."""
    values = np.sort(values)
    return values[np.r_[True, values[1:] != values[:-1]]] if len(values) else values


def _vote(points: Points, i: np.ndarray, j: np.ndarray, static: np.ndarray, least: int) -> Pairs:
    """The pairs of places among matches i, j of points, each with the shift that most of its matches agree on."""
    dy = points.y[i].astype(np.int64) - points.y[j]
    dx = points.x[i].astype(np.int64) - points.x[j]
    if not len(i):
        none, real = np.zeros(0, np.int64), np.zeros(0)
        return Pairs(none, none, none, none, none, real, real)
    pair, inverse = _unique_pairs(points.place[i], points.place[j])
    span = 4 * int(max(np.abs(dy).max(), np.abs(dx).max()) + 2)
    cell = (points.y[i].astype(np.int64) // CELL) * span + points.x[i] // CELL
    # each match votes for its own shift and the eight around it: points are found within a pixel
    best_shift, best_votes = _best_shift(inverse, dy, dx, cell, span)
    keep = best_votes >= least
    by, bx = best_shift // span - span // 2, best_shift % span - span // 2
    a, b, by, bx = pair[keep, 0], pair[keep, 1], by[keep], bx[keep]
    share, repeated = _shares(points, *_matches(points, a, b, by, bx), len(a), static)
    return Pairs(a, b, by, bx, best_votes[keep], share, repeated)


def _matches(
    points: Points, a: np.ndarray, b: np.ndarray, dy: np.ndarray, dx: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All points i of a and j of b that agree at the pair's shift, and the number of the pair; as Pairs has a to dx.

    Looked for where they must lie, not in the tables: whoever meets there becomes rarer the more places there are.
    """
    kinds, tall = int(points.channel.max(initial=0)) + 1, int(points.y.max(initial=0)) + 3  # an empty row at each end
    line = (points.place * kinds + points.channel) * tall + points.y + 1
    order = np.argsort(line, kind="stable")
    line = line[order]
    found = [np.zeros((3, 0), np.int64)]
    for start in range(0, len(a), AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, len(a)))
        which, i = _ranges(np.searchsorted(points.place, a[some]), np.searchsorted(points.place, a[some] + 1))
        pair = some[which]
        row = points.y[i].astype(np.int64) + 1 - dy[pair]
        inside = (row >= 0) & (row < tall)
        pair, i, row = pair[inside], i[inside], row[inside]
        row += (b[pair] * kinds + points.channel[i]) * tall
        which, at = _ranges(np.searchsorted(line, row - 1), np.searchsorted(line, row + 1, side="right"))
        pair, i, j = pair[which], i[which], order[at]
        agree = np.abs(points.x[i].astype(np.int64) - points.x[j] - dx[pair]) <= 1
        agree &= np.bitwise_count(points.code[i] ^ points.code[j]) <= NEAR
        found.append(np.stack([i[agree], j[agree], pair[agree]]))
    i, j, pair = np.concatenate(found, 1)
    return i, j, pair


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all ranges first[k] to last[k] - 1, one after the other, and of each its k."""
    count = last - first
    which = np.repeat(np.arange(len(first)), count)
    return which, np.arange(len(which)) + np.repeat(first - np.cumsum(count) + count, count)


def _unique_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = int(max(a.max(), b.max())) + 1
    key, inverse = np.unique(a * top + b, return_inverse=True)
    return np.stack([key // top, key % top], 1), inverse


def _best_shift(
    pair: np.ndarray, dy: np.ndarray, dx: np.ndarray, cell: np.ndarray, span: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair its shift, coded (dy + span / 2) * span + dx + span / 2, and how many cells vote for it."""
    shifts = np.concatenate([(dy + e + span // 2) * span + dx + f + span // 2 for e in (-1, 0, 1) for f in (-1, 0, 1)])
    exact = np.concatenate([np.full(len(dy), e == f == 0) for e in (-1, 0, 1) for f in (-1, 0, 1)])
    votes = np.stack([np.tile(pair, 9), shifts, np.tile(cell, 9), ~exact], 1)
    votes = votes[np.lexsort(votes.T[::-1])]
    new = np.ones(len(votes), bool)
    new[1:] = (votes[1:, :3] != votes[:-1, :3]).any(1)  # a cell votes once for a shift
    votes = votes[new]
    head = np.flatnonzero(np.r_[True, (votes[1:, :2] != votes[:-1, :2]).any(1)])
    count = np.diff(np.r_[head, len(votes)])
    exactly = np.add.reduceat(1 - votes[:, 3], head)
    order = np.lexsort((exactly, count, votes[head, 0]))  # of equals the shift that more have exactly
    last = np.flatnonzero(np.r_[votes[head[order], 0][1:] != votes[head[order], 0][:-1], True])
    chosen = order[last]
    return votes[head[chosen], 1], count[chosen]


def _shares(
    points: Points, i: np.ndarray, j: np.ndarray, pair: np.ndarray, pairs: int, static: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`share` and `repeated` of each pair, from the matches that agree; see Pairs. All points of a count, those outside
    of the common ground too: whoever knows the overlap allows for them."""
    owner = np.zeros(pairs, np.int64)
    owner[pair] = points.place[i]
    per_place = np.bincount(points.place, minlength=int(owner.max(initial=0)) + 1)
    matched = np.bincount(_unique_rows(np.stack([pair, i], 1))[:, 0], minlength=pairs)
    share = matched / np.maximum(1, per_place[owner])
    moving = ~static[points.channel]
    dates = int(points.date.max(initial=0)) + 1
    per_date = np.bincount(points.place[moving] * dates + points.date[moving], minlength=len(per_place) * dates)
    per_date = per_date.reshape(-1, dates)[owner]  # (pairs, dates of a)
    seen = moving[i]
    rows = np.stack([pair[seen], points.date[i[seen]], points.date[j[seen]], i[seen]], 1).astype(np.int64)
    rows = _unique_rows(rows)
    best = np.zeros((pairs, dates))
    if len(rows):
        head = np.flatnonzero(np.r_[True, (rows[1:, :3] != rows[:-1, :3]).any(1)])
        np.maximum.at(best, (rows[head, 0], rows[head, 1]), np.diff(np.r_[head, len(rows)]))
    repeated = (best / np.maximum(per_date, 1)).sum(1) / np.maximum(1, (per_date > 0).sum(1))
    return share, repeated


def _unique_rows(rows: np.ndarray) -> np.ndarray:
    rows = rows[np.lexsort(rows.T[::-1])]
    return rows[np.r_[True, (rows[1:] != rows[:-1]).any(1)]] if len(rows) else rows
