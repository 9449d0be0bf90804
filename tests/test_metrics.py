"""Statistics and figures: by hand, against torchmetrics, and against the exact average precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.regression import R2Score

from gfm_objectives.metrics import (
    BINS,
    CLASSWISE,
    METRICS,
    average_precision,
    confusion,
    f1,
    iou,
    miou,
    moments,
    precision,
    recall,
    score_histogram,
)


def labels(classes: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """(prediction, target); class 0 is predicted too often, 10 % of the target is without label."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, shape, generator=g)
    pred = torch.where(torch.rand(shape, generator=g) < 0.6, target, 0)
    target[torch.rand(shape, generator=g) < 0.1] = -1
    return pred, target


def heights(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = 300 + 10 * torch.randn(4, 16, 16, generator=g)
    pred = target + 2 * torch.randn(target.shape, generator=g) + 1
    target[torch.rand(target.shape, generator=g) < 0.1] = math.nan
    return pred, target


def logits(n: int, share: float, spread: float, shift: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(scores, truth) of one class in n places, `share` of which have it."""
    g = torch.Generator().manual_seed(seed)
    truth = (torch.rand(n, 1, generator=g) < share).double()
    return (torch.randn(n, 1, generator=g) + 1.5 * truth) * spread + shift, truth


def exact(score: Tensor, truth: Tensor) -> float:
    """Average precision without bins: the mean over the hits of precision among what was scored as high or higher."""
    hits = score[truth == 1]
    return float(torch.stack([truth[score >= s].mean() for s in hits]).mean())


STATISTICS = {
    "confusion": confusion(*labels(5, (4, 16, 16)), 5),
    "moments": moments(*heights()),
    "scores": torch.stack([score_histogram(*logits(30, 0.3, 2.0, -1.0, seed)).sum(0) for seed in range(4)]),
}


def test_confusion_by_hand():
    target = torch.tensor([[[0, 0], [1, -1]], [[1, 1], [1, 0]]])
    pred = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [1, 0]]])
    cm = confusion(pred, target, 2)
    assert cm.dtype == torch.long
    assert cm.tolist() == [[[1, 1], [0, 1]], [[1, 0], [1, 2]]]  # rows = truth; the ignored pixel is nowhere
    assert confusion(pred[0, 0], target[0, 0], 2).tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]  # a class a place


def test_figures_of_classes_by_hand():
    cm = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert iou(cm)[:2].tolist() == pytest.approx([8 / 11, 9 / 12])
    assert f1(cm)[:2].tolist() == pytest.approx([16 / 19, 18 / 21])
    assert precision(cm)[:2].tolist() == pytest.approx([8 / 9, 9 / 11])
    assert recall(cm)[:2].tolist() == pytest.approx([8 / 10, 9 / 10])
    assert all(of(cm)[2].isnan() for of in CLASSWISE.values())  # in neither truth nor prediction
    assert miou(cm) == pytest.approx((8 / 11 + 9 / 12) / 2)
    assert float(METRICS["accuracy"].of(cm)) == pytest.approx(17 / 20)
    assert float(METRICS["change_f1"].of(cm[:2, :2])) == pytest.approx(18 / 21)


def test_a_class_only_predicted_or_never_predicted_counts_as_zero():
    assert miou(torch.tensor([[6, 2], [0, 0]])) == pytest.approx(6 / 8 / 2)
    for cm in (torch.tensor([[6, 2], [0, 0]]), torch.tensor([[6, 0], [2, 0]])):
        assert [float(of(cm)[1]) for of in CLASSWISE.values()] == [0, 0, 0, 0]


def test_tiles_are_summed_before_scoring():
    tiles = torch.tensor([[[9, 1], [0, 0]], [[0, 0], [5, 5]]])
    assert miou(tiles) == pytest.approx((9 / 15 + 5 / 11) / 2)
    assert miou(tiles) != pytest.approx(sum(miou(t) for t in tiles) / 2, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("ignore", [-1, 1])
def test_iou_agrees_with_torchmetrics(classes, ignore):
    pred, target = labels(classes, (4, 16, 16), classes)
    target[target == -1] = ignore
    pred[target == ignore] = 0
    cm = confusion(pred, target, classes, ignore)
    reference = MulticlassJaccardIndex(classes, average="none", ignore_index=ignore)(pred, target)
    present = ~iou(cm.sum(0)).isnan()
    torch.testing.assert_close(iou(cm.sum(0))[present].float(), reference[present])
    if ignore < 0:  # with a class ignored torchmetrics' macro mean leaves it out even where it is predicted
        macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore)(pred, target)
        assert miou(cm) == pytest.approx(float(macro), abs=1e-6)


@pytest.mark.parametrize("missing", [None, 3])
def test_other_figures_of_a_confusion_agree_with_torchmetrics(missing):
    pred, target = labels(5, (4, 16, 16))
    pred[pred == missing] = 1  # a class that is never predicted
    total = confusion(pred, target, 5).sum(0)
    references = {"f1": MulticlassF1Score, "precision": MulticlassPrecision, "recall": MulticlassRecall}
    for name, reference in references.items():
        expected = float(reference(5, average="macro", ignore_index=-1)(pred, target))
        assert float(METRICS[name].of(total)) == pytest.approx(expected, abs=1e-6), name
    expected = float(MulticlassAccuracy(5, average="micro", ignore_index=-1)(pred, target))
    assert float(METRICS["accuracy"].of(total)) == pytest.approx(expected, abs=1e-6)


def test_class_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"pred holds classes 0\.\.3, not 0\.\.2"):
        confusion(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 1]]]), 3)
    with pytest.raises(ValueError, match="target holds"):
        confusion(torch.tensor([[[0, 0]]]), torch.tensor([[[0, 255]]]), 3)
    confusion(torch.tensor([[[0, 3]]]), torch.tensor([[[0, -1]]]), 3)  # where ignored, any prediction will do


def test_moments_by_hand():
    pred, target = torch.tensor([[1.0, 5.0, 7.0], [2.0, 2.0, 2.0]]), torch.tensor([[2.0, 3.0, math.nan], [2.0] * 3])
    assert moments(pred, target).tolist() == [[2, 5, 13, 1, 3, 5], [3, 6, 12, 0, 0, 0]]


def test_figures_of_moments_agree_with_what_they_stand_for():
    pred, target = heights()
    total, known = moments(pred, target).sum(0), ~target.isnan()
    e, y = (pred - target)[known].double(), target[known].double()
    assert float(METRICS["rmse"].of(total)) == pytest.approx(float(e.square().mean().sqrt()), rel=1e-9)
    assert float(METRICS["mae"].of(total)) == pytest.approx(float(e.abs().mean()), rel=1e-9)
    assert float(METRICS["r2"].of(total)) == pytest.approx(float(R2Score()(pred[known].double(), y)), abs=1e-6)


def test_the_variance_of_a_constant_is_not_explained():
    target = torch.full((2, 50, 50), 0.1)  # no float: the sums differ from n times the square by rounding
    total = moments(target + 0.01, target).sum(0)
    assert math.isnan(float(METRICS["r2"].of(total))) and float(METRICS["mae"].of(total)) == pytest.approx(
        0.01, rel=1e-4
    )


def test_scores_are_counted_by_class_and_truth():
    score = torch.tensor([[-1e-6, 3.0], [0.0, 3.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, math.nan]])
    h = score_histogram(score, truth)
    assert h.shape == (2, 2, 2, BINS) and h.dtype == torch.long and h.sum() == 3
    assert h[0, 0, 1, BINS // 2 - 1] == 1  # just below probability 1/2, present
    assert h[1, 0, 0, BINS // 2] == 1  # at it, absent
    assert h[0, 1, 0].sum() == 1 and h[1, 1].sum() == 0  # what is not known is nowhere


def test_bins_keep_the_order_of_scores_and_have_no_end():
    score = torch.tensor([[-1e30, -60.0, -20.0, -3.0, -2.8, 2.8, 3.0, 20.0, 60.0, 1e30]])
    bins = score_histogram(score, torch.zeros_like(score))[0, :, 0].argmax(-1)
    assert (bins.diff() > 0).all() and bins[0] == 0 and bins[-1] == BINS - 1


@pytest.mark.parametrize(("score", "truth"), [(0.0, 2.0), (0.0, 0.5), (math.nan, 1.0), (math.inf, 1.0)])
def test_scores_and_truths_that_are_none_are_refused(score, truth):
    with pytest.raises(ValueError, match=r"target holds|not finite"):
        score_histogram(torch.tensor([[score, 0.0]]), torch.tensor([[truth, 1.0]]))
    score_histogram(torch.tensor([[score]]), torch.tensor([[math.nan]]))  # where not known, any score will do


@pytest.mark.parametrize(("spread", "shift"), [(1, 0), (3, 0), (2, -4), (8, -3)])
def test_average_precision_is_near_the_exact_one(spread, shift):
    """As near as BINS says: one figure of 100 hits in 1000 places by .013, of ten times as many by .003."""
    for n, single in ((1000, 0.013), (10_000, 0.003)):
        off = []
        for seed in range(10):
            score, truth = logits(n, 0.1, spread, shift, seed)
            value = float(average_precision(score_histogram(score, truth).sum(0)))
            off.append(value - exact(score[:, 0], truth[:, 0]))
        assert max(map(abs, off)) < single and abs(sum(off) / len(off)) < 0.0025, off


def test_average_precision_at_its_ends():
    truth = torch.tensor([[1.0, 1.0, 0.0]] * 2 + [[0.0, 1.0, 0.0]] * 8)
    h = score_histogram(torch.where(truth == 1, 4.0, -4.0), truth).sum(0)
    assert average_precision(h)[:2].tolist() == [1, 1] and average_precision(h)[2].isnan()  # never present
    assert float(METRICS["map"].of(h)) == 1 and float(METRICS["multilabel_f1"].of(h)) == 1
    same = score_histogram(torch.full((10_000, 1), 0.3), (torch.arange(10_000) % 5 == 0).double()[:, None]).sum(0)
    assert float(average_precision(same)) == pytest.approx(0.2, abs=1e-3)  # a constant: the prevalence


def test_f1_of_several_labels_by_hand():
    score = torch.tensor([[2.0, -1.0], [1.0, -1.0], [-1.0, -1.0], [0.5, -1.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    total = score_histogram(score, truth).sum(0)
    assert float(METRICS["multilabel_f1"].of(total)) == pytest.approx((2 * 2 / (3 + 3) + 0) / 2)


@pytest.mark.parametrize("name", METRICS)
def test_figures_vectorise_and_take_fractional_weights(name):
    m, stats = METRICS[name], STATISTICS[METRICS[name].statistic].double()
    weights = torch.rand(3, 2, len(stats), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    figures = m.of(torch.tensordot(weights, stats, 1))  # (3, 2, *shape) -> (3, 2)
    assert figures.shape == (3, 2) and figures.dtype == torch.float64 and figures.isfinite().all()
    one_by_one = [m.of((w.view(-1, *[1] * (stats.ndim - 1)) * stats).sum(0)) for w in weights.view(6, -1)]
    torch.testing.assert_close(figures.flatten(), torch.stack(one_by_one))
    # Twice all weights change nothing, but for the half label by which average precision counts a hit as its own.
    torch.testing.assert_close(
        m.of(2 * stats.sum(0)), m.of(stats.sum(0)), atol=0.005 if name == "map" else 1e-9, rtol=0
    )


@pytest.mark.parametrize("name", METRICS)
def test_nothing_counted_is_nan(name):
    stats = STATISTICS[METRICS[name].statistic][0]
    assert math.isnan(float(METRICS[name].of(torch.zeros_like(stats))))
