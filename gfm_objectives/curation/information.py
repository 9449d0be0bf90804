"""Where the new bits are: what a patch adds to the patch beside it, to the date before it, to the other sensor.

Bits are those of a code that predicts every value from what is known already and writes down the rest, in steps as wide
as the sensor's own noise. The prediction is linear, fitted on half of the places and scored on the other half, so the
figures are upper bounds: a better predictor needs fewer bits. Bits below the noise do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gfm_objectives import disk
from gfm_objectives.batch import Batch
from gfm_objectives.curation.describing import describe
from gfm_objectives.curation.embeddings import Alike
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.fingerprints import channels
from gfm_objectives.curation.keep import Rules, decide
from gfm_objectives.curation.neighbours import find_pairs
from gfm_objectives.data.kept import Curated
from gfm_objectives.data.source import Source
from gfm_objectives.sensors import MIXED, SENSORS, calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One deviation of an instrument's noise, in the sensor's unit. Reflectance: Sentinel-2 at its reference radiances has a
# signal-to-noise ratio of about 100 to 170 at reflectances of 0.1 to 0.3 (User Handbook). Decibel: four and a half
# looks of speckle (Sentinel-1 GRD IW). Metre: what neighbouring heights of a global elevation model agree to.
NOISE = {"reflectance": 0.002, "decibel": 2.0, "metre": 1.0}
PATCH = 16  # pixels
RIDGE = 1e-3
CHUNK = 32  # places read together
MOST = 512  # places that `gfm inspect` accounts for


@dataclass(frozen=True, slots=True)
class Bits:
    """Of one sensor, bits per pixel, all bands together: alone, a patch by itself; and the same where more is known:
    space, the patch to its left; time, the same patch on the date before; sensor, in the other sensors. None where the
    data has no such thing."""

    sensor: str
    pixels: int
    alone: float
    space: float
    time: float | None
    other: float | None


def account(source: Source, places: Sequence[int]) -> list[Bits]:
    """The bits of every sensor of `source`, from these places (32 or more for figures that mean something)."""
    patches: dict[str, list[Patches]] = {}
    for k in range(0, len(places), CHUNK):
        some = places[k : k + CHUNK]
        batch = source.read(some)
        mixed = any(s.level == MIXED for s in batch.sensors.values())  # no figures in common: each place by its own
        for part in ([p] for p in some) if mixed else [some]:
            for name, found in cut(source.read(part) if mixed else batch, part).items():
                patches.setdefault(name, []).append(found)
    return [bits(name, Patches.join(parts)) for name, parts in patches.items()]


@dataclass(frozen=True, slots=True)
class Patches:
    """Of one sensor, in steps of its noise: x (N, C, P, P), the patch; left (N, C, P, P), the one beside it; before
    (N, C, P, P) or None, a date earlier; other (N, K, P, P) or None, all bands of other sensors; half (N,) 0 or 1, by
    place: fitted on, or scored."""

    x: Tensor
    left: Tensor
    before: Tensor | None
    other: Tensor | None
    half: Tensor

    @staticmethod
    def join(parts: Sequence[Patches]) -> Patches:
        def cat(name: str) -> Tensor | None:
            tensors = [getattr(p, name) for p in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return Patches(*(cat(name) for name in Patches.__slots__))  # type: ignore[arg-type]


def cut(batch: Batch, places: Sequence[int]) -> dict[str, Patches]:
    """Patches from the middle of each place, on its last date that is there and whole; places without are left out."""
    h, w = batch.size
    size = min(PATCH, w // 2, h)
    top, at = (h - size) // 2, w // 2
    rows, columns = slice(top, top + size), slice(at, at + size)
    beside = slice(at - size, at)
    scaled = {
        name: steps(name, s.x, s.bands, s.level) for name, s in batch.sensors.items() if not SENSORS[name].of_classes
    }
    clear = {
        name: batch.sensors[name].valid[:, :, rows, at - size : at + size].flatten(2).all(2) for name in scaled
    }  # (B, T)
    out = {}
    for name, x in scaled.items():
        dates = x.shape[1]
        ok = clear[name]
        pair = ok[:, 1:] & ok[:, :-1] if dates > 1 else ok
        last = (pair * torch.arange(1, pair.shape[1] + 1)).argmax(1)  # the later of two dates, less one
        keep = pair.any(1)
        date = last + (dates > 1)
        near = {}
        for o, y in scaled.items():
            if o != name:
                when = _nearest(batch.sensors[name].day, date, batch.sensors[o].day, clear[o])
                keep &= clear[o].any(1)
                near[o] = y[torch.arange(len(y)), when][:, :, rows, columns]
        index = keep.nonzero()[:, 0]
        now = x[index, date[index]]
        out[name] = Patches(
            now[:, :, rows, columns],
            now[:, :, rows, beside],
            x[index, date[index] - 1][:, :, rows, columns] if dates > 1 else None,
            torch.cat([y[index] for y in near.values()], 1) if near else None,
            torch.tensor(places)[index] % 2,
        )
    return out


def steps(sensor: str, x: Tensor, bands: Sequence[str], level: str = "") -> Tensor:
    """Normalised values in steps whose rounding error has the deviation of the sensor's noise."""
    about = calibration(sensor, level)
    step = NOISE[about.unit] * 12**0.5
    deviation = torch.tensor([about.bands[i].std for i in about.index(bands)])
    return x * (deviation / step)[:, None, None]


def _nearest(day: Tensor, date: Tensor, other: Tensor, clear: Tensor) -> Tensor:
    """(B,): the clear date of the other sensor nearest to the one looked at."""
    gap = (other - day.gather(1, date[:, None])).abs()
    return torch.where(clear, gap, torch.inf).argmin(1)


def bits(sensor: str, p: Patches) -> Bits:
    """Bits per pixel of the patches under each state of knowledge."""
    mean = p.left.mean((-2, -1), keepdim=True).expand_as(p.x)
    beside = torch.cat([p.left[..., -1:].expand_as(p.x), mean], 1)
    joined = torch.cat([p.left, p.x], -1)
    return Bits(
        sensor,
        p.x[:, 0].numel(),
        _code(p.x, p.x, None, p.half),
        _code(p.x, joined, beside, p.half),
        None if p.before is None else _code(p.x, p.x, _around(p.before), p.half),
        None if p.other is None else _code(p.x, p.x, p.other, p.half),
    )


def _code(x: Tensor, seen: Tensor, more: Tensor | None, half: Tensor) -> float:
    """Bits per pixel of x (N, C, P, P), coded row by row and band by band, from the pixels of `seen` before each (x
    itself, or with what lies to its left) and from `more` (N, K, P, P) at its place. Pixels that have other neighbours
    (first row, first column, last column) are predicted apart."""
    height, width = x.shape[-2:]
    offset = seen.shape[-1] - width
    padded = torch.nn.functional.pad(seen, (1, 1, 1, 0))
    shifts = {"left": (1, 0), "above": (0, 1), "above left": (0, 0), "above right": (0, 2)}
    near = {k: padded[..., a : a + height, offset + b : offset + b + width] for k, (a, b) in shifts.items()}
    context = [*near.values(), *([more] if more is not None else [])]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    kind = (row > 0) * 1 + (column > 0) * 2 + (column < width - 1) * 4
    total = 0.0
    for k in kind.unique().tolist():
        where = kind == k
        features = torch.cat([t[..., where] for t in context], 1).movedim(1, -1)  # (N, pixels, F)
        y = x[..., where].movedim(1, -1)  # (N, pixels, C)
        total += int(where.sum()) * _residual_bits(features, y, half)
    return total / (height * width)


def _residual_bits(features: Tensor, y: Tensor, half: Tensor) -> float:
    """Bits of y (N, M, C) per pixel: each band predicted from features and the bands before it."""
    total = 0.0
    for band in range(y.shape[-1]):
        z = torch.cat([features, y[..., :band], torch.ones_like(y[..., :1])], -1).double()
        fit, score = (z[half == h].flatten(0, 1) for h in (0, 1))
        target, truth = (y[half == h][..., band].flatten().double() for h in (0, 1))
        gram = fit.T @ fit
        gram += RIDGE * torch.eye(len(gram), dtype=gram.dtype) * max(1.0, float(gram.diagonal().mean()) / 1e3)
        weights = torch.linalg.solve(gram, fit.T @ target)
        total += entropy((truth - score @ weights).round().to(torch.int64).numpy())
    return total


def entropy(symbols: np.ndarray) -> float:
    """Bits per symbol: of the counts, with the correction of Miller and Madow (1955) for few symbols."""
    if not len(symbols):
        return float("nan")
    _, counts = np.unique(symbols, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum() + (len(counts) - 1) / (2 * np.log(2) * counts.sum()))


def _around(x: Tensor) -> Tensor:
    """(N, C, P, P) -> (N, 2 C, P, P): each pixel, and the mean of the nine around it."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return torch.cat([x, torch.nn.functional.avg_pool2d(padded, 3, 1)], 1)


def lines(found: Sequence[Bits], unique: float) -> list[str]:
    """What a person is told: bits per pixel, and what share of them is new."""
    out = [f"unique fraction: {unique:.1%} of the places are no copy of one before them"]
    for b in found:
        unit = SENSORS[b.sensor].unit
        told = [f"{b.alone:.2f} bits per pixel alone (noise {NOISE[unit]:g} {unit})"]
        for what, value in states(b):
            if value is not None:
                told.append(f"{value:.2f} given {what} ({value / max(b.alone, 1e-9):.0%} new)")
        out.append(f"{b.sensor}: {'; '.join(told)}")
    return out


def states(b: Bits) -> list[tuple[str, float | None]]:
    """Bits under each state of knowledge, None where the data has no such thing."""
    return [("the patch beside it", b.space), ("the date before", b.time), ("the other sensors", b.other)]


def tell(source: Source, places: Sequence[int], path: Path) -> list[str]:
    """Lines on the information of `source`, from these places, and a chart of it at `path`."""
    found = account(source, places)
    part = describe(Curated(source, np.array(places), "", (0.0, 0.0), ""), Limits(0, 0, 1, 0, False), None)
    pairs = find_pairs(part.points, channels(source.spec))
    kept = decide(part.reason, part.quality, pairs, Alike.nobody(len(places)), source.spec.size, Rules())
    with disk.replacing(path) as scratch:
        draw(found, source.synthetic).savefig(scratch, dpi=110)
    return lines(found, float(kept.keep.mean()))


def draw(found: Sequence[Bits], synthetic: bool) -> Figure:
    """Bits per pixel of each sensor alone, and the share of them that is still new where more is known."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(4.2 + 1.5 * len(found), 3.4), layout="constrained")
    bits, share = figure.subplots(1, 2, width_ratios=(1, 2))
    bars = bits.bar([b.sensor for b in found], [b.alone for b in found], 0.5, color="0.6")
    bits.bar_label(bars, fmt="{:.2f}", fontsize=7)
    bits.set_ylabel("bits per pixel alone, all bands")
    for k, color in enumerate(("#2b6cb0", "#c05621", "#2f855a")):
        what = states(found[0])[k][0]
        rest = {at: v / max(b.alone, 1e-9) for at, b in enumerate(found) if (v := states(b)[k][1]) is not None}
        if rest:
            bars = share.bar(
                [at + 0.26 * (k - 1) for at in rest], list(rest.values()), 0.24, color=color, label=f"given {what}"
            )
            share.bar_label(bars, fmt="{:.0%}", fontsize=7)
    for ax in (bits, share):
        ax.margins(y=0.12)
        ax.set_xlim(-0.6, len(found) - 0.4)
    share.set_xticks(range(len(found)), [b.sensor for b in found])
    share.set_ylabel("share that is still new")
    figure.suptitle(f"What is new{', synthetic data' if synthetic else ''}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure
