"""Who is compared with whom: the cells of a comparison, and paired differences between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.gain.intervals import Sampled, sample
from gfm_objectives.scores import SEEDLESS, Score

SAME_FLOPS = 0.02  # two budgets closer than this are one: every run lands within 0.5 % of its budget
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of one contender on one task and label fraction."""

    scores: tuple[Score, ...]  # in order of seed
    sampled: Sampled

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(s.seed for s in self.scores)

    def at(self, seeds: Sequence[int]) -> Sampled:
        return self.sampled.take([self.seeds.index(s) for s in seeds])

    def validation(self, seeds: Sequence[int]) -> float:
        """Mean validation mIoU over `seeds`."""
        return float(np.mean([s.val_miou for s in self.scores if s.seed in seeds]))


@dataclass(frozen=True, slots=True)
class Pair:
    """A contender minus its opponent `versus` (a contender's name) on one task, over the seeds both have run."""

    versus: str
    seeds: tuple[int, ...]
    difference: Sampled


class Table:
    """Every cell of a comparison, and the pairings asked of it."""

    def __init__(self, scores: Sequence[Score], suite_size: int | None = None) -> None:
        if not scores:
            raise InputError("no finished runs to summarise; run eval.py first")
        groups: dict[tuple[str, float, str], list[Score]] = {}
        for s in scores:
            groups.setdefault((s.task, s.fraction, s.contender), []).append(s)
        self.cells: dict[tuple[str, float, str], Cell] = {}
        tiles: dict[str, tuple[str, ...]] = {}
        for key, rows in groups.items():
            rows.sort(key=lambda s: s.seed)
            for s in rows:
                if tiles.setdefault(s.task, s.groups) != s.groups or s.confusion.shape != rows[0].confusion.shape:
                    raise InputError(
                        f"task {s.task}: {s.contender} seed {s.seed} was scored on other tiles; run it again"
                    )
            matrices = [s.confusion for s in rows]
            self.cells[key] = Cell(tuple(rows), sample(matrices, rows[0].groups, rows[0].task))
        self.tasks = _unique(s.task for s in scores)
        self.fractions = sorted({s.fraction for s in scores if s.contender not in SEEDLESS} or {1.0})
        self.suite_size = suite_size or len(self.tasks)
        self.budgets = {c: _budget(c, scores) for c in _unique(s.contender for s in scores)}  # P, or None
        self.pretrained = sorted(c for c, p in self.budgets.items() if p)
        extra = {s.contender: s.extra_flops for s in scores}
        self.contenders = sorted(self.budgets, key=lambda c: (_rank(c, self.pretrained), extra[c], c))

    def cell(self, task: str, fraction: float, contender: str) -> Cell | None:
        """None = not run. Rows without training hold for every fraction."""
        if contender in SEEDLESS:
            return next((c for (t, _, n), c in self.cells.items() if (t, n) == (task, contender)), None)
        return self.cells.get((task, fraction, contender))

    def shares(self, contender: str) -> list[int]:
        """The n worth asking for: 1, the suite's size, and every P/n that some U-Net was given."""
        budget = self.budgets[contender] or 0.0  # NaN: published weights whose cost nobody knows
        given = [c.scores[0].extra_flops for (_, _, n), c in self.cells.items() if n.startswith("unet+")]
        ratios = [budget / extra for extra in given if extra > 0 and math.isfinite(budget)]
        whole = {round(r) for r in ratios if round(r) >= 1 and _same(r, round(r))}
        return sorted({1, self.suite_size} | whole)

    def opponent(self, task: str, fraction: float, contender: str, against: str, n: int) -> list[str] | str:
        """Who stands for `against` ('headline', 'unet', 'scratch'), or both candidates; or what was not run."""
        if against != "headline":
            return [against] if self.cell(task, fraction, against) else f"{NOT_RUN}: {against}"
        if not self.cell(task, fraction, "unet"):
            return f"{NOT_RUN}: unet"
        wanted = (self.budgets[contender] or 0.0) / n
        if not math.isfinite(wanted):
            return f"{NOT_RUN}: the pretraining FLOPs are unknown"
        extras = {
            name: cell.scores[0].extra_flops
            for (t, f, name), cell in self.cells.items()
            if (t, f) == (task, fraction) and name.startswith("unet+") and _same(cell.scores[0].extra_flops, wanted)
        }
        if not extras:
            return f"{NOT_RUN}: unet+{wanted:.2g}"
        return ["unet", min(extras, key=lambda name: abs(extras[name] - wanted))]

    def pair(self, task: str, fraction: float, contender: str, against: str, n: int = 1) -> Pair | str:
        """The paired difference, or one line that says what was not run.

        The headline U-Net is the better of F and F + P/n by mean validation mIoU over the seeds all three have run;
        where the latter is missing there is no headline: the plain U-Net never takes its place.
        """
        mine = self.cell(task, fraction, contender)
        if mine is None:
            return f"{NOT_RUN}: {contender}"
        names = self.opponent(task, fraction, contender, against, n)
        if isinstance(names, str):
            return names
        rivals = {name: cell for name in names if (cell := self.cell(task, fraction, name))}
        seeds = tuple(s for s in mine.seeds if all(s in r.seeds for r in rivals.values()))
        if not seeds:
            return f"{NOT_RUN}: {' and '.join([contender, *names])} share no seed"
        validation = [rivals[name].validation(seeds) for name in names]
        if len(names) > 1 and not np.isfinite(validation).all():
            return f"{NOT_RUN}: validation of {' and '.join(names)}"
        versus = names[int(np.argmax(validation))] if len(names) > 1 else names[0]
        return Pair(versus, seeds, mine.at(seeds) - rivals[versus].at(seeds))


def _rank(contender: str, pretrained: Sequence[str]) -> int:
    """Place of a row in tables: ours, the same ViT from scratch, the U-Nets, what needs no training."""
    if contender in pretrained:
        return 0
    if contender in SEEDLESS:
        return 3
    return 2 if contender.startswith("unet") else 1


def _budget(contender: str, scores: Sequence[Score]) -> float | None:
    """Mean pretraining FLOPs of an encoder's runs, NaN where unknown; None for contenders that were not pretrained."""
    spent = [s.pretrain_flops for s in scores if s.contender == contender]
    if not any(spent) or contender == "unet" or contender.startswith("unet+") or contender in SEEDLESS:
        return None
    if any(math.isnan(s) for s in spent):
        return math.nan
    if not _same(min(spent), max(spent)):
        raise InputError(
            f"contender {contender} mixes pretraining budgets of {min(spent):.3g} and {max(spent):.3g} FLOPs; "
            "compare them under different names"
        )
    return float(np.mean(spent))


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SAME_FLOPS)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
