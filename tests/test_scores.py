"""The score store: what is written comes back, kills are survived, stale rows are not mixed in."""

from __future__ import annotations

import base64
import csv
import dataclasses
import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gfm_objectives.errors import InputError
from gfm_objectives.metrics import METRICS, moments, score_histogram
from gfm_objectives.scores import DTYPES, ROLES, Score, Store

TILES = np.array([[[8, 2], [1, 9]], [[3, 0], [0, 4]]])
AREAS = ("north, 1", "south")


def score(stats: Any = TILES, groups: Sequence[str] | None = AREAS, **about: Any) -> Score:
    row = {"task": "flood", "fraction": 0.2, "contender": "unet", "seed": 0, "fingerprint": "v1"}
    row |= {"role": "scratch", "kind": "unet", "metric": "miou", "hparams": {"lr": 1e-3, "note": 'a, "b"'}}
    return Score.measured(stats, groups, **{**row, **about})


def test_round_trip(tmp_path: Path):
    s = score(
        val=0.1 + 0.2, role="pretrained", kind="pretrained", recipe="masked_seg, noise=0.5", shape='{"dim": 64}',
        pretrain_run="runs/a", pretrain_seed=3, pretrain_flops=2e13, search_flops=8e13, epochs=2.5, synthetic=True,
    )  # fmt: skip
    assert s.value == pytest.approx((11 / 14 + 13 / 16) / 2) and s.tiles == 2
    Store(tmp_path).add(s)
    (back,) = Store(tmp_path).load()
    assert back == s  # every column, floats exactly
    assert np.array_equal(back.stats, s.stats) and back.groups == s.groups and back.stats.dtype == np.int32


def test_nan_and_none_round_trip(tmp_path: Path):
    cm = np.zeros((1, 3, 3), int)
    cm[0, 0, 0] = 5
    Store(tmp_path).add(score(cm, None, role="untrained", kind="map", hparams={}))
    (back,) = Store(tmp_path).load()
    assert math.isnan(back.val) and back.pretrain_seed is None and back.value == 1.0 and back.groups == ("0",)


def test_numbers_of_other_types_can_be_read_again(tmp_path: Path):
    s = score(fraction=1, labels=20.0, seed=np.int64(3), synthetic=np.bool_(True), val=torch.tensor(0.5))
    Store(tmp_path).add(s)
    assert Store(tmp_path).load() == [s] and Store(tmp_path).done(s.key)


def statistics(name: str) -> torch.Tensor:
    """Of three tiles."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 40, generator=g)
    made = {
        "confusion": torch.randint(0, 2**20, (3, 4, 4), generator=g),
        "moments": moments(x + 0.1, x * 1e6 + y),
        "scores": score_histogram(x, (y > 0).float()),
    }
    return made[METRICS[name].statistic]


@pytest.mark.parametrize("name", METRICS)
def test_a_score_of_any_metric_is_that_of_its_summed_statistics(tmp_path: Path, name: str):
    stats = statistics(name)
    s = score(stats, ["a", "b", "b"], metric=name, val=0.5)
    torch.testing.assert_close(s.total, stats.double().sum(0))
    assert s.tiles == 3 and math.isfinite(s.value)
    assert s.value == s.figure(name) == float(METRICS[name].of(s.total))
    Store(tmp_path).add(s)
    (back,) = Store(tmp_path).load()
    assert back == s and back.stats.dtype == np.dtype(DTYPES[METRICS[name].statistic])
    assert np.array_equal(back.stats, stats.numpy()) and back.groups == ("a", "b", "b")  # to the last bit


def test_other_figures_are_of_the_same_statistic():
    s = score()
    assert s.figure("accuracy") == pytest.approx(24 / 27) and s.figure("miou") == s.value
    with pytest.raises(AssertionError):
        s.figure("rmse")


def test_roles_are_those_that_are_known():
    for role in ROLES:
        assert score(role=role).role == role
    with pytest.raises(AssertionError, match="baseline"):
        score(role="baseline")


def test_statistics_are_packed_as_the_header_says(tmp_path: Path):
    Store(tmp_path).add(score())
    csv.field_size_limit(sys.maxsize)
    with open(tmp_path / "statistics.csv", newline="") as f:
        (row,) = csv.DictReader(f)
    assert list(row)[-4:] == ["dtype", "shape", "stats", "groups"]
    flat = np.frombuffer(zlib.decompress(base64.b64decode(row["stats"])), row["dtype"])
    assert (row["dtype"], row["shape"]) == ("<i4", "2;2;2") and flat.tolist() == [8, 2, 1, 9, 3, 0, 0, 4]


def test_done(tmp_path: Path):
    store = Store(tmp_path)
    assert not store.done(score().key)
    store.add(score())
    assert store.done(score().key) and Store(tmp_path).done(score().key)
    assert not store.done(score(seed=1).key)
    assert not store.done(score(fingerprint="v2").key)
    assert not store.done(score(pretrain_run="runs/other").key)


@pytest.mark.parametrize("name", ["scores.csv", "statistics.csv"])
def test_a_kill_at_any_byte_loses_at_most_the_last_run(tmp_path: Path, name: str):
    Store(tmp_path).add(score(seed=0))
    before = {n: (tmp_path / n).read_bytes() for n in ("scores.csv", "statistics.csv")}
    Store(tmp_path).add(score(seed=1))
    after = {n: (tmp_path / n).read_bytes() for n in before}
    tail = len(after[name]) - len(before[name])
    for cut in (1, 7, tail // 2, tail - 1, tail):
        (tmp_path / "statistics.csv").write_bytes(after["statistics.csv"])
        (tmp_path / "scores.csv").write_bytes(before["scores.csv"])  # statistics first: torn there, no score row yet
        (tmp_path / name).write_bytes(after[name][:-cut])
        store = Store(tmp_path)
        assert [s.seed for s in store.load()] == [0] and not store.done(score(seed=1).key)
        store.add(score(seed=1))  # the run is done again and nothing of the torn line is left
        assert [s.seed for s in Store(tmp_path).load()] == [0, 1]
        assert (tmp_path / "scores.csv").read_bytes() == after["scores.csv"]


def test_a_torn_header_is_rewritten(tmp_path: Path):
    (tmp_path / "scores.csv").write_text("task,frac")
    assert Store(tmp_path).load() == []
    Store(tmp_path).add(score())
    assert len(Store(tmp_path).load()) == 1


def test_changed_tasks_are_stale_not_mixed(tmp_path: Path):
    store = Store(tmp_path)
    store.add(score(seed=0, fingerprint="v1"))
    store.add(score(seed=1, fingerprint="v1"))
    store.add(score(seed=0, task="other", fingerprint="x"))
    store.add(score(seed=0, fingerprint="v2"))
    assert [(s.task, s.seed, s.fingerprint) for s in store.load()] == [("other", 0, "x"), ("flood", 0, "v2")]
    assert [(s.seed, s.fingerprint) for s in store.stale()] == [(0, "v1"), (1, "v1")]


def test_earths_of_their_own_have_fingerprints_of_their_own(tmp_path: Path):
    """On synthetic data seed s is Earth s: its fingerprint says nothing of other seeds. On real data it does."""
    for synthetic, loaded in ((True, [0, 1]), (False, [1])):
        store = Store(tmp_path / str(synthetic))
        store.add(score(seed=0, fingerprint="earth 0", synthetic=synthetic))
        store.add(score(seed=1, fingerprint="earth 1", synthetic=synthetic))
        assert [s.seed for s in store.load()] == loaded
    store = Store(tmp_path / "True")
    store.add(score(seed=0, fingerprint="earth 0, changed", synthetic=True))
    assert [(s.seed, s.fingerprint) for s in store.load()] == [(1, "earth 1"), (0, "earth 0, changed")]
    assert [s.fingerprint for s in store.stale()] == ["earth 0"]


def test_tiles_and_areas_may_differ_between_seeds(tmp_path: Path):
    Store(tmp_path).add(score(seed=0))
    Store(tmp_path).add(score(TILES[:1], ["synthetic:dev:1:test-7"], seed=1))
    assert [s.groups for s in Store(tmp_path).load()] == [("north, 1", "south"), ("synthetic:dev:1:test-7",)]


def test_a_repeated_run_replaces_the_first(tmp_path: Path):
    store = Store(tmp_path)
    store.add(score(pretrain_run="runs/a"))
    store.add(score(pretrain_run="runs/b", val=0.9))
    assert [s.pretrain_run for s in store.load()] == ["runs/b"]
    assert [s.pretrain_run for s in store.stale()] == ["runs/a"]


def test_large_statistics_fit_a_csv_field(tmp_path: Path):
    cm = np.random.default_rng(0).integers(0, 2**20, (400, 11, 11))
    Store(tmp_path).add(score(cm, None))
    (back,) = Store(tmp_path).load()
    assert np.array_equal(back.stats, cm)


def test_damage_is_named(tmp_path: Path):
    Store(tmp_path).add(score())
    whole = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(whole + "flood,0.2\n")
    with pytest.raises(InputError, match=r"scores\.csv, line 3: 2 values"):
        Store(tmp_path).load()
    (tmp_path / "scores.csv").write_text(whole.replace("contender", "model", 1))
    with pytest.raises(InputError, match="not this version's"):
        Store(tmp_path).load()
    (tmp_path / "scores.csv").write_text(whole)
    (tmp_path / "statistics.csv").unlink()
    with pytest.raises(InputError, match="no statistics"):
        Store(tmp_path).load()


def test_a_file_older_than_a_column_is_read_and_goes_on(tmp_path: Path):
    """Those of earlier versions lack labels_hash: nothing is known of it, and what is added has it."""
    first, second = (score(seed=k, val=0.5, labels_hash=f"hash {k}") for k in (0, 1))
    Store(tmp_path).add(first)
    path = tmp_path / "scores.csv"
    with path.open(newline="") as f:
        rows = [{k: v for k, v in row.items() if k != "labels_hash"} for row in csv.DictReader(f)]
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.write_bytes(path.read_bytes() + b"flood,0.2,un")  # and was killed
    old = dataclasses.replace(first, labels_hash="")
    assert Store(tmp_path).load() == [old] and Store(tmp_path).done(first.key)
    Store(tmp_path).add(second)
    assert Store(tmp_path).load() == [old, second]


def test_every_field_but_the_statistics_is_a_column(tmp_path: Path):
    Store(tmp_path).add(score())
    header = (tmp_path / "scores.csv").read_text().splitlines()[0].split(",")
    assert header == [f.name for f in dataclasses.fields(Score) if f.name not in ("stats", "groups")]
