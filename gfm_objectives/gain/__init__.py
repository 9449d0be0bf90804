"""What pretraining gained: paired differences with intervals, from stored scores alone."""

from __future__ import annotations

from gfm_objectives.gain.summary import summarise, write

__all__ = ["summarise", "write"]
