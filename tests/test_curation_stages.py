"""Stages of curation: what is done is not done again; tests of a place and layers that went wrong; lists of no use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scenes import Scenes, strangers

from gfm_objectives import cli
from gfm_objectives.curation import curating, embeddings
from gfm_objectives.curation.curating import curate
from gfm_objectives.curation.examination import REASONS, Limits, examine
from gfm_objectives.curation.fingerprints import channels
from gfm_objectives.curation.information import account, tell
from gfm_objectives.curation.keep import Rules
from gfm_objectives.errors import InputError
from gfm_objectives.inspection.looking import SAMPLES, shown, spread
from gfm_objectives.sensors import MIXED, Legend, calibration

FIGURES = calibration("s2"), calibration("s2", "L1C")
SMALL = ["data.size=32", "data.dates=1", "data.sensors=[s2]", "data.places.pretrain=12", "data.places.val=6"]


def test_pairs_and_clusters_of_an_interrupted_call_are_not_made_again(tmp_path, monkeypatch):
    x = strangers(12)
    source, rules = Scenes(torch.cat([x, x[:2] + 0.05])), Rules(epsilon=1e-3)
    expected = curate(source, Limits(), rules, clusters=2)
    asked = []

    def counted(name, make):
        def call(*args, **options):
            asked.append(name)
            if name == "alike" and asked.count(name) == 1:
                raise KeyboardInterrupt
            return make(*args, **options)

        return call

    monkeypatch.setattr(curating, "find_pairs", counted("pairs", curating.find_pairs))
    monkeypatch.setattr(embeddings, "compare", counted("alike", embeddings.compare))
    with pytest.raises(KeyboardInterrupt):
        curate(source, Limits(), rules, tmp_path, clusters=2)
    resumed = curate(source, Limits(), rules, tmp_path, clusters=2)
    assert asked == ["pairs", "alike", "alike"]
    again = curate(source, Limits(), Rules(seasons="drop"), tmp_path, clusters=2)  # other rules, the same stages
    assert len(asked) == 3 and again.kept.reason.tolist().count("copy") == 2 and again.seconds > 0
    for a, b in ((expected.kept, resumed.kept), (expected.pairs, resumed.pairs), (expected.alike, resumed.alike)):
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in a.__slots__)
    curate(source, Limits(), rules, tmp_path, clusters=3)
    assert asked[3:] == ["alike"]
    curate(Scenes(source.x + 0, name="other data"), Limits(), rules, tmp_path, clusters=2)
    assert asked[4:] == ["pairs", "alike"]
    (tmp_path / "pairs.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"pairs\.npz: damaged; delete it"):
        curate(Scenes(source.x + 0, name="other data"), Limits(), rules, tmp_path, clusters=2)


@pytest.mark.parametrize("value", [0.1, 1.0001, 3.0003, 100.01])
def test_a_constant_band_is_one_at_every_value_and_size(value):
    for size in (64, 128, 256):
        x = strangers(2, size)
        x[0, :, 2], x[1] = value, value
        named = [REASONS[k] for k in examine(Scenes(x).read([0, 1]), channels(Scenes(x).spec), Limits()).reason]
        assert named == ["constant band", "low entropy"], size
    lax = examine(Scenes(x).read([0]), channels(Scenes(x).spec), Limits(constant=False)).reason
    assert lax.tolist() == [0]


def test_a_layer_of_numbers_is_no_class_balance(tmp_path):
    class Numbers(Scenes):
        def read(self, indices):
            batch = super().read(indices)
            return batch.replace(targets={"biomass": batch.targets["map"].float()})

    x = strangers(6)
    x[3, :, 1] = 0.7  # a constant band is a fault, and no copy
    source = Numbers(x, labels=torch.ones(6, 64, 64, dtype=torch.long))
    source.spec = dataclasses.replace(source.spec, legends={"biomass": Legend("biomass", ("t/ha",))})
    assert curate(source, Limits(), Rules()).described.classes.shape == (6, 0)
    assert [*shown(source)] == [*spread(6, SAMPLES)]  # nor does the page of gfm inspect count classes
    assert "unique fraction: 100.0%" in tell(source, range(6), tmp_path / "information.png")[0]


def test_places_of_two_levels_are_counted_each_by_its_own_figures():
    class Levels(Scenes):
        """One reflectance, at odd places normalised by other figures."""

        def read(self, indices):
            batch = super().read(indices)
            odd = torch.tensor([i % 2 for i in indices], dtype=torch.bool)
            series = batch.sensors["s2"]
            std = [torch.tensor([about.bands[i].std for i in about.index(series.bands)]) for about in FIGURES]
            x = torch.where(odd[:, None, None, None, None], series.x * (std[0] / std[1])[:, None, None], series.x)
            level = "L1C" if odd.all() else MIXED if odd.any() else ""
            return batch.replace(sensors={"s2": dataclasses.replace(series, x=x, level=level)})

    x = strangers(8)
    (one,), (two,) = account(Scenes(x), range(8)), account(Levels(x), range(8))
    assert two.alone == pytest.approx(one.alone, rel=1e-3) and two.alone > 1


def test_a_list_of_a_split_that_is_not_read_is_refused(tmp_path, capsys):
    out = tmp_path / "val.parquet"
    assert cli.main(["curate", *SMALL, "split=val", f"out={out}"]) == 0
    assert len(pq.read_table(out)) == 6
    capsys.readouterr()
    for command in (["train", *SMALL, "budget.flops=1e12"], ["prepare", *SMALL, f"out={tmp_path}"]):
        assert cli.main([*command, f"data.keep={out}", "name=x"]) == 2
        err = capsys.readouterr().err
        assert "val.parquet: is of another split than pretrain; " in err and err.count("\n") == 1


def test_another_datas_list_is_not_written_over(tmp_path, capsys):
    out = tmp_path / "keep.parquet"
    command = ["curate", "data=synthetic", *SMALL, f"out={out}"]
    assert cli.main(command) == 0 and cli.main([*command, "seasons=drop"]) == 0, "by other rules, of the same data"
    before = out.read_bytes()
    capsys.readouterr()
    for word, whose in (("split=val", "is the list of synthetic, split pretrain;"),
                        ("data.seed=3", "split pretrain, before that data changed;")):  # fmt: skip
        assert cli.main([*command, word]) == 2
        err = capsys.readouterr().err
        assert whose in err and "give another name, or delete it" in err and err.count("\n") == 1
    assert out.read_bytes() == before
    out.write_text("mine")
    assert cli.main(command) == 2 and "is there and no keep-list" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_list_that_keeps_nothing_is_told(tmp_path, capsys):
    assert cli.main(["curate", "data=synthetic", *SMALL, f"out={tmp_path / 'keep.parquet'}", "tests.entropy=1e3"]) == 0
    assert "keep.parquet: keeps no place; loosen tests" in capsys.readouterr().err
