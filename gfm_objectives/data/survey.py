"""What a first reading of every chip finds: faults, sizes, windows without a valid pixel, a digest of the content.

Kept for later starts, for as long as files keep their sizes and times of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfm_objectives.data.decoding import Decoded, Tell
from gfm_objectives.data.folder import cache_file
from gfm_objectives.data.layers import FileFault
from gfm_objectives.data.windows import At
from gfm_objectives.errors import InputError

KINDS = {  # kind of fault, as `data.skip` takes it -> what to say of chips that have it
    "missing": "lack a file",
    "unreadable": "cannot be read",
    "band": "lack a band or date",
    "size": "have files of sizes that do not fit",
    "code": "hold an unknown class code",
}
FORMAT = 2  # of the notes; a change of what is read from files raises it
SHOWN = 5  # chips named in a message


@dataclass(frozen=True, slots=True)
class Found:
    """Of one chip: its (H, W), the numbers of its windows that have a valid pixel and a digest (hex) of the stored
    values of all that is read of it; or the fault it has."""

    shape: tuple[int, int] = (0, 0)
    valid: tuple[int, ...] = ()
    digest: str = ""
    fault: FileFault | None = None


Read = Callable[[str, Tell], Decoded]
Cuts = Callable[[tuple[int, int]], tuple[int, Sequence[At]]]  # (H, W) -> side of the windows, and where they lie


def survey(chips: Sequence[str], read: Read, cuts: Cuts, memo: Path) -> list[Found]:
    """Read every chip once, or the notes of an earlier survey of the same files in `memo`."""
    if memo.is_file():
        try:
            return [_load(note) for note in json.loads(memo.read_text())]
        except (ValueError, TypeError, OSError):
            pass  # written by another version, or half
    found = [_look(chip, read, cuts) for chip in chips]
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps([_save(f) for f in found]))
        os.replace(temporary, memo)
    except OSError:
        pass  # a disk that is full or read-only: the next start surveys again
    return found


def _look(chip: str, read: Read, cuts: Cuts) -> Found:
    digest = hashlib.blake2b(digest_size=16)
    try:
        decoded = read(chip, digest.update)
    except FileFault as fault:
        return Found(fault=fault)
    size, at = cuts(decoded.shape)
    masks = [valid for _, valid, _ in decoded.images.values()]
    seen = [any(m[:, top : top + size, left : left + size].any() for m in masks) for top, left in at]
    return Found(decoded.shape, tuple(i for i, shown in enumerate(seen) if shown), digest.hexdigest())


def _save(found: Found) -> list[Any]:
    fault = found.fault and [str(found.fault.path), found.fault.what, found.fault.kind]
    return [list(found.shape), list(found.valid), found.digest, fault]


def _load(note: Any) -> Found:
    shape, valid, digest, fault = note
    return Found((shape[0], shape[1]), tuple(valid), digest, FileFault(*fault) if fault else None)


def memo_file(*what: Any) -> Path:
    """Where the notes of a survey of `what` (anything JSON can hold) are kept."""
    return cache_file("survey", ".json", FORMAT, *what)


def sift(faults: Mapping[str, FileFault], skip: Sequence[str], total: int, split: str) -> list[str]:
    """Lines on the faults (chip -> its fault) of kinds in `skip`; InputError, with counts, for the first other kind."""
    lines = []
    for kind, words in KINDS.items():
        chips = [c for c, fault in faults.items() if fault.kind == kind]
        if chips and kind not in skip:
            names = f": {few(chips)}" if len(chips) > 1 else ""
            raise InputError(
                f"{faults[chips[0]]} ({len(chips)} of {total} {split} chips {words}{names}); mend that, or leave "
                f"such chips out with `skip: [{kind}]` in the yaml"
            )
        if chips:
            lines.append(left_out(chips, total, split, words))
    return lines


def left_out(chips: Sequence[str], total: int, split: str, words: str) -> str:
    """One line: how many chips, why, which."""
    return f"{len(chips)} of {total} {split} chips {words} and are left out: {few(chips)}"


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
