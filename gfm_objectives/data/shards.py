"""Shards: any source, read once by `gfm prepare` and written as records; `data=shards` reads them back, bit for bit.

The loader owns order and state: step k's places are a function of (seed, k, rank), so shards only have to hand out any
place at any time. They are plain files of records of one size, mapped into memory, or read by ranges of bytes from an
object store. docs/shards.md says what was measured.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.data.folder import find_folder
from gfm_objectives.data.packed import Packed, own_means
from gfm_objectives.data.records import decode, read_make_up, to_batch
from gfm_objectives.data.source import SPLITS, Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import MIXED, Legend, calibration

FORMAT = "gfm-shards-1"
INDEX = "index.json"
Range = tuple[str, int, int]  # file, first byte, byte after the last


class Shards(Source):
    """Places that `gfm prepare` wrote.

    root: the folder it wrote to, or a URL such as s3://bucket/mmearth (needs fsspec's reader of that kind of store);
    license: instead of the source's own. Tiles are places. Fingerprint, licence and legends are those of the source:
    a run on shards is the same run, and bears the cost of the keep-list they were written by. InputError names what is
    missing, cut short or of a format that is refused.
    """

    def __init__(self, split: str, *, root: str, license: str = "") -> None:
        assert split in SPLITS, split
        self._store = open_store(root)
        with _whole(root):
            self._open(split, read_index(self._store, root), root, license)

    def _open(self, split: str, index: dict[str, Any], root: str, license: str) -> None:
        if split not in index["splits"]:
            known = ", ".join(index["splits"])
            raise InputError(
                f"data.root={root}: holds the splits {known}; write {split} too: gfm prepare splits=[{split},...]"
            )
        held = index["splits"][split]
        self.spec = read_spec(index["spec"])
        self.fingerprint = held["fingerprint"]
        self.synthetic, self.license = index["synthetic"], license or index["license"]
        self._about = f"{index['name']}, prepared"
        self._normalised: bool = index["normalised"]
        self._kept: dict[str, Any] = held.get("kept", {})
        self._levels: list[dict[str, str]] = index["levels"]
        self._known: dict[tuple[str, str], torch.Tensor] = {}
        self._files = [s["file"] for s in held["shards"]]
        every = [read_make_up(s["make_up"], root) for s in held["shards"]]
        kinds = {m: m for m in every}  # one object each, so that places of shards alike are decoded together
        self._made = [kinds[m] for m in every]
        counts = [s["count"] for s in held["shards"]]
        self._ends = np.cumsum(counts)
        for file, made, count in zip(self._files, self._made, counts, strict=True):
            if (size := self._store.size(file)) != made.nbytes * count:
                raise InputError(f"{root}/{file}: has {size} bytes, not {made.nbytes * count}; run gfm prepare again")
        tags = self._store.read([(held["places"], 0, self._store.size(held["places"]))])[0]
        rows = [line.split("\t") for line in bytes(tags).decode().splitlines()]
        if len(rows) != self._ends[-1]:
            raise InputError(
                f"{root}/{held['places']}: has {len(rows)} lines, not {self._ends[-1]}; run gfm prepare again"
            )
        self._level = np.array([int(level) for level, _ in rows], dtype=np.int16)
        self._areas = [area for _, area in rows]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def groups(self) -> list[str]:
        return list(self._areas)

    def notes(self) -> list[str]:
        kept = [self._kept["told"]] if self._kept else []
        return [f"{self._about}: {len(self)} places in {len(self._files)} shards", *kept]

    def preparation(self, places: int) -> tuple[float, float]:
        flops, seconds = self._kept.get("cost", (0.0, 0.0))
        return flops, seconds

    @property
    def normalised(self) -> bool:
        return self._normalised

    def read(self, indices: Sequence[int]) -> Batch:
        batch = self._decoded(indices)
        if self._normalised:
            return batch
        sensors = {name: self._scaled(name, s, indices) for name, s in batch.sensors.items()}
        return batch.replace(sensors=sensors)

    def raw(self, indices: Sequence[int]) -> Batch:
        return super().raw(indices) if self._normalised else self._decoded(indices)

    def packed(self, indices: Sequence[int]) -> Batch | Packed:
        shards = np.searchsorted(self._ends, indices, side="right")
        made = self._made[shards[0]]
        if any(self._made[k] is not made for k in shards):  # shards of one data set are alike, with few exceptions
            return self.read(indices)
        records = np.empty((len(indices), made.nbytes), np.uint8)
        held: Sequence[memoryview | bytes] = self._store.read([self.place(i) for i in indices])
        for record, into in zip(held, records, strict=True):
            into[:] = np.frombuffer(record, np.uint8)
        figures = {
            name: torch.stack([self._figures(name, level) for level in self._levels_of(name, indices)])  # (B, 2, C)
            for name in (() if self._normalised else self.spec.bands)
        }
        centred = frozenset(n for n in figures if calibration(n, self._levels_of(n, indices[:1])[0]).centred)
        levels = self._level_of_all(indices)
        return Packed(torch.from_numpy(records), figures, made, self.spec.bands, levels, centred)

    def _scaled(self, name: str, s: Series, indices: Sequence[int]) -> Series:
        """Normalised, in place; where levels differ, each place by the figures of its own."""
        levels = self._levels_of(name, indices) if s.level == MIXED else [s.level]
        mean, std = torch.stack([self._figures(name, level) for level in levels])[:, :, None, :, None, None].unbind(1)
        seen = torch.tensor([[np.count_nonzero(look) for look in place] for place in s.valid.numpy()])  # (B, T)
        if calibration(name, levels[0]).centred:
            mean = own_means(s, seen)
        x = s.x.sub_(mean).div_(std)  # (B, T, C, H, W), (B or 1, 1, C, 1, 1)
        for look in (seen < x[0, 0, 0].numel()).nonzero().tolist():  # most are whole, and a mask costs three passes
            x[tuple(look)].masked_fill_(~s.valid[tuple(look)], 0)
        return s.replace(x=x)

    def _figures(self, name: str, level: str) -> torch.Tensor:
        """Means and deviations of a level, (2, C)."""
        if (name, level) not in self._known:
            of = calibration(name, level)
            pick = [of.bands[i] for i in of.index(self.spec.bands[name])]
            self._known[name, level] = torch.tensor([[getattr(b, k) for b in pick] for k in ("mean", "std")])
        return self._known[name, level]

    def _levels_of(self, name: str, indices: Sequence[int]) -> list[str]:
        return [self._levels[self._level[i]][name] for i in indices]

    def place(self, i: int) -> Range:
        """Where the record of a place lies."""
        shard = int(np.searchsorted(self._ends, i, side="right"))
        nbytes = self._made[shard].nbytes
        at = (i - int(self._ends[shard - 1] if shard else 0)) * nbytes
        return self._files[shard], at, at + nbytes

    def _decoded(self, indices: Sequence[int]) -> Batch:
        made = [self._made[k] for k in np.searchsorted(self._ends, indices, side="right")]
        held = decode(self._store.read([self.place(i) for i in indices]), made)
        return to_batch(held, self.spec.bands, self._level_of_all(indices))

    def _level_of_all(self, indices: Sequence[int]) -> dict[str, str]:
        levels = {name: set(self._levels_of(name, indices)) for name in self.spec.bands}
        return {name: found.pop() if len(found) == 1 else MIXED for name, found in levels.items()}


# ---------------------------------------------------------------- the index


@contextmanager
def _whole(root: str) -> Iterator[None]:
    """What is missing from an index, or of another sort, as one line."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, LookupError, AttributeError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{root}/{INDEX}: damaged ({said}); run gfm prepare again") from None


def read_index(store: Local | Remote, root: str) -> dict[str, Any]:
    try:
        index = json.loads(bytes(store.read([(INDEX, 0, store.size(INDEX))])[0]))
    except FileNotFoundError:
        raise InputError(f"data.root={root}: holds no {INDEX}; gfm prepare writes it last, run it (again)") from None
    except ValueError as error:
        raise InputError(f"{root}/{INDEX}: cannot be read ({error}); run gfm prepare again") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        kind = index.get("format") or index.get("config", {}).get("data_format") if isinstance(index, dict) else index
        raise InputError(
            f"{root}/{INDEX}: is of the format {kind}, not {FORMAT}; others are not read, as some run code"
        )
    return index


def describe_spec(spec: Spec) -> dict[str, Any]:
    legends = {k: [g.name, g.classes, g.codes, g.colors] for k, g in spec.legends.items()}
    return {"bands": spec.bands, "dates": spec.dates, "size": spec.size, "gsd": spec.gsd, "legends": legends}


def read_spec(d: dict[str, Any]) -> Spec:
    legends = {k: Legend(g[0], *(None if v is None else tuple(v) for v in g[1:])) for k, g in d["legends"].items()}  # type: ignore[arg-type]
    return Spec({k: tuple(v) for k, v in d["bands"].items()}, d["dates"], d["size"], d["gsd"], legends)


# ---------------------------------------------------------------- where the bytes are


def open_store(root: str) -> Local | Remote:
    return Remote(root) if "://" in root else Local(find_folder(root))


class Local:
    """Files of a folder, mapped into memory: a place that was read lately costs a copy, no call to the system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: dict[str, mmap.mmap] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_maps": {}}

    def size(self, file: str) -> int:
        return os.stat(self.folder / file).st_size

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        return [memoryview(self._mapped(file))[first:end] for file, first, end in ranges]

    def _mapped(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            with (self.folder / file).open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]


class Remote:
    """Files of an object store, read by ranges of bytes, those of a batch at the same time."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._opened: tuple[int, Any] | None = None
        self._sizes: dict[str, int] = {}
        self._fs()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # connections neither pickle nor survive a fork

    def size(self, file: str) -> int:
        if not self._sizes:  # one listing instead of a request for each shard
            held = self._fs().find(self.root, detail=True)
            base = self._fs()._strip_protocol(self.root).rstrip("/")
            self._sizes = {str(k).removeprefix(base).lstrip("/"): v["size"] for k, v in held.items()}
        if file not in self._sizes:
            raise FileNotFoundError(f"{self.root}/{file}")
        return self._sizes[file]

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        paths = [f"{self.root}/{file}" for file, _, _ in ranges]
        first, end = ([r[k] for r in ranges] for k in (1, 2))
        return self._fs().cat_ranges(paths, first, end, on_error="raise")

    def _fs(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            try:
                self._opened = os.getpid(), fsspec.core.url_to_fs(self.root)[0]
            except (ImportError, ValueError) as error:
                raise InputError(f"data.root={self.root}: {str(error).splitlines()[0]}") from None
        return self._opened[1]


def chunks(count: int, size: int) -> Iterator[range]:
    """0 .. count - 1 in runs of `size`."""
    return (range(k, min(k + size, count)) for k in range(0, count, size))
