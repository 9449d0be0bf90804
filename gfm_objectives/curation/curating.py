"""`gfm curate`: every place is read once, tested and described; then pairs, clusters, the keep-list and its page."""

from __future__ import annotations

import csv
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import disk, lock
from gfm_objectives.curation import embeddings, keep
from gfm_objectives.curation.describing import Described, describe
from gfm_objectives.curation.embedders import Embedder, open_embedder
from gfm_objectives.curation.engines import Engine, open_engine
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.fingerprints import channels
from gfm_objectives.curation.handover import export, read_answer
from gfm_objectives.curation.keep import KeepList, Rules
from gfm_objectives.curation.neighbours import Pairs, find_pairs
from gfm_objectives.curation.stages import Stages
from gfm_objectives.data import build_source
from gfm_objectives.data.source import Source
from gfm_objectives.data.splits import PAIR
from gfm_objectives.data.telling import Telling
from gfm_objectives.errors import InputError, InputWarning


@dataclass(frozen=True, slots=True)
class Curation:
    """What was found of a source."""

    described: Described
    pairs: Pairs
    alike: embeddings.Alike
    kept: KeepList
    seconds: float  # of CPU: of every stage, whichever call or process did it


def run(cfg: DictConfig) -> Path:
    """Write the keep-list at cfg.out and its page beside it; returns the path of the list. One process at a time has
    what was read so far."""
    out = Path(cfg.out)
    if out.suffix != ".parquet":
        raise InputError(f"out={out}: is a Parquet file; give a name that ends in .parquet")
    with lock.alone(out.with_suffix(".stages")), disk.naming(out):
        return _run(cfg, out)


def _run(cfg: DictConfig, out: Path) -> Path:
    from gfm_objectives.curation.page import write_page

    options: dict[str, Any] = OmegaConf.to_container(cfg.data)  # type: ignore[assignment]
    if cfg.export not in (None, "nemo"):
        raise InputError(f"export={cfg.export}: nemo is the one form there is; or null")
    options["keep"] = None  # what is curated is all of it
    source = build_source(options, cfg.split)
    of = {"data": options["name"], "split": cfg.split, "fingerprint": source.fingerprint}
    keep.check_own(out, of)  # better known before the reading
    embedder = open_embedder(cfg.embedding, source.spec)
    rules = Rules(cfg.overlap, cfg["copy"], cfg.seasons, cfg.epsilon)  # copy is a method of configs
    answer = Path(os.path.expanduser(cfg["import"])) if cfg["import"] else None
    engine = open_engine(cfg.engine)
    stages = out.with_suffix(".stages")
    found = curate(source, Limits(**cfg.tests), rules, stages, cfg.clusters, answer, embedder, True, engine)
    if cfg.export:
        export(embeddings.standardised(found.described.figures), out.with_suffix(".nemo"))
    about = {
        **of,
        "places": len(source),
        "rules": {"overlap": rules.overlap, "copy": rules.copy, "seasons": rules.seasons, "epsilon": rules.epsilon},
        "embedding": cfg.embedding,
        "flops": embedder.flops * len(source),
        "seconds": found.seconds,
    }
    keep.write(found.kept, source.names(), about, out)
    shared = write_pairs(found.pairs, source, out.with_suffix(".overlaps.csv"))
    page = write_page(out.with_suffix(".html"), cfg.name, source, found, rules, cfg.embedding)
    print(summary(cfg.name, found))
    if not found.kept.keep.any():
        warnings.warn(f"{out}: keeps no place; loosen tests.* or the rules", InputWarning, stacklevel=2)
    print(f"  -> {out}, {page}; use it: data.keep={out}")
    print(f"  -> {shared}: which chips share ground; in one split by data.splits.overlaps={shared.resolve()}")
    return out


def curate(
    source: Source,
    limits: Limits,
    rules: Rules,
    folder: Path | None = None,
    clusters: int | None = None,
    answer: Path | None = None,
    embedder: Embedder | None = None,
    bar: bool = False,
    engine: Engine | None = None,
) -> Curation:
    """All stages. With a folder what an interrupted call has read, and the pairs and clusters it found, are not made
    again; an answer of NeMo Curator says who is alike; by Ray the places are read and the clusters compared on other
    processes."""
    stages = Stages(folder)
    with Telling("places", len(source), bar) as tell:
        described = describe(source, limits, folder, tell.done, embedder, engine)
        points, chosen = described.points, channels(source.spec)
        pairs = stages.done("pairs", Pairs, lambda: find_pairs(points, chosen, progress=tell.stage))
        tell.stage("clustering")
        order, vectors = keep.prefer(described.reason, described.quality), embeddings.standardised(described.figures)
        alike = (
            read_answer(answer, len(source))
            if answer
            else stages.done(
                f"alike-{clusters or 'auto'}",
                embeddings.Alike,
                lambda: embeddings.compare(vectors, order, clusters, engine=engine),
            )
        )
    began = time.process_time()
    kept = keep.decide(described.reason, described.quality, pairs, alike, source.spec.size, rules)
    spent = float(described.spent.sum()) + stages.spent + time.process_time() - began
    return Curation(described, pairs, alike, kept, spent)


def write_pairs(pairs: Pairs, source: Source, path: Path) -> Path:
    """The chips that share ground, as data.splits.overlaps reads them: chip_a, chip_b, row and column by which what is
    seen in a lies further on in it than in b, and votes, the points that say so. Windows of one chip are no pair."""
    names = source.names()
    rows = [(names[a], names[b], *rest) for a, b, *rest in zip(
        *(x.tolist() for x in (pairs.a, pairs.b, pairs.dy, pairs.dx, pairs.votes)), strict=True)]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.replacing(path) as scratch, scratch.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*PAIR, "row_shift", "col_shift", "votes"))
        writer.writerows(sorted(row for row in rows if row[0] != row[1]))
    return path


def summary(name: str, found: Curation) -> str:
    """Lines for the terminal: what is left out and why, and what an epsilon would leave out beyond."""
    n, kept = len(found.kept.keep), int(found.kept.keep.sum())
    why = ", ".join(f"{count:,} {reason}" for reason, count in found.kept.counts().items()) or "nothing to leave out"
    sweep = ", ".join(f"{eps:g}: {count / n:.1%}" for eps, count in found.alike.sweep(found.kept.keep))
    return (
        f"{name}: {kept:,} of {n:,} places kept ({kept / n:.1%}); {why}\n"
        f"  {len(found.pairs):,} pairs show the same ground; {n / max(found.seconds, 1e-9):,.0f} places/s and core\n"
        f"  left out beyond that by epsilon, if you set one: {sweep}"
    )
