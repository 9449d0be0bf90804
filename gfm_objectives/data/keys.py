"""Keys of a yaml checked one by one; InputError names the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfm_objectives.errors import InputError


def block_of(key: str, value: Any, needed: Sequence[str], optional: Sequence[str]) -> Mapping[str, Any]:
    block = mapping(key, value)
    known_keys(key, block, (*needed, *optional))
    for name in needed:
        if block.get(name) is None:
            raise InputError(f"{key}.{name}: is missing")
    return block


def known_keys(key: str, block: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in block:
        if name not in names:
            raise InputError(f"{key}.{name}: no such key; choose from {', '.join(names)}")


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{key}={value!r}: expected a block of `name: value` lines")
    return value


def several(value: Any) -> list[Any]:
    """One value or a list of them, as a list; nothing for null."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}={value!r}: expected a number")
    return value


def whole(key: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{key}={value!r}: expected a whole number, at least {least}")
    return value
