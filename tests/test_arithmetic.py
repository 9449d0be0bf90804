"""What is laid out for speed is the sum that its formula says, to rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import NANO, random_batch
from einops import rearrange
from torch import nn

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.models import build_encoder, masking
from gfm_objectives.models.heads import PatchHead, SeriesHead, by_cell
from gfm_objectives.models.stem import CELL, date_shares
from gfm_objectives.objectives.masked_tokens import patches


@pytest.fixture
def batch(spec: Spec) -> Batch:
    return random_batch(spec, 2)


def test_a_sensor_is_merged_as_the_formula_says(spec: Spec, batch: Batch) -> None:
    """Bands, validity and day by a linear map each; validity is one more band of one matrix in the code."""
    stem = build_encoder(NANO, spec).stem
    nn.init.normal_(stem.validity)
    for name, series in batch.sensors.items():
        cell = {"p": CELL, "q": CELL}
        x = torch.where(series.valid[:, :, None], series.x, 0)
        x = rearrange(x, "b t c (h p) (w q) -> b (h w) t (c p q)", **cell)
        shown = rearrange(series.valid.float(), "b t (h p) (w q) -> b (h w) t (p q)", **cell)
        y = x @ stem.embed[name](series.bands).flatten(0, 1) + shown @ stem.validity + stem.told(name, series)[:, None]
        y = F.gelu(y)
        share = date_shares(stem.score(y), shown.amax(-1) > 0)
        cells, mixed = stem.merge(name, series, series.valid)
        weights = share[..., : stem.heads].repeat_interleave(stem.dim // stem.heads, -1)
        torch.testing.assert_close(cells, (y * weights).sum(2))
        means = [torch.einsum("bntg,bntp->bngp", share[..., stem.heads :], part) for part in (x, shown)]
        torch.testing.assert_close(mixed.flatten(3), torch.cat(means, -1))


def test_what_the_vit_leaves_out_changes_nothing_of_what_it_reads(spec: Spec, batch: Batch) -> None:
    encoder = build_encoder(NANO, spec)
    merged = encoder.stem(batch)
    tokens = (batch.size[0] // encoder.patch) * (batch.size[1] // encoder.patch)
    keep = torch.stack([torch.randperm(tokens)[:3] for _ in range(2)])
    encoder.vit.blocks = nn.ModuleList()  # each token for itself
    every, some = (encoder.vit(merged, encoder.patch, batch.gsd, k) for k in (None, keep))
    torch.testing.assert_close(masking.take(some, keep), masking.take(every, keep))
    assert (some != 0).any(-1).sum(1).tolist() == [3, 3]


def test_a_gate_in_the_map_is_a_gate_on_every_pixel() -> None:
    torch.manual_seed(0)
    head = PatchHead(6, 4, 8, {"s1": ("VV", "VH")})
    cells, told, cell = by_cell(torch.randn(2, 4, 16, 16), 8), torch.randn(2, 3, 6), torch.randint(4, (2, 3))
    fine = torch.stack([cells[b, cell[b]] for b in range(2)]).unflatten(-1, (64, 4))
    whole = head.token["s1"](told).unflatten(-1, (64, 2)) + head.pixel["s1"](fine * head.gate(told)[:, :, None])
    torch.testing.assert_close(head("s1", told, cells, cell), whole)


def test_pixels_of_cells_are_those_at_their_places(batch: Batch) -> None:
    patch, series = 8, next(iter(batch.sensors.values()))
    dates, rows, columns = series.x.shape[1], batch.size[0] // patch, batch.size[1] // patch
    number = torch.randint(dates * rows * columns, (2, 5))
    x, weight = patches(series, number, patch)
    for b in range(2):
        for k, n in enumerate(number[b].tolist()):
            t, r, c = n // (rows * columns), n // columns % rows, n % columns
            here = (slice(r * patch, (r + 1) * patch), slice(c * patch, (c + 1) * patch))
            ok = series.valid[b, t][here].flatten()
            assert torch.equal(weight[b, k, :, 0].bool(), ok)
            assert torch.equal(x[b, k], torch.where(ok[:, None], series.x[b, t][:, *here].flatten(1).mT, 0))


@pytest.mark.parametrize("reader", ["pixels", "cells", "days"])
def test_gradients_come_back_in_the_format_of_the_features(spec: Spec, batch: Batch, reader: str) -> None:
    """Whoever reads them: GELU's backward takes five times as long where they differ."""
    encoder = build_encoder(NANO, spec)
    found: list[bool] = []
    encoder.way_back.fine[-1].register_full_backward_pre_hook(
        lambda _, grads: found.append(grads[0].is_contiguous(memory_format=torch.channels_last))
    )
    dense = encoder.features(batch)
    assert dense.is_contiguous(memory_format=torch.channels_last)
    if reader == "pixels":
        read = nn.Conv2d(encoder.width, 3, 1)(dense)
    elif reader == "cells":
        read = by_cell(dense, 8)
    else:
        read = SeriesHead(encoder.width, {"s1": 2}, 0.9)(dense, "s1", torch.randn(2, 3, 5))
    read.square().sum().backward()
    assert found == [True]
