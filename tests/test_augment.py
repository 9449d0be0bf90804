"""Augmentation: one transform for all layers of a place, repeatable, and exact about validity and scale."""

from __future__ import annotations

import torch

from gfm_objectives.batch import Batch, Series
from gfm_objectives.data.augment import augment


def make(b: int = 64, n: int = 16) -> Batch:
    """Every layer shows the pixel's own number, so that layers stay comparable after any move."""
    grid = torch.arange(n * n).view(n, n).float()
    x = grid.expand(b, 2, 3, n, n).clone()
    valid = (grid % 7 != 0).expand(b, 2, n, n).clone()
    series = Series(x * valid[:, :, None], valid, torch.zeros(b, 2), ("B02", "B03", "B04"))
    dem = Series(grid.expand(b, 1, 1, n, n).clone(), torch.ones(b, 1, n, n).bool(), torch.zeros(b, 1), ("elevation",))
    return Batch({"s2": series, "dem": dem}, {"map": grid.long().expand(b, n, n).clone()}, torch.full((b,), 10.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_turns_move_all_layers_of_a_place_alike():
    batch = make()
    out = augment(batch, seeded())
    y = out.targets["map"]
    assert torch.equal(out.sensors["dem"].x[:, 0, 0].long(), y)
    s2 = out.sensors["s2"]
    assert torch.equal(s2.x[:, 1, 2].long(), y * s2.valid[:, 1])
    assert torch.equal(s2.valid[:, 0], y % 7 != 0)
    assert torch.equal(y.flatten(1).sort(1).values, batch.targets["map"].flatten(1))  # places move, values stay
    assert torch.equal(out.gsd, batch.gsd)


def test_all_eight_orientations_occur_and_places_differ():
    y = augment(make(256), seeded()).targets["map"]
    square = torch.arange(256).view(16, 16)
    expected = {tuple(v.flatten().tolist()) for k in range(4) for v in (square.rot90(k), square.rot90(k).mT)}
    assert len(expected) == 8
    assert {tuple(v.flatten().tolist()) for v in y} == expected


def test_the_generator_decides():
    a, b, c = (augment(make(), seeded(s), zoom=1.5) for s in (1, 1, 2))
    assert torch.equal(a.sensors["s2"].x, b.sensors["s2"].x) and torch.equal(a.gsd, b.gsd)
    assert not torch.equal(a.targets["map"], c.targets["map"])


def test_zoom_magnifies_by_the_factor_it_writes_to_gsd():
    batch = make()
    column = torch.arange(16.0).expand(16, 16)
    ramp = column + 100 * column.mT  # height rises by 1 a column, 100 a row
    batch.sensors["dem"].x[:] = ramp
    out = augment(batch, seeded(), zoom=2.0)
    factor = 10.0 / out.gsd
    assert factor.min() >= 1 and factor.max() <= 2 and factor.std() > 0.1
    x = out.sensors["dem"].x[:, 0, 0]
    steps = torch.stack([(x[:, 0, 1] - x[:, 0, 0]).abs(), (x[:, 1, 0] - x[:, 0, 0]).abs()])
    torch.testing.assert_close(steps.amax(0), 100 / factor, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(steps.amin(0), 1 / factor, rtol=1e-2, atol=1e-2)
    assert x.min() > -0.01 and x.max() < 1515.01  # windows lie inside the chip


def test_zoom_keeps_invalid_pixels_out_of_the_values():
    batch = make()
    s2 = batch.sensors["s2"]
    constant = Series(s2.valid[:, :, None].float().expand_as(s2.x) * 5, s2.valid, s2.day, s2.bands)
    out = augment(batch.replace(sensors={"s2": constant}), seeded(), zoom=2.0).sensors["s2"]
    values = out.x[out.valid[:, :, None].expand_as(out.x)]
    torch.testing.assert_close(values, torch.full_like(values, 5.0))
    assert (out.x[~out.valid[:, :, None].expand_as(out.x)] == 0).all() and not out.valid.all()


def test_zoom_keeps_labels_whole():
    batch = make()
    batch.targets["map"][:, :8] = -1
    out = augment(batch, seeded(), zoom=1.7)
    assert out.targets["map"].dtype == torch.long
    assert set(out.targets["map"].unique().tolist()) <= {-1, *range(256)}
