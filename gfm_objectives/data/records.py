"""Records: a place as bytes of a fixed make-up, exactly: what is read back is what was written, bit for bit.

Values are kept as small whole numbers where that loses nothing (reflectance x 10000, 8 bits, metres), else as floats;
validity as bits; class labels in a byte or two. A shard has one make-up, so place k begins at k times its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series
from gfm_objectives.errors import InputError

# What values are tried as, smallest first; value = stored * step. The last holds everything.
CODINGS = (("uint8", 1 / 255), ("int16", 1e-4), ("uint16", 1e-4), ("int16", 1.0), ("float16", None), ("float32", None))
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "int32", "float16", "float32")  # numbers: nothing that unpickles


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a record: its bytes begin at `at`; bool is kept as bits; step: what stored is multiplied by."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    step: float | None = None

    @property
    def nbytes(self) -> int:
        return -(-self.count // 8) if self.dtype == "bool" else self.count * np.dtype(self.dtype).itemsize

    @property
    def count(self) -> int:
        """Values it holds."""
        return math.prod(self.shape)

    @property
    def labels(self) -> bool:
        """Of classes, read as int64; other numbers are read as float32."""
        return self.name.startswith("target.") and self.dtype.startswith("int") and self.step is None


@dataclass(frozen=True, slots=True)
class MakeUp:
    """The fields of the records of a shard, and how many bytes each record has."""

    fields: tuple[Field, ...]
    nbytes: int

    def describe(self) -> dict[str, Any]:
        return {"fields": [asdict(f) for f in self.fields], "nbytes": self.nbytes}


def read_make_up(described: Mapping[str, Any], where: object) -> MakeUp:
    """The inverse of `describe`. InputError where it names anything but numbers of a fixed size."""
    fields = []
    for f in described["fields"]:
        if f["dtype"] not in DTYPES:
            raise InputError(
                f"{where}: names the format {f['dtype']!r}; shards hold {', '.join(DTYPES)} and nothing that runs code "
                "when it is read; write them with gfm prepare"
            )
        fields.append(Field(f["name"], f["dtype"], tuple(f["shape"]), int(f["at"]), f["step"]))
    return MakeUp(tuple(fields), int(described["nbytes"]))


# ---------------------------------------------------------------- writing


def arrays(place: Batch) -> dict[str, np.ndarray]:
    """A batch of one as named arrays, invalid pixels 0."""
    out = {}
    for name, s in place.sensors.items():
        x = torch.where(s.valid[0][:, None], s.x[0], 0.0)
        out[f"{name}.x"], out[f"{name}.valid"] = x.numpy(), s.valid[0].numpy()
        out[f"{name}.day"] = s.day[0].float().numpy()
    for layer, y in place.targets.items():
        out[f"target.{layer}"] = y[0].numpy()
    out["gsd"] = place.gsd[0].numpy()
    if place.lonlat is not None:
        out["lonlat"] = place.lonlat[0].numpy()
    return out


def make_up(places: Sequence[Mapping[str, np.ndarray]]) -> MakeUp:
    """The smallest that holds all of these places exactly."""
    fields, at = [], 0
    for name, first in places[0].items():
        if first.dtype == bool:
            dtype, step = "bool", None
        elif first.dtype == np.int64:
            low, high = (f(int(getattr(p[name], w)()) for p in places) for f, w in ((min, "min"), (max, "max")))
            dtype, step = (
                next(d for d in ("int8", "int16", "int32") if np.iinfo(d).min <= low and high <= np.iinfo(d).max),
                None,
            )
        else:
            dtype, step = _coding([p[name] for p in places])
        field = Field(name, dtype, first.shape, at, step)
        fields.append(field)
        at += field.nbytes
    return MakeUp(tuple(fields), at)


def _coding(values: Iterable[np.ndarray]) -> tuple[str, float | None]:
    left = list(CODINGS)
    for x in values:
        while not np.array_equal(_decoded(_encoded(x, *left[0]), left[0][1]), x, equal_nan=True):
            left.pop(0)
    return left[0]


def _encoded(x: np.ndarray, dtype: str, step: float | None) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        if step is None:
            return x.astype(dtype)
        info = np.iinfo(dtype)
        return np.clip(np.nan_to_num(np.round(x / step)), info.min, info.max).astype(dtype)


def _decoded(stored: np.ndarray, step: float | None) -> np.ndarray:
    x = stored.astype(np.float32)
    return x if step is None else x * np.float32(step)


def encode(place: Mapping[str, np.ndarray], made: MakeUp) -> bytes:
    parts = []
    for f in made.fields:
        values = place[f.name]
        assert values.shape == f.shape, (f, values.shape)
        if f.dtype == "bool":
            values = np.packbits(values.reshape(-1))
        elif values.dtype == np.int64:
            values = values.astype(f.dtype)
        else:
            values = _encoded(values, f.dtype, f.step)
        parts.append(np.ascontiguousarray(values).tobytes())
    return b"".join(parts)


# ---------------------------------------------------------------- reading


def decode(records: Sequence[memoryview | bytes], made: Sequence[MakeUp]) -> dict[str, np.ndarray]:
    """Records, each of its make-up -> named arrays (B, ...): float32, bool, or int64 of labels."""
    if all(m is made[0] for m in made):
        return _decode_alike(records, made[0])
    each = [_decode_alike([record], one) for record, one in zip(records, made, strict=True)]
    return {name: np.concatenate([e[name] for e in each]) for name in each[0]}


def _decode_alike(records: Sequence[memoryview | bytes], made: MakeUp) -> dict[str, np.ndarray]:
    """Of one make-up: field by field, all records at a time."""
    b, out = len(records), {}
    for f in made.fields:
        if f.dtype == "bool":
            stored = np.stack([np.frombuffer(r, np.uint8, f.nbytes, f.at) for r in records])  # (B, bytes)
            values: np.ndarray = np.unpackbits(stored, axis=1, count=f.count).view(np.bool_)
        else:
            values = np.empty((b, f.count), np.int64 if f.labels else np.float32)
            dtype, count, at = np.dtype(f.dtype), f.count, f.at
            for record, into in zip(records, values, strict=True):  # straight from where the record lies
                if f.step is None:
                    into[:] = np.frombuffer(record, dtype, count, at)
                else:
                    np.multiply(np.frombuffer(record, dtype, count, at), np.float32(f.step), out=into)
        out[f.name] = values.reshape(b, *f.shape)
    return out


def unpack(records: Tensor, made: MakeUp) -> dict[str, Tensor]:
    """As `decode`, of records (B, bytes) uint8 of one make-up, on the device where they are."""
    return {f.name: _unpacked(records[:, f.at : f.at + f.nbytes], f) for f in made.fields}


def _unpacked(part: Tensor, f: Field) -> Tensor:
    """part: (B, bytes) of a field."""
    shape = (len(part), *f.shape)
    if f.dtype == "bool":
        shift = torch.arange(7, -1, -1, dtype=torch.uint8, device=part.device)
        bits = (part[:, :, None] >> shift) & 1  # (B, bytes, 8)
        return bits.flatten(1)[:, : f.count].bool().view(shape)
    kind = torch.int16 if f.dtype == "uint16" else getattr(torch, f.dtype)  # few operations know uint16
    values = part.clone(memory_format=torch.contiguous_format).view(kind).view(shape)  # fields may begin at odd bytes
    if f.labels:
        return values.long()
    x = (values.int() & 0xFFFF if f.dtype == "uint16" else values).float()
    return x if f.step is None else x.mul_(f.step)


def to_batch(
    held: Mapping[str, np.ndarray] | Mapping[str, Tensor],
    bands: Mapping[str, tuple[str, ...]],
    levels: Mapping[str, str],
) -> Batch:
    """Fields (B, ...) as a batch; levels: of each sensor."""
    tensors = {k: v if isinstance(v, Tensor) else torch.from_numpy(v) for k, v in held.items()}
    sensors = {
        name: Series(tensors[f"{name}.x"], tensors[f"{name}.valid"], tensors[f"{name}.day"], names, levels[name])
        for name, names in bands.items()
    }
    targets = {k.removeprefix("target."): t for k, t in tensors.items() if k.startswith("target.")}
    return Batch(sensors, targets, tensors["gsd"], tensors.get("lonlat"))
