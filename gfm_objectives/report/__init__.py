"""Tables, figures and pages from a results folder."""

from __future__ import annotations

from gfm_objectives.report.document import context, summarise, write
from gfm_objectives.report.terminal import terminal_table

__all__ = ["context", "summarise", "terminal_table", "write"]
