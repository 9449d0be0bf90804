"""Values of config keys: from text to the type of the default, and the range each must lie in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from gfm_objectives.errors import InputError

Check = tuple[str, type | None, Callable[[Any], bool], str]


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda v: v in names), f"one of {', '.join(names)}"


_COUNT: tuple[Callable[[Any], bool], str] = (lambda v: v >= 1), "at least 1"
_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda v: v > 0), "greater than 0"
_NOT_NEGATIVE: tuple[Callable[[Any], bool], str] = (lambda v: v >= 0), "0 or more"
_BETWEEN: tuple[Callable[[Any], bool], str] = (lambda v: 0 < v < 1), "between 0 and 1, both excluded"
_SHARE: tuple[Callable[[Any], bool], str] = (lambda v: 0 <= v < 1), "0 or more and less than 1"

# key pattern, type where the default is null, condition, what it must be. Nulls are skipped: null means "decide".
CHECKS: tuple[Check, ...] = (
    ("name", str, lambda v: bool(re.fullmatch(r"\w[\w.+-]*", v)), "a folder name of letters, digits, . _ + -"),
    ("seed", int, *_NOT_NEGATIVE),
    ("threads", int, *_COUNT),
    ("workers", int, *_COUNT),
    ("resume", str, *_one_of("auto", "never")),
    ("device", str, lambda v: bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", v)), "auto, cpu, cuda or cuda:<number>"),
    ("precision", str, *_one_of("auto", "bf16", "fp32")),
    ("log_every", int, *_COUNT),
    ("checkpoint_every", float, lambda v: 0 < v <= 1, "greater than 0 and at most 1 (a share of the budget)"),
    ("optim.lr", float, *_POSITIVE),
    ("optim.weight_decay", float, *_NOT_NEGATIVE),
    ("optim.betas", None, lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers from 0 to below 1"),
    ("optim.clip", float, *_POSITIVE),
    ("*.batch_size", int, *_COUNT),
    ("loader.workers", int, *_NOT_NEGATIVE),
    ("loader.prefetch", int, *_COUNT),
    ("budget.flops", float, lambda v: v > 0, "greater than 0 (model FLOPs, such as 1e13)"),
    ("budget.warmup", int, *_NOT_NEGATIVE),
    ("budget.cooldown", float, *_SHARE),
    ("objective.mask_ratio", float, *_BETWEEN),
    ("objective.label_smoothing", float, *_SHARE),
    ("objective.boundary", float, *_NOT_NEGATIVE),
    ("objective.segments.classes", int, lambda v: v >= 2, "at least 2"),
    ("objective.segments.places", int, *_COUNT),
    ("objective.segments.scale", float, *_POSITIVE),
    ("objective.segments.size", int, *_COUNT),
    ("objective.dates", float, *_BETWEEN),
    ("objective.ema", float, *_SHARE),
    ("objective.temperature", float, *_POSITIVE),
    ("objective.duplicate", float, *_NOT_NEGATIVE),
    ("objective.cells", int, *_COUNT),
    ("objective.parts.*.weight", float, *_NOT_NEGATIVE),
    ("objective.parts.*.dates", float, *_BETWEEN),
    ("objective.parts.*.ema", float, *_SHARE),
    ("objective.parts.*.label_smoothing", float, *_SHARE),
    ("encoder.dim", int, *_COUNT),
    ("encoder.depth", int, *_NOT_NEGATIVE),
    ("encoder.heads", int, *_COUNT),
    ("encoder.patch", int, *_COUNT),
    ("encoder.dense_width", int, *_COUNT),
    ("places", int, *_COUNT),
    ("encoder.width", int, *_COUNT),
    ("encoder.mode", str, *_one_of("stack", "shared")),
    ("seeds", int, *_COUNT),
    ("fractions", None, lambda v: len(v) > 0 and all(0 < f <= 1 for f in v), "shares of the labels, above 0 up to 1"),
    ("contenders", None, lambda v: len(v) > 0, "at least one"),
    ("encoder_size", int, *_COUNT),
    ("world", str, *_one_of("dev", "final")),
    ("suite.tasks", None, lambda v: len(v) > 0, "at least one"),
    ("tasks.*.train", int, *_COUNT),
    ("tasks.*.val", int, *_COUNT),
    ("tasks.*.test", int, *_COUNT),
    ("finetune.flops", float, *_POSITIVE),
    ("finetune.start", float, *_POSITIVE),
    ("finetune.limit", float, *_POSITIVE),
    ("finetune.plateau", float, *_POSITIVE),
    ("finetune.trials", int, *_COUNT),
)

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_all(cfg: Mapping[str, Any], prefix: str = "") -> None:
    """Raise InputError for the first value outside its range."""
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            check_all(value, f"{name}.")
            continue
        for pattern, _, ok, what in CHECKS:
            if value is not None and _matches(name, pattern) and not _holds(ok, value):
                raise InputError(f"{name}={show(value)}: must be {what}")


def _matches(key: str, pattern: str) -> bool:
    """Whether a dotted key fits a pattern in which * stands for one part."""
    return re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+"), key) is not None


def _holds(ok: Callable[[Any], bool], value: Any) -> bool:
    try:
        return ok(value)
    except TypeError:  # a hand-edited file may hold any type here
        return False


def parse(key: str, default: Any, value: Any) -> Any:
    """`value`, as text from a command line or read from yaml, in the type of `default`; else InputError.

    Where the default is null, CHECKS names the type; a key that it does not know takes any scalar.
    """
    if isinstance(default, list):
        items = value if isinstance(value, list) else _items(key, str(value))
        like = next((d for d in default if isinstance(d, float)), default[0] if default else "")
        return [parse(key, like, item) for item in items]
    declared = next((kind for pattern, kind, *_ in CHECKS if _matches(key, pattern)), None)
    want = declared if default is None else type(default)
    plain = _scalar(value) if isinstance(value, str) else value
    if plain is None and default is None:
        return None
    if want is None:
        return plain
    if want is str and isinstance(value, str) and plain is not None:
        return value.strip("'\"")
    if want is bool and isinstance(plain, bool):
        return plain
    if want in (int, float) and isinstance(plain, int | float) and not isinstance(plain, bool):
        if math.isfinite(plain) and (want is float or plain == int(plain)):
            return want(plain)
    usual = "" if default is None else f" (default {show(default)})"
    raise InputError(f"{key}={show(value)}: expected {_EXPECTED.get(want, want.__name__)}{usual}")


def split_commas(key: str, text: str) -> list[str]:
    """The items of a comma list; commas inside brackets do not split. InputError for empty or equal items."""
    items = [item.strip() for item in re.split(r",(?![^\[{]*[\]}])", text)]
    if "" in items:
        raise InputError(f"{key}={text}: an item of the list is empty")
    if len(set(items)) < len(items):
        raise InputError(f"{key}={text}: {next(i for i in items if items.count(i) > 1)} is listed twice")
    return items


def _items(key: str, text: str) -> list[str]:
    """The items of `a,b`, `[a,b]` or `[]`."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return split_commas(key, inner) if inner.strip() else []


def _scalar(text: str) -> Any:
    """null, true, false, a number, a [list] of them, or the text itself."""
    words = {"null": None, "~": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith("["):
        return [_scalar(item) for item in _items(text, text)]
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
    if isinstance(value, float) and (1e6 <= abs(value) < math.inf or 0 < abs(value) < 1e-3):
        return number(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
