"""The procedural Earth: the same place always, other regions for other splits, labels as declared, honestly hard."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from gfm_objectives.batch import Batch
from gfm_objectives.data import SPLITS, build_source
from gfm_objectives.data.earth import regions
from gfm_objectives.data.synthetic import REPEATS, Synthetic
from gfm_objectives.errors import InputError

LAYERS = ("map", "map_exact", "landcover", "crop", "flood")
SENSORS = ("s2", "s1", "dem", "hls")


@pytest.fixture(scope="module")
def many() -> Batch:
    """Places of all splits in equal parts, every sensor and layer."""
    parts = [Synthetic(split, layers=LAYERS, redundancy=0.0).read(range(80)) for split in SPLITS]
    return Batch(
        {},
        {k: torch.cat([p.targets[k] for p in parts]) for k in LAYERS},
        torch.cat([p.gsd for p in parts]),
    )


def flat(batch: Batch) -> dict[str, Tensor]:
    out = {f"{k}.{f}": getattr(s, f) for k, s in batch.sensors.items() for f in ("x", "valid", "day")}
    assert batch.lonlat is not None
    return out | batch.targets | {"gsd": batch.gsd, "lonlat": batch.lonlat}


def assert_same(a: Batch, b: Batch) -> None:
    a_flat, b_flat = flat(a), flat(b)
    assert a_flat.keys() == b_flat.keys()
    for k in a_flat:
        assert torch.equal(a_flat[k], b_flat[k]), k


def test_a_place_is_the_same_in_any_batch():
    source = Synthetic("pretrain", sensors=SENSORS, layers=LAYERS)
    order = [9, 0, 4, 17, 2, 9, 11, 30, 31, 5, 8, 21, 22, 23, 24, 25, 26, 27, 40, 41]  # more than one chunk
    whole = source.read(order)
    for at in (0, 3, 7, 17, 19):
        assert_same(whole.take(torch.tensor([at])), source.read([order[at]]))
    assert_same(
        whole.take(torch.arange(2, 12)), Synthetic("pretrain", sensors=SENSORS, layers=LAYERS).read(order[2:12])
    )


def test_a_place_is_the_same_in_another_process_and_with_more_threads():
    code = (
        "import hashlib, torch; torch.set_num_threads(3); from gfm_objectives.data.synthetic import Synthetic;"
        "b = Synthetic('val', layers=('map', 'flood')).read([7, 3, 12]);"
        "parts = [b.sensors['s2'].x, b.sensors['s1'].x, b.sensors['dem'].x, b.targets['map'], b.targets['flood']];"
        "print(hashlib.sha256(b''.join(p.numpy().tobytes() for p in parts)).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    b = Synthetic("val", layers=("map", "flood")).read([12, 7, 3]).take(torch.tensor([1, 2, 0]))
    parts = [b.sensors["s2"].x, b.sensors["s1"].x, b.sensors["dem"].x, b.targets["map"], b.targets["flood"]]
    assert told == hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()


def test_leaving_a_sensor_or_layer_out_changes_nothing_else():
    whole = Synthetic("train", sensors=SENSORS, layers=LAYERS).read(range(3))
    part = Synthetic("train", sensors=("s1",), layers=("flood",)).read(range(3))
    assert torch.equal(part.sensors["s1"].x, whole.sensors["s1"].x)
    assert torch.equal(part.targets["flood"], whole.targets["flood"])


@pytest.mark.parametrize("size, dates", [(64, 4), (32, 1), (96, 2)])
def test_batches_are_as_the_spec_says(size: int, dates: int):
    source = Synthetic("train", sensors=SENSORS, layers=LAYERS, size=size, dates=dates)
    batch, dummy = source.read([0, 5]), source.spec.dummy(2)
    assert batch.signature == dummy.signature
    assert {k: (t.shape, t.dtype) for k, t in batch.targets.items()} == {
        k: (t.shape, t.dtype) for k, t in dummy.targets.items()
    }
    for name, s in batch.sensors.items():
        assert s.x.isfinite().all() and s.x.dtype == torch.float32 and s.valid.dtype == torch.bool
        assert s.valid.shape == s.x.shape[:2] + s.x.shape[3:] and s.day.shape == s.x.shape[:2]
        assert (s.x.movedim(2, -1)[~s.valid] == 0).all(), name
        assert (s.day.diff(dim=1) > 0).all(), name


def test_values_are_scaled():
    """Clear land is about standard normal in every sensor; nothing is far beyond what the instruments give."""
    batch = Synthetic("pretrain", sensors=SENSORS).read(range(64))
    for name, s in batch.sensors.items():
        x = s.x.movedim(2, -1)[s.valid]
        assert x.mean().abs() < 0.6 and 0.5 < x.std() < 1.6, (name, x.mean(), x.std())
    assert 0.55 < batch.sensors["s2"].valid.float().mean() < 0.85
    assert 0.95 < batch.sensors["s1"].valid.float().mean() < 1.0
    assert batch.sensors["dem"].valid.all() and (batch.sensors["dem"].day == 0).all()


@pytest.mark.parametrize("seed", [0, 3])
def test_splits_and_worlds_share_no_region(seed: int):
    def corners(world: str, zone: str) -> set[int]:
        return set(regions.cells(world, zone, seed, 400).tolist())

    zones = [corners(w, z) for w in regions.WORLDS for z in ("pretrain", "finetune", "test")]
    assert sum(map(len, zones)) == len(set.union(*zones))
    train, val, test = (set(Synthetic(s).groups()) for s in ("train", "val", "test"))
    assert train == val and not train & test
    dev, final = Synthetic("test"), Synthetic("test", world="final")
    assert dev.fingerprint != final.fingerprint
    assert not torch.allclose(dev.regions.spectra, final.regions.spectra)
    # A region keeps its places together and its spectra to itself.
    b = Synthetic("train").read(range(40))
    assert b.lonlat is not None
    home = Synthetic("train").regions.lonlat[[Synthetic("train").region_of(i) for i in range(40)]]
    assert (b.lonlat - home).abs().max() <= regions.CELL / 2


def test_train_and_val_places_differ():
    train, val = (Synthetic(s, layers=("landcover",)).read(range(16)).targets["landcover"] for s in ("train", "val"))
    agree = (train[:, None] == val[None]).float().mean((2, 3))
    assert agree.max() < 0.95


@pytest.mark.parametrize("dial", [0.0, 0.1, 0.23, 0.4])
def test_map_errors_follow_the_dial(dial: float):
    b = Synthetic("pretrain", sensors=("dem",), layers=("map", "map_exact"), label_noise=dial, redundancy=0.0).read(
        range(192)
    )
    wrong = b.targets["map"] != b.targets["map_exact"]
    assert wrong.float().mean().item() == pytest.approx(dial, abs=0.02)
    if dial == 0.23:  # errors come in blocks and patches: neighbours err together
        together = (wrong[:, :, 1:] & wrong[:, :, :-1]).float().mean() / wrong.float().mean()
        assert together > 1.8 * dial, together


def test_every_class_occurs_and_none_rules(many: Batch):
    legends = Synthetic("train", layers=LAYERS).spec.legends
    for layer in LAYERS:
        label, legend = many.targets[layer], legends[layer]
        assert legend.colors is not None and len(legend.colors) == len(legend) == len(set(legend.classes))
        scored = label >= 0
        share = torch.bincount(label[scored], minlength=len(legend)) / scored.sum()
        assert len(share) == len(legend), layer
        top = 0.75 if layer == "flood" else 0.6  # most land is dry even in a flood
        assert share.min() > 0.005 and share.max() < top, (layer, share)
    assert 0.15 < (many.targets["crop"] >= 0).float().mean() < 0.4


def test_flood_label_is_of_the_last_date_and_off_the_permanent_water(many: Batch):
    flood, use = many.targets["flood"], many.targets["landcover"]
    assert ((flood == 1) == (use == 0)).all()
    flooded = (flood == 2).flatten(1).any(1).float().mean()
    assert 0.5 < flooded < 0.8


def test_redundancy_shows_the_same_place_at_other_dates():
    options = {"sensors": ("s1",), "layers": ("landcover",)}
    b = Synthetic("pretrain", redundancy=1.0, **options).read(range(REPEATS + 1))
    same = b.targets["landcover"][0]
    assert all(torch.equal(t, same) for t in b.targets["landcover"][:REPEATS])
    assert not torch.equal(b.targets["landcover"][REPEATS], same)
    assert not torch.equal(b.sensors["s1"].day[0], b.sensors["s1"].day[1])
    assert not torch.equal(b.sensors["s1"].x[0], b.sensors["s1"].x[1])
    source = Synthetic("pretrain")
    repeats = sum(source.layout_of(i) != i for i in range(2000)) / 2000
    assert repeats == pytest.approx(0.3 * (1 - 1 / REPEATS), abs=0.03)
    assert all(Synthetic("train").layout_of(i) == i for i in range(200))


def crop_pixels(split: str, temporal: float) -> tuple[Tensor, Tensor]:
    """s2 (N, T, C) and crop (N,) of a sample of labelled pixels under clear skies."""
    b = Synthetic(split, sensors=("s2",), layers=("crop",), temporal=temporal, clouds=0.0).read(range(48))
    y = b.targets["crop"]
    keep = (y >= 0) & (torch.arange(y.numel()).view_as(y) % 8 == 0)
    return b.sensors["s2"].x.movedim((1, 2), (3, 4))[keep], y[keep]


def crop_accuracy(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], dates: list[int]) -> float:
    """Accuracy on `val` of a logistic regression per pixel, fitted on `train`, that sees `dates` only."""
    x, xv = train[0][:, dates].flatten(1), val[0][:, dates].flatten(1)
    w = torch.zeros(x.shape[1] + 1, 6, requires_grad=True)
    opt = torch.optim.LBFGS([w], max_iter=25)

    def loss() -> Tensor:
        opt.zero_grad()
        out = torch.nn.functional.cross_entropy(x @ w[1:] + w[0], train[1]) + 1e-3 * w.square().sum()
        out.backward()
        return out

    opt.step(loss)
    return ((xv @ w[1:] + w[0]).argmax(1) == val[1]).float().mean().item()


def test_crops_need_the_time_series():
    pixels = crop_pixels("train", 1.0), crop_pixels("val", 1.0)
    alone = max(crop_accuracy(*pixels, [t]) for t in range(4))
    series = crop_accuracy(*pixels, [0, 1, 2, 3])
    assert series > alone + 0.1, (series, alone)
    alike = crop_accuracy(crop_pixels("train", 0.0), crop_pixels("val", 0.0), [0, 1, 2, 3])
    assert alike < 0.4 < series, (alike, series)  # the dial takes the information away


def test_options_are_checked():
    with pytest.raises(InputError, match=r"data\.sensors=s3.*s2, s1, dem, hls"):
        Synthetic("train", sensors=["s3"])
    with pytest.raises(InputError, match=r"data\.layers=water"):
        Synthetic("train", layers=["water"])
    with pytest.raises(InputError, match=r"data\.world=moon.*dev, final"):
        Synthetic("train", world="moon")
    with pytest.raises(InputError, match=r"data\.label_noise=2"):
        Synthetic("train", label_noise=2)
    with pytest.raises(IndexError):
        Synthetic("val").read([500])


def test_fingerprint_follows_the_options():
    prints = {
        Synthetic("train", **o).fingerprint
        for o in (
            {},
            {"seed": 1},
            {"world": "final"},
            {"label_noise": 0.1},
            {"layers": ("crop",)},
            {"regions": {"finetune": 4}},
        )
    }
    assert len(prints) == 6
    assert Synthetic("train").fingerprint in prints


def test_shipped_configs_build():
    from pathlib import Path

    from omegaconf import OmegaConf

    configs = Path(__file__).parent.parent / "configs"
    options = OmegaConf.to_container(OmegaConf.load(configs / "data" / "synthetic.yaml"))
    assert isinstance(options, dict)
    options.pop("ranges")
    assert build_source(options, "pretrain").fingerprint == Synthetic("pretrain").fingerprint, (
        "yaml and code defaults differ"
    )
    for name in OmegaConf.load(configs / "suite" / "synthetic.yaml").tasks:
        task = OmegaConf.to_container(OmegaConf.load(configs / "task" / f"{name}.yaml"))
        assert isinstance(task, dict)
        for split in ("train", "val", "test"):
            source = build_source(task["data"], split)
            assert len(source) >= task[split] and task["layer"] in source.spec.legends
        recode = task.get("recode", {})
        assert not recode or set(recode) == set(range(len(source.spec.legends["map"])))
        assert set(recode.values()) <= set(range(len(source.spec.legends[task["layer"]])))
