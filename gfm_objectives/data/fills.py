"""Numbers that stand for 'nothing here' and that no file declares: -9999 and its kin, far from all that is measured."""

from __future__ import annotations

import numpy as np

FILLS = (-99.0, -999.0, -9999.0, -99999.0, -32767.0, -32768.0, 255.0, 9999.0, 32767.0, 65535.0)
SURE = -999.0  # so low a fill needs no other value beside it to be doubted
SPAN = (2, 98)  # percentiles that the others span


def stray(x: np.ndarray) -> float | None:
    """The least or largest of the values x (n,), where it is one of FILLS and further from all others than they span.

    A value that is there alone is doubted from SURE downwards; 255 and its kin beside one other value are not, as a
    mask has two.
    """
    if not x.size:
        return None
    for edge in (x.min(), x.max()):
        if float(edge) not in FILLS:
            continue
        others = x[x != edge].astype(np.float64)
        if not others.size:
            if edge <= SURE:
                return float(edge)
            continue
        low, high = np.percentile(others, SPAN)
        if np.abs(others - float(edge)).min() > high - low and (high > low or edge < 0):
            return float(edge)
    return None
