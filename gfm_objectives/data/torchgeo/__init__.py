"""Data sets in their real layouts, on torchgeo's classes where it has them: a table, one adapter, small readers."""

from __future__ import annotations

from gfm_objectives.data.torchgeo.dataset import AbsentData, Dataset
from gfm_objectives.data.torchgeo.table import DATASETS

__all__ = ["DATASETS", "AbsentData", "Dataset"]
