"""protocol=pangaea: its networks have the published sizes, its recipe is kept, and it goes from files to a table."""

from __future__ import annotations

import layouts
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gfm_objectives.batch import Spec
from gfm_objectives.cli import main
from gfm_objectives.compare import pangaea
from gfm_objectives.compare.labels import strata, stratified
from gfm_objectives.compare.pangaea_rows import read, versions
from gfm_objectives.metrics import miou
from gfm_objectives.models.encoder import Encoder, parameters, trained_parameters
from gfm_objectives.models.pangaea import FrozenUPerNet, PangaeaUNet, UPerNet
from gfm_objectives.sensors import S2_TEN

SPEC = Spec({"s2": S2_TEN, "s1": ("VV", "VH")}, {"s2": 2, "s1": 1}, 32, 10.0, {})
SIZES = {"cell_dim": 16, "dim": 32, "depth": 6, "heads": 2, "patch": 8, "width": 8}


def test_networks_have_the_published_sizes():
    """14.8 M and 257 GFLOP at 512 pixels of the U-Net; 47.0 M of the UPerNet beside a ViT-L."""
    six = Spec({"hls": tuple("abcdef")}, {"hls": 1}, 512, 30.0, {})
    with torch.device("meta"):
        unet, head = PangaeaUNet(six, 2), UPerNet(1024, 2)
        with FlopCounterMode(display=False) as counted:
            assert unet(six.dummy(1)).shape == (1, 2, 512, 512)
    assert round(parameters(unet) / 1e6, 1) == 14.8 and round(counted.get_total_flops() / 1e9) == 257
    assert round(parameters(head) / 1e6, 1) == pytest.approx(47.0, abs=0.11)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    made = SPEC.dummy(2, "cpu")
    return made.replace(sensors={k: s.replace(x=torch.randn(s.x.shape, generator=g)) for k, s in made.sensors.items()})


def test_the_upernet_reads_four_depths_of_an_encoder_that_stays_as_it_is(batch):
    torch.manual_seed(0)
    encoder = Encoder(SPEC.bands, **SIZES, registers=2, band_dropout=0.5).eval()
    whole = encoder(batch).tokens
    model = FrozenUPerNet(encoder, 3, channels=16).train()
    assert model.after == [1, 2, 3, 5] and not encoder.training and model.head.training
    maps = model.maps(batch)
    assert [m.shape for m in maps] == [(2, 32, 4, 4)] * 4
    torch.testing.assert_close(encoder.vit.norm(maps[-1].flatten(2).mT), whole)
    before = {k: t.clone() for k, t in encoder.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(batch).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(t, before[k]) for k, t in encoder.state_dict().items())
    assert trained_parameters(model) == parameters(model.head)


def test_the_unet_sees_every_date_and_band_and_any_size(batch):
    torch.manual_seed(0)
    model = PangaeaUNet(SPEC, 3, (8, 16, 16, 32)).eval()
    odd = batch.map_grids(lambda t, _: t[..., :30, :21])
    assert model(odd).shape == (2, 3, 30, 21)
    for name, series in batch.sensors.items():
        x = series.x.clone().requires_grad_()
        changed = batch.replace(sensors={**batch.sensors, name: series.replace(x=x)})
        model(changed).sum().backward()
        assert (x.grad.flatten(3).abs().amax((0, 3)) > 0).all()


def test_figures_as_pangaea_has_and_had_them():
    cm = torch.tensor([[8.0, 2, 0], [0, 10, 0], [0, 0, 0]])  # the third class is nowhere
    now, paper = versions("mados", cm)
    assert now == paper == pytest.approx((8 / 10 + 10 / 12) / 3) and miou(cm) == pytest.approx((8 / 10 + 10 / 12) / 2)
    assert versions("pastis", cm)[1] == pytest.approx((8 / 10 + 10 / 12) / 4)


def test_shares_of_labels_are_stratified_nested_and_drawn_by_seed():
    g = np.random.default_rng(0)
    kind = g.choice(3, 400, p=[0.7, 0.25, 0.05])
    y = torch.zeros(400, 4, 4, dtype=torch.long)
    y[kind == 1, 0], y[kind == 2, :1] = 1, 2
    y[:3] = -1
    found = strata([y[:150], y[150:]], 3)
    assert (found[3:] == kind[3:]).all() and (found[:3] == -1).all()
    for count in (20, 40, 200):
        drawn = stratified(found, count, 0)
        assert len(drawn) == count and set(stratified(found, 10, 0)) <= set(drawn)
        for k in range(3):
            share = (found == k).mean()
            assert abs((found[drawn] == k).sum() - count * share) <= 1.5, (count, k)
    assert stratified(found, 40, 0) != stratified(found, 40, 1) and stratified(found, 400, 0) == list(range(400))
    numbers = torch.arange(100.0)[:, None, None].expand(-1, 2, 2)
    assert np.bincount(strata([numbers], 1)).tolist() == [20] * 5


@pytest.fixture
def words(tmp_path, monkeypatch):
    layouts.pastis(tmp_path / "pastis", side=32)
    monkeypatch.setenv("GFM_DATA", str(tmp_path))
    return [
        "eval",
        "suite=pangaea",
        "protocol=pangaea",
        "tasks.pastis.data.dates=2",
        "tasks.pastis.data.size=32",
        "fractions=0.5,1",
        "labels=stratified",
        "seeds=1",
        "pangaea.epochs=2",
        "pangaea.batch_size=2",
        "device=cpu",
        f"results={tmp_path / 'results'}",
        "name=p",
    ]


def test_from_files_to_a_table_and_on_after_a_stop(words, tmp_path, monkeypatch):
    """A task in its layout, the others told to be absent; a row that is there is not made again."""
    monkeypatch.setattr(PangaeaUNet.__init__, "__defaults__", ((8, 8, 8, 8),))
    assert main(words) == 0
    rows = read(tmp_path / "results/p/pangaea.csv")
    assert [(r.task, r.fraction, r.labels) for r in rows] == [("pastis", 0.5, 3), ("pastis", 1.0, 6)]
    assert len({r.labels_hash for r in rows}) == 2 and all(
        0 <= r.paper < r.figure <= r.ours <= 1 for r in rows if r.figure
    )
    page = (tmp_path / "results/p/pangaea.md").read_text()
    assert (
        "| pastis | 50 %, 3 | PANGAEA's U-Net | 1 | miou |" in page
        and "mados: not run, its data is not on disk" in page
    )
    monkeypatch.setattr(pangaea._Fit, "__call__", lambda *a: pytest.fail("made again"))
    assert main(words) == 0 and read(tmp_path / "results/p/pangaea.csv") == rows
