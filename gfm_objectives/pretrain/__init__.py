"""Pretraining to a budget in FLOPs."""

from __future__ import annotations

from gfm_objectives.pretrain.pretraining import open_source, run, run_all

__all__ = ["open_source", "run", "run_all"]
