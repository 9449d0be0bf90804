"""Which test tiles are shown, on which dates: those that tell most of the task, before any result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_batch
from test_bench import LANDCOVER, opened

from gfm_objectives.compare import pictures
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.pictures import COUNT, Pictures, densest, evenly
from gfm_objectives.data import SOURCES
from gfm_objectives.report.gallery import predictions, worst, worst_of
from gfm_objectives.report.pictures import dates, error, image, telling


def label(*shares: float) -> torch.Tensor:
    """A map of ten by ten whose classes have these tenths; the rest has no label."""
    y = torch.full((10, 10), -1)
    row = 0
    for k, share in enumerate(shares):
        y[row : row + int(share)] = k
        row += int(share)
    return y


def test_tiles_with_every_class_come_before_empty_ones():
    labels = [label(10), label(9, 1), label(0), label(5, 5), label(9, 0, 1), label(10)]
    assert telling(labels, 4, 2) == [3, 4]  # both of two, evenly; then the only one with the third class
    assert telling(labels, 4, 3) == [1, 3, 4]  # all are shown: again those with most
    assert telling(labels[:1], 4, COUNT) == [0]
    assert evenly(5, 4) == [0, 1, 3, 4]
    assert evenly(3, 4) == [0, 1, 2]


def test_all_contenders_show_the_same_tiles(tmp_path, monkeypatch):
    bench = open_bench("mine", LANDCOVER | {"test": 40})
    first, again = Pictures(tmp_path).tiles(bench), Pictures(tmp_path).tiles(bench)
    assert first == again and len(first) == COUNT and list(first) == sorted(first)

    def classes(which) -> int:
        tiles = [bench.source("test").tile(k).targets["landcover"] for k in which]
        return len({c for y in tiles for c in y.unique().tolist() if c >= 0})

    assert classes(first) >= classes(evenly(40, COUNT))
    monkeypatch.setitem(SOURCES, "made", "test_bench:Scenes")
    assert Pictures(tmp_path).tiles(opened(tmp_path, layer="n", kind="regression")) == (0, 1)


def test_a_series_is_shown_from_its_first_date_to_its_last(spec):
    batch = random_batch(spec, 2)
    s2 = batch.sensors["s2"]
    valid = s2.valid.clone()
    valid[1, 0] = False  # nothing is seen on the first of three
    batch = batch.replace(sensors={**batch.sensors, "s2": s2.replace(valid=valid)})
    shown = dates(batch, 3)
    assert shown.shape == (2, 3, 32, 32, 3) and 0 <= shown.min() and shown.max() <= 1
    assert not np.array_equal(shown[0, 0], shown[0, 1]) and not np.array_equal(shown[0, 1], shown[0, 2])
    assert np.array_equal(shown[1, 1], shown[1, 2]) or np.array_equal(shown[1, 0], shown[1, 1])  # two dates there
    two = dates(batch, 2)
    assert two.shape[1] == 2 and np.array_equal(two[0, [0, 1]], shown[0, [0, 2]])
    clearest = int(valid[0].flatten(1).sum(1).argmax())
    assert np.array_equal(image(batch)[0], shown[0, clearest])


@pytest.mark.parametrize(("count", "titles"), [(1, ["image"]), (2, ["first date", "last date"]), (3, 3)])
def test_the_picture_has_a_column_for_each_date(count, titles):
    arrays = {"label": np.zeros((2, 8, 8), int), "pred/U-Net": np.zeros((2, 8, 8), int), "image": np.ones((2, 8, 8, 3))}
    if count > 1:
        arrays["dates"] = np.ones((2, count, 8, 8, 3))
    figure = predictions("t", arrays, ["a"], None)
    above = [ax.get_title() for ax in figure.axes[: count + 2]]
    assert above[-2:] == ["label", "U-Net"] and len(figure.axes) == 2 * (count + 2)
    assert above[:count] == (titles if isinstance(titles, list) else ["first date", "between", "last date"])


def test_the_tile_that_each_has_most_wrong_is_shown(tmp_path, monkeypatch):
    """Beside the tiles chosen before any result, which are the same for all; of a large one where the errors are."""
    monkeypatch.setattr(pictures, "LARGEST", 6)
    monkeypatch.setattr(pictures, "STEP", 1)
    monkeypatch.setitem(SOURCES, "made", "test_bench:Scenes")
    bench = opened(tmp_path)  # two tiles of 11 x 9, which have a label in one pixel
    kept = Pictures(tmp_path)
    right = {k: np.full((11, 9), k) for k in (0, 1)}
    for name, wrongs in {"U-Net": [1], "mae": [0], "all right": []}.items():
        stats = np.stack([np.diag([1, 0, 0])] * 2)
        for k in wrongs:
            stats[k] = [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        kept.add(bench, name, {k: p + (k in wrongs) for k, p in right.items()}, stats)
    arrays = {k.removeprefix("t/"): v for k, v in np.load(tmp_path / "predictions.npz").items()}
    assert arrays["label"].shape == (2, 6, 6) and {k for k in arrays if k.startswith("pred/")} == {
        "pred/U-Net", "pred/mae", "pred/all right"}  # fmt: skip
    errs = worst_of(arrays, ["mae", "all right", "U-Net"])
    assert [*errs] == ["mae", "U-Net"] and {c: int(e["pred"][0, 0]) for c, e in errs.items()} == {"mae": 1, "U-Net": 2}
    assert errs["mae"]["image"].shape == (1, 6, 6, 3) and errs["U-Net"]["label"][0, 0] == 1
    figure = worst("t", errs, ["a", "b", "d"], None)
    assert [ax.get_ylabel() for ax in figure.axes[::4]] == ["mae", "U-Net"]
    assert [ax.get_title() for ax in figure.axes[:4]] == ["image", "label", "predicted", "errors"]
    assert figure.axes[3].images[0].get_array().sum() == 1  # one labelled pixel
    amount = np.zeros((20, 20))
    amount[15, 12] = 1
    top, left = densest(amount, 6, 6)
    assert 15 in range(top, top + 6) and 12 in range(left, left + 6)


def test_errors_of_numbers_have_a_size():
    label = np.array([[1.0, np.nan, 3.0]], np.float32)
    assert error(np.array([[3.0, 7.0, 2.5]], np.float32), label).tolist() == [[2.0, 0.0, 0.5]]
    arrays = {"mae": {"image": np.ones((1, 1, 3, 3)), "label": label, "pred": label + 1}}
    assert len(worst("t", arrays, None, None).axes) == 4 + 1  # and a bar of colours
