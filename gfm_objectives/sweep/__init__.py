"""`gfm sweep`: a study of many pretraining runs: planned, run where there is room, gone on with, compared."""

from __future__ import annotations

from gfm_objectives.sweep.program import run

__all__ = ["run"]
