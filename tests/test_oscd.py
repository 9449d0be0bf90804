"""OSCD: windows of cities on two dates; order of dates and bands, splits by city, faults in one line; it trains."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NANO
from PIL import Image

from gfm_objectives import config, pretrain
from gfm_objectives.batch import Batch, Series
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.config import load_choice
from gfm_objectives.data import build_source
from gfm_objectives.data.oscd import ONERA
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.finetune import HParams, evaluate, finetune, step_cost
from gfm_objectives.metrics import f1
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.sensors import S2_L1C

H, W, N = 40, 56, 16  # of a city, of a window
TRAIN, TEST = ("ada", "bea", "cal"), ("dee",)
BANDS = S2_L1C.band_names
needs_data = pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real OSCD is absent")


def stored(city: int, date: int, band: int) -> np.ndarray:
    """What a made-up file holds: every city, date, band and pixel is told apart."""
    row, column = np.mgrid[:H, :W]
    return (4000 * date + 200 * band + 10 * city + row + column + 1).astype(np.uint16)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("oscd")
    for number, city in enumerate((*TRAIN, *TEST)):
        images = root / f"{ONERA} - Images" / city
        for date in (0, 1):
            (images / f"imgs_{date + 1}_rect").mkdir(parents=True)
            for b, band in enumerate(BANDS):
                Image.fromarray(stored(number, date, b)).save(images / f"imgs_{date + 1}_rect" / f"{band}.tif")
        (images / "dates.txt").write_text(f"date_1: 2016010{number + 1}\ndate_2: 2018010{number + 1}\n")
        labels = root / f"{ONERA} - {'Test' if city in TEST else 'Train'} Labels" / city / "cm"
        labels.mkdir(parents=True)
        mask = np.zeros((H, W), dtype=np.uint8)
        mask[:, W // 2 :] = 255
        Image.fromarray(mask).save(labels / "cm.png")
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "oscd"))


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return {"name": "oscd", "root": str(root), "size": N, "val_cities": ["bea"], **changes}


# ------------------------------------------------------------------------------------------------- what comes out


def test_bands_dates_and_labels_are_where_they_belong(template: Path) -> None:
    source = build_source(options(template), "train")
    batch = source.read([0, len(source) - 1])  # the first window of ada and the last of cal
    s2 = batch.sensors["s2"]
    assert s2.bands == BANDS and s2.x.shape == (2, 2, 13, N, N) and s2.x.dtype == torch.float32 and s2.valid.all()
    reflectance = S2_L1C.denormalise(s2.x, BANDS) * 1e4
    assert s2.level == "L1C"
    for b, (city, top, left) in enumerate([(0, 0, 0), (2, H - N, W - N)]):
        for date in (0, 1):
            expected = np.stack([stored(city, date, band) for band in range(13)])[:, top : top + N, left : left + N]
            torch.testing.assert_close(
                reflectance[b, date], torch.from_numpy(expected.astype(np.float32)), rtol=1e-4, atol=0.05
            )
    assert s2.day.tolist() == [[5844, 6575], [5846, 6577]]  # 1 January 2016 and 2018 of ada, the 3rd of cal
    assert batch.targets["change"][0].eq(0).all() and batch.targets["change"][1].eq(1).all()
    assert batch.gsd.tolist() == [10, 10] and source.spec.dates == {"s2": 2}


def test_splits_part_by_city_and_only_scored_windows_are_padded(template: Path) -> None:
    sources = {s: build_source(options(template), s) for s in ("pretrain", "train", "val", "test")}
    cities = {s: set(source.groups()) for s, source in sources.items()}
    assert cities == {"pretrain": {"ada", "cal"}, "train": {"ada", "cal"}, "val": {"bea"}, "test": {"dee"}}
    assert {s: len(source) for s, source in sources.items()} == {"pretrain": 24, "train": 24, "val": 12, "test": 12}
    train = sources["train"].read(range(24))
    assert train.sensors["s2"].valid.all() and train.targets["change"].ge(0).all()
    assert len({s.fingerprint for s in sources.values()}) == 4
    batch = sources["test"].read(range(12))  # 3 x 4 windows of 16 over 40 x 56
    label, valid = batch.targets["change"], batch.sensors["s2"].valid
    assert (label >= 0).sum() == H * W and torch.equal(label >= 0, valid.all(1))
    assert (label == 1).sum() == H * W // 2
    corner = batch.sensors["s2"].x[11]
    assert (corner[..., H % N :, :] == 0).all() and (corner[..., W % N :] == 0).all()
    tile = sources["test"].tile(0)
    assert sources["test"].tiles() == 1 and sources["test"].tile_groups() == ["dee"] and tile.size == (H, W)
    assert torch.equal(tile.sensors["s2"].x[..., 32:, 48:], corner[None, ..., : H % N, : W % N])


def test_zero_is_no_data_on_its_own_date(root: Path) -> None:
    path = root / f"{ONERA} - Images" / "ada" / "imgs_2_rect" / "B11.tif"
    values = stored(0, 1, 11)
    values[3, 5] = 0
    Image.fromarray(values).save(path)
    s2 = build_source(options(root), "train").read([0]).sensors["s2"]
    assert (~s2.valid).nonzero().tolist() == [[0, 1, 3, 5]] and (s2.x[0, 1, :, 3, 5] == 0).all()


@pytest.mark.parametrize("cache_mb", [0.0, 64.0])
def test_a_copy_in_a_worker_reads_the_same(template: Path, cache_mb: float) -> None:
    source = build_source(options(template, cache_mb=cache_mb, bands=["B04", "B08"]), "val")
    here = source.read([3, 0, 3])
    there = pickle.loads(pickle.dumps(source)).read([3, 0, 3])
    assert torch.equal(here.sensors["s2"].x, there.sensors["s2"].x) and here.sensors["s2"].bands == ("B04", "B08")
    assert torch.equal(here.sensors["s2"].x[0], here.sensors["s2"].x[2])


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"val_cities": ["rome"]}, "data.val_cities=rome: no training city; choose from ada, bea, cal"),
        ({"val_cities": list(TRAIN)}, "data.val_cities=ada,bea,cal: choose some, not all, of ada, bea, cal"),
        ({"val_cities": []}, "choose some, not all"),
        ({"bands": ["B4"]}, "data.bands: sensor s2 has no band 'B4'; its bands are B01"),
        ({"size": 0}, "data.size=0: expected a number of pixels"),
        ({"root": "$NOT_SET/oscd"}, "the environment variable NOT_SET is not set; export NOT_SET=/folder"),
        ({"root": "/nowhere"}, "no folder /nowhere; check the path or give data.root=/path"),
        ({"cities": "*"}, "data.cities: oscd has no such option"),
    ],
)
def test_mistakes_are_told_in_one_line(template: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        build_source(options(template) | changes, "train")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_windows_larger_than_every_city_are_padded(template: Path) -> None:
    with pytest.warns(InputWarning, match="^data.size=64: every test tile is smaller, 40 pixels at most"):
        source = build_source(options(template, size=64), "test")
    assert len(source) == 1 and source.read([0]).targets["change"].ge(0).sum() == H * W


def test_the_fingerprint_follows_labels_and_not_the_folder(root: Path) -> None:
    label = Path(f"{ONERA} - Train Labels") / "ada" / "cm" / "cm.png"
    values = np.array(Image.open(root / label))
    Image.fromarray(values).save(root / label, compress_level=0)
    size, before = (root / label).stat().st_size, build_source(options(root), "train").fingerprint
    root = Path(shutil.move(root, root.with_name("elsewhere")))
    (root / label).touch()
    assert build_source(options(root), "train").fingerprint == before
    Image.fromarray(255 - values).save(root / label, compress_level=0)
    assert (root / label).stat().st_size == size
    assert build_source(options(root), "train").fingerprint != before


def test_missing_files_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no 'Onera Satellite Change Detection dataset - ...'; unpack"):
        build_source(options(tmp_path / "empty"), "train")
    gone = root / f"{ONERA} - Images" / "cal" / "imgs_1_rect" / "B8A.tif"
    gone.unlink()
    with pytest.raises(InputError, match=r"cal/imgs_1_rect/B8A.tif: is missing; unpack the archives again"):
        build_source(options(root), "val")


# ------------------------------------------------------------------------------------------------- models


def pair(day: tuple[float, float]) -> Batch:
    g = torch.Generator().manual_seed(0)
    x, valid = torch.randn(1, 2, 13, N, N, generator=g), torch.ones(1, 2, N, N, dtype=torch.bool)
    return Batch({"s2": Series(x, valid, torch.tensor([day]), BANDS)}, {}, torch.tensor([10.0]))


@pytest.mark.parametrize("model", ["encoder", "stack", "shared"])
def test_models_tell_before_from_after(template: Path, model: str) -> None:
    """Exchanging the images of two dates changes what comes out: nothing forgets which was first."""
    spec = build_source(options(template), "train").spec
    torch.manual_seed(0)
    net = Segmenter(Encoder.from_config(NANO, spec), 2) if model == "encoder" else UNet(spec, 2, width=8, mode=model)
    batch = pair((5844.0, 6675.0))
    s2 = batch.sensors["s2"]
    swapped = batch.replace(sensors={"s2": Series(s2.x.flip(1), s2.valid, s2.day, s2.bands)})
    with torch.no_grad():
        before, after = net.eval()(batch), net(swapped)
    assert (before - after).abs().max() > 1e-4


def run(root: Path, out: Path, *words: str) -> Path:
    small = [f"encoder.{k}={v}" for k, v in NANO.items() if k != "name"]
    words = ("data=oscd", f"data.root={root}", f"data.size={N}", "data.val_cities=[bea]", f"runs={out}", *words)
    rest = ["name=demo", "optim.batch_size=4", "loader.workers=0", "threads=1", "device=cpu", "budget.flops=5e9"]
    (cfg,) = config.compose("train", [*small, *words, *rest])
    return pretrain.run(cfg)


def test_it_has_no_map(template: Path, tmp_path: Path) -> None:
    told = r"^objective masked_seg: needs the target layer 'map'; this data has change; .*objective.target=segments"
    with pytest.raises(InputError, match=told):
        run(template, tmp_path, "objective=masked_seg")


def test_mae_trains_on_it_and_the_encoder_learns_the_change_task(template: Path, tmp_path: Path) -> None:
    folder = run(template, tmp_path, "objective=mae")
    assert json.loads((folder / "ledger.json").read_text())["samples"] > 4
    task = {**load_choice("task", "oscd"), "data": options(template)}
    bench = open_bench("oscd", task)
    assert bench.task.kind == "change" and bench.sizes == {"train": 24, "val": 1, "test": 1}, "cities are scored whole"
    model, train = Segmenter(load_encoder(folder), bench.classes), bench.source("train")
    budget = 64 * step_cost(model, train.read([0, 1]), bench.kind, "change").total
    finetune(model, train, bench.kind, "change", budget, HParams(lr=3e-3, batch_size=4), seed=0)
    cm, _ = evaluate(model, bench.source("test"), bench.kind, "change", 2, N)
    assert cm.sum() == H * W and torch.isfinite(f1(cm.sum(0))).all()


def test_a_change_task_needs_two_dates() -> None:
    data = {"name": "synthetic", "size": 16, "dates": 1, "places": {"train": 1, "val": 1, "test": 1}}
    with pytest.raises(InputError, match="task x: kind=change needs a sensor with two dates"):
        open_bench("x", {"kind": "change", "layer": "map", "data": data})


# ------------------------------------------------------------------------------------------------- the real cities


@needs_data
def test_real_cities() -> None:
    data = load_choice("data", "oscd")
    sources = {s: build_source(data, s) for s in ("train", "val", "test")}
    assert {s: len(source) for s, source in sources.items()} == {"train": 262, "val": 162, "test": 180}
    groups = [set(source.groups()) for source in sources.values()]
    assert all(not a & b for a, b in pairwise([*groups, groups[0]]))
    test = sources["test"].read(range(180))
    s2, label = test.sensors["s2"], test.targets["change"]
    assert (s2.day[:, 1] > s2.day[:, 0] + 300).all() and s2.day.amin() > 5600
    assert (label >= 0).sum() == 858 * 557 + 339 * 563
    assert abs((label == 1).sum() / (label >= 0).sum() - 0.0257) < 1e-4
    values = s2.x.movedim(2, -1)[s2.valid]  # (pixels, 13)
    assert values.mean(0).abs().max() < 1.5 and (values.std(0) < 1.5).all()
