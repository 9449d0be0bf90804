"""Which pixels count: no data by value, judged in the file's own number type, and bands that flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfm_objectives.data.keys import block_of, number, several, whole
from gfm_objectives.errors import InputError

HUGE = 1e30  # no measurement is as large: -3.4e38 and its kin are no data, however many of their digits are written
BITS = 63  # that a flag may have, from 0
NONE = "none"  # in place of a value: what files declare is not to be believed


@dataclass(frozen=True, slots=True)
class NoData:
    """Values that say 'nothing here'. values: None = what each file declares, () = none; when: `any` band that has one
    hides the pixel, or only `all` together do, '' = by the unit: see `hidden`."""

    values: tuple[float, ...] | None = None
    when: str = ""

    def hidden(self, raw: np.ndarray, declared: Sequence[float | None], reflectance: bool) -> np.ndarray:
        """(T, C, h, w) as stored -> (T, h, w) bool. declared: by the file, for each of T * C.

        In reflectance a 0 is often a measurement (dark water in one band), so unless `when` says otherwise 0 hides a
        pixel only where all bands have it; every other value hides it in any.
        """
        dates, bands = raw.shape[:2]
        if self.values is None:
            given = [{v for v in [*declared[t * bands + c : t * bands + c + 1]] if v is not None}
                     for t in range(dates) for c in range(bands)]  # fmt: skip
        else:
            given = [{*self.values}] * (dates * bands)
        out = ~(np.abs(raw) < HUGE).all(1) if raw.dtype.kind == "f" else np.zeros((dates, *raw.shape[2:]), bool)
        for every in (False, True):
            for t in range(dates):
                masks = []
                for c in range(bands):
                    values = [v for v in given[t * bands + c] if every == self._together(v, reflectance)]
                    masks.append(equals_any(raw[t, c], values) if values else None)
                stated = [m for m in masks if m is not None]
                if stated and (not every or len(stated) == bands):
                    out[t] |= np.logical_and.reduce(stated) if every else np.logical_or.reduce(stated)
        return out

    def _together(self, value: float, reflectance: bool) -> bool:
        return self.when == "all" if self.when else reflectance and value == 0


def equals_any(raw: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """Bool, as `raw`: where it is one of `values` as its own type holds them."""
    out = np.zeros(raw.shape, bool)
    for value in values:
        if value != value:
            out |= np.isnan(raw) if raw.dtype.kind == "f" else False
        elif raw.dtype.kind == "f":
            beyond = abs(value) > HUGE
            out |= np.sign(value) * raw > HUGE if beyond else raw == raw.dtype.type(value)
        elif raw.dtype.kind == "b":
            out |= raw == bool(value) if value in (0, 1) else False
        elif float(value).is_integer() and np.iinfo(raw.dtype).min <= value <= np.iinfo(raw.dtype).max:
            out |= raw == raw.dtype.type(int(value))
    return out


def parse_nodata(key: str, value: Any) -> NoData:
    """null, `none`, a value, several, or {value: ..., when: all | any}."""
    if value is None:
        return NoData()
    when: Any = ""
    if isinstance(value, Mapping):
        block = block_of(key, value, needed=(), optional=("value", "when"))
        when, value = block.get("when") or "", block.get("value")
        if when not in ("", "all", "any"):
            raise InputError(f"{key}.when={when}: choose all (bands have the value) or any (of them)")
    if value is None:
        return NoData(None, when)
    if value == NONE:
        return NoData((), when)
    return NoData(tuple(number(key, v) for v in several(value)), when)


def parse_flags(key: str, block: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """invalid_bits and invalid_values, one or several of each."""
    bits, values = (
        tuple(whole(f"{key}.{k}", v) for v in several(block.get(k))) for k in ("invalid_bits", "invalid_values")
    )
    if too_high := [b for b in bits if b >= BITS]:
        raise InputError(f"{key}.invalid_bits={too_high[0]}: expected bits from 0 to {BITS - 1}")
    if too_high := [v for v in values if v >= 2**BITS]:
        raise InputError(f"{key}.invalid_values={too_high[0]}: no band holds so large a code")
    if not bits and not values:
        raise InputError(f"{key}: say which invalid_bits or invalid_values of the band mark pixels not to be used")
    return bits, values


DECLARED = NoData()  # as each file says


def beyond(bits: Sequence[int], values: Sequence[int], held: np.dtype) -> list[str]:
    """Of the flags of a quality band those that its number type cannot hold, in words."""
    if held.kind not in "iub":
        return []
    wide, most = (1, 1) if held.kind == "b" else (8 * held.itemsize, int(np.iinfo(held).max))
    return [f"bit {b}" for b in bits if b >= wide] + [f"value {v}" for v in values if v > most]


@dataclass(frozen=True, slots=True)
class Quality:
    """A band that flags pixels not to be used: where any of `bits` (from 0) is set or the value is one of `values`."""

    file: str
    band: int
    bits: tuple[int, ...]
    values: tuple[int, ...]

    def invalid(self, raw: np.ndarray, declared: float | None = None) -> np.ndarray:
        """Bool, as `raw`: where the pixel is not to be used. declared: the value of which the file says 'no data'; a
        pixel of which nothing is known is not fit for use."""
        missing = equals_any(raw, [] if declared is None else [declared])
        if raw.dtype.kind == "f":
            counted = np.abs(raw) < 2.0**BITS  # neither NaN nor more than a code can be
            missing |= ~counted
            raw = np.where(counted, raw, 0)
        codes = raw.astype(np.int64)
        missing |= (codes & sum(1 << b for b in self.bits)) != 0
        return missing | np.isin(codes, self.values) if self.values else missing
