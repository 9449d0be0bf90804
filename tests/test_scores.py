"""The score store: what is written comes back, kills are survived, stale rows are not mixed in."""

import dataclasses
import math

import numpy as np
import pytest

from gfm_objectives.errors import InputError
from gfm_objectives.scores import Score, Store


def score(seed=0, contender="unet", fingerprint="v1", hits=8, **fields):
    cm = np.array([[[hits, 2], [1, 9]], [[3, 0], [0, 4]]])
    fields = {"task": "flood", "fraction": 0.2, "hparams": {"lr": 1e-3, "note": 'a, "b"'}, **fields}
    return Score.measured(cm, ["north, 1", "south"], contender=contender, seed=seed, fingerprint=fingerprint, **fields)


def test_round_trip(tmp_path):
    s = score(
        val_miou=0.1 + 0.2, pretrain_run="runs/a", pretrain_seed=3, pretrain_flops=2e13, synthetic=True, seconds=1.5
    )
    assert s.miou == pytest.approx((11 / 14 + 13 / 16) / 2) and s.tiles == 2
    Store(tmp_path).add(s)
    (back,) = Store(tmp_path).load()
    assert back == s  # every column, floats exactly
    assert np.array_equal(back.confusion, s.confusion) and back.groups == s.groups and back.confusion.dtype == np.int32


def test_nan_and_none_round_trip(tmp_path):
    cm = np.zeros((1, 3, 3), int)
    cm[0, 0, 0] = 5
    Store(tmp_path).add(Score.measured(cm, None, task="t", fraction=1.0, contender="map", seed=0))
    (back,) = Store(tmp_path).load()
    assert math.isnan(back.val_miou) and math.isnan(back.iou[2]) and back.pretrain_seed is None and back.miou == 1.0


def test_done(tmp_path):
    store = Store(tmp_path)
    assert not store.done(score().key)
    store.add(score())
    assert store.done(score().key) and Store(tmp_path).done(score().key)
    assert not store.done(score(seed=1).key)
    assert not store.done(score(fingerprint="v2").key)
    assert not store.done(score(pretrain_run="runs/other").key)


@pytest.mark.parametrize("name", ["scores.csv", "confusions.csv"])
def test_a_kill_at_any_byte_loses_at_most_the_last_run(tmp_path, name):
    Store(tmp_path).add(score(0))
    before = {n: (tmp_path / n).read_bytes() for n in ("scores.csv", "confusions.csv")}
    Store(tmp_path).add(score(1))
    after = {n: (tmp_path / n).read_bytes() for n in before}
    tail = len(after[name]) - len(before[name])
    for cut in (1, 7, tail // 2, tail - 1, tail):
        (tmp_path / "confusions.csv").write_bytes(after["confusions.csv"])
        (tmp_path / "scores.csv").write_bytes(before["scores.csv"])  # matrices first: torn there, no score row yet
        (tmp_path / name).write_bytes(after[name][:-cut])
        store = Store(tmp_path)
        assert [s.seed for s in store.load()] == [0] and not store.done(score(1).key)
        store.add(score(1))  # the run is done again and nothing of the torn line is left
        assert [s.seed for s in Store(tmp_path).load()] == [0, 1]
        assert (tmp_path / "scores.csv").read_bytes() == after["scores.csv"]


def test_a_torn_header_is_rewritten(tmp_path):
    (tmp_path / "scores.csv").write_text("task,frac")
    assert Store(tmp_path).load() == []
    Store(tmp_path).add(score())
    assert len(Store(tmp_path).load()) == 1


def test_changed_tasks_are_stale_not_mixed(tmp_path):
    store = Store(tmp_path)
    store.add(score(0, fingerprint="v1"))
    store.add(score(1, fingerprint="v1"))
    store.add(score(0, task="other", fingerprint="x"))
    store.add(score(0, fingerprint="v2"))
    assert [(s.task, s.seed, s.fingerprint) for s in store.load()] == [("other", 0, "x"), ("flood", 0, "v2")]
    assert [(s.seed, s.fingerprint) for s in store.stale()] == [(0, "v1"), (1, "v1")]


def test_a_repeated_run_replaces_the_first(tmp_path):
    store = Store(tmp_path)
    store.add(score(pretrain_run="runs/a"))
    store.add(score(pretrain_run="runs/b", hits=9))
    assert [s.pretrain_run for s in store.load()] == ["runs/b"]
    assert [s.pretrain_run for s in store.stale()] == ["runs/a"]


def test_large_matrices_fit_a_csv_field(tmp_path):
    cm = np.random.default_rng(0).integers(0, 2**20, (400, 11, 11))
    Store(tmp_path).add(Score.measured(cm, None, task="t", fraction=1.0, contender="unet", seed=0))
    (back,) = Store(tmp_path).load()
    assert np.array_equal(back.confusion, cm)


def test_damage_is_named(tmp_path):
    Store(tmp_path).add(score())
    whole = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(whole + "flood,0.2\n")
    with pytest.raises(InputError, match=r"scores\.csv, line 3: 2 values"):
        Store(tmp_path).load()
    (tmp_path / "scores.csv").write_text(whole.replace("contender", "model", 1))
    with pytest.raises(InputError, match="not this version's"):
        Store(tmp_path).load()
    (tmp_path / "scores.csv").write_text(whole)
    (tmp_path / "confusions.csv").unlink()
    with pytest.raises(InputError, match="no confusion matrices"):
        Store(tmp_path).load()


def test_every_field_but_the_matrices_is_a_column(tmp_path):
    Store(tmp_path).add(score())
    header = (tmp_path / "scores.csv").read_text().splitlines()[0].split(",")
    assert header == [f.name for f in dataclasses.fields(Score) if f.name not in ("confusion", "groups")]
