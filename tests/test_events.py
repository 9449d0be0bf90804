"""Fires and open water, and the labels burn, boundary, debris and built-up: exact, rare as declared, honestly hard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from gfm_objectives.batch import Batch
from gfm_objectives.data import build_source
from gfm_objectives.data.earth.events import NATURAL
from gfm_objectives.data.earth.tables import U
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError

TASKS = ("burn", "boundary", "debris", "builtup")
EVENTS = {"fire": 1.0, "coast": 1.0}
# Share of pixels of each class but the first, lowest and highest.
SHARES = {
    "burn": [(0.06, 0.25)],
    "boundary": [(0.1, 0.3), (0.05, 0.15)],
    "debris": [(0.002, 0.0075)],
    "builtup": [(0.06, 0.15), (0.015, 0.06)],
}


def task_source(name: str, split: str, **changes: object) -> Synthetic:
    path = Path(__file__).parent.parent / "configs" / "task" / f"{name}.yaml"
    source = build_source({**OmegaConf.load(path).data, **changes}, split)
    assert isinstance(source, Synthetic)
    return source


@pytest.fixture(scope="module", params=TASKS)
def labelled(request) -> tuple[str, Synthetic, Batch]:
    """64 places of a task's test split."""
    source = task_source(request.param, "test")
    return request.param, source, source.read(range(64))


def test_classes_are_as_rare_as_declared(labelled: tuple[str, Synthetic, Batch]):
    name, source, batch = labelled
    label, legend = batch.targets[name], source.spec.legends[name]
    assert legend.colors is not None and len(legend.colors) == len(legend) == len(set(legend.classes))
    share = torch.bincount(label.flatten(), minlength=len(legend)) / label.numel()  # nowhere -1: every pixel counts
    assert len(share) == len(legend) == len(SHARES[name]) + 1
    for k, (low, high) in enumerate(SHARES[name], start=1):
        assert low < share[k] < high, (name, share)
    somewhere = (label > 0).flatten(1).any(1).float().mean()
    assert somewhere > 0.55, (name, somewhere)


def test_no_band_tells_the_label(labelled: tuple[str, Synthetic, Batch]):
    """The best of many thresholds, on either side, on any band and date stays far from the label."""
    name, source, batch = labelled
    label = batch.targets[name]
    for sensor in batch.sensors.values():
        bands = sensor.x.flatten(1, 2).movedim(1, 0).flatten(1)[:, ::16]  # (T C, pixels)
        at = torch.quantile(bands[:, ::4], torch.tensor([0.003, 0.01, *torch.arange(1, 20) / 20, 0.99, 0.997]), dim=1)
        for k in range(1, len(source.spec.legends[name])):
            true = (label == k).flatten()[::16]
            for above in (bands > at[..., None], bands <= at[..., None]):
                best = ((above & true).sum(-1) / (above | true).sum(-1)).max()
                assert best < 0.45, (name, k, best)


def test_a_place_is_the_same_in_any_batch(labelled: tuple[str, Synthetic, Batch]):
    name, source, batch = labelled
    for order in ([40, 3, 17, 8], [8]):
        one, other = source.read(order), batch.take(torch.tensor(order))
        assert torch.equal(one.targets[name], other.targets[name])
        for sensor in one.sensors:
            assert torch.equal(one.sensors[sensor].x, other.sensors[sensor].x)


@pytest.mark.parametrize("name", TASKS)
def test_training_and_test_share_no_region(name: str):
    train, val, test = (set(task_source(name, split).groups()) for split in ("train", "val", "test"))
    assert train == val and not train & test


def test_places_without_an_event_are_what_they_were():
    """Events come from chance of their own, so that neither their rate nor their coming changes any other place."""
    now, before = Synthetic("pretrain"), Synthetic("pretrain", events={})
    assert now.events == NATURAL and now.fingerprint != before.fingerprint
    a, b = now.read(range(96)), before.read(range(96))
    same = torch.ones(96, dtype=torch.bool)
    for sensor in a.sensors:
        same &= (a.sensors[sensor].x == b.sensors[sensor].x).flatten(1).all(1)
    event = [now.sea_of(i) > 0 or now.burns(i) for i in range(96)]
    assert 0 < sum(event) < 16 and same.tolist() == [not e for e in event]
    assert (a.targets["map"] == b.targets["map"]).flatten(1).all(1).sum() == sum(now.sea_of(i) == 0 for i in range(96))


# Split and layer: mean absolute value of the images, and pixels of each label from -1 on, over 20 places of Earth 0, as
# of the commit that gave each Earth regions of its own; the dials that came after it, off, changed no bit of them.
BEFORE = {
    ("train", "landcover"): (0.58085417, [0, 4639, 5768, 8488, 8606, 6967, 16162, 13525, 6694, 5115, 5956]),
    ("val", "crop"): (0.59404574, [62883, 5241, 2071, 3368, 5098, 1087, 2172]),
    ("test", "flood"): (0.53958671, [0, 58985, 4477, 18458]),
}


@pytest.mark.parametrize(("split", "layer"), BEFORE)
def test_the_first_three_tasks_did_not_change(split: str, layer: str):
    source = Synthetic(split, layers=(layer,))
    batch, (mean, pixels) = source.read(range(20)), BEFORE[split, layer]
    assert torch.bincount(batch.targets[layer].flatten() + 1).tolist() == pytest.approx(pixels, abs=3)
    values = torch.cat([s.x.flatten() for s in batch.sensors.values()])
    assert values.double().abs().mean().item() == pytest.approx(
        mean, rel=1e-6
    )  # other processors differ in the last bits


def test_layers_change_no_image():
    layers = ("burn", "debris", "boundary", "builtup", "map")
    whole = Synthetic("val", layers=layers, events=EVENTS).read(range(4))
    for layer in layers:
        part = Synthetic("val", layers=(layer,), sensors=("s2", "hls"), events=EVENTS).read(range(4))
        assert torch.equal(part.sensors["s2"].x, whole.sensors["s2"].x)
        assert torch.equal(part.targets[layer], whole.targets[layer])


def test_burnt_ground_darkens_after_the_fire_and_not_before():
    """Near infrared of burnt and other pixels of the same land use, before and after."""
    batch = Synthetic(
        "train", sensors=("s2",), layers=("burn", "landcover"), dates=2, clouds=0.0, events={"fire": 1.0}
    ).read(range(48))
    s2, burnt, use = batch.sensors["s2"], batch.targets["burn"] == 1, batch.targets["landcover"]
    nir = s2.x[:, :, s2.bands.index("B8A")]
    for name in ("coniferous forest", "grassland and heath"):
        here = use == U[name]
        drop = [(nir[:, t][here & ~burnt].mean() - nir[:, t][here & burnt].mean()).item() for t in range(2)]
        assert abs(drop[0]) < 0.25 and drop[1] > 0.35, (name, drop)
    bare = (use == U["water"]) | (use == U["bare ground"]) | (use == U["dense urban"])
    assert not (burnt & bare).any()


def test_debris_floats_on_water_alone():
    batch = Synthetic("test", sensors=("s2",), layers=("debris", "landcover"), events={"coast": 1.0}).read(range(48))
    debris, water = batch.targets["debris"] == 1, batch.targets["landcover"] == U["water"]
    assert debris.any() and not (debris & ~water).any()
    assert 0.6 < water.float().mean() < 0.95


def test_boundaries_separate_parcels():
    """Inside fields no pixel touches another parcel: every neighbour of the interior is field or boundary."""
    batch = Synthetic("train", sensors=("dem",), layers=("boundary", "landcover", "crop")).read(range(32))
    label, crop = batch.targets["boundary"], batch.targets["crop"]
    assert torch.equal(label > 0, batch.targets["landcover"] == U["arable land"])
    for a, b in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
        for here, there in (((..., a), (..., b)), ((..., a, slice(None)), (..., b, slice(None)))):
            inside = label[here] == 1
            assert (label[there][inside] > 0).all()
            assert (crop[here][inside] == crop[there][inside])[label[there][inside] == 1].all()


def test_dense_is_where_roofs_are():
    batch = Synthetic("train", sensors=("dem",), layers=("builtup", "landcover")).read(range(32))
    density, use = batch.targets["builtup"], batch.targets["landcover"]
    town = (use == U["dense urban"]) | (use == U["scattered settlement"])
    assert (density[use == U["dense urban"]] == 2).float().mean() > 0.35
    assert (density[town] > 0).float().mean() > 0.7 and (density[~town] > 0).float().mean() < 0.1


def test_options_are_checked():
    with pytest.raises(InputError, match=r"data\.events=earthquake.*fire, coast"):
        Synthetic("train", events={"earthquake": 0.5})
    with pytest.raises(InputError, match=r"data\.events\.fire=2"):
        Synthetic("train", events={"fire": 2.0})
    with pytest.raises(InputError, match=r"data\.layers=burn: every place is 0; set data\.events\.fire above 0"):
        Synthetic("train", layers=("burn",))
    assert Synthetic("pretrain", layers=("burn", "debris")).events == NATURAL
