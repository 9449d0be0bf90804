"""What a pretraining run will take, before it begins: time, energy, money, memory and data."""

from gfm_objectives.planning.program import run

__all__ = ["run"]
