"""What a first reading of every chip finds: faults, sizes, windows without a valid pixel, remarks, sums of values, and
a digest of the content.

Kept for later starts, for as long as files keep their sizes and times of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gfm_objectives.data.decoding import Decoded, Tell
from gfm_objectives.data.folder import cache_file
from gfm_objectives.data.rasters import FileFault
from gfm_objectives.data.remarks import Remark
from gfm_objectives.data.windows import At
from gfm_objectives.errors import InputError

KINDS = {  # kind of fault, as `data.skip` takes it -> what to say of chips that have it
    "missing": "lack a file",
    "unreadable": "cannot be read",
    "band": "lack a band or date",
    "size": "have files of sizes that do not fit",
    "code": "hold an unknown class code",
}
FORMAT = 4  # of the notes; a change of what is read from files raises it
SHOWN = 5  # chips named in a message

Sums = dict[str, list[list[float]]]  # sensor -> for each band, over valid pixels: how many, their sum and of squares


@dataclass(frozen=True, slots=True)
class Found:
    """Of one chip: its (H, W), the numbers of its windows that have a valid pixel and a digest (hex) of the stored
    values of all that is read of it, what is remarked of its files, and sums of values; or the fault it has."""

    shape: tuple[int, int] = (0, 0)
    valid: tuple[int, ...] = ()
    digest: str = ""
    fault: FileFault | None = None
    remarks: tuple[Remark, ...] = ()
    sums: Sums = field(default_factory=dict)


Read = Callable[[str, Tell], Decoded]
Cuts = Callable[[tuple[int, int]], tuple[int, Sequence[At]]]  # (H, W) -> side of the windows, and where they lie


def survey(chips: Sequence[str], read: Read, cuts: Cuts, memo: Path, fit: Sequence[str] = ()) -> list[Found]:
    """Read every chip once, or the notes of an earlier survey of the same files in `memo`. fit: sensors to sum up."""
    try:
        if len(notes := [_load(note) for note in json.loads(memo.read_text())]) == len(chips):
            return notes
    except (OSError, ValueError, TypeError, LookupError):
        pass  # not there, or closed to this user; written by another version, or half
    found = [_look(chip, read, cuts, fit) for chip in chips]
    keep(memo, [_save(f) for f in found])
    return found


def keep(memo: Path, notes: Any) -> None:
    """Write notes for a later start, where that is possible."""
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(notes))
        os.replace(temporary, memo)
    except OSError:
        pass  # a disk that is full or read-only: the next start surveys again


def _look(chip: str, read: Read, cuts: Cuts, fit: Sequence[str]) -> Found:
    digest = hashlib.blake2b(digest_size=16)
    try:
        decoded = read(chip, digest.update)
    except FileFault as fault:
        return Found(fault=fault)
    size, at = cuts(decoded.shape)
    masks = [valid for _, valid, _ in decoded.images.values()]
    seen = [any(m[:, top : top + size, left : left + size].any() for m in masks) for top, left in at]
    sums = {name: _sums(*decoded.images[name][:2]) for name in fit}
    shown = tuple(i for i, there in enumerate(seen) if there)
    return Found(decoded.shape, shown, digest.hexdigest(), None, tuple(decoded.remarks), sums)


def _sums(x: Any, valid: Any) -> list[list[float]]:
    """x (T, C, H, W), valid (T, H, W)."""
    values = x.movedim(1, 0)[:, valid].double().numpy()  # (C, n)
    return [[float(v.size), float(v.sum()), float(np.square(v).sum())] for v in values]


def _save(found: Found) -> list[Any]:
    fault = found.fault and [str(found.fault.path), found.fault.what, found.fault.kind]
    return [list(found.shape), list(found.valid), found.digest, fault, [list(r) for r in found.remarks], found.sums]


def _load(note: Any) -> Found:
    shape, valid, digest, fault, remarks, sums = note
    told = tuple(Remark(text, odd) for text, odd in remarks)
    return Found((shape[0], shape[1]), tuple(valid), digest, FileFault(*fault) if fault else None, told, sums)


def memo_file(*what: Any) -> Path:
    """Where the notes of a survey of `what` (anything JSON can hold) are kept."""
    return cache_file("survey", ".json", FORMAT, *what)


def figures(found: Sequence[Found], sensor: str) -> list[tuple[float, float]]:
    """Mean and deviation of each band over the valid pixels of chips; 0 and 1 where there is none, and a deviation of 1
    where all are alike."""
    out = []
    for n, total, squares in np.sum([f.sums[sensor] for f in found if sensor in f.sums], 0).reshape(-1, 3).tolist():
        mean = total / max(n, 1)
        variance = squares / max(n, 1) - mean**2
        out.append((mean, variance**0.5 if variance > 1e-12 * mean**2 else 1.0))
    return out


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


def remarked(found: Mapping[str, Found], split: str) -> tuple[list[str], list[str]]:
    """What is remarked of chips (chip -> what was found), each once with its count: (odd ones, others)."""
    chips: dict[Remark, list[str]] = {}
    for chip, f in found.items():
        for remark in f.remarks:
            chips.setdefault(remark, []).append(chip)
    odd, plain = [], []
    for remark, names in chips.items():
        if remark.odd:
            odd.append(f"{len(names)} of {len(found)} {split} chips: {remark.text}: {few(names)}")
        else:
            plain.append(remark.text + ("" if len(names) == len(found) else f" ({len(names)} of {len(found)} chips)"))
    return odd, plain


def left_out(chips: Sequence[str], total: int, split: str, words: str) -> str:
    """One line: how many chips, why, which."""
    return f"{len(chips)} of {total} {split} chips {words} and are left out: {few(chips)}"


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
