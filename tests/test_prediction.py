"""Rank correlations of what is measured in pretraining with scores, by hand."""

import math

import pytest

from gfm_objectives.gain.prediction import Correlation, correlations
from gfm_objectives.runs.ledger import Ledger


def contenders(count):
    """Between contenders the figure predicts, within them it misleads."""

    def run(nll: float, loss: float) -> Ledger:
        return Ledger("mae", 0, "", "", "", yardstick={"map_nll": nll}, loss=loss)

    return {
        str(c): [(run(2 - c + 0.1 * k * (c + 1), k * (c + 1)), 0.3 + 0.1 * c + 0.01 * k * (c + 1)) for k in (-1, 0, 1)]
        for c in range(count)
    }


def test_rank_correlations_by_hand() -> None:
    """Losses are compared within contenders alone."""
    found = correlations(contenders(5))
    assert list(found) == ["map_nll", "loss"]  # the others were not measured
    between, within = found["map_nll"]
    assert between is not None and between.rho == pytest.approx(1) and between.n == 5
    assert within is not None and within.rho == pytest.approx(-1) and within.n == 15 - 5 + 1
    assert found["loss"][0] is None


def test_four_contenders_give_no_rank_correlation() -> None:
    between, within = correlations(contenders(4))["map_nll"]
    assert between is None and within is not None and within.n == 12 - 4 + 1


def test_the_interval_of_a_rank_correlation() -> None:
    """Bonett and Wright: z +- 1.96 sqrt((1 + rho^2 / 2) / (n - 3))."""
    half = 1.96 * math.sqrt((1 + 0.18) / 7)
    expected = math.tanh(math.atanh(0.6) - half), math.tanh(math.atanh(0.6) + half)
    assert Correlation(0.6, 10).interval == pytest.approx(expected, abs=1e-4)
