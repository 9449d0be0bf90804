"""Confusion matrices, IoU and mIoU: by hand and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from gfm_objectives.metrics import confusion, f1, iou, miou


def test_confusion_by_hand():
    target = torch.tensor([[[0, 0], [1, -1]], [[1, 1], [1, 0]]])
    pred = torch.tensor([[[0, 1], [1, 0]], [[1, 0], [1, 0]]])
    cm = confusion(pred, target, 2)
    assert cm.dtype == torch.long
    assert cm.tolist() == [[[1, 1], [0, 1]], [[1, 0], [1, 2]]]  # rows = truth; the ignored pixel is nowhere


def test_iou_by_hand():
    cm = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    values = iou(cm)
    assert values[:2].tolist() == pytest.approx([8 / 11, 9 / 12])
    assert values[2].isnan()  # in neither truth nor prediction
    assert f1(values)[:2].tolist() == pytest.approx([16 / 19, 18 / 21]) and f1(values)[2].isnan()
    assert miou(cm) == pytest.approx((8 / 11 + 9 / 12) / 2)


def test_a_class_only_predicted_counts_as_zero():
    assert miou(torch.tensor([[6, 2], [0, 0]])) == pytest.approx(6 / 8 / 2)


def test_tiles_are_summed_before_scoring():
    tiles = torch.tensor([[[9, 1], [0, 0]], [[0, 0], [5, 5]]])
    assert miou(tiles) == pytest.approx((9 / 15 + 5 / 11) / 2)
    assert miou(tiles) != pytest.approx(sum(miou(t) for t in tiles) / 2, abs=1e-3)


def test_nothing_counted_is_nan():
    target = torch.full((1, 2, 2), -1)
    assert math.isnan(miou(confusion(torch.zeros_like(target), target, 3)))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("ignore", [-1, 1])
def test_agrees_with_torchmetrics(classes, ignore):
    g = torch.Generator().manual_seed(classes)
    target = torch.randint(0, classes, (4, 16, 16), generator=g)
    target[torch.rand(target.shape, generator=g) < 0.1] = ignore
    pred = torch.where(torch.rand(target.shape, generator=g) < 0.6, target.clamp(min=0), 0)
    pred[target == ignore] = 0
    cm = confusion(pred, target, classes, ignore)
    reference = MulticlassJaccardIndex(classes, average="none", ignore_index=ignore)(pred, target)
    present = ~iou(cm.sum(0)).isnan()
    torch.testing.assert_close(iou(cm.sum(0))[present].float(), reference[present])
    if ignore < 0:  # with a class ignored torchmetrics' macro mean leaves it out even where it is predicted
        macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore)(pred, target)
        assert miou(cm) == pytest.approx(float(macro), abs=1e-6)


def test_class_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"pred holds classes 0\.\.3, not 0\.\.2"):
        confusion(torch.tensor([[[0, 3]]]), torch.tensor([[[0, 1]]]), 3)
    with pytest.raises(ValueError, match="target holds"):
        confusion(torch.tensor([[[0, 0]]]), torch.tensor([[[0, 255]]]), 3)
    confusion(torch.tensor([[[0, 3]]]), torch.tensor([[[0, -1]]]), 3)  # where ignored, any prediction will do
