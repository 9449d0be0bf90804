"""The published models on PANGAEA: their scores and costs as data, and what follows from them.

published_scores.csv: mIoU (%) of model, task and share of the labels, with its source; confirmed = the figure was found
in a second public text, named by confirmed_by; no = recalled, or printed by the model's own authors alone.
published_models.csv: what pretraining took, good to a factor of two to four. tokens_seen counts masked tokens and every
pass; tokens_distinct counts the patches of one pass over the corpus.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median

RIVAL = "U-Net"
SCRATCH = "ViT"  # the other row without pretraining
FRACTIONS = (1.0, 0.1)
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Gains:
    """A model's gains over the U-Net, in points of mIoU, task by task. confirmed: of its own figures, all were."""

    model: str
    fraction: float
    by_task: dict[str, float]
    confirmed: bool

    @property
    def mean(self) -> float:
        return mean(self.by_task.values())

    @property
    def median(self) -> float:
        return median(self.by_task.values())

    @property
    def wins(self) -> int:
        return sum(g > 0 for g in self.by_task.values())

    @property
    def losses(self) -> int:
        return sum(g < 0 for g in self.by_task.values())

    @property
    def best(self) -> str:
        """The task of the largest gain."""
        return max(self.by_task, key=lambda t: self.by_task[t])

    @property
    def worst(self) -> str:
        return min(self.by_task, key=lambda t: self.by_task[t])

    def without(self, *tasks: str) -> float:
        """The mean of the other tasks."""
        return mean(g for t, g in self.by_task.items() if t not in tasks)

    def share(self, task: str) -> float:
        """The part of the mean that one task makes."""
        return self.by_task[task] / sum(self.by_task.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """What a published model's pretraining took; see above."""

    model: str
    parameters: float
    tokens_seen: float
    tokens_distinct: float
    flops: float
    source: str
    confirmed: bool


@cache
def scores() -> dict[tuple[str, float], dict[str, tuple[float, bool]]]:
    """(model, fraction) -> task -> (mIoU in points, confirmed)."""
    out: dict[tuple[str, float], dict[str, tuple[float, bool]]] = {}
    for r in _rows("published_scores.csv"):
        key = r["model"], float(r["label_fraction"])
        out.setdefault(key, {})[r["task"]] = float(r["miou"]), r["confirmed"] == "yes"
    return out


@cache
def costs() -> dict[str, Cost]:
    """Model -> cost, of those whose cost is public enough."""
    return {
        r["model"]: Cost(
            model=r["model"],
            parameters=float(r["parameters"]),
            tokens_seen=float(r["tokens_seen"]),
            tokens_distinct=float(r["tokens_distinct"]),
            flops=float(r["flops"]),
            source=r["source"],
            confirmed=r["confirmed"] == "yes",
        )
        for r in _rows("published_models.csv")
    }


def gains(fraction: float) -> list[Gains]:
    """Every model's gains over the U-Net at a share of the labels, the best mean first."""
    rival = scores()[RIVAL, fraction]
    found = []
    for (model, f), own in scores().items():
        if f == fraction and model != RIVAL:
            by_task = {t: own[t][0] - rival[t][0] for t in own}
            found.append(Gains(model, fraction, by_task, all(sure for _, sure in own.values())))
    return sorted(found, key=lambda g: -g.mean)


def of(model: str, fraction: float) -> Gains:
    return next(g for g in gains(fraction) if g.model == model)


def facts() -> list[str]:
    """What a reader of the published figures should know, computed from them."""
    large = of("TerraMind-L", 1.0)
    few = [g for g in gains(0.1) if g.model in ("THOR-B", "TerraMind-B")]
    pretrained = [g for g in gains(1.0) if g.model != SCRATCH]
    below = [g for g in pretrained if g.mean < 0]
    lines = [
        f"All labels: {large.model} is at {large.mean:+.2f} over the {RIVAL} in the mean of {len(large.by_task)} "
        f"tasks, with {large.wins} wins and {large.losses} losses; the median is {large.median:+.2f}. Without "
        f"{large.best} the mean is {large.without(large.best):+.2f}, without {large.worst} "
        f"{large.without(large.worst):+.2f}.",
        "10 % of the labels: "
        + "; ".join(
            f"{g.model} {g.mean:+.2f}, of which one task, {g.best}, makes {100 * g.share(g.best):.0f} %" for g in few
        )
        + ".",
        f"All labels: {len(below)} of {len(pretrained)} pretrained models are below the {RIVAL} in the mean of their "
        "tasks.",
    ]
    return lines


def _rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as f:
        return list(csv.DictReader(f))
