"""Pictures of confusion matrices: which class is taken for which."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gfm_objectives.metrics import METRICS
from gfm_objectives.report import words
from gfm_objectives.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 40  # classes that can be told apart in a picture


def preferred(scores: Sequence[Score], task: str) -> list[list[Score]]:
    """The runs, at the largest share of the labels, of the pretrained row and of the row from scratch that validation
    prefers, in the mean of seeds; of the best other row where neither was run."""
    own = [s for s in scores if s.task == task and METRICS[s.metric].statistic == "confusion"]
    own = [s for s in own if s.role != "untrained"] or own  # what needs no training holds for every share
    own = [s for s in own if s.fraction == max(o.fraction for o in own)]
    found = [_best([s for s in own if s.role == role]) for role in ("pretrained", "scratch")]
    return [runs for runs in found if runs] or [runs for runs in [_best(own)] if runs]


def _best(scores: Sequence[Score]) -> list[Score]:
    by: dict[str, list[Score]] = {}
    for s in scores:
        by.setdefault(s.contender, []).append(s)
    return max(by.values(), key=lambda runs: _prefers(runs[0].metric, runs), default=[])


def _prefers(metric: str, runs: Sequence[Score]) -> float:
    mean = statistics.fmean(s.val for s in runs)
    return METRICS[metric].better * mean if mean == mean else -np.inf


def confusions(rows: Sequence[Sequence[Score]], names: Sequence[str] | None = None) -> Figure:
    """A panel for each row's runs, summed over them: of each class's pixels, the share given to every class, in %."""
    from matplotlib.figure import Figure

    classes = rows[0][0].stats.shape[-1]
    side = max(2.6, 0.42 * classes)
    figure = Figure(figsize=(len(rows) * (side + 1.2) + 1, side + 1.5), layout="constrained")
    for ax, runs in zip(figure.subplots(1, len(rows), squeeze=False, sharey=True)[0], rows, strict=True):
        counted = np.sum([s.total.numpy() for s in runs], 0)
        _panel(ax, counted, names or [str(i) for i in range(classes)])
        ax.set_title(f"{runs[0].contender}, {words.percent(runs[0].fraction)} of the labels", fontsize=9, loc="left")
        ax.set_xlabel("predicted")
    figure.axes[0].set_ylabel("truth")
    synthetic = ", synthetic data" if rows[0][0].synthetic else ""
    figure.suptitle(f"{rows[0][0].task}: of each class, the share in % given to every class{synthetic}", fontsize=11)
    return figure


def _panel(ax: Axes, counted: np.ndarray, names: Sequence[str]) -> None:
    """counted (K, K): pixels, rows = truth. A class without any has an empty row."""
    total = counted.sum(1, keepdims=True)
    share = np.divide(counted, total, out=np.full_like(counted, np.nan), where=total > 0)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(share >= 0.005):
        color = "white" if share[i, j] > 0.6 else "black"
        ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
