"""Who is compared with whom: the cells of a comparison, and paired differences between them.

A contender is known by what it is (role, kind, shape, FLOPs). Its name tells it from others and is never read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.gain.intervals import Sampled, nested, sample
from gfm_objectives.metrics import METRICS, Metric
from gfm_objectives.scores import ROLES, Score

SAME_FLOPS = 0.02  # two budgets closer than this are one: every run lands within 0.5 % of its budget
NOT_RUN = "not run"
GAINERS = ("pretrained", "part", "saw_map")  # roles of the rows whose gains are told: they know more than the labels
AGAINST = ("best", "best_on_test", "unet", "equal", "same", "map")
SHARED = ("best", "best_on_test", "unet")  # opponents that are given P/n as well, the pretraining shared by n tasks


@dataclass(frozen=True, slots=True)
class Row:
    """What a contender is, on every task: fields of Score. pretrain_flops P: mean over its runs, NaN = not known."""

    name: str
    role: str
    kind: str
    recipe: str
    shape: str
    pretrain_flops: float
    search_flops: float
    extra_flops: float


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
        """Mean value on validation over `seeds`."""
        return float(np.mean([s.val for s in self.scores if s.seed in seeds]))

    def test(self, seeds: Sequence[int]) -> float:
        return float(self.at(seeds).point.mean())


@dataclass(frozen=True, slots=True)
class Pair:
    """A contender minus `versus` on one task, + is better, over the seeds both have run. `versus` stands for an
    opponent and was chosen among `candidates`."""

    versus: str
    candidates: tuple[str, ...]
    seeds: tuple[int, ...]
    difference: Sampled


class Table:
    """Every cell of a comparison, and the pairings asked of it. InputError where scores do not belong together."""

    def __init__(self, scores: Sequence[Score], suite_size: int | None = None) -> None:
        if not scores:
            raise InputError("no finished runs to summarise; run eval.py first")
        self.tasks = _unique(s.task for s in scores)
        self.metrics = {t: _metric(t, [s for s in scores if s.task == t]) for t in self.tasks}
        self.nested = {t: _nested(t, [s for s in scores if s.task == t]) for t in self.tasks}
        rows = [_row([s for s in scores if s.contender == c]) for c in _unique(s.contender for s in scores)]
        rows.sort(key=lambda r: (ROLES.index(r.role), r.kind, r.shape, r.extra_flops, r.name))
        self.rows = {r.name: r for r in rows}
        self.fractions = sorted({s.fraction for s in scores if s.role != "untrained"} or {1.0})
        self.suite_size = suite_size or len(self.tasks)
        cells: dict[tuple[str, float, str], list[Score]] = {}
        for s in sorted(scores, key=lambda s: s.seed):
            cells.setdefault((s.task, s.fraction, s.contender), []).append(s)
        self.cells = {
            key: Cell(tuple(c), sample([s.stats for s in c], [s.groups for s in c], self.metrics[key[0]].of))
            for key, c in cells.items()
        }

    @property
    def gainers(self) -> list[str]:
        return [r.name for r in self.rows.values() if r.role in GAINERS]

    def cell(self, task: str, fraction: float, contender: str) -> Cell | None:
        """None = not run. Rows without training hold for every fraction."""
        if self.rows[contender].role == "untrained":
            return next((c for (t, _, n), c in self.cells.items() if (t, n) == (task, contender)), None)
        return self.cells.get((task, fraction, contender))

    def shares(self, contender: str, against: str) -> list[int]:
        """The n worth asking for: 1, the suite's size, and every P/n that some rival from scratch was given."""
        budget = self.rows[contender].pretrain_flops
        if against not in SHARED or budget == 0:
            return [1]
        given = [r.extra_flops for r in self.rows.values() if r.role == "scratch" and r.extra_flops]
        ratios = [budget / extra for extra in given if math.isfinite(budget)]
        whole = {round(r) for r in ratios if round(r) >= 1 and _same(r, round(r))}
        return [*dict.fromkeys([1, self.suite_size, *sorted(whole)])]

    def candidates(self, task: str, fraction: float, contender: str, against: str, n: int = 1) -> list[str] | str:
        """Rows among which the opponent is chosen (names, in the order of the table); or one line: what was not run.

        best, best_on_test: from scratch, at F and at F + P/n. unet: U-Nets at both. Where no rival of F + P/n was run
        there is no opponent: one at F never takes its place. equal: U-Nets at F. same: from scratch, of the contender's
        own shape, at F. map: what saw the map and cost no more than the contender, P included.
        """
        me = self.rows[contender]
        there = [r for r in self.rows.values() if r.name != contender and self.cell(task, fraction, r.name)]
        if against == "map":
            cost = me.pretrain_flops + me.extra_flops
            found = [r for r in there if r.role == "saw_map" and _affords(cost, r.pretrain_flops + r.extra_flops)]
            return [r.name for r in found] or f"{NOT_RUN}: no rival that saw the map for as few FLOPs"
        rivals, who = [r for r in there if r.role == "scratch"], "rival"
        if against in ("unet", "equal"):
            rivals, who = [r for r in rivals if r.kind == "unet"], "U-Net"
        elif against == "same":
            alike = me.shape and not me.kind.endswith("map_input")  # what reads the map is another network
            rivals, who = [r for r in rivals if alike and r.shape == me.shape], "row from scratch of its shape"
        plain = [r.name for r in rivals if not r.extra_flops]
        if not plain:
            return f"{NOT_RUN}: no {who} at F"
        if against not in SHARED or me.pretrain_flops == 0:
            return plain
        if math.isnan(me.pretrain_flops):
            return f"{NOT_RUN}: the pretraining FLOPs are unknown"
        given = [r.name for r in rivals if r.extra_flops and _same(r.extra_flops, me.pretrain_flops / n)]
        if not given:
            return f"{NOT_RUN}: no {who} with F + P/n"
        return [r.name for r in rivals if r.name in plain or r.name in given]

    def best(self, task: str, fraction: float, names: Sequence[str], on_test: bool = False) -> str:
        """The best of some rows on validation, over all seeds that every one of them has run; or what was not run.

        The seeds are pooled: a choice anew for each seed would follow the luck of validation.
        """
        if len(names) == 1:
            return names[0]
        cells = [c for c in (self.cell(task, fraction, n) for n in names) if c]
        assert len(cells) == len(names), names
        seeds = [s for s in cells[0].seeds if all(s in c.seeds for c in cells)]
        if not seeds:
            return f"{NOT_RUN}: {', '.join(names)} share no seed"
        values = np.array([c.test(seeds) if on_test else c.validation(seeds) for c in cells])
        if not np.isfinite(values).all():
            unknown = [n for n, v in zip(names, values, strict=True) if not math.isfinite(v)]
            return f"{NOT_RUN}: {'test' if on_test else 'validation'} of {', '.join(unknown)}"
        return names[int(np.argmax(self.metrics[task].better * values))]

    def pair(self, task: str, fraction: float, contender: str, against: str, n: int = 1) -> Pair | str:
        """The paired difference, or one line that says what was not run."""
        mine = self.cell(task, fraction, contender)
        if mine is None:
            return f"{NOT_RUN}: {contender}"
        names = self.candidates(task, fraction, contender, against, n)
        if isinstance(names, str):
            return names
        versus = self.best(task, fraction, names, on_test=against == "best_on_test")
        if versus not in names:
            return versus
        rival = self.cell(task, fraction, versus)
        assert rival is not None, versus
        seeds = tuple(s for s in mine.seeds if s in rival.seeds)
        if not seeds:
            return f"{NOT_RUN}: {contender} and {versus} share no seed"
        difference = (mine.at(seeds) - rival.at(seeds)) * self.metrics[task].better
        return Pair(versus, tuple(names), seeds, difference)


def _metric(task: str, scores: Sequence[Score]) -> Metric:
    names = _unique(s.metric for s in scores)
    if len(names) > 1:
        raise InputError(f"task {task}: scored by {' and by '.join(names)}; run it again with one metric")
    return METRICS[names[0]]


def _nested(task: str, scores: Sequence[Score]) -> bool:
    """Whether each seed has test areas of its own. On the synthetic Earth one seed alone is one of many Earths."""
    first: dict[int, Score] = {}
    for s in scores:
        if first.setdefault(s.seed, s).groups != s.groups or first[s.seed].stats.shape != s.stats.shape:
            raise InputError(f"task {task}: {s.contender} seed {s.seed} was scored on other tiles; run it again")
    if len(first) == 1:
        return scores[0].synthetic
    if nested([s.groups for s in first.values()], list(first), f"task {task}"):
        return True
    for s in first.values():
        if s.groups != scores[0].groups:
            raise InputError(f"task {task}: {s.contender} seed {s.seed} was scored on other tiles; run it again")
    return False


def _row(scores: Sequence[Score]) -> Row:
    """The row of all scores of one name. InputError where they are of different contenders."""
    first = scores[0]
    for field in ("role", "kind", "recipe", "shape"):
        values = _unique(getattr(s, field) for s in scores)
        if len(values) > 1:
            raise InputError(
                f"contender {first.contender} has {field} {values[0]!r} and {values[1]!r}; compare them under "
                "different names"
            )
    budgets = {}
    for field, title in (("pretrain_flops", "pretraining"), ("extra_flops", "extra")):
        spent = [float(getattr(s, field)) for s in scores]
        if not any(math.isnan(x) for x in spent) and not _same(min(spent), max(spent)):
            raise InputError(
                f"contender {first.contender} mixes {title} budgets of {min(spent):.3g} and {max(spent):.3g} FLOPs; "
                "compare them under different names"
            )
        budgets[field] = float(np.mean(spent))
    search = float(np.mean([s.search_flops for s in scores]))
    return Row(first.contender, first.role, first.kind, first.recipe, first.shape, search_flops=search, **budgets)


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=SAME_FLOPS)


def _affords(means: float, cost: float) -> bool:
    """NaN, not known, affords all."""
    return not cost > means * (1 + SAME_FLOPS)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
