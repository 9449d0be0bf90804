"""Evaluation: every labelled pixel of every tile counts once, whatever the tile's size, and memory stays constant."""

from __future__ import annotations

import pytest
import torch
from held import Held, Tiles
from test_finetune import build, places

from gfm_objectives.batch import Batch, Series
from gfm_objectives.finetune import evaluate, evaluate_rule
from gfm_objectives.finetune.evaluation import PIXELS
from gfm_objectives.metrics import moments, wrong
from gfm_objectives.tasks.kinds import KINDS

SEGMENTATION = KINDS["segmentation"]


def tile(h: int, w: int, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, 2, h, w, generator=g)
    series = Series(x, torch.ones(1, 1, h, w, dtype=torch.bool), torch.zeros(1, 1), ("B02", "B03"))
    return Batch({"s2": series}, {"label": torch.randint(-1, 3, (1, h, w), generator=g)}, torch.full((1,), 10.0))


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_tiles_of_any_size_are_scored_as_a_whole(overlap):
    """A pixelwise model says of a pixel what it says in any window, so the statistics must be those of whole tiles."""
    sizes = [(16, 16), (16, 16), (25, 39), (16, 16), (7, 20), (100, 127)]
    tiles = [tile(h, w, k) for k, (h, w) in enumerate(sizes)]
    model = build().eval()
    stats, shown = evaluate(model, Tiles(tiles), SEGMENTATION, "label", 3, 16, overlap, show=(5, 2))
    whole = torch.cat([SEGMENTATION.observe(model(t), t.targets["label"], 3) for t in tiles])
    assert torch.equal(stats, whole)
    assert stats.sum((1, 2)).tolist() == [int((t.targets["label"] >= 0).sum()) for t in tiles]
    assert {k: p.shape for k, p in shown.items()} == {5: (100, 127), 2: (25, 39)}  # the largest has most errors too
    assert torch.equal(torch.from_numpy(shown[2]), model(tiles[2]).argmax(1)[0])


def test_the_tile_with_most_errors_is_kept_beside_those_asked_for():
    """Of equals the first; none where nothing is wrong or nothing is shown."""
    tiles = [tile(8, 8, k) for k in range(5)]
    for t, errors in zip(tiles, (3, 7, 1, 7, 0), strict=True):
        y = (t.sensors["s2"].x[:, 0, 0] > 0).long()
        y.flatten()[:errors] = 1 - y.flatten()[:errors]
        y[0, -1] = -1
        t.targets["label"] = y

    def kept(number: int, show: tuple[int, ...]) -> list[int]:
        about = (Tiles(tiles[:number]), SEGMENTATION, "label", 3, show)
        stats, shown = evaluate_rule(lambda b: (b.sensors["s2"].x[:, 0, 0] > 0).long(), *about)
        assert wrong(stats).tolist() == [3, 7, 1, 7, 0][:number]
        return sorted(shown)

    assert kept(5, (2,)) == [1, 2] and kept(1, (0,)) == [0] and kept(5, ()) == [] and kept(5, (1, 4)) == [1, 4]
    y = torch.tensor([[[1.0, float("nan")]], [[1.0, 3.0]]])
    assert wrong(moments(y + 2, y)).tolist() == [4, 8]


def test_tiles_go_together_up_to_a_number_of_pixels():
    class Counting(type(build())):
        def forward(self, b):
            seen.append(len(b) * b.size[0] * b.size[1])
            return super().forward(b)

    seen: list[int] = []
    torch.manual_seed(0)
    model = Counting()
    n = PIXELS // 256 + 3
    stats, _ = evaluate(model, Held(places(n)), SEGMENTATION, "label", 3, 16)
    assert seen == [PIXELS, 3 * 256] and len(stats) == n


def test_the_model_is_evaluated_in_evaluation_mode_and_left_without_gradients():
    model = build().train()
    first = evaluate(model, Held(places(2)), SEGMENTATION, "label", 3, 16)[0]
    assert not model.training and torch.equal(first, evaluate(model, Held(places(2)), SEGMENTATION, "label", 3, 16)[0])
    assert all(p.grad is None for p in model.parameters())


def test_a_rule_is_scored_as_a_model_is():
    tiles = [tile(16, 16, 0), tile(20, 9, 1)]
    stats, shown = evaluate_rule(
        lambda b: (b.sensors["s2"].x[:, 0, 0] > 0).long(), Tiles(tiles), SEGMENTATION, "label", 3, (1,)
    )
    assert stats.shape == (2, 3, 3) and stats[:, :, 2].sum() == 0 and shown[1].shape == (20, 9)
    assert stats.sum() == sum(int((t.targets["label"] >= 0).sum()) for t in tiles)
