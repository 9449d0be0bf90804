"""Twins planted among synthetic places: which are found, what is dropped wrongly, and what it costs.

    python benchmarks/curation.py [PLACES]

Default 5,000; docs/curation.md has 10,000 and 50,000. Of more than 20,000 an eighth is made and shown in eight
orientations, which are different places to whoever compares them: no fingerprint is the same rotated or mirrored.
With GFM_DATA also hls_water against the list of its overlaps, and what a split at random leaks.
"""

from __future__ import annotations

import csv
import io
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gfm_objectives.batch import Batch, collate
from gfm_objectives.chance import seed_of
from gfm_objectives.config.files import load_choice
from gfm_objectives.curation import embeddings, keep
from gfm_objectives.curation.describing import Described, describe, describe_batch
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.fingerprints import CHUNK, channels
from gfm_objectives.curation.keep import Rules, decide
from gfm_objectives.curation.leakage import leaks
from gfm_objectives.curation.neighbours import Pairs, find_pairs
from gfm_objectives.data import build_source
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.data.windows import cut
from gfm_objectives.sensors import SENSORS

SIZE, MARGIN = 64, 8  # pixels
TWELVE = tuple(b for b in SENSORS["s2"].band_names if b != "B10")
AS_TWELVE = [10, 0, 1, 2, 3, 4, 5, 6, 7, 11, 8, 9]  # the Earth has ten; B01 and B09 are made of their neighbours
MADE, ORIENTATIONS = 20_000, 8  # of more places than that, each that is made is shown so often
EACH = 0.02  # of the places have a twin of each kind


def exact(x: Tensor, g: torch.Generator) -> Tensor:
    return x


def gain(x: Tensor, g: torch.Generator) -> Tensor:
    """Reflectance times 0.85 to 1.15, one factor for each band, and noise of 0.003 on top."""
    s2 = SENSORS["s2"]
    bands = s2.band_names[1:9] + s2.band_names[11:]
    factor = 0.85 + 0.3 * torch.rand(x.shape[1], 1, 1, generator=g)
    r = s2.denormalise(x, bands) * factor
    r += 0.003 * torch.randn(r.shape, generator=g)
    return s2.normalise(r, torch.ones(x.shape[0], *x.shape[-2:], dtype=torch.bool), bands)


def jpeg(x: Tensor, g: torch.Generator) -> Tensor:
    """Each band as 8 bits, quality 75."""
    out = torch.empty_like(x)
    for place in range(len(x)):
        for band in range(x.shape[1]):
            low, high = x[place, band].min(), x[place, band].max()
            gray = ((x[place, band] - low) / (high - low + 1e-6) * 255).byte().numpy()
            file = io.BytesIO()
            Image.fromarray(gray).save(file, "JPEG", quality=75)
            out[place, band] = torch.from_numpy(np.array(Image.open(file)) / 255.0) * (high - low) + low
    return out


def half_pixel(x: Tensor, g: torch.Generator) -> Tensor:
    """Half a pixel to the right and down, bilinear."""
    x = 0.5 * (x + x.roll(-1, -1))
    return 0.5 * (x + x.roll(-1, -2))


KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "exact": exact,
    "gain and noise": gain,
    "JPEG": jpeg,
    "half a pixel": half_pixel,
    "shift to 8 px": exact,
    "another date": exact,
}


def planted(count: int) -> tuple[Described, list[tuple[int, int, str]], float, float]:
    """`count` places and their twins, described; (place, twin, kind) of each twin; seconds of CPU of making them, and
    of describing them. Only those that have a twin are made with margins and a second date."""
    turns = ORIENTATIONS if count > MADE else 1
    about = {"sensors": ("s2",), "redundancy": 0.0, "clouds": 0.0, "places": {"pretrain": -(-count // turns)}}
    wide = Synthetic("pretrain", size=SIZE + 2 * MARGIN, dates=2, **about)
    plain = Synthetic("pretrain", size=SIZE, dates=1, **about)
    chosen, names = channels(replace(plain.spec, bands={"s2": TWELVE})), list(KINDS)
    each = max(1, round(EACH * count))
    parts: list[Described] = []
    twins: list[tuple[int, int, str]] = []
    late: list[Batch] = []
    tail: list[Described] = []  # of the twins, which are numbered after all places
    spent, start = 0.0, time.process_time()

    def add(batch: Batch, first: int, parts: list[Described]) -> None:
        nonlocal spent
        s = batch.sensors["s2"]
        x = torch.cat([s.x, s.x[:, :, [0, 7]]], 2)[:, :, AS_TWELVE]
        batch = batch.replace(sensors={"s2": s.replace(x=x, bands=TWELVE)})
        began = time.process_time()
        parts.append(describe_batch(batch, first, chosen, None, Limits()))
        spent += time.process_time() - began

    for first in range(0, count, CHUNK):
        some, twinned = range(first, min(first + CHUNK, count)), first < each * len(KINDS)
        made = (wide if twinned else plain).read(range(first // turns, -(-some.stop // turns)))
        whole = collate([turned(made, k) for k in range(turns)]).first(len(some))
        add(_date(cut(whole, MARGIN, MARGIN, SIZE), 0) if twinned else whole, first, parts)
        for k in range(len(whole)):
            if first + k < each * len(KINDS):
                kind = names[(first + k) % len(KINDS)]
                twins.append((first + k, count + len(twins), kind))
                late.append(_twin(whole.take(torch.tensor([k])), kind, seed_of("twin", first + k)))
        if late and (len(late) >= CHUNK or first + CHUNK >= count):
            add(collate(late), count + len(twins) - len(late), tail)
            late.clear()
    return Described.join([*parts, *tail]), twins, time.process_time() - start - spent, spent


def turned(batch: Batch, k: int) -> Batch:
    """In one of the ORIENTATIONS of a square."""
    return batch.map_grids(lambda t, _: torch.rot90(t.flip(-1) if k >= 4 else t, k % 4, (-2, -1)))


def _date(batch: Batch, date: int) -> Batch:
    return batch.replace(sensors={k: s.take_dates(torch.full((len(batch), 1), date)) for k, s in batch.sensors.items()})


def _twin(whole: Batch, kind: str, seed: int) -> Batch:
    """The twin of a place, from its picture with margins."""
    g = torch.Generator().manual_seed(seed)
    top, left = MARGIN, MARGIN
    if kind.startswith("shift"):
        top, left = torch.randint(0, 2 * MARGIN + 1, (2,), generator=g).tolist()
    batch = _date(cut(whole, top, left, SIZE), int(kind == "another date"))
    s = batch.sensors["s2"]
    x = KINDS[kind](s.x[:, 0], g)[:, None] * s.valid[:, :, None]
    return batch.replace(sensors={"s2": s.replace(x=x)})


def judge(
    described: Described, twins: list[tuple[int, int, str]], count: int
) -> tuple[Pairs, list[str], dict[str, float]]:
    """Recall by kind and false drops, as lines; seconds by stage."""
    seconds = {}
    began = time.process_time()
    spec = replace(Synthetic("pretrain", sensors=("s2",), dates=1).spec, bands={"s2": TWELVE})
    pairs = find_pairs(described.points, channels(spec))
    seconds["pairs"] = time.process_time() - began
    began = time.process_time()
    order = keep.prefer(described.reason, described.quality)
    alike = embeddings.compare(embeddings.standardised(described.figures), order, None)
    seconds["clusters"] = time.process_time() - began
    began = time.process_time()
    kept = decide(described.reason, described.quality, pairs, alike, SIZE, Rules())
    seconds["decision"] = time.process_time() - began
    found, relation = {*zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)}, kept.reason
    lines = []
    for kind in KINDS:
        mine = [(a, b) for a, b, k in twins if k == kind and described.reason[a] == 0 == described.reason[b]]
        seen = sum(p in found for p in mine)
        gone = sum(relation[a] == keep.COPY or relation[b] == keep.COPY for a, b in mine)
        lines.append(f"{kind:<15} {seen / len(mine):7.1%} found, {gone / len(mine):7.1%} left out, of {len(mine)}")
    partner = {a: b for a, b, _ in twins} | {b: a for a, b, _ in twins}
    wrong = [p for p in np.flatnonzero(kept.twin >= 0).tolist() if partner.get(p) != kept.twin[p]]
    lines.append(f"wrongly left out: {len(wrong) / count:.2%} of {count} places")
    tested = ", ".join(f"{c} {r}" for r, c in kept.counts().items() if r != keep.COPY)
    lines.append(f"left out by tests: {tested or 'none'}")
    return pairs, lines, seconds


def synthetic(count: int) -> None:
    torch.set_num_threads(1)
    costs = {}
    for n in (max(500, count // 10), count):
        described, twins, making, spent = planted(n)
        _, lines, seconds = judge(described, twins, n)
        costs[n] = {"describing": spent, **seconds}
        total = n + len(twins)
        print(f"\n{n:,} synthetic places of s2, 12 bands x 64 x 64, one date, and {len(twins):,} twins")
        print("\n".join(f"  {line}" for line in lines))
        print(
            f"  making them {making:.0f} s of CPU, not counted; "
            + ", ".join(f"{k} {v:.1f} s" for k, v in costs[n].items())
        )
        speed, points = total / sum(costs[n].values()), len(described.points) / total
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{speed:,.0f} places/s and core, {points:.1f} points a place, {most:.2f} GB at most so far", flush=True)
    (small, few), (large, many) = costs.items()
    hours = 0.0
    for stage in many:
        power = max(1.0, np.log(max(many[stage], 1e-3) / max(few[stage], 1e-3)) / np.log(large / small))
        hours += many[stage] * (1e7 / large) ** min(power, 2) / 3600
        print(f"  {stage}: time grows with places to the power {power:.2f}")
    print(f"  10^7 places at these powers: {hours:.1f} core hours")


def real(root: Path) -> None:
    """hls_water against the list of its overlaps; splits by area and at random."""
    source = build_source(load_choice("data", "hls_water") | {"splits": None}, "pretrain")
    names = source.names()
    pairs = find_pairs(describe(source, Limits(), None).points, channels(source.spec))
    shown = {
        (names[a], names[b]): (int(dy), int(dx))
        for a, b, dy, dx in zip(pairs.a, pairs.b, pairs.dy, pairs.dx, strict=True)
    }
    with (root / "hls_water" / "overlaps.csv").open() as file:
        listed = {(r["chip_a"], r["chip_b"]): r for r in csv.DictReader(file)}
    whole = {p for p, r in listed.items() if r["row_shift"] == r["col_shift"] == "0"}
    moved = {p for p, r in listed.items() if p not in whole and float(r["overlap"]) >= 0.4}
    same = {p for p, at in shown.items() if max(map(abs, at)) <= 1}
    print(f"\nhls_water: {len(shown)} pairs found, {len(listed)} listed")
    print(
        f"  same footprint: recall {len(whole & same) / len(whole):.3f}, {len(same & whole)} of {len(same)} are listed"
    )
    print(
        f"  shifted windows that share 0.4 or more: recall {len(moved & shown.keys()) / len(moved):.3f} of {len(moved)}"
    )
    beyond = [confirmation(root, pair, shown[pair]) for pair in shown if pair not in listed]
    agreed = [k for k in beyond if k is not None]
    print(
        f"  {len(beyond)} pairs beyond the list: land cover, which is not compared, agrees on the common ground with "
        f"kappa > 0.7 in {np.mean([k > 0.7 for k in agreed]):.1%} of {len(agreed)} that have two classes or more there"
    )
    for by, told in (("group", "as shipped"), ("column", "as it came"), ("random", "at random")):
        options = load_choice("data", "hls_water")
        options["splits"] = options["splits"] | {"by": by} | ({} if by == "group" else {"overlaps": "allow"})
        splits = {s: build_source(options, s) for s in ("train", "val", "test")}
        print(f"  split {told}:")
        for leak in leaks("pretraining", build_source(options, "pretrain"), splits):
            if leak.into == "test" and leak.of != "val":
                print(f"    {leak.line()}")


def confirmation(root: Path, pair: tuple[str, str], shift: tuple[int, int]) -> float | None:
    """Cohen's kappa of WorldCover on the ground that two chips are said to share; None where it is of one class."""
    import rasterio

    parts = []
    for chip, sign in zip(pair, (1, -1), strict=True):
        with rasterio.open(root / "hls_water" / "images" / f"{chip}.tif") as file:
            codes = file.read(11)
        rows, columns = (slice(max(0, sign * d), len(codes) + min(0, sign * d)) for d in shift)
        parts.append(codes[rows, columns])
    a, b = parts
    chance = sum(float((a == c).mean() * (b == c).mean()) for c in np.union1d(a, b))
    return None if chance > 0.98 else (float((a == b).mean()) - chance) / (1 - chance)


if __name__ == "__main__":
    if folder := os.environ.get("GFM_DATA"):
        real(Path(folder))
    synthetic(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
