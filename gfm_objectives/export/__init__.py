"""Models for other programs. `run` is what gfm export does; `features` gives an encoder's features of an array."""

from __future__ import annotations

from gfm_objectives.export.plain import features
from gfm_objectives.export.writing import run

__all__ = ["features", "run"]
