"""One answer everywhere: its figure from the statistics of any prediction, and rows that are no better."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gfm_objectives.compare.luck import at_chance, best_constant
from gfm_objectives.metrics import METRICS, confusion, moments, score_histogram

G = torch.Generator().manual_seed(3)
TRUTH = (torch.rand(4, 50, generator=G) > 0.8).long()


def test_the_figure_is_that_of_the_constant_prediction():
    noise = torch.randint(0, 2, TRUTH.shape, generator=G)
    stats = confusion(noise, TRUTH, 2).double().sum(0)
    for name in ("miou", "accuracy", "f1"):
        each = [float(METRICS[name].of(confusion(torch.full_like(TRUTH, k), TRUTH, 2).double().sum(0))) for k in (0, 1)]
        assert best_constant(METRICS[name], stats) == pytest.approx(max(each))
    y = torch.rand(4, 50, generator=G) * 30
    stats = moments(torch.rand(4, 50, generator=G), y).sum(0)
    assert best_constant(METRICS["rmse"], stats) == pytest.approx(float(y.double().std(correction=0)))
    assert best_constant(METRICS["r2"], stats) == pytest.approx(0, abs=1e-9)
    present = (torch.rand(60, 3, generator=G) > 0.7).float()
    stats = score_histogram(torch.randn(60, 3, generator=G), present).sum(0)
    assert best_constant(METRICS["map"], stats) == pytest.approx(float(present.mean(0).mean()), abs=0.02)


def score(contender: str, prediction: torch.Tensor, **about):
    stats = confusion(prediction, TRUTH, 2).numpy()
    base = {"task": "t", "contender": contender, "fraction": 1.0, "role": "scratch", "metric": "miou", "stats": stats}
    return SimpleNamespace(**base | about)


def test_rows_at_chance_are_named_and_others_are_not():
    zero = torch.zeros_like(TRUTH)
    some = TRUTH.clone()
    some[0, :25] = 0
    scores = [score("lazy", zero), score("good", some), score("rule", zero, role="untrained")]
    assert at_chance(scores) == ["t: at chance, no better than one answer everywhere: lazy (100 %)."]
    assert at_chance([score("good", TRUTH)]) == []
