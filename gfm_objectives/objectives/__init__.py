"""Pretraining objectives: the table of them, and building one by its name."""

from __future__ import annotations

from gfm_objectives.objectives.building import build_objective, find_objective
from gfm_objectives.objectives.table import OBJECTIVES

__all__ = ["OBJECTIVES", "build_objective", "find_objective"]
