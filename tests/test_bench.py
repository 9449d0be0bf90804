"""A bench: places to learn from, whole tiles to be scored, one Earth for each seed, areas with names of their own."""

from __future__ import annotations

import pickle

import pytest
import torch

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.compare import bench as bench_room
from gfm_objectives.compare.bench import beyond, open_bench
from gfm_objectives.compare.fitting import notes_on
from gfm_objectives.data import SOURCES
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import Legend

EARTH = {
    "name": "synthetic",
    "size": 16,
    "dates": 2,
    "sensors": ["s2", "dem"],
    "layers": ["map", "map_exact", "landcover"],
}
LANDCOVER = {"data": EARTH, "layer": "landcover", "train": 6, "val": 3, "test": 5}


class Scenes(Source):
    """Five places of 8 x 8 with a class (c), a number (n) and labels of the whole place; val and test of tiles."""

    def __init__(self, split: str, *, root: str = "", figure: float = 1.0) -> None:
        self.split, self.fingerprint = split, f"{split}-{figure}"
        legends = {"c": Legend("c", ("a", "b", "d")), "n": Legend("n", ()), "m": Legend("m", ("p", "q"))}
        self.spec = Spec({"s2": ("B02",)}, {"s2": 1}, 8, 10.0, legends)

    def __len__(self) -> int:
        return 5

    def read(self, indices):
        return collate([self._made(i, 8, 8) for i in indices])

    def _made(self, i: int, h: int, w: int) -> Batch:
        s2 = Series(
            torch.full((1, 1, 1, h, w), float(i)), torch.ones(1, 1, h, w, dtype=torch.bool), torch.zeros(1, 1), ("B02",)
        )
        c, n = torch.full((1, h, w), -1), torch.full((1, h, w), float("nan"))
        c[0, 0, 0], n[0, 0, :2] = min(i, 2), torch.tensor([i, i + 2.0])
        return Batch({"s2": s2}, {"c": c, "n": n, "m": torch.tensor([[i == 3.0, float("nan")]])}, torch.tensor([10.0]))

    def tiles(self) -> int:
        return 2

    def tile(self, number: int) -> Batch:
        return self._made(number, 11, 9)

    def tile_groups(self) -> list[str]:
        return ["north", "south"]


@pytest.fixture(autouse=True)
def made(monkeypatch):
    monkeypatch.setitem(SOURCES, "made", "test_bench:Scenes")


def opened(tmp_path, **changes):
    folder = tmp_path / "valley"
    folder.mkdir(exist_ok=True)
    return open_bench("t", {"data": {"name": "made", "root": str(folder)}, "layer": "c"} | changes)


def test_places_to_learn_from_and_tiles_to_be_scored(tmp_path):
    bench = opened(tmp_path)
    assert bench.sizes == {"train": 5, "val": 2, "test": 2}
    assert bench.source("train").read([4]).size == (8, 8) and bench.source("test").tile(1).size == (11, 9)
    assert bench.source("val").tile(0).targets.keys() == {"c"}, "only what the task and the rival map read is kept"
    name, *_ = bench.groups[0].split(":")
    assert bench.groups == (f"{name}:north", f"{name}:south") and name.startswith("valley-"), "told apart by its path"
    few = opened(tmp_path, train=3, test=1)
    assert few.sizes == {"train": 3, "val": 2, "test": 1} and few.groups == (f"{name}:north",)
    assert len(few.source("train")) == 3 and few.source("test").tiles() == 1
    assert bench.at(3) is bench.at(-1) is bench, "real data has one Earth"


def test_numbers_are_learned_in_deviations_of_the_labels_that_are_learned_from(tmp_path):
    bench = opened(tmp_path, layer="n", kind="regression")
    assert bench.outputs == 1 and bench.task.metric == "rmse" and bench.unseen(1.0, 0) == []
    for fraction in (0.4, 1.0):
        train = bench.subset(fraction, 1)
        labels = train.read(range(len(train))).targets["n"]
        labels = labels[~labels.isnan()]
        kind = bench.kind_for(train)
        assert kind.offset == pytest.approx(float(labels.mean())), fraction
        assert kind.scale == pytest.approx(float(labels.std(correction=0))), fraction
    assert bench.kind.offset == 0, "what is reported is in the target's own unit"
    assert opened(tmp_path).kind_for(train) == opened(tmp_path).kind


def test_classes_that_a_share_of_the_labels_does_not_show(tmp_path):
    bench = opened(tmp_path)
    assert bench.unseen(1.0, 0) == []
    some = bench.subset(0.4, 0)
    shown = {min(i, 2) for i in some.index}
    assert bench.unseen(0.4, 0) == [name for k, name in enumerate("abd") if k not in shown] != []
    several = opened(tmp_path, layer="m", kind="multilabel")
    assert several.unseen(1.0, 0) == ["q"]


def test_more_places_than_there_are_is_told_in_a_line(tmp_path):
    assert beyond(opened(tmp_path, train=5, val=1)) == beyond(opened(tmp_path)) == []
    bench = opened(tmp_path, train=1000, test=3)
    assert beyond(bench) == ["t: train=1000, test=3: there are 5, 2, and all are used."]
    assert notes_on([bench], []) == beyond(bench)


def test_seeds_live_on_earths_of_their_own():
    bench = open_bench("landcover", LANDCOVER, "final", earths=3)
    assert bench.at(-1).task.data["seed"] == bench.at(0).task.data["seed"] == 0, "tuning is on Earth 0"
    assert [bench.at(s).task.data["seed"] for s in range(3)] == [0, 1, 2]
    assert bench.fingerprint == bench.at(0).fingerprint and len({bench.at(s).fingerprint for s in range(3)}) == 3
    assert {bench.at(s).world for s in range(3)} == {"final"} and bench.synthetic
    test = [bench.at(s).source("test").tile(0).sensors["s2"].x for s in range(3)]
    assert not torch.equal(test[0], test[1]) and not torch.equal(test[1], test[2])
    given = open_bench("landcover", {**LANDCOVER, "data": {**EARTH, "seed": 7}}, earths=2)
    assert [given.at(s).task.data["seed"] for s in (0, 1)] == [0, 1], "the comparison's seeds number the Earths"
    with pytest.raises(IndexError):
        bench.at(3)
    assert all(g.startswith("synthetic:") for g in bench.groups)
    assert bench.at(1).at(1) is bench.at(1), "and a job carries one Earth, not all"


def test_the_fingerprint_follows_the_task_and_its_data(tmp_path, monkeypatch):
    base = opened(tmp_path)
    others = [
        opened(tmp_path, train=4),
        opened(tmp_path, test=1),
        opened(tmp_path, layer="n", kind="regression"),
        opened(tmp_path, recode={1: 2}),
        opened(tmp_path, index={"sensor": "s2", "plus": "B02", "minus": "B02", "threshold": 0, "above": 1, "below": 0}),
        opened(tmp_path, data={"name": "made", "root": str(tmp_path / "valley"), "figure": 2.0}),
    ]
    monkeypatch.setitem(bench_room.SENSORS, "s2", bench_room.SENSORS["s1"])  # values are normalised by other figures
    others.append(opened(tmp_path))
    assert len({b.fingerprint for b in [base, *others]}) == 1 + len(others)
    monkeypatch.undo()
    monkeypatch.setitem(SOURCES, "made", "test_bench:Scenes")
    assert opened(tmp_path, metric="f1").fingerprint == base.fingerprint, "another figure of the same runs"


def test_what_a_worker_gets_reads_no_data_anew(tmp_path):
    bench = opened(tmp_path)
    other = pickle.loads(pickle.dumps(bench))
    for split in ("train", "val", "test"):
        other.source(split).source = None
    assert torch.equal(other.subset(0.4, 1).read([1]).sensors["s2"].x, bench.subset(0.4, 1).read([1]).sensors["s2"].x)
    assert torch.equal(other.source("test").tile(1).targets["c"], bench.source("test").tile(1).targets["c"])


def test_label_subsets_are_nested_and_seeded():
    bench = open_bench("landcover", LANDCOVER)

    def ids(fraction, seed):
        some = bench.subset(fraction, seed)
        return set(getattr(some, "index", range(len(some))))

    assert len(ids(0.5, 0)) == 3 and ids(0.34, 0) < ids(0.5, 0) < ids(1.0, 0)
    assert len({frozenset(ids(0.34, s)) for s in range(8)}) > 1
    assert len(bench.subset(0.01, 0)) == 1


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="no layer 'crop'"):
        open_bench("x", {**LANDCOVER, "layer": "crop"})
    with pytest.raises(InputError, match="recode names label 10, but landcover has 0 to 9"):
        open_bench("x", {**LANDCOVER, "recode": {0: 10}})
    with pytest.raises(InputError, match="its data has no place for val"):
        open_bench("x", {**LANDCOVER, "data": {**EARTH, "places": {"val": 0}}, "val": None})
