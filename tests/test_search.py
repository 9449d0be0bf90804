"""The search for settings: a walk that is a function of what was tried, the same for everybody."""

from __future__ import annotations

import math

import pytest

from gfm_objectives.batch import Spec
from gfm_objectives.compare.contenders import KINDS
from gfm_objectives.compare.search import LEVERS, WIDEN, Space, best, corners, proposals
from gfm_objectives.finetune import HParams

SPACE = Space(
    HParams(4e-3, batch_size=2, width=8),
    {"head_first": (False, True), "width": (8, 16, 32), "batch_size": (2, 8), "length": (1.0, 0.5)},
)


def walk(score, trials, space=SPACE):
    """Everything that was tried, in order."""
    tried: dict[HParams, float] = {}
    while todo := proposals(space, tried, trials):
        assert not set(todo) & tried.keys(), "a setting is tried twice"
        tried |= {h: score(h) for h in todo}
    return tried


def hill(h: HParams) -> float:
    """Best at lr 1.6e-2, width 16, head first."""
    return -abs(math.log2(h.lr / 1.6e-2)) - abs(math.log2(h.width / 16)) + h.head_first - 0.1 * (h.length < 1)


def test_it_finds_the_top_of_a_hill_and_stops_there():
    tried = walk(hill, trials=30)
    assert best(tried) == HParams(1.6e-2, batch_size=2, width=16, head_first=True)
    assert len(tried) < 30 and not corners(SPACE, tried)


def test_the_same_trials_for_a_hill_of_any_owner():
    """It stops at their number, but for corners, and what was tried is the beginning of what more would have tried."""
    few, many = list(walk(hill, trials=5)), list(walk(hill, trials=9))
    assert many[:5] == few[:5] and 5 <= len(few) <= 5 + WIDEN and 9 <= len(many) <= 9 + WIDEN


def test_a_winner_at_the_end_of_the_learning_rates_widens_them():
    rising = walk(lambda h: h.lr, trials=3)  # the best is always the highest
    assert len(rising) == 3 + WIDEN and max(h.lr for h in rising) == best(rising).lr
    assert corners(SPACE, rising)[0] == "lr", "and where that does not help, it is told"
    falling = walk(lambda h: -abs(math.log2(h.lr / 1e-3)), trials=4)
    assert best(falling).lr == 1e-3 and "lr" not in corners(SPACE, falling)


def test_a_winner_at_the_end_of_another_lever_widens_it_too():
    space = Space(HParams(4e-3, width=8), {"width": (8, 16, 32, 64, 128)})
    tried = walk(lambda h: h.width - 100 * abs(math.log2(h.lr / 4e-3)), trials=4, space=space)
    assert {h.width for h in tried} == {8, 16, 32, 64, 128} and len(tried) <= 4 + WIDEN
    assert corners(space, tried) == [], "128 is the last there is"


def test_all_levers_are_tried_in_one_order():
    tried = list(walk(lambda h: -abs(math.log2(h.lr / 4e-3)) - (h != SPACE.start), trials=50))
    moved = [next(n for n in LEVERS if getattr(h, n) != getattr(SPACE.start, n)) for h in tried[1:]]
    assert moved == ["lr", "lr", "width", "head_first", "batch_size", "length"]


def test_a_start_that_diverges_is_left_downwards():
    tried = walk(lambda h: -math.inf if h.lr > 5e-4 else -h.lr, trials=12)
    assert math.isfinite(tried[best(tried)])


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.build is not None])
def test_every_kind_starts_inside_its_own_values(kind, spec: Spec):
    space = KINDS[kind].space(spec, 8)
    assert set(space.values) <= set(LEVERS)
    for lever, values in space.values.items():
        assert getattr(space.start, lever) in values, (kind, lever)
        assert space.neighbours(space.start, lever) or len(values) == 1
    shared = {"lr", "head_first", "batch_size", "length"}
    assert shared <= {"lr", *space.values}, "what helps one side is offered to all"


def test_losses_are_all_beside_each_other():
    space = Space(HParams(4e-3), {"loss": ("", "weighted", "dice", "focal")})
    tried = walk(lambda h: (h.loss == "focal") - abs(math.log2(h.lr / 4e-3)), trials=12, space=space)
    assert best(tried).loss == "focal" and {h.loss for h in tried} == {"", "weighted", "dice", "focal"}
