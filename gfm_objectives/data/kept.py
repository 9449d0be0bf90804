"""Curated: the places of a source that a keep-list of `gfm curate` names; nothing else of the source changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.batch import Batch
from gfm_objectives.data.packed import Packed
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError


class Curated(Source):
    """The places `index` of `source`, in its order; they are tiles too, for what is curated is trained on, not scored.

    digest: of the list, which the fingerprint covers; cost: FLOPs and seconds that making it took, charged to the run;
    told: the line that notes carry.
    """

    def __init__(self, source: Source, index: np.ndarray, digest: str, cost: tuple[float, float], told: str) -> None:
        self.source, self.index = source, index.astype(np.int64)
        self.spec, self.synthetic, self.license = source.spec, source.synthetic, source.license
        self.watched = source.watched
        self.fingerprint = hashlib.sha256(f"{source.fingerprint}/{digest}".encode()).hexdigest()[:16]
        self.cost, self.told = cost, told

    def __len__(self) -> int:
        return len(self.index)

    def read(self, indices: Sequence[int]) -> Batch:
        return self.source.read(self._of_source(indices))

    def packed(self, indices: Sequence[int]) -> Batch | Packed:
        return self.source.packed(self._of_source(indices))

    def raw(self, indices: Sequence[int]) -> Batch:
        return self.source.raw(self._of_source(indices))

    @property
    def normalised(self) -> bool:
        return self.source.normalised

    def groups(self) -> list[str]:
        groups = self.source.groups()
        return [groups[i] for i in self.index]

    def names(self) -> list[str]:
        names = self.source.names()
        return [names[i] for i in self.index]

    def footprints(self) -> list[np.ndarray | None]:
        every = self.source.footprints()
        alike = len(every) == len(self.source)
        return [every[i] for i in self.index] if alike else super().footprints()

    def notes(self) -> list[str]:
        return [*self.source.notes(), self.told]

    def preparation(self, places: int) -> tuple[float, float]:
        flops, seconds = self.source.preparation(places)
        return flops + self.cost[0], seconds + self.cost[1]

    def _of_source(self, indices: Sequence[int]) -> list[int]:
        return self.index[list(indices)].tolist()


def check_read(keep: str | None, sources: Mapping[str, Source], remedy: str) -> None:
    """InputError with the `remedy` where a keep-list is of no split that is read, and would change nothing."""
    if keep and not any(isinstance(source, Curated) for source in sources.values()):
        raise InputError(f"keep={keep}: is of another split than {', '.join(sources)}; {remedy}")


def curated(source: Source, split: str, keep: str) -> Source:
    """`source` with the keep-list at `keep`; as it is in a split that the list was not made for.

    InputError where the file is missing or no keep-list, or was made of other data.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(os.path.expanduser(keep))
    if not path.is_file():
        raise InputError(f"data.keep={keep}: no such file; gfm curate data=... out={keep} makes it")
    try:
        table = pq.read_table(path, columns=["id", "keep"])
        about: dict[str, Any] = json.loads(table.schema.metadata[b"gfm"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise InputError(f"data.keep={keep}: no keep-list; gfm curate data=... out={keep} makes one") from None
    if about["split"] != split:
        return source
    if about["fingerprint"] != source.fingerprint or about["places"] != len(source):
        raise InputError(
            f"data.keep={keep}: was made of other data ({about['places']} places, {about['fingerprint'][:8]}; "
            f"these are {len(source)}, {source.fingerprint[:8]}); curate these: gfm curate data=... out={keep}"
        )
    index = table["id"].to_numpy()[table["keep"].to_numpy(zero_copy_only=False)]
    if not len(index):
        raise InputError(f"data.keep={keep}: keeps no place; loosen the tests of gfm curate")
    digest = hashlib.sha256(np.ascontiguousarray(index).tobytes()).hexdigest()
    told = f"{len(index)} of {len(source)} {split} places kept, by {path}"
    return Curated(source, index, digest, (about["flops"], about["seconds"]), told)
