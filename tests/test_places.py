"""Places that are kept: read once, the same in every process, and nothing of them outlives the one that kept them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data import places, shelf
from gfm_objectives.data.places import Kept, Subset, spread
from gfm_objectives.data.shelf import Shelf
from gfm_objectives.data.source import Source


def tile(number: int, h: int = 8, w: int = 8) -> Batch:
    g = torch.Generator().manual_seed(number)
    x = torch.randn(1, 2, 3, h, w, generator=g)
    s2 = Series(x, x[:, :, 0] > 0, torch.full((1, 2), float(number)), ("B02", "B03", "B04"), "L1C")
    label = torch.randint(-1, 3, (1, h, w), generator=g)
    return Batch({"s2": s2}, {"label": label, "other": label}, torch.full((1,), 10.0), torch.zeros(1, 2))


def flat(batch: Batch) -> list[Tensor]:
    parts: list[Tensor] = []
    batch.map(lambda t: parts.append(t.clone()) or t)
    return parts


def same(a: Batch, b: Batch) -> bool:
    b = b.replace(targets={k: b.targets[k] for k in a.targets}, lonlat=a.lonlat)
    return a.signature == b.signature and all(torch.equal(s, t) for s, t in zip(flat(a), flat(b), strict=True))


class Made(Source):
    """Ten places of 8 x 8; `reads` counts how often each was made."""

    spec = Spec({"s2": ("B02", "B03", "B04")}, {"s2": 2}, 8, 10.0, {})
    fingerprint = "made"

    def __init__(self) -> None:
        self.reads = [0] * 10

    def __len__(self) -> int:
        return 10

    def read(self, indices):
        for i in indices:
            self.reads[i] += 1
        return collate([tile(i) for i in indices])


class MadeTiles(Made):
    """Three tiles, each of another size."""

    def tiles(self) -> int:
        return 3

    def tile(self, number: int) -> Batch:
        self.reads[number] += 1
        return tile(number, 8 + number, 9)


def test_a_shelf_gives_back_what_was_put():
    batches = [tile(0), tile(1, 5, 7), tile(2)]
    full = Shelf()
    for b in batches:
        full.put(b)
    assert len(full) == 3 and all(same(full[k], b) for k, b in enumerate(batches))
    assert full[1].sensors["s2"].bands == ("B02", "B03", "B04") and full[1].sensors["s2"].level == "L1C"
    again = pickle.loads(pickle.dumps(full))
    assert all(same(again[k], b) for k, b in enumerate(batches))
    again[0].sensors["s2"].x.zero_()  # what a reader writes stays with the reader
    assert same(full[0], batches[0])


def test_places_are_made_once_and_read_by_number():
    source = Made()
    kept = Kept(source, 7, ["label"])
    assert sum(source.reads) == 0, "nothing is read before it is needed"
    got = kept.read([5, 0, 5])
    assert same(got, collate([tile(5), tile(0), tile(5)])) and got.targets.keys() == {"label"}
    got.sensors["s2"].x.zero_()
    assert same(kept.tile(5), tile(5)) and len(kept) == kept.tiles() == 7
    kept.tile(5).sensors["s2"].x.zero_()
    assert same(kept.tile(5), tile(5))
    other = pickle.loads(pickle.dumps(kept))
    assert same(other.read(range(7)), collate([tile(i) for i in range(7)]))
    assert source.reads == [1] * 7 + [0] * 3 and other.source.reads == source.reads
    with pytest.raises(IndexError, match="place 7 of 7"):
        kept.read([7])


def test_whole_tiles_are_kept_whole():
    source = MadeTiles()
    kept = Kept(source, 2, ["label"], whole=True)
    other = pickle.loads(pickle.dumps(kept))  # filled by that
    for k in (1, 0, 1):
        assert same(kept.tile(k), tile(k, 8 + k, 9)) and same(other.tile(k), kept.tile(k))
    assert source.reads[:3] == [1, 1, 0] == other.source.reads[:3]
    assert kept.tiles() == 2 and len(kept) == 10 and same(kept.read([4]), tile(4))
    places_ = Kept(MadeTiles(), 2, ["label"])
    assert same(places_.tile(1), tile(1)), "where places are kept, a tile is a place"


def test_what_does_not_fit_is_read_each_time():
    source = Made()
    one = sum(t.nbytes for t in flat(tile(0)))
    kept = Kept(source, 10, ["label"], room=3 * one)
    for _ in range(2):
        assert same(kept.read([9, 1]), collate([tile(9), tile(1)]))
    assert source.reads[1] == 1 and source.reads[9] == 3, "once to fill the shelf, in a chunk with others"


def test_free_space_bounds_the_room(monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: Usage)
    source = Made()
    kept = Kept(source, 10, ["label"])
    kept.read([0])
    kept.read([0])
    assert source.reads[0] == 3


def test_a_subset_is_read_by_its_own_numbers():
    some = Subset(Kept(Made(), 10, ["label"]), [3, 8])
    assert len(some) == some.tiles() == 2 and some.spec is Made.spec
    assert same(some.read([1, 0]), collate([tile(8), tile(3)])) and same(some.tile(1), tile(8))


CHILD = """
import pickle, sys, time
sys.path.insert(0, {tests!r})
from test_places import Kept, Made
kept = Kept(Made(), 10, ["label"])
pickle.dump(kept, open({out!r}, "wb"))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not shelf.DESCRIPTORS.is_dir(), reason="needs /proc")
def test_a_killed_process_leaves_nothing_behind(tmp_path):
    (tmp_path / "tmp").mkdir()
    out = tmp_path / "kept.pkl"
    text, env = CHILD.format(tests=str(Path(__file__).parent), out=str(out)), os.environ | {"TMPDIR": f"{tmp_path}/tmp"}
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert child.stdout.readline() == "ready\n"
        assert not list((tmp_path / "tmp").iterdir()), "not even while it runs"
        kept = pickle.loads(out.read_bytes())
        assert same(kept.read([4]), tile(4)), "another process reads what it keeps"
        assert kept.source.reads[4] == 1
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert not list((tmp_path / "tmp").iterdir())
    assert same(kept.read([5]), tile(5)), "what is mapped stays readable"


def test_without_proc_a_folder_is_removed_at_the_end_or_swept_by_the_next(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    at_end: list = []
    monkeypatch.setattr(shelf, "DESCRIPTORS", tmp_path / "no such folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shelf.atexit, "register", lambda *call, **options: at_end.append((call, options)))
    base = tmp_path / f"gfm-objectives-{os.getuid()}"
    for process in {gone.pid, os.getppid(), 1}:  # the parent may be the first process itself
        (base / str(process)).mkdir(parents=True)
        (base / str(process) / "shelf").touch()
    kept = Kept(Made(), 10, ["label"])
    assert same(pickle.loads(pickle.dumps(kept)).read([4]), tile(4))
    assert {p.name for p in base.iterdir()} == {str(p) for p in (os.getpid(), os.getppid(), 1)}
    Shelf()
    (((remove, folder), options),) = at_end  # once, however many shelves
    remove(folder, **options)
    assert {p.name for p in base.iterdir()} == {str(os.getppid()), "1"}


def test_some_places_are_spread_over_areas():
    areas = [*"aaaaabbc"]
    assert spread(areas, 3) == [0, 5, 7] and spread(areas, 5) == [0, 1, 5, 6, 7] and spread(areas, 99) == [*range(8)]
    kept = Kept(Made(), [1, 4, 7], ["label"])
    assert len(kept) == 3 and torch.equal(kept.read([2]).targets["label"], Made().read([7]).targets["label"])
