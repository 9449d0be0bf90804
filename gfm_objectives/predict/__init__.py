"""Whole scenes: a kept model over rasters of any size, to a map in the same place. `run` is what gfm predict does."""

from __future__ import annotations

from gfm_objectives.predict.mapping import run

__all__ = ["run"]
