"""`gfm inspect`: how a folder of data is understood."""

from __future__ import annotations

from gfm_objectives.inspection.looking import look, run

__all__ = ["look", "run"]
