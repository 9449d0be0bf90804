"""report.html: the page people open, one file that needs no network."""

from __future__ import annotations

from gfm_objectives.report.html.page import run, write

__all__ = ["run", "write"]
