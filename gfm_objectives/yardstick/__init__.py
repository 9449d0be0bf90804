"""The yardstick: what a frozen encoder knows of places it never saw."""

from __future__ import annotations

from gfm_objectives.yardstick.yardstick import Figures, Yardstick

__all__ = ["Figures", "Yardstick"]
