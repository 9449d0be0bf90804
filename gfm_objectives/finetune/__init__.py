"""Fine-tuning to a budget in FLOPs: one plain loop for every contender, and the scoring of whole tiles that follows."""

from __future__ import annotations

from gfm_objectives.finetune.evaluation import evaluate, evaluate_rule
from gfm_objectives.finetune.head import fit_head
from gfm_objectives.finetune.loop import Diverged, HParams, Result, finetune, loss, step_cost

__all__ = [
    "Diverged",
    "HParams",
    "Result",
    "evaluate",
    "evaluate_rule",
    "finetune",
    "fit_head",
    "loss",
    "step_cost",
]
