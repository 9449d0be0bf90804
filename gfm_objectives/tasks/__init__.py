"""Downstream tasks and the rows that need no training."""

from __future__ import annotations

from gfm_objectives.tasks.building import build_task

__all__ = ["build_task"]
