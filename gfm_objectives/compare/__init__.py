"""The comparison: contenders x tasks x label fractions x seeds, tuned alike, to scores and a report."""

from __future__ import annotations

from gfm_objectives.compare.comparison import Comparison
from gfm_objectives.compare.program import run

__all__ = ["Comparison", "run"]
