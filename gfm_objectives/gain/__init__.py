"""What pretraining gained: paired differences with intervals, from stored scores alone."""

from __future__ import annotations

from gfm_objectives.gain.means import deviation_of_gains
from gfm_objectives.gain.summary import KEYS, summarise, write

__all__ = ["KEYS", "deviation_of_gains", "summarise", "write"]
