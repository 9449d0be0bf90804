"""Ranges: what the `ranges` section of a yaml says of its options, one line each, in a language read without eval.

ranges: {mask_ratio: 0 < x < 1, loss_on: all | hidden, threads: int >= 1 or null, parts.*.weight: x >= 0}

range  = ["N of" | "some of" | "list of"] values ["or null"]    a list of N, of one or more, of any number
values = word | word ...                  one of these; <number> in one stands for digits, as in cuda:<number>
       | kind [limit "and" limit ...]     int, float, bool, text or folder; named wherever the default is null
       | limit "and" limit ...            of a number
limit  = x > a, a <= x, a < x <= b, x % a == 0, ...    a and b: numbers, or other keys of the same yaml; after a
                                                       kind the first x may be left out: int >= 1
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gfm_objectives.config.values import leaves, scalar, show
from gfm_objectives.errors import InputError

KINDS: dict[str, tuple[Any, str]] = {  # a value of the kind, and what it is called
    "int": (0, "a whole number"),
    "float": (0.0, "a number"),
    "bool": (False, "true or false"),
    "text": ("", "text"),
    "folder": ("", "a folder name of letters, digits, . _ + -"),
}
OPERATORS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    ">": (operator.gt, "greater than"),
    ">=": (operator.ge, "at least"),
    "<": (operator.lt, "less than"),
    "<=": (operator.le, "at most"),
    "%": (lambda x, a: a == 0 or x % a == 0, "divisible by"),
}
OPERAND = r"[-+]?[\w.]+(?:[-+]\d+)?"
LIMIT = re.compile(rf"(?:(?P<low>{OPERAND}) ?(?P<over><=?) ?)?x(?: ?(?P<op><=?|>=?) ?(?P<high>{OPERAND}))?")
MULTIPLE = re.compile(rf"x ?% ?(?P<of>{OPERAND}) ?== ?0")
EXAMPLES = "0 < x < 1, int >= 1 or null, a | b, some of text"


@dataclass(frozen=True, slots=True)
class Limit:
    """One comparison of the value: `operator` of OPERATORS, and a number or the key of another option."""

    operator: str
    operand: float | str

    def holds(self, x: float, other: Callable[[str], Any]) -> bool:
        a = other(self.operand) if isinstance(self.operand, str) else self.operand
        return not _is_number(a) or OPERATORS[self.operator][0](x, a)  # an option that is null sets no limit


@dataclass(frozen=True, slots=True)
class Range:
    """The values that an option may take. where: the dotted path of what its yaml became a part of, as "encoder."."""

    text: str
    null: bool
    count: tuple[float, float] | None  # least and most items of a list; None = no list
    kind: str | None
    choices: tuple[Any, ...]
    limits: tuple[Limit, ...]
    where: str = ""

    @property
    def like(self) -> Any:
        """A value of the type it names, a list where it is of lists; None where it names none."""
        one = KINDS[self.kind][0] if self.kind else self.choices[0] if self.choices else None
        return one if self.count is None or one is None else [one]

    def holds(self, value: Any, config: Mapping[str, Any]) -> bool:
        """Whether `value` lies in it; config: dotted key -> value, for limits by other keys."""
        if value is None:
            return self.null
        if self.count is None:
            return self._fits(value, config)
        least, most = self.count
        return isinstance(value, list) and least <= len(value) <= most and all(self._fits(v, config) for v in value)

    def _fits(self, value: Any, config: Mapping[str, Any]) -> bool:
        if self.choices:
            return not isinstance(value, bool) and any(_is_choice(value, choice) for choice in self.choices)
        if self.kind in ("text", "folder"):
            return isinstance(value, str) and (self.kind == "text" or re.fullmatch(r"\w[\w.+-]*", value) is not None)
        if self.kind == "bool":
            return isinstance(value, bool)
        if not _is_number(value) or (self.kind == "int" and not isinstance(value, int)):
            return False
        return all(limit.holds(value, lambda key: config.get(self.where + key)) for limit in self.limits)

    def words(self, config: Mapping[str, Any]) -> str:
        """What a value must be: 'between 0 and 1, both excluded'."""
        kind = [KINDS[self.kind][1]] if self.kind and not (self.count and self.kind == "text") else []
        each = ", ".join([*kind, *self._limits_in_words(config)])
        what = f"one of {', '.join(map(show, self.choices))}" if self.choices else each
        if self.count is not None:
            least, most = self.count
            many = "a list" if not least else "at least one" if most == math.inf else f"{least:g} values"
            what = f"{many}{what.removeprefix('one')}" if self.choices else f"{many}, each {each}" if each else many
        return f"{what}, or null" if self.null else what

    def _limits_in_words(self, config: Mapping[str, Any]) -> list[str]:
        def name(operand: float | str) -> str:
            return f"{(k := self.where + operand)}={show(config.get(k))}" if isinstance(operand, str) else show(operand)

        match [(limit.operator, name(limit.operand)) for limit in self.limits]:
            case []:
                return []
            case [(">", low), ("<", high)]:
                return [f"between {low} and {high}, both excluded"]
            case [(">=", low), ("<=", high)]:
                return [f"from {low} to {high}"]
            case several:
                one = ["0 or more" if n == (">=", "0") else f"{OPERATORS[n[0]][1]} {n[1]}" for n in several]
                return [" and ".join(one)]


Ranges = dict[str, Range]  # dotted key, in which * stands for any one part, -> the values it may take


def parse_range(text: str) -> Range | None:
    """The range that a text states; None where it states none."""
    rest = text = " ".join(text.split())
    null = rest.endswith(" or null")
    rest = rest.removesuffix(" or null")
    count = None
    if listed := re.match(r"(\d+|some|list) of ", rest):
        known = {"some": (1, math.inf), "list": (0, math.inf)}
        count = known[listed[1]] if listed[1] in known else (int(listed[1]), int(listed[1]))
        rest = rest[listed.end() :]
    if re.fullmatch(r"[\w.+:<>-]+( \| [\w.+:<>-]+)+", rest):
        words = tuple(scalar(word) for word in rest.split(" | "))
        literal = any(word is None or isinstance(word, bool) for word in words)  # 'or null' and 'bool' say that
        return None if literal else Range(text, null, count, None, words, ())
    kind, _, limits = rest.partition(" ") if rest.split(" ")[0] in KINDS else (None, "", rest)
    if kind is not None and limits[:1] in ("<", ">"):
        limits = f"x {limits}"
    found = [_limit(part) for part in limits.split(" and ")] if limits or kind is None else []
    if None in found or (found and kind not in (None, "int", "float")):
        return None
    return Range(text, null, count, kind, (), tuple(limit for some in found for limit in some or ()))


def _limit(text: str) -> list[Limit] | None:
    """`a < x <= b` is two limits."""
    if multiple := MULTIPLE.fullmatch(text):
        return [Limit("%", _operand(multiple["of"]))]
    form = LIMIT.fullmatch(text)
    if not form or not (form["low"] or form["high"]) or (form["low"] and (form["op"] or "<").startswith(">")):
        return None
    low = [Limit(form["over"].replace("<", ">"), _operand(form["low"]))] if form["low"] else []
    return [*low, *([Limit(form["op"], _operand(form["high"]))] if form["high"] else [])]


def _operand(text: str) -> float | str:
    number = scalar(text)
    return number if _is_number(number) else text


def read_ranges(section: Any, options: Mapping[str, Any], path: Path) -> Ranges:
    """The `ranges` section of the yaml at `path`, which has these options. InputError names the file and the key."""
    if not isinstance(section, Mapping):
        raise InputError(f"{path}: ranges: expected lines of 'key: range', such as {EXAMPLES}")
    known = dict(leaves(options))
    ranges: Ranges = {}
    for key, text in section.items():
        wrong = f"{path}: ranges.{key}: {text}"
        stated = parse_range(str(text))
        if stated is None:
            raise InputError(f"{wrong}: not a range; write one such as {EXAMPLES}")
        others = [limit.operand for limit in stated.limits if isinstance(limit.operand, str)]
        for name in (str(key), *others):
            if not any(matches(k, name) for k in known):
                near = get_close_matches(name, known, 1, 0.6)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(f"{wrong}: the file has no key {name}{hint}")
        if stated.like is None and any(v is None for k, v in known.items() if matches(k, str(key))):
            raise InputError(f"{wrong}: the default is null, so name the type too: int, float, bool or text")
        ranges[str(key)] = stated
    return ranges


def within(ranges: Ranges, prefix: str) -> Ranges:
    """The ranges of a section as those of the whole: within(..., "encoder.")."""
    return {f"{prefix}{key}": replace(one, where=prefix + one.where) for key, one in ranges.items()}


def find(ranges: Ranges, key: str) -> Range | None:
    """The range of a key: its own, else that of the last pattern it fits."""
    return ranges.get(key) or next((ranges[p] for p in reversed(ranges) if matches(key, p)), None)


def matches(key: str, pattern: str) -> bool:
    """Whether a dotted key fits a pattern in which * stands for one part."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), key) is not None


def check(config: Mapping[str, Any], ranges: Ranges) -> None:
    """Raise InputError for the first value outside its range."""
    values = dict(leaves(config))
    for key, value in values.items():
        stated = find(ranges, key)
        if stated and not stated.holds(value, values):
            raise InputError(f"{key}={show(value)}: must be {stated.words(values)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_choice(value: Any, choice: Any) -> bool:
    if not isinstance(choice, str):
        return bool(value == choice)
    return isinstance(value, str) and re.fullmatch(re.escape(choice).replace("<number>", r"\d+"), value) is not None
