"""Configs: yaml files in groups plus key=value, checked and resolved."""

from __future__ import annotations

from gfm_objectives.config.composing import compose, derived_name, save, task_name
from gfm_objectives.config.files import config_root, load_choice, read_yaml
from gfm_objectives.config.values import leaves, show

__all__ = ["compose", "config_root", "derived_name", "leaves", "load_choice", "read_yaml", "save", "show", "task_name"]
