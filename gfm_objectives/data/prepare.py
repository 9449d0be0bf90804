"""`gfm prepare`: every place of a source read once, in parallel, and written as shards that `data=shards` reads."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import disk, lock
from gfm_objectives.batch import Batch
from gfm_objectives.data import build_source
from gfm_objectives.data.kept import Curated, check_read
from gfm_objectives.data.records import arrays, encode, make_up
from gfm_objectives.data.shards import FORMAT, INDEX, chunks, describe_spec
from gfm_objectives.data.source import Source
from gfm_objectives.data.telling import Telling
from gfm_objectives.errors import InputError
from gfm_objectives.signals import fork_server

PLAN = "plan.json"  # what the folder is being written for; a folder with one and no index is unfinished


def run(cfg: DictConfig) -> Path:
    """Write what is not yet written of the shards `cfg` asks for; returns their folder. The index comes last."""
    options: dict[str, Any] = OmegaConf.to_container(cfg.data)  # type: ignore[assignment]
    if options.get("protocol"):
        raise InputError(
            f"data.protocol={options['protocol']}: shards know the figures of the sensor table alone; prepare without "
            "it, and read the set itself where its own figures are wanted"
        )
    sources = _sources(options, cfg.get("keep"), cfg.splits)
    out = Path(cfg.out) / cfg.name
    root = os.path.expandvars(os.path.expanduser(str(options.get("root") or "")))
    if root and Path(root).resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out}: holds the data that is read; choose another out= or name=")
    first = next(iter(sources.values()))
    nbytes = len(encode(a := arrays(read(first, 0)), make_up([a])))
    per = max(1, round(cfg.shard_mb * 2**20 / nbytes))
    plan = {"format": FORMAT, "per": per, "splits": {k: [s.fingerprint, len(s)] for k, s in sources.items()}}
    with lock.alone(out), disk.naming(out):
        _open(out, plan, cfg.overwrite)
        _fill(cfg, out, sources, per, nbytes)
    return out


def _sources(options: dict[str, Any], keep: str | None, splits: Sequence[str]) -> dict[str, Source]:
    """Each split's source; of the split that a keep-list was made of the places it keeps."""
    named = options.get("keep")
    if keep and named and keep != named:
        raise InputError(f"keep={keep} and data.keep={named}: two lists; give one")
    options["keep"] = keep = keep or named
    sources = {split: build_source(options, split) for split in splits}
    check_read(keep, sources, "add it to splits=, or leave keep out")
    return sources


def _fill(cfg: DictConfig, out: Path, sources: Mapping[str, Source], per: int, nbytes: int) -> None:
    """The shards that are not there yet, then the index."""
    jobs = [(split, k) for split, s in sources.items() for k in range(-(-len(s) // per)) if not done(out, split, k)]
    places = sum(len(s) for s in sources.values())
    _check_room(out, nbytes * sum(len(chunk(sources[s], k, per)) for s, k in jobs))
    print(
        f"{cfg.name}: {places} places of {nbytes / 1e3:.0f} kB, {per} to a shard; {len(jobs)} shards to write",
        flush=True,
    )
    _write_all(out, sources, jobs, per, cfg.workers)
    index = _index(out, cfg.data.name, sources, per)
    disk.write(out / INDEX, json.dumps(index))
    (out / PLAN).unlink()
    _tell(index, out)


def read(source: Source, k: int) -> Batch:
    """One place in the sensors' units; normalised where the source has nothing else."""
    return source.read([k]) if source.normalised else source.raw([k])


def chunk(source: Source, k: int, per: int) -> range:
    return list(chunks(len(source), per))[k]


# ---------------------------------------------------------------- one shard


def write(out: Path, source: Source, split: str, k: int, which: Sequence[int]) -> None:
    """Shard k of a split: its records, then the file that says that they are whole."""
    torch.set_num_threads(1)
    places = [read(source, i) for i in which]
    held = [arrays(p) for p in places]
    made = make_up(held)
    path = out / split / f"{k:05}.bin"
    path.parent.mkdir(exist_ok=True)
    with disk.replacing(path) as scratch:
        scratch.write_bytes(b"".join(encode(place, made) for place in held))
    about = {
        "file": f"{split}/{k:05}.bin",
        "count": len(places),
        "make_up": made.describe(),
        "levels": [{name: s.level for name, s in p.sensors.items()} for p in places],
        "statistics": moments(places),
    }
    disk.write(path.with_suffix(".json"), json.dumps(about))


def moments(places: Sequence[Batch]) -> dict[str, list[list[float]]]:
    """Sensor -> of each band n, sum, sum of squares over valid pixels."""
    out = {}
    for name, s in places[0].sensors.items():
        total = np.zeros((len(s.bands), 3))
        for place in places:
            series = place.sensors[name]
            x = series.x[0].movedim(1, 0)[:, series.valid[0]].double()  # (C, n)
            total += np.stack([np.full(len(x), x.shape[1]), x.sum(1).numpy(), x.square().sum(1).numpy()], 1)
        out[name] = total.tolist()
    return out


def done(out: Path, split: str, k: int) -> bool:
    """Whether shard k was written whole before."""
    path = out / split / f"{k:05}.json"
    if not path.is_file():
        return False
    try:
        about = json.loads(path.read_text())
        file, nbytes = out / about["file"], about["count"] * about["make_up"]["nbytes"]
    except (ValueError, KeyError, TypeError):
        return False  # damaged: it is written again
    return file.is_file() and file.stat().st_size == nbytes


# ---------------------------------------------------------------- all of them


_source: dict[str, Source] = {}  # of a worker: handed over once, not with every shard


def _receive(sources: Mapping[str, Source]) -> None:
    _source.update(sources)


def _write(out: Path, split: str, k: int, per: int) -> int:
    which = chunk(_source[split], k, per)
    write(out, _source[split], split, k, which)
    return len(which)


def _write_all(
    out: Path, sources: Mapping[str, Source], jobs: Sequence[tuple[str, int]], per: int, workers: int | None
) -> None:
    left, written = sum(len(chunk(sources[s], k, per)) for s, k in jobs), 0
    count = min(workers or os.cpu_count() or 1, max(1, len(jobs)))
    with Telling("places", left) as tell:
        if count == 1:
            _receive(sources)
            for split, k in jobs:
                tell.done(written := written + _write(out, split, k, per))
            return
        with ProcessPoolExecutor(count, fork_server(__name__), _receive, (dict(sources),)) as pool:
            futures = [pool.submit(_write, out, split, k, per) for split, k in jobs]
            try:
                for future in as_completed(futures):
                    tell.done(written := written + future.result())
            except KeyboardInterrupt:  # a shard may take minutes: what is half written goes
                for worker in multiprocessing.active_children():
                    worker.kill()
                    worker.join()
                for scratch in out.rglob(f"{disk.SCRATCH}*"):
                    scratch.unlink(missing_ok=True)
                raise
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _index(out: Path, name: str, sources: Mapping[str, Source], per: int) -> dict[str, Any]:
    """What readers need, and each split's list of places: the level and the area of each."""
    first = next(iter(sources.values()))
    levels: list[dict[str, str]] = []
    splits: dict[str, Any] = {}
    totals: dict[str, Any] = {}
    for split, source in sources.items():
        shards, rows = [], []
        for k in range(-(-len(source) // per)):
            about = disk.read_json(out / split / f"{k:05}.json", "delete it, and the same command writes it again")
            for level in about.pop("levels"):
                if level not in levels:
                    levels.append(level)
                rows.append(levels.index(level))
            for sensor, found in about.pop("statistics").items():
                totals[sensor] = totals.get(sensor, 0) + np.array(found)
            shards.append(about)
        lines = [f"{level}\t{area}" for level, area in zip(rows, source.groups(), strict=True)]
        disk.write(out / split / "places.tsv", "\n".join(lines))
        splits[split] = {"fingerprint": source.fingerprint, "places": f"{split}/places.tsv", "shards": shards}
        if isinstance(source, Curated):
            splits[split]["kept"] = {"told": source.told, "cost": source.cost}
    statistics = {
        sensor: {band: _figures(*row) for band, row in zip(first.spec.bands[sensor], total, strict=True)}
        for sensor, total in totals.items()
    }
    return {
        "format": FORMAT,
        "name": name,
        "license": first.license,
        "synthetic": first.synthetic,
        "normalised": first.normalised,
        "spec": describe_spec(first.spec),
        "levels": levels,
        "statistics": statistics,
        "splits": splits,
    }


def _figures(n: float, total: float, squares: float) -> dict[str, float]:
    mean = total / max(n, 1)
    return {"n": n, "mean": mean, "std": max(0.0, squares / max(n, 1) - mean**2) ** 0.5}


def _open(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    found = [p for p in out.iterdir() if p.name != lock.NAME and not p.name.startswith(disk.SCRATCH)]
    if found and not ((out / INDEX).exists() or (out / PLAN).exists()):
        raise InputError(f"{out}: holds files that are no shards; choose another name=")
    if overwrite:
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        found = []
    if (out / INDEX).exists():
        raise InputError(f"{out}: holds finished shards; choose another name=, or overwrite=true")
    if (out / PLAN).exists():
        if (out / PLAN).read_text() != json.dumps(plan):
            raise InputError(f"{out}: was begun for other data or shard_mb; choose another name=, or overwrite=true")
    disk.write(out / PLAN, json.dumps(plan))


def _check_room(out: Path, nbytes: int) -> None:
    free = shutil.disk_usage(out).free
    if nbytes > free:
        raise InputError(
            f"{out}: needs about {nbytes / 2**20:,.1f} MiB, and {free / 2**20:,.1f} are free; choose another out="
        )


def _tell(index: dict[str, Any], out: Path) -> None:
    total = sum(s["count"] * s["make_up"]["nbytes"] for split in index["splits"].values() for s in split["shards"])
    kept = index["splits"][next(iter(index["splits"]))]["shards"][0]["make_up"]["fields"]
    as_ = ", ".join(f"{f['name'][:-2]} {f['dtype']}" for f in kept if f["name"].endswith(".x"))
    print(f"  -> {out}, {total / 1e6:.1f} MB ({as_}); read it: data=shards data.root={out}")
