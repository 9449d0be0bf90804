"""Values of config keys: from text to the type of the default, and back to text."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gfm_objectives.errors import InputError

if TYPE_CHECKING:
    from gfm_objectives.config.ranges import Range

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def parse(key: str, default: Any, value: Any, stated: Range | None = None) -> Any:
    """`value`, as text from a command line or read from yaml, in the type of `default`; else InputError.

    Where the default is null, the range stated for the key names the type; without one any scalar will do.
    """
    like = stated.like if default is None and stated else default
    null = default is None or bool(stated and stated.null)
    if not isinstance(like, list):
        return _parse(key, like, value, null, default)
    if null and (scalar(value, key) if isinstance(value, str) else value) is None:
        return None
    twins = bool(stated and stated.count and stated.count[0] == stated.count[1])  # such as betas: a place for each
    items = value if isinstance(value, list) else _items(key, str(value), twins)
    one = next((d for d in like if isinstance(d, float)), like[0] if like else "")
    return [_parse(key, one, item, False, default) for item in items]


def _parse(key: str, like: Any, value: Any, null: bool, default: Any) -> Any:
    """One value in the type of `like`; `default` is for the words of the InputError."""
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{key}: holds a null character, which no name or number has; write it anew")
    plain = scalar(value, key) if isinstance(value, str) else value
    if plain is None and null:
        return None
    want = None if like is None else type(like)
    if want is None:
        return plain
    if want is str and isinstance(value, str) and plain is not None:
        return value.strip("'\"")
    if want is bool and isinstance(plain, bool):
        return plain
    if want in (int, float) and isinstance(plain, int | float) and not isinstance(plain, bool):
        if abs(plain) <= sys.float_info.max and (want is float or plain == int(plain)):
            return want(plain)
    usual = "" if default is None else f" (default {show(default)})"
    raise InputError(f"{key}={show(value)}: expected {_EXPECTED.get(want, want.__name__)}{usual}")


def split_commas(key: str, text: str, twins: bool = False) -> list[str]:
    """The items of a comma list; commas inside brackets do not split. InputError for empty and, but for `twins`, for
    equal items."""
    items = [item.strip() for item in re.split(r",(?![^\[{]*[\]}])", text)]
    if "" in items:
        raise InputError(f"{key}={text}: an item of the list is empty")
    twice = next((i for i in items if items.count(i) > 1 and i != "-"), None)  # - skips one, of bands
    if twice and not twins:
        raise InputError(f"{key}={text}: {twice} is listed twice")
    return items


def _items(key: str, text: str, twins: bool = False) -> list[str]:
    """The items of `a,b`, `[a,b]` or `[]`. InputError where they are lists of lists, which no key wants."""
    if text.startswith("[["):
        raise InputError(f"{key}={text}: a list within a list; write [a,b], or a,b")
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return split_commas(key, inner, twins) if inner.strip() else []


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf, in order."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scalar(text: str, key: str = "") -> Any:
    """null, true, false, a number, a [list] of them, or the text itself; `key` is whose value it is, for InputError."""
    words = {"null": None, "~": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith("[") and text.endswith("]"):
        return [scalar(item, key) for item in _items(key or text, text)]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'\"")


def number(x: float) -> str:
    """A short name of a large number: 1e13, 2.5e11."""
    mantissa, exponent = f"{x:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def show(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, list):
        return ",".join(show(v) for v in value) or "[]"
    if isinstance(value, int) and len(digits := f"{value:d}") > 30:
        return f"{digits[:8]}... ({len(digits)} digits)"
    if isinstance(value, float) and (1e6 <= abs(value) < math.inf or 0 < abs(value) < 1e-3):
        return number(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
