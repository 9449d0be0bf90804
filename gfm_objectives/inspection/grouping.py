"""Which files of a folder are the same kind of file: patterns with {chip} and {date}, found from names alone."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from gfm_objectives.data.finding import ANY_DATE, CHIP, DATE, day_of
from gfm_objectives.data.readers import READERS

VECTORS = (".gpkg", ".geojson", ".shp")
# Words that tell kinds of file apart, in names of folders and files.
KINDS = (
    "s2 s2hand s2l1c s2l2a sentinel2 s1 s1hand s1grd s1rtc sentinel1 opt optical sar radar vv vh rgb ms nir dem dsm "
    "dtm elevation image images img merged scene mask masks label labels labelhand lbl target gt truth annotation lc "
    "lulc landcover class classes qa quality cloud clouds scl fmask agbm agb biomass height ndsm"
).split()
WORDS = (("before", "after"), ("pre", "post"), ("t1", "t2"), ("a", "b"))  # the earlier first


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one kind: pattern with {chip} and perhaps {date}; chip id -> its files; what says which kind it is (the
    folder and words of the name); words that stand for dates, in order."""

    pattern: str
    chips: dict[str, list[Path]]
    hint: str
    words: tuple[str, ...] = ()

    @property
    def dated(self) -> bool:
        return DATE in self.pattern

    @property
    def first(self) -> Path:
        return next(iter(self.chips.values()))[0]


def find(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Rasters, vectors and tables below a folder, relative to it, links followed."""
    rasters: list[str] = []
    vectors: list[str] = []
    tables: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and real not in seen)
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(f for f in files if not f.startswith(".")):
            path = (Path(folder) / name).relative_to(root).as_posix()
            ending = Path(name).suffix.lower()
            for kind, endings in ((rasters, tuple(READERS)), (vectors, VECTORS), (tables, (".csv",))):
                if ending in endings:
                    kind.append(path)
    return rasters, vectors, tables


def groups(root: Path, rasters: Sequence[str], dated: bool = True) -> list[Group]:
    """Kinds of file, each with the chips it has. One folder a place, or one folder a kind of file.

    dated: whether dates in names are dates of a chip; else they are part of its id.
    """
    shapes = Counter(_place_shape(name) for name in rasters if "/" in name)
    places = {PurePosixPath(n).parent.as_posix() for n in rasters if "/" in n}
    common = [s for s, count in shapes.items() if count > 1 and count >= 0.5 * len(places)]
    of_kinds = sum(bool(_words(PurePosixPath(p).name) & {*KINDS}) for p in places) >= 0.5 * len(places)
    if len(places) > 2 and not of_kinds and common and len(rasters) <= 1.2 * sum(shapes[s] for s in common):
        return [_of_places(root, s, rasters) for s in common]
    return _of_folders(root, rasters, dated)


def _words(name: str) -> set[str]:
    """The words of a name, and what it begins with where it goes on in capitals or digits: S1RTC is s1."""
    words = {w.lower() for w in re.split(r"[_.\-\s]", name)}
    return words | {w[:2] for w in words if w[:2] in ("s1", "s2")}


def _undated(stem: str) -> tuple[str, bool]:
    """A name with {date} for the last date in it."""
    for match in reversed(list(re.finditer(rf"(?<![0-9A-Za-z])(?:{ANY_DATE})(?![0-9])", stem))):
        try:
            day_of(match[0])
        except ValueError:
            continue
        return stem[: match.start()] + DATE + stem[match.end() :], True
    return stem, False


def _place_shape(name: str) -> str:
    """What a file is called in the folder of a place: the folder's name and the date taken out."""
    path = PurePosixPath(name)
    stem, _ = _undated(path.name)
    return f"{path.parent.parent.as_posix()}/{CHIP}/{stem.replace(path.parent.name, CHIP)}".removeprefix("./")


def _of_places(root: Path, shape: str, rasters: Iterable[str]) -> Group:
    chips: dict[str, list[Path]] = defaultdict(list)
    for name in rasters:
        if _place_shape(name) == shape:
            chips[PurePosixPath(name).parent.name].append(root / name)
    return Group(shape, dict(chips), PurePosixPath(shape).name)


def _of_folders(root: Path, rasters: Sequence[str], dated: bool) -> list[Group]:
    kinds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))  # pattern -> chip -> files
    for name in rasters:
        path = PurePosixPath(name)
        pattern, chip = _pattern(path.stem, dated)
        folder = "" if path.parent == PurePosixPath(".") else f"{path.parent.as_posix()}/"
        kinds[f"{folder}{pattern}{path.suffix}"][chip].append(root / name)
    made = [Group(p, dict(chips), p.replace(CHIP, "").replace(DATE, "")) for p, chips in kinds.items()]
    if len(rasters) > 1 and len(made) == len(rasters) and not any(g.dated for g in made):
        # One scene: nothing in the names is common, so that its folder is what the files share.
        chip = root.resolve().name
        return [Group(f"{CHIP}/{n}", {chip: [root / n]}, n) for n in rasters]
    for i, g in enumerate(made):
        if CHIP not in g.pattern:  # named by a word for a kind alone
            made[i] = replace(g, pattern=g.pattern.replace(next(iter(g.chips)), CHIP))
    return _aligned(_numbered([_by_words(g) for g in made]))


def _numbered(made: list[Group]) -> list[Group]:
    """Kinds that differ by a small number at the end alone, such as a month, are one kind at several dates."""
    series: dict[str, list[tuple[str, Group]]] = defaultdict(list)
    for group in made:
        match = re.search(r"[_\-.](\d{1,2})(\.\w+)$", group.pattern)
        key = group.pattern[: match.start(1)] + DATE + match[2] if match and not group.dated else group.pattern
        series[key].append((match[1] if match else "", group))
    out = []
    for pattern, members in series.items():
        if len(members) == 1:
            out.append(members[0][1])
            continue
        chips: dict[str, list[Path]] = defaultdict(list)
        for _, group in sorted(members, key=lambda m: int(m[0])):
            for chip, paths in group.chips.items():
                chips[chip] += paths
        words = tuple(sorted((w for w, _ in members), key=int))
        out.append(Group(pattern, dict(sorted(chips.items())), members[0][1].hint, words))
    return out


def _pattern(stem: str, dated: bool) -> tuple[str, str]:
    """The name with {chip} for its id, and the id: the longest run of words that tell neither a kind nor a date."""
    parts = re.split(
        r"([_.\-])", _undated(stem)[0] if dated else stem
    )  # words and, at odd places, what is between them
    fixed = [part == DATE or part.lower() in KINDS for part in parts[::2]]
    best, at = "", (0, len(parts))
    start = 0
    while start < len(fixed):
        end = start
        while end < len(fixed) and not fixed[end]:
            end += 1
        run = "".join(parts[2 * start : 2 * end - 1]) if end > start else ""
        if len(run) > len(best):
            best, at = run, (2 * start, 2 * end - 1)
        start = end + 1
    if not best:  # nothing but words for a kind: no chip's name, unless it has no other
        return stem.replace("{", "").replace("}", ""), stem
    return "".join(parts[: at[0]]) + CHIP + "".join(parts[at[1] :]), best


def _by_words(group: Group) -> Group:
    """Ids that differ by before and after alone are one chip at two dates."""
    if group.dated:
        return group
    for words in WORDS:
        halves = [{re.sub(rf"(?<=[_\-.]){w}(?=[_\-.]|$)", DATE, c): c for c in group.chips} for w in words]
        halves = [{k: c for k, c in half.items() if DATE in k} for half in halves]
        both = sorted(halves[0].keys() & halves[1].keys())
        if both and 2 * len(both) >= 0.9 * len(group.chips):
            tails = {k[k.index(DATE) :] for k in both}
            if len(tails) == 1 and (tail := tails.pop()):
                chips = {k[: k.index(DATE) - 1]: [group.chips[h[k]][0] for h in halves] for k in both}
                mark = both[0][both[0].index(DATE) - 1]
                return replace(
                    group, pattern=group.pattern.replace(CHIP, f"{CHIP}{mark}{tail}"), chips=chips, words=words
                )
    return group


def _aligned(made: list[Group]) -> list[Group]:
    """Ids without what is the same in all of a group, where groups share no ids otherwise: img_001 and mask_001."""
    if len(made) < 2 or any(set(made[0].chips) & set(g.chips) for g in made[1:]):
        return made
    out = []
    for group in made:
        names = list(group.chips)
        front = _edge(_common(names)) if len(names) > 1 else ""
        back = _edge(_common([n[::-1] for n in names]))[::-1] if len(names) > 1 else ""
        chips = {n[len(front) : len(n) - len(back)]: p for n, p in group.chips.items()}
        pattern = group.pattern.replace(CHIP, f"{front}{CHIP}{back}", 1)
        out.append(replace(group, pattern=pattern, chips=chips, hint=group.hint + front + back))
    shared = any(set(out[0].chips) & set(g.chips) for g in out[1:])
    return out if shared else made


def _common(names: Sequence[str]) -> str:
    low, high = min(names), max(names)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _edge(common: str) -> str:
    """What is common, up to the last mark between words."""
    cut = max(common.rfind(mark) for mark in "_-.")
    return common[: cut + 1]
