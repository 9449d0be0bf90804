"""Writes odd and broken files at random, reads each as a folder of chips, and counts what becomes of it.

    PYTHONPATH=.:tests python docs/odd_files.py [count=200] [seed=0]

Half are whole: GeoTIFFs of any number type, no data, mask and place, or pictures, arrays and VRTs. Half are broken: cut
off anywhere, with some bytes others. Of a whole file the values and their validity must be those that were written, or
one line must say that none is to be seen; of a broken one there is a line, or what is read. Anything else is printed
and fails.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from test_chips_odd import ENDINGS, FLIPS, as_written, damage, files, plain, read, shown, write

from gfm_objectives.errors import InputError

RIGHT, LINE = "as written", "one line"
BAD = ("wrong", "no line", "traceback")


def outcome(folder: Path, made: Any, ending: str | None, cut: float, flips: Any, broken: bool, radar: bool) -> str:
    """What becomes of one file: RIGHT, LINE, 'other values' of a broken one, or one of BAD."""
    path = folder / f"a{ending or '.tif'}"
    if ending is None:
        write(path, *made)
        values, wanted = made[0], shown(made)
    else:
        values = plain(path, made[0])
        wanted = np.isfinite(values[0])
    if broken:
        damage(path, cut, flips)
    try:
        series = read(folder, f"{{chip}}{path.suffix}", *(("s1", "VV") if radar else ("s2", "B02")))
    except InputError as error:
        rightly = broken or not wanted.any()
        return LINE if str(error).strip() and "\n" not in str(error) and rightly else "no line"
    except Exception:
        traceback.print_exc()
        return "traceback"
    if series.x.shape[-2:] == values.shape[1:] and as_written(series, values, wanted):
        return RIGHT
    return "other values" if broken else "wrong"


def main(count: int, seed: int) -> dict[str, Counter[str]]:
    """Kind of file -> outcome -> how many."""
    counts: dict[str, Counter[str]] = {}
    draws = st.tuples(
        files(), st.sampled_from([None, None, None, *ENDINGS]), st.floats(0, 1), FLIPS, st.booleans(), st.booleans()
    )

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[*hypothesis.HealthCheck],
    )
    @hypothesis.given(draws)
    def each(draw: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            became = outcome(Path(folder), *draw)
        ending, broken = draw[1] or ".tif", draw[4]
        counts.setdefault(f"{'broken' if broken else 'whole'} {ending}", Counter())[became] += 1
        if became in BAD:
            print(became, draw)

    each()
    return counts


if __name__ == "__main__":
    given = {"count": 200, "seed": 0} | {k: int(v) for k, v in (word.split("=") for word in sys.argv[1:])}
    counts = main(**given)
    for kind, found in sorted(counts.items()):
        print(f"{kind:13}", ", ".join(f"{n} {what}" for what, n in found.most_common()))
    total = sum(counts.values(), Counter())
    print(sum(total.values()), "files:", ", ".join(f"{n} {what}" for what, n in total.most_common()))
    sys.exit(any(total[what] for what in BAD))
