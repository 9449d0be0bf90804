"""Fingerprints: 64 bits around each salient point of a place, which a shifted window of the same scene has too.

Where points lie depends on what is in the picture, not on where its window was cut (as the interest points of Lowe
2004, https://doi.org/10.1023/B:VISI.0000029664.99615.94); the bits compare pairs of smoothed pixels around the point
(BRIEF, Calonder et al. 2010, https://doi.org/10.1007/978-3-642-15561-1_56), so that gain and offset change none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.sensors import SENSORS

BITS = 64
REACH = 7  # pixels: how far from its point a fingerprint looks
APART = 4  # pixels: of two points closer than this the stronger one is taken
MARGIN = max(REACH, 2 * APART)  # pixels at the edges without points
AREA = 340  # pixels of a picture for each point: 12 of 64 x 64
FLOOR = 0.01  # deviations: contrast below which a point is none, as of values that are nearly constant
ELSEWHERE = 1e9  # how far below 0 what is no extreme is put, times what it lacks
INFRARED = 700.0  # nm, from which a band is of the other group
CHUNK = 64  # places at a time: a call costs as much as 7 places, and more of them leave the cache


@dataclass(frozen=True, slots=True)
class Channel:
    """One picture per date, the mean of a sensor's bands of one group; static: of what seasons do not change."""

    sensor: str
    group: str
    bands: tuple[int, ...]
    static: bool

    @property
    def name(self) -> str:
        return f"{self.sensor} {self.group}"


@dataclass(frozen=True, slots=True)
class Points:
    """Fingerprints of many places, one row each: code (P,) uint64; place (P,) int64; channel, date (P,) uint8; y, x
    (P,) int16 pixels."""

    code: np.ndarray
    place: np.ndarray
    channel: np.ndarray
    date: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.code)

    def take(self, index: np.ndarray) -> Points:
        return Points(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def join(parts: Sequence[Points]) -> Points:
        return Points(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Points)))


def channels(spec: Spec) -> list[Channel]:
    """The pictures that places of `spec` are compared by. Maps of classes are none."""
    out = []
    for sensor, names in spec.bands.items():
        about = SENSORS[sensor]
        if about.of_classes:
            continue
        groups: dict[str, list[int]] = {}
        for i, band in enumerate(about.bands[k] for k in about.index(names)):
            wave = band.wavelength
            group = about.unit if wave is None else "visible" if wave < INFRARED else "infrared"
            groups.setdefault(group, []).append(i)
        out += [Channel(sensor, group, tuple(bands), about.centred) for group, bands in groups.items()]
    return out


def fingerprint(batch: Batch, chosen: Sequence[Channel], first: int = 0) -> Points:
    """The points of every place, date and channel; the places are numbered from `first`."""
    return Points.join([_channel_points(batch, c, k, first) for k, c in enumerate(chosen)])


def picture(batch: Batch, channel: Channel) -> tuple[Tensor, Tensor]:
    """The channel's pictures (B * T, H, W) and where they are valid."""
    s = batch.sensors[channel.sensor]
    first, count = channel.bands[0], len(channel.bands)
    run = channel.bands == tuple(range(first, first + count))  # then it is no copy, which would take most of the time
    part = s.x[:, :, first : first + count] if run else s.x[:, :, list(channel.bands)]
    return part.mean(2).flatten(0, 1), s.valid.flatten(0, 1)


def _channel_points(batch: Batch, channel: Channel, number: int, first: int) -> Points:
    gray, valid = picture(batch, channel)
    dates = batch.sensors[channel.sensor].x.shape[1]
    h, w = gray.shape[-2:]
    count = max(8, round(h * w / AREA))
    smooth = blur(gray)
    strength = salience(smooth)[:, MARGIN : h - MARGIN, MARGIN : w - MARGIN]
    if len(broken := holes(valid)):
        blind = ~seen(valid[broken])[:, MARGIN : h - MARGIN, MARGIN : w - MARGIN]
        strength[broken] = strength[broken].masked_fill(blind, 0)
    best, at = strength.flatten(1).topk(min(count, strength[0].numel()))
    image, kept = (best > FLOOR).nonzero(as_tuple=True)
    at = at[image, kept]
    at = (at // (w - 2 * MARGIN) + MARGIN) * w + at % (w - 2 * MARGIN) + MARGIN
    at_all = (image * h * w + at)[:, None]
    a, b = (smooth.flatten().index_select(0, (at_all + offset).flatten()) for offset in comparisons(w))
    code = np.packbits((a > b).view(-1, BITS).numpy(), axis=1).view(np.uint64)[:, 0]
    image_, at_ = image.numpy(), at.numpy()
    return Points(
        code,
        first + image_ // dates,
        np.full(len(code), number, np.uint8),
        (image_ % dates).astype(np.uint8),
        (at_ // w).astype(np.int16),
        (at_ % w).astype(np.int16),
    )


@lru_cache(maxsize=8)
def comparisons(width: int) -> tuple[Tensor, Tensor]:
    """The BITS pairs of pixels compared, as offsets in a picture of this width; the same in every version."""
    words = np.random.Philox(np.random.SeedSequence(64)).random_raw(BITS * 16)  # numpy promises these to stay
    offsets = (words % (2 * REACH + 1)).astype(np.int64).reshape(-1, 2, 2) - REACH
    far = np.abs(offsets[:, 0] - offsets[:, 1]).sum(1) >= REACH // 2
    chosen = torch.from_numpy(offsets[far][:BITS])
    assert len(chosen) == BITS, len(chosen)
    flat = chosen[..., 0] * width + chosen[..., 1]
    return flat[:, 0], flat[:, 1]


def blur(x: Tensor) -> Tensor:
    """Each side smoothed by the binomial 1 4 6 4 1, its ends repeated: noise and JPEG leave the bits as they are."""
    for dim in (-2, -1):
        for _ in range(2):
            first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
            padded = torch.cat([first, x, last], dim)
            pairs = padded.narrow(dim, 0, x.shape[dim] + 1) + padded.narrow(dim, 1, x.shape[dim] + 1)
            x = (pairs.narrow(dim, 0, x.shape[dim]) + pairs.narrow(dim, 1, x.shape[dim])).mul_(0.25)
    return x


def salience(smooth: Tensor) -> Tensor:
    """How far a smoothed picture (N, H, W) lies above or below the mean around it, at local extremes; elsewhere < 0.

    Not to be used within MARGIN of an edge, see `windowed`.
    """
    side = 2 * APART + 1
    response = (smooth - windowed(smooth, side, torch.add) / side**2).abs_()
    short = response - windowed(response, side, torch.maximum)  # 0 at an extreme
    return response.add_(short, alpha=ELSEWHERE)  # twice as fast as to compare and to choose


def holes(valid: Tensor) -> Tensor:
    """Which of the pictures (N, H, W) have a pixel that is not valid. By numpy: torch takes forty times as long."""
    return torch.from_numpy(np.flatnonzero(~valid.flatten(1).numpy().all(1)))


def seen(valid: Tensor) -> Tensor:
    """Where all that a fingerprint looks at (N, H, W) is valid, right away from the edges."""
    return windowed((~valid).float(), 2 * REACH + 1, torch.maximum) == 0


def windowed(x: Tensor, side: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`join` (add, maximum) over side x side pixels around each (N, H, W), right but for side // 2 pixels at the edges.

    By doubling, log(side) passes, and along the memory whatever row or picture it goes on to: twice as fast as with
    the edges right, and points are not looked for there.
    """
    flat = x.flatten()
    for step in (1, x.shape[-1]):
        before, length, part = side // 2 * step, 1, flat
        while 2 * length <= side:
            part = join(part[: len(part) - length * step], part[length * step :])
            length *= 2
        for k in range(length, side) if join is torch.add else [side - length] * (length < side):
            rest = flat[k * step :] if join is torch.add else part[k * step :]
            size = min(len(part), len(rest))
            part = join(part[:size], rest[:size])
        whole = torch.empty_like(flat)
        size = min(len(part), len(flat) - before)
        whole[:before] = 0
        whole[before : before + size] = part[:size]
        whole[before + size :] = 0
        flat = whole
    return flat.view_as(x)
