"""Shards: the same values as the source, bit for bit, from a folder or a store; kills, damage and formats refused."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NANO
from omegaconf import OmegaConf

from gfm_objectives import data, pretrain
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.config import compose
from gfm_objectives.data import build_source, prepare
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.packed import Packed, packing, ready
from gfm_objectives.data.records import arrays, decode, encode, make_up, read_make_up, unpack
from gfm_objectives.data.source import Source
from gfm_objectives.errors import InputError
from gfm_objectives.sensors import S2_TEN, Legend


class Places(Source):
    """Places of two levels, with values that fit whole numbers (s2, dem) and values that do not (s1), and kinds of
    targets: classes, numbers, several labels."""

    fingerprint, license = "of-the-places", "a licence"

    def __init__(self, split: str, *, count: int = 23, size: int = 8, slow: float = 0.0) -> None:
        self.count, self.size, self.slow = count, size, slow
        legends = {
            "map": Legend("m", ("a", "b"), (3, 9)),
            "height": Legend("h", ("m",)),
            "shown": Legend("s", ("x", "y")),
        }
        bands = {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)}
        self.spec = Spec(bands, {"s2": 2, "s1": 1, "dem": 1}, size, 10.0, legends)

    def __len__(self) -> int:
        return self.count

    def groups(self) -> list[str]:
        return [f"area {i // 3}" for i in range(self.count)]

    def read(self, indices) -> Batch:
        return data.source.normalise(self.raw(indices)) if len(indices) == 1 else _joined(self, indices)

    def raw(self, indices) -> Batch:
        time.sleep(self.slow)
        (i,) = indices
        g, n = torch.Generator().manual_seed(i), self.size
        s2 = torch.randint(1, 12000, (1, 2, 10, n, n), generator=g).float() * 1e-4
        s1 = torch.randn(1, 1, 2, n, n, generator=g) - 12
        dem = torch.randint(-5, 3000, (1, 1, 1, n, n), generator=g).float()
        valid = torch.rand(1, 2, n, n, generator=g) > 0.2
        s2[~valid[:, :, None].expand_as(s2)] = torch.nan
        day = torch.tensor([[7000.0 + i, 7100.0 + i]])
        sensors = {
            "s2": Series(s2, valid, day, S2_TEN, "L1C" if i % 3 else ""),
            "s1": Series(s1, valid[:, :1], day[:, :1], ("VV", "VH")),
            "dem": Series(dem, valid[:, :1], day[:, :1] * 0, ("elevation",)),
        }
        height = torch.rand(1, n, n, generator=g) * 30
        height[0, 0, 0] = torch.nan
        targets = {
            "map": torch.randint(-1, 2, (1, n, n), generator=g),
            "height": height,
            "shown": torch.randint(0, 2, (1, 2), generator=g).float(),
        }
        return Batch(sensors, targets, torch.tensor([10.0]), torch.tensor([[5.25 + i, 51.5]]))


def _joined(source: Source, indices) -> Batch:
    """Levels differ, so each place is normalised by itself."""
    from gfm_objectives.batch import collate

    return collate([source.read([i]) for i in indices])


@pytest.fixture
def places(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "places", f"{__name__}:Places")


def config(out: Path, name: str = "p", **changes):
    base = {"name": name, "out": str(out), "splits": ["pretrain"], "shard_mb": 0.02, "workers": 1, "overwrite": False}
    return OmegaConf.create({**base, "data": {"name": "places"}, **changes})


def same(a: Batch, b: Batch) -> None:
    assert a.sensors.keys() == b.sensors.keys() and a.targets.keys() == b.targets.keys()
    for name, s in a.sensors.items():
        other = b.sensors[name]
        assert s.level == other.level and s.bands == other.bands
        for x, y in ((s.x, other.x), (s.valid, other.valid), (s.day, other.day)):
            assert x.dtype == y.dtype and torch.equal(x, y), name
    for name, y in a.targets.items():
        assert y.dtype == b.targets[name].dtype and torch.equal(y.nan_to_num(-7), b.targets[name].nan_to_num(-7)), name
    assert torch.equal(a.gsd, b.gsd) and torch.equal(a.lonlat, b.lonlat)


def test_the_same_values_bit_for_bit(tmp_path, places):
    root = prepare.run(config(tmp_path))
    source, shards = Places("pretrain"), build_source({"name": "shards", "root": str(root)}, "pretrain")
    assert len(list((root / "pretrain").glob("*.bin"))) > 3
    assert shards.spec == source.spec and shards.fingerprint == source.fingerprint
    assert (len(shards), shards.groups(), shards.license) == (23, source.groups(), "a licence")
    order = [22, 0, 7, 7, 13]
    same(source.read(order), shards.read(order))
    same(source.read([4]), pickle.loads(pickle.dumps(shards)).read([4]))
    raw = shards.raw([1]).sensors["s2"]
    assert torch.equal(
        raw.x[raw.valid[:, :, None].expand_as(raw.x)],
        source.raw([1]).sensors["s2"].x[raw.valid[:, :, None].expand_as(raw.x)],
    )


def test_whole_numbers_are_kept_small_and_others_whole(tmp_path, places):
    root = prepare.run(config(tmp_path))
    fields = {
        f["name"]: f["dtype"]
        for f in json.loads((root / "index.json").read_text())["splits"]["pretrain"]["shards"][0]["make_up"]["fields"]
    }
    assert (fields["s2.x"], fields["dem.x"], fields["s1.x"]) == ("int16", "int16", "float32")
    assert (fields["s2.valid"], fields["target.map"], fields["target.height"]) == ("bool", "int8", "float32")


def test_what_does_not_fit_whole_numbers_is_never_rounded():
    x = np.array([[1234, 1234.5, 39000]], dtype=np.float32) * np.float32(1e-4)
    for values, dtype in ((x[:, :1], "int16"), (x, "float32"), (x[:, 2:], "uint16"), (np.float32([[3e5]]), "float32")):
        made = make_up([{"s2.x": values}])
        assert made.fields[0].dtype == dtype
        assert np.array_equal(decode([encode({"s2.x": values}, made)], [made])["s2.x"][0], values)


def test_statistics_are_those_of_valid_pixels(tmp_path, places):
    root = prepare.run(config(tmp_path))
    found = json.loads((root / "index.json").read_text())["statistics"]["s2"]["B04"]
    source, k = Places("pretrain"), S2_TEN.index("B04")
    x = torch.cat([(s := source.raw([i]).sensors["s2"]).x[:, :, k][s.valid] for i in range(23)]).double()
    assert found["n"] == len(x) and found["mean"] == pytest.approx(float(x.mean()))
    assert found["std"] == pytest.approx(float(x.std(correction=0)))


def test_steps_are_the_same_over_workers_ranks_and_resume(tmp_path, places):
    """What the loader hands out is a function of step and rank, on shards as on the source."""
    root = prepare.run(config(tmp_path))
    shards = build_source({"name": "shards", "root": str(root)}, "pretrain")
    source = Places("pretrain")
    for rank in (0, 1):
        kept = dict(batch_size=3, seed=5, rank=rank, world_size=2)
        whole = list(StepLoader(shards, stop=8, **kept))
        for a, b in zip(whole, StepLoader(source, stop=8, **kept), strict=True):
            same(b, a)
        for a, b in zip(whole[5:], StepLoader(shards, start=5, stop=8, **kept), strict=True):
            same(a, b)


CPU = torch.device("cpu")


def test_packed_places_become_the_same_batch_on_their_device(tmp_path, places):
    """Over shards that are alike, workers, and a batch cut short, whatever the levels."""
    root = prepare.run(config(tmp_path))
    source, shards = Places("pretrain"), build_source({"name": "shards", "root": str(root)}, "pretrain")
    for order in ([22, 0, 7, 7, 13], [3], [0, 3, 6]):
        packed = shards.packed(order)
        assert isinstance(packed, Packed) and packed.records.dtype == torch.uint8 and len(packed) == len(order)
        same(source.read(order), ready(packed, CPU))
        same(source.read(order[:2]), ready(packed.first(2), CPU)) if len(order) == 5 else None
    kept = dict(batch_size=4, seed=5, stop=3)
    for a, b in zip(StepLoader(source, **kept), StepLoader(packing(shards), workers=1, **kept), strict=True):
        same(a, ready(b, CPU))


def test_places_whose_shards_differ_or_that_are_made_up_are_handed_over_all_the_same(tmp_path, places, monkeypatch):
    shards = build_source({"name": "shards", "root": str(prepare.run(config(tmp_path)))}, "pretrain")
    odd = read_make_up(shards._made[0].describe(), "")
    monkeypatch.setattr(shards, "_made", [odd, *shards._made[1:]])  # as of another coding
    assert isinstance(shards.packed([0, 22]), Batch) and isinstance(shards.packed([21, 22]), Packed)
    same(Places("pretrain").read([0, 22]), ready(shards.packed([0, 22]), CPU))
    words = ["data.size=16", "data.dates=2", "data.places.pretrain=7", f"out={tmp_path}", "workers=1", "name=earth"]
    shards = build_source({"name": "shards", "root": str(prepare.run(compose("prepare", words)[0]))}, "pretrain")
    assert shards.packed([1]).figures == {}, "its values come normalised"
    same(shards.read([4, 1]), ready(shards.packed([4, 1]), CPU))


@pytest.mark.parametrize("values", [[0, 255 / 255], [3.2768, 4.0], [-3.0, 2.0], [0.5, 0.25], [0.1, 1e-9]], ids=str)
def test_every_coding_is_unpacked_as_it_is_decoded(values):
    """uint8, uint16, int16, float16, float32; and labels and bits, of which fields begin at any byte."""
    g = np.random.default_rng(0)
    place = {"a.valid": g.random((1, 5)) > 0.5, "target.map": g.integers(-1, 3, (3,)), "a.x": np.float32([values])}
    made = make_up([place])
    record = encode(place, made)
    host = decode([record, record], [made, made])
    there = unpack(torch.frombuffer(bytearray(record * 2), dtype=torch.uint8).view(2, -1), made)
    for name, x in host.items():
        assert there[name].numpy().dtype == x.dtype and np.array_equal(there[name].numpy(), x), name


def test_from_an_object_store(tmp_path, places):
    import fsspec

    root = prepare.run(config(tmp_path))
    fsspec.filesystem("memory").put(str(root), "/bucket/p", recursive=True)
    local = build_source({"name": "shards", "root": str(root)}, "pretrain")
    store = build_source({"name": "shards", "root": "memory://bucket/p"}, "pretrain")
    same(local.read([3, 19, 4]), store.read([3, 19, 4]))
    assert pickle.loads(pickle.dumps(store)).fingerprint == local.fingerprint
    with pytest.raises(InputError, match=r"data.root=memory://bucket/q: holds no index.json"):
        build_source({"name": "shards", "root": "memory://bucket/q"}, "pretrain")
    with pytest.raises(InputError, match="nosuchstore"):
        build_source({"name": "shards", "root": "nosuchstore://bucket/p"}, "pretrain")


def test_goes_on_where_it_was_stopped(tmp_path, places, monkeypatch):
    written, write = [], prepare.write

    def dying(out, source, split, k, which):
        if k == 3 and len(written) == 3:
            raise KeyboardInterrupt
        written.append(k)
        write(out, source, split, k, which)

    monkeypatch.setattr(prepare, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config(tmp_path))
    with pytest.raises(InputError, match=r"holds no index\.json"):
        build_source({"name": "shards", "root": str(tmp_path / "p")}, "pretrain")
    (tmp_path / "p" / "pretrain" / "00001.bin").write_bytes(b"cut")  # as of a disk that was full
    root = prepare.run(config(tmp_path))
    assert sorted(written) == sorted([*range(len(set(written))), 1])
    same(
        Places("pretrain").read([0, 5, 22]),
        build_source({"name": "shards", "root": str(root)}, "pretrain").read([0, 5, 22]),
    )


@pytest.mark.slow
def test_a_kill_leaves_no_half_shard(tmp_path):
    """Killed hard in the middle, with workers; the same command then finishes."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_shards as t; from pathlib import Path\n"
        "from gfm_objectives import data\n"
        "data.SOURCES['places'] = 'test_shards:Places'\n"
        "if __name__ == '__main__':\n"
        f"    t.prepare.run(t.config(Path({str(tmp_path)!r}), workers=2, data={{'name': 'places', 'slow': SLOW}}))\n"
    )
    for slow, kill in ((0.3, True), (0.0, False)):
        script = tmp_path / "main.py"
        script.write_text(code.replace("SLOW", str(slow)))
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path.cwd()}/tests"},
            start_new_session=True,
        )
        if kill:
            until = time.time() + 300
            while not list(tmp_path.glob("p/pretrain/*.json")) and time.time() < until:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
        assert (process.wait(300) == 0) != kill
    same(
        Places("pretrain").read([2, 21]),
        build_source({"name": "shards", "root": str(tmp_path / "p")}, "pretrain").read([2, 21]),
    )


def test_what_is_wrong_is_named(tmp_path, places):
    root = prepare.run(config(tmp_path))
    fewer = {"name": "places", "count": 9}
    with pytest.raises(InputError, match=r"holds finished shards; choose another name=, or overwrite=true"):
        prepare.run(config(tmp_path, data=fewer))
    assert prepare.run(config(tmp_path, overwrite=True, data=fewer)) == root
    assert len(build_source({"name": "shards", "root": str(root)}, "pretrain")) == 9
    with pytest.raises(InputError, match=r"holds the splits pretrain; write val too"):
        build_source({"name": "shards", "root": str(root)}, "val")
    index = json.loads((root / "index.json").read_text())
    shard = index["splits"]["pretrain"]["shards"][0]
    kept = shard["make_up"]["fields"][0]["dtype"]
    shard["make_up"]["fields"][0]["dtype"] = "pickle"
    (root / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names the format 'pickle'; shards hold bool, .* nothing that runs code"):
        build_source({"name": "shards", "root": str(root)}, "pretrain")
    shard["make_up"]["fields"][0]["dtype"] = kept
    (root / "index.json").write_text(json.dumps(index))
    path = root / shard["file"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00000.bin: has \d+ bytes, not \d+; run gfm prepare again"):
        build_source({"name": "shards", "root": str(root)}, "pretrain")
    (root / "index.json").write_text(json.dumps({"config": {"data_format": ["pickle"]}}))  # as litdata writes
    with pytest.raises(InputError, match=r"is of the format \['pickle'\], not gfm-shards-1"):
        build_source({"name": "shards", "root": str(root)}, "pretrain")
    with pytest.raises(InputError, match="nothing that runs code"):
        read_make_up(
            {"fields": [{"name": "x", "dtype": "object", "shape": [1], "at": 0, "step": None}], "nbytes": 8}, "x"
        )


def test_a_record_is_as_long_as_it_says(places):
    place = arrays(Places("pretrain").raw([0]))
    made = make_up([place])
    assert len(encode(place, made)) == made.nbytes == sum(f.nbytes for f in made.fields)


def train(tmp_path: Path, name: str, words: list[str]) -> list[str]:
    """The losses of a short run, as they are written."""
    small = [f"encoder.{k}={v}" for k, v in {**NANO, "dim": 16, "width": 8}.items() if k != "name"]
    rest = ["budget.flops=1.4e10", "optim.batch_size=2", "loader.workers=0", "yardstick=false", "device=cpu"]
    rest += ["precision=fp32", "log_every=1", f"runs={tmp_path}", f"name={name}"]
    out = pretrain.run(compose("train", ["objective=masked_seg", *small, *rest, *words])[0])
    lines = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    at = lines[0].index("loss")
    return [row[at] for row in lines[1:]]


def test_masked_seg_has_the_same_losses_from_mmearth_and_from_its_shards(gfm_data, tmp_path):
    pytest.importorskip("h5py", reason="NOT TESTED: MMEarth; h5py is missing (pip install h5py)")
    source = f"data.root={gfm_data}/formats/torchgeo/mmearth"
    root = prepare.run(compose("prepare", ["data=mmearth", source, f"out={tmp_path}", "shard_mb=0.5", "workers=1"])[0])
    assert root == tmp_path / "mmearth"
    of_source = train(tmp_path / "runs", "source", ["data=mmearth", source])
    of_shards = train(tmp_path / "runs", "shards", ["data=shards", f"data.root={root}"])
    assert len(of_source) > 3 and of_source == of_shards
