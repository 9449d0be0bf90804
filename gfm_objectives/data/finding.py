"""The files of each chip: pattern -> chip -> day -> file; and dates as people write them in names."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from gfm_objectives.data.remote import is_remote, listed
from gfm_objectives.errors import InputError

CHIP, DATE = "{chip}", "{date}"
VARIABLE = "::"  # what follows it names a variable in each file, and is no part of the file's name
EPOCH = date(2000, 1, 1)  # of Series.day
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
YEARS = range(1900, 2200)  # a number that is no such year is none
# Spellings of a day: y, m, d, the day of the year j, a month in letters, or two numbers in unknown order.
SPELLINGS = (
    r"(?P<y>\d{4})[-_.]?(?P<m>\d{2})[-_.]?(?P<d>\d{2})(?:T[\d:.-]{2,15}Z?)?",
    r"(?P<y>\d{4})[-_.](?P<m>\d{1,2})[-_.](?P<d>\d{1,2})",
    r"(?P<y>\d{4})(?P<j>\d{3})",
    r"(?P<p>\d{1,2})[-_.]?(?P<q>\d{1,2})[-_.]?(?P<y>\d{4})",
    r"(?P<d>\d{1,2})[-_ ]?(?P<month>[A-Za-z]{3,9})[-_ ]?(?P<y>\d{4})",
    r"(?P<y>\d{4})[-_ ]?(?P<month>[A-Za-z]{3,9})[-_ ]?(?P<d>\d{1,2})",
    r"(?P<y>\d{4})[-_](?P<m>\d{2})",  # a month: its middle
)
ANY_DATE = "|".join(re.sub(r"\?P<\w+>", "?:", spelling) for spelling in SPELLINGS)
WRITE = "write 2019-04-12, 2019_04_12, 20190412 or 2019102"

Files = dict[str, dict[float, Path]]  # chip id -> day -> file


def day_of(text: object) -> float:
    """Days since 2000-01-01 of a date; else ValueError(text).

    2019-04-12, 2019_4_12, 20190412T103021, 2019102 (day of the year), 12-Apr-2019, 2019-04 (taken as its 15th day), and
    25-04-2019, as one of its numbers can be no month; 12-04-2019 could be two days and is none.
    """
    for spelling in SPELLINGS:
        match = re.fullmatch(spelling, str(text))
        if match and (day := _day(match.groupdict())) is not None:
            return float((day - EPOCH).days)
    raise ValueError(str(text))


def _day(part: Mapping[str, str | None]) -> date | None:
    year = int(part["y"] or 0)
    if year not in YEARS:
        return None
    try:
        if j := part.get("j"):
            day = date(year, 1, 1) + timedelta(int(j) - 1)
            return day if day.year == year else None
        if part.get("p"):
            p, q = int(part["p"] or 0), int(part["q"] or 0)
            sensible = {d for d in ((p, q), (q, p)) if d[1] <= 12}  # day, month
            if len(sensible) != 1:
                return None
            ((d, m),) = sensible
            return date(year, m, d)
        if month := part.get("month"):
            return date(year, MONTHS.index(month[:3].lower()) + 1, int(part["d"] or 15))
        return date(year, int(part["m"] or 0), int(part.get("d") or 15))
    except ValueError:
        return None


def find_files(
    root: Path,
    pattern: str,
    words: Mapping[str, float] | None = None,
    left: dict[str, list[str]] | None = None,
) -> Files:
    """Chip id -> its files by day, for every file under `root` that matches `pattern`, ids and days in order.

    `{chip}` stands for the id and may occur twice (`{chip}/{chip}_S2.tif`); `{date}` for a day, as `day_of` reads it,
    or for one of `words` (word -> day); `*` is anything within one name, `**/` any folders, links followed. Without
    `{date}` a chip has one file, under day 0. `left` takes what the wildcards found and was not used: why -> names.
    InputError where two files claim one chip and day, or nothing but undated files is found.
    """
    if CHIP not in pattern or Path(pattern).is_absolute():
        raise InputError(f"file pattern {pattern!r}: write it relative to data.root, with {CHIP} where the id stands")
    pattern = pattern.partition(VARIABLE)[0]
    regex = re.compile(_regex(pattern, words))
    wildcard = re.sub(r"\[", "[[]", pattern).replace(CHIP, "*").replace(DATE, "*")
    found: Files = {}
    left = {} if left is None else left
    for name in _names(root, wildcard, pattern):
        path = root / name
        match = regex.fullmatch(Path(name).as_posix())
        if why := _unused(path, match is not None, DATE in pattern):
            left.setdefault(why, []).append(name)
            continue
        assert match is not None
        chip, day = match["chip"], 0.0
        if DATE in pattern:
            try:
                day = words[match["date"]] if words else day_of(match["date"])
            except ValueError:
                left.setdefault("have a date that cannot be read, or could be two", []).append(name)
                continue
        files = found.setdefault(chip, {})
        if day in files:
            raise InputError(
                f"file pattern {pattern!r}: {files[day].name} and {path.name} both match chip {chip}; narrow it, "
                f"or write {DATE} where their dates stand"
            )
        files[day] = path
    if not found and DATE in pattern:
        for why, names in left.items():
            if "date" in why:
                known = f"one of {', '.join(words)}" if words else WRITE
                raise InputError(f"{root / names[0]}: no date where {DATE} stands; {known}")
    return {chip: dict(sorted(files.items())) for chip, files in sorted(found.items())}


def _names(root: Path, wildcard: str, pattern: str) -> list[str]:
    """What the wildcards find below a folder, in order."""
    if is_remote(root):
        anything = re.compile(_regex(pattern.replace(CHIP, "*").replace(DATE, "*"), None))
        return [name for name in listed(root) if anything.fullmatch(name)]
    return sorted(glob.iglob(wildcard, root_dir=root, recursive=True, include_hidden=True))


def _unused(path: Path, matches: bool, dated: bool) -> str:
    """Why a file that the wildcards found is none of the chips', or nothing."""
    if path.name.startswith("."):
        return "are hidden"
    if path.is_symlink() and not path.exists():
        return "are links that lead nowhere"
    if path.is_dir() and path.suffix != ".zarr":
        return "are folders"
    if not matches:
        return "have no date where the pattern has one" if dated else "do not fit the pattern"
    return ""


def _regex(pattern: str, words: Mapping[str, float] | None) -> str:
    dates = "|".join(map(re.escape, words)) if words else ANY_DATE
    out, seen = "", set()
    for part in re.split(r"(\{chip\}|\{date\}|\*\*/|\*|\?)", pattern):
        if part in (CHIP, DATE):
            name, what = part[1:-1], "[^/]+" if part == CHIP else dates
            out += f"(?P={name})" if name in seen else f"(?P<{name}>{what})"
            seen.add(name)
        else:
            out += {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return out
