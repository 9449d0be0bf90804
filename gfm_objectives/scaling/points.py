"""The points of a law: a table of runs, anybody's, read and checked."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.scaling.laws import Array

LOSSES, SCORES = ("loss",), ("score", "gain")  # what is fitted, in this order, where `of` does not say
BEYOND = "\n"  # the key of cells beyond the columns: no column's name


@dataclass(frozen=True, slots=True)
class Points:
    """Runs. values: column -> (n,); of: the column that is fitted; trunks: (n,) number of what runs have in common (a
    trunk whose cool-downs they are, a seed): resampled together; meaning: 'N', 'D', 'C' -> the column it is read from.
    """

    values: Mapping[str, Array]
    of: str
    trunks: np.ndarray
    meaning: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.trunks)

    @property
    def y(self) -> Array:
        return self.values[self.of]

    @property
    def falls(self) -> bool:
        """Whether it is a loss, by its name: loss, validation_loss."""
        return self.of.lower().endswith(LOSSES)

    def column(self, name: str) -> Array:
        """(n,) of the input 'N', 'D' or 'C'; FLOPs not measured are 6 N D. InputError where it is absent."""
        if self.meaning[name] in self.values:
            return self.values[self.meaning[name]]
        if name == "C" and {self.meaning["N"], self.meaning["D"]} <= self.values.keys():
            return 6.0 * self.column("N") * self.column("D")
        raise InputError(f"points: no column {self.meaning[name]} for {name}; {name}= names another")

    def inputs(self, names: tuple[str, ...]) -> Array:
        """(n, K) of inputs."""
        return np.stack([self.column(name) for name in names], 1)

    @property
    def flops_per(self) -> float:
        """k of C = k N D."""
        return float(np.exp(np.median(np.log(self.column("C") / (self.column("N") * self.column("D"))))))


def read(
    path: str | Path, of: str | None = None, columns: Mapping[str, str] | None = None, trunk: str = "trunk"
) -> Points:
    """The points in a CSV file. columns: 'N', 'D', 'C' -> its column, by default parameters, tokens, flops.

    Runs with the same text in the column `trunk` are resampled together; without that column each is by itself.
    InputError names the file, the line and the column.
    """
    path = Path(path)
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"points={path}: {why}; give a CSV file with the columns parameters, tokens, loss")
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            head = f.readline()
            parted = next((c for c in (",", ";", "\t") if c in head), ",")  # as spreadsheets of all countries save it
            f.seek(0)
            rows = list(csv.DictReader(f, restkey=BEYOND, delimiter=parted))
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"points={path}: no table in UTF-8 ({e}); save it as CSV in UTF-8") from None
    if not rows:
        raise InputError(f"{path}: no rows; the first line names the columns, such as parameters,tokens,loss")
    heads = list(rows[0])
    odd = next((n for n, row in enumerate(rows, 2) if BEYOND in row or None in row.values()), None)
    if odd is not None:
        hint = ", and points in numbers" if ";" in head else ""
        raise InputError(f"{path}, line {odd}: more or fewer cells than the first line; part all alike{hint}")
    with path.open(newline="", encoding="utf-8-sig") as f:
        if twice := [c for c, n in Counter(next(csv.reader(f, delimiter=parted))).items() if n > 1]:
            raise InputError(f"{path}: two columns are named {twice[0]}; keep one")
    meaning = {"N": "parameters", "D": "tokens", "C": "flops"} | dict(columns or {})
    for name, column in (columns or {}).items():
        if column not in heads:
            raise InputError(f"{path}: no column {column} for {name}; it has {', '.join(heads)}")
    of = of or next((c for c in (*LOSSES, *SCORES) if c in heads), None)
    if of is None or of not in heads:
        raise InputError(f"{path}: no column {of or 'loss, score or gain'}; it has {', '.join(heads)}; choose with of=")
    if of in meaning.values():
        raise InputError(f"{path}: {of} is what is fitted, so it cannot be N, D or C; name another column")
    if meaning["C"] not in heads and (absent := [meaning[n] for n in ("N", "D") if meaning[n] not in heads]):
        raise InputError(
            f"{path}: no column {' and no '.join(absent)}, and no column {meaning['C']} instead; it has "
            f"{', '.join(heads)}; N=, D= and C= name others"
        )
    values = {of: _column(path, rows, of, positive=of.lower().endswith(LOSSES))}
    for column in dict.fromkeys(meaning.values()):
        if column in heads:
            values[column] = _column(path, rows, column, positive=True)
    trunks = [r[trunk] for r in rows] if trunk in heads else [str(i) for i in range(len(rows))]
    return Points(values, of, np.unique(trunks, return_inverse=True)[1], meaning)


def _column(path: Path, rows: list[dict[str, str]], column: str, positive: bool = False) -> Array:
    out = []
    for line, row in enumerate(rows, start=2):
        try:
            number = float(row[column])
        except (TypeError, ValueError):
            hint = f", such as {row[column].replace(',', '.')}" if "," in row[column] else ""
            raise InputError(f"{path}, line {line}: {column}={row[column]}: expected a number{hint}") from None
        if not math.isfinite(number) or (positive and number <= 0):
            raise InputError(
                f"{path}, line {line}: {column}={row[column]}: expected a {'positive' if positive else 'finite'} number"
            )
        out.append(number)
    return np.array(out)
