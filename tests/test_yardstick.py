"""The yardstick: probes on made-up features, what views withhold, and that measuring a run leaves it as it was."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import NANO, random_batch
from test_pretrain import small
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gfm_objectives import cli, pretrain
from gfm_objectives.batch import Spec
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.unet import UNet
from gfm_objectives.pretrain import measuring
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.report.yardstick import table
from gfm_objectives.runs.folder import folder
from gfm_objectives.yardstick import Yardstick, probes, yardstick
from gfm_objectives.yardstick.features import ALL, PAST, Features, band_statistics, of_encoder, see, views
from gfm_objectives.yardstick.yardstick import held_out, majority, withheld


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- probes


def test_rankme_by_hand():
    assert probes.rankme(torch.eye(7).double()) == pytest.approx(7, rel=1e-4)
    assert probes.rankme(torch.ones(9, 1).double() @ noise(1, 5)) == pytest.approx(1, rel=1e-4)
    p = torch.tensor([0.75, 0.25]).double()
    assert probes.rankme(torch.diag(8 * p)) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-4)


def test_the_map_probe_knows_what_is_separable_and_prices_noise_at_the_entropy():
    labels = torch.arange(3000) % 10 // 5 + (torch.arange(3000) % 10 > 8)  # shares .5, .4, .1
    fit, judge = labels[:2000], labels[2000:]
    blobs = torch.eye(3).double()[labels] + 0.01 * noise(3000, 3)
    assert probes.class_nll(blobs[:2000], fit, blobs[2000:], judge, 3).mean() < 0.05
    x = noise(3000, 3)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.4, 0.1))
    assert float(probes.class_nll(x[:2000], fit, x[2000:], judge, 3).mean()) == pytest.approx(entropy, abs=0.02)
    assert float(probes.class_nll(x[:2000], fit, x[2000:], judge, 4).mean()) == pytest.approx(entropy, abs=0.03)
    unseen = probes.class_nll(x[:2000], fit, x[2000:], torch.full((1000,), 3), 4)
    assert (unseen > 3).all() and (unseen < 12).all()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2000.0, -7.0)])
def test_the_value_probe_knows_the_error_whatever_the_unit(scale, shift):
    x, error = noise(4000, 3), noise(4000, 1, seed=1)
    y = scale * (x[:, :1] + 0.1 * error) + shift
    known = probes.value_nll(x[:2000], y[:2000], x[2000:], y[2000:]).mean()
    assert float(known) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.01 / 1.01), abs=0.03)
    unknown = probes.value_nll(x[:2000], scale * error[:2000], x[2000:], scale * error[2000:]).mean()
    assert float(unknown) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.03)


def test_flops_of_the_linear_probes_by_hand():
    n, d, k = 100, 7, 3
    with FlopCounterMode(display=False) as counter:
        probes.value_nll(noise(n, d), noise(n, k), noise(0, d), noise(0, k))
    assert probes.value_flops(n, d, k) == counter.get_total_flops()
    weight = torch.zeros(d + 1, k, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(torch.ones(n, d + 1) @ weight, torch.zeros(n, dtype=torch.long)).backward()
    assert probes.class_flops(n, d, k) == probes.STEPS * counter.get_total_flops()


def test_neighbours_vote():
    angle = torch.tensor([0.0, 10, 20, 180, 190, 200]).double().deg2rad()  # opposite pairs: the mean is 0
    fit = torch.stack([angle.cos(), angle.sin()], 1)
    labels = torch.tensor([2, 0, 0, 1, 1, 3])
    assert probes.knn(fit, labels, fit, 4, k=1).tolist() == labels.tolist()
    assert probes.knn(fit, labels, 7 * fit[[1, 4]], 4, k=3).tolist() == [0, 1]
    assert probes.knn(fit, labels, fit, 4).tolist() == [0] * 6  # fewer rows than neighbours: all vote, a draw


def test_collapse_raises_the_alarm_and_health_does_not():
    healthy = probes.spread(noise(6, 20, 8)) | probes.spread(noise(6, 20, 8, seed=1), "token_")
    assert probes.alarm(healthy) == "" and healthy["rankme"] > 7.5
    assert healthy["std"] == pytest.approx(1, abs=0.05) and abs(healthy["cosine"]) < 0.3
    flat = probes.spread(torch.ones(6, 20, 8).double() + 1e-6 * noise(6, 20, 8), "token_")
    told = probes.alarm(probes.spread(noise(6, 20, 8)) | flat)
    assert all(sign in told for sign in ("rankme of tokens", "std of tokens", "cosine of tokens"))
    line = probes.spread(noise(6, 20, 1) @ noise(1, 8))  # one direction, both ways: neither std nor cosine sees it
    assert probes.alarm(line) == "rankme of dense features 1, below 2"
    assert probes.alarm({}) == "features are not finite"


# -- what is probed


def test_views_withhold_a_sensor_or_the_last_date(spec: Spec) -> None:
    assert views(spec) == {
        ALL: {"s2": 3, "s1": 2, "dem": 1},
        "s2": {"s2": 0, "s1": 2, "dem": 1},
        "s1": {"s2": 3, "s1": 0, "dem": 1},
        PAST: {"s2": 2, "s1": 1, "dem": 1},
    }
    batch = random_batch(spec, 2)
    assert withheld(batch, views(spec)[ALL]) == []
    ((mean, known),) = withheld(batch, views(spec)["s2"])
    s2 = batch.sensors["s2"]
    n = s2.valid.sum(1)
    assert torch.equal(known, n > 0) and not known.all()
    by_hand = (s2.x * s2.valid[:, :, None]).sum(1) / n.clamp(min=1)[:, None]
    torch.testing.assert_close(mean, by_hand)
    (last, ok), (radar, _) = withheld(batch, views(spec)[PAST])
    torch.testing.assert_close(last, s2.x[:, 2] * s2.valid[:, 2, None])
    assert torch.equal(ok, s2.valid[:, 2]) and radar.shape == (2, 2, 32, 32)


@pytest.mark.parametrize("model", ["vit", "conv", "unet"])
def test_features_do_not_see_what_is_withheld_and_leave_the_encoder_alone(spec: Spec, model: str) -> None:
    torch.manual_seed(0)
    vit = {**NANO, "depth": 0} if model == "conv" else NANO
    encoder = UNet(spec, 0, 8) if model == "unet" else Encoder.from_config(vit, spec)
    encoder.train()
    next(m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()  # someone's choice, to be kept
    modes = [m.training for m in encoder.modules()]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    chance = torch.get_rng_state()
    batch = random_batch(spec, 3)
    s1 = batch.sensors["s1"]
    other = batch.replace(sensors=batch.sensors | {"s1": type(s1)(s1.x + 1, ~s1.valid, s1.day, s1.bands)})
    pixel = torch.arange(10).expand(3, 10)
    one, two = (of_encoder(encoder, b, views(spec), pixel, torch.float32) for b in (batch, other))
    assert torch.equal(one.pixels["s1"], two.pixels["s1"])
    assert not torch.equal(one.pixels["s2"], two.pixels["s2"])
    assert one.cells.shape == (3, 4, encoder.width) and (one.tokens is None) == (model != "vit")
    assert [m.training for m in encoder.modules()] == modes and torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


def test_left_out_and_marked_as_missing_are_the_same_to_a_vit(spec: Spec) -> None:
    torch.manual_seed(0)
    encoder, batch = Encoder.from_config(NANO, spec).eval(), random_batch(spec, 2)
    for seen in views(spec).values():
        torch.testing.assert_close(
            encoder.features(see(batch, seen)), encoder.features(see(batch, seen, blank=True)), rtol=1e-4, atol=1e-4
        )


def test_band_statistics_by_hand(spec: Spec) -> None:
    batch = random_batch(spec, 1)
    out = band_statistics(batch)[0]  # s2: mean of ten bands, their deviation, and both over 3 x 3
    x, ok = batch.sensors["s2"].x[0, :, 4].double(), batch.sensors["s2"].valid[0]
    mean = torch.stack([x[:, r, c][ok[:, r, c]].mean() for r in range(3) for c in range(3)]).nan_to_num()
    deviation = x[:, 1, 1][ok[:, 1, 1]].std(correction=0).nan_to_num()
    told = torch.stack([out[4, 1, 1], out[14, 1, 1], out[24, 1, 1], out[34, 1, 1]])
    by_hand = torch.stack([mean[4], deviation, mean.mean(), mean.std(correction=0)])
    torch.testing.assert_close(told, by_hand)
    assert len(out) == 4 * (10 + 2 + 1)


def test_majority_of_a_cell():
    target = torch.full((1, 32, 16), -1)
    target[0, :2, 0], target[0, 2:9, 0] = 1, 2
    cell, share = majority(target, 3)
    assert cell[0, 0] == 2 and share.tolist() == [[7 / 256, 0.0]]


def test_held_out_areas_are_in_one_half() -> None:
    source = Synthetic("val", size=16, dates=1)
    index, half = held_out(source)
    areas = source.groups()
    first, second = ({areas[i] for i, h in zip(index, half.tolist(), strict=True) if h is w} for w in (True, False))
    assert len(set(index)) == len(index) == 48 and len(first) == len(second) == 4 and not first & second
    assert held_out(Synthetic("val", size=16, dates=1))[0] == index
    assert len(held_out(Synthetic("val", size=16, dates=1, regions={"finetune": 1}))[0]) == 48
    with pytest.raises(InputError, match="1 place, and the yardstick needs two"):
        held_out(Synthetic("val", size=16, dates=1, places={"val": 1}))


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({}, set()),
        ({"sensors": ["s2"]}, {"sensor_nll"}),
        ({"dates": 1}, {"date_nll"}),
        ({"layers": ["crop"]}, {"map_nll", "knn"}),
    ],
)
def test_what_the_data_does_not_allow_is_absent(options, absent, monkeypatch) -> None:
    monkeypatch.setattr(yardstick, "PLACES", 4)
    source = Synthetic("val", **({"size": 16, "dates": 2} | options))
    torch.manual_seed(0)
    encoder = UNet(source.spec, 0, 8) if options else Encoder.from_config(NANO, source.spec)
    stick = Yardstick(source, encoder)
    figures, bands = stick(encoder), stick.bands()
    every = {"map_nll", "sensor_nll", "date_nll", "knn", "std", "cosine", "rankme"} - absent
    assert set(bands) == every
    assert set(figures) == every | (set() if options else {"token_std", "token_cosine", "token_rankme"})
    assert all(math.isfinite(v) for v in (*figures.values(), *bands.values()))
    assert stick.flops > stick.cost > 0
    if not options:
        assert Yardstick(source, encoder)(encoder) == figures
    broken = Features({ALL: torch.full((6, 4, 3), torch.nan)}, noise(6, 4, 3))
    assert stick.score(broken) == {}


# -- beside a run


class Stop(Exception):
    """Stands for whatever ends a run early."""


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "yardstick.csv").open() as f:
        return list(csv.DictReader(f))


def stopping(self: Pretraining, *args: object, step=Pretraining.step) -> Tensor:
    if self.budget.progress > 0.6:
        raise Stop
    return step(self, *args)


def refusing(options: object, split: str) -> None:
    raise InputError(f"no split {split} here")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One training, four times: measured, not measured, measured and interrupted, without held-out places."""
    words = ("objective=mae", "data.size=16", "budget.flops=2e9", "checkpoint_every=0.4")
    configs = {
        name: small(tmp_path_factory.mktemp(name), *words, f"yardstick={str(name != 'off').lower()}")
        for name in ("on", "off", "broken", "blind")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yardstick, "PLACES", 4)
        patch.setattr(measuring, "SHARE", 10.0)  # or so small a budget would be measured at the end alone
        patch.setattr(measuring, "TIMES", (4,))  # tenths take longer and show no more
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Pretraining, "step", stopping)
            with pytest.raises(Stop):
                pretrain.run(configs["broken"])
        last = rows(folder(configs["broken"]))[-1]
        saved = torch.load(folder(configs["broken"]) / "checkpoints" / "last.ckpt", weights_only=True)
        assert 0 < saved["run"]["step"] < int(last["step"]), "no row is to be dropped: nothing was tested"
        out = {name: pretrain.run(configs[name]) for name in ("on", "off", "broken")}
        patch.setattr(measuring, "build_source", refusing)
        return out | {"blind": pretrain.run(configs["blind"])}


def test_measuring_does_not_change_the_training(runs: dict[str, Path]) -> None:
    """Neither does being interrupted while measured: weights are equal bit for bit."""
    weights = {name: (run / "encoder.safetensors").read_bytes() for name, run in runs.items()}
    assert weights["on"] == weights["off"] == weights["broken"] == weights["blind"]
    states = [torch.load(runs[n] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for n in ("on", "off")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_row_each_time_and_none_twice(runs: dict[str, Path]) -> None:
    whole = rows(runs["on"])
    assert [r["of"] for r in whole] == ["bands"] + ["encoder"] * 5
    assert [int(4 * float(r["progress"]) + 0.05) for r in whole[1:]] == list(range(5))
    assert whole[1]["step"] == "0" and float(whole[-1]["flops"]) == pytest.approx(2e9, rel=0.005)
    assert rows(runs["broken"]) == whole
    assert not (runs["off"] / "yardstick.csv").exists() and not (runs["blind"] / "yardstick.csv").exists()


def test_the_ledger_keeps_figures_and_cost_apart(runs: dict[str, Path]) -> None:
    on, off, broken, blind = (
        json.loads((runs[n] / "ledger.json").read_text()) for n in ("on", "off", "broken", "blind")
    )
    told, last = on["yardstick"], rows(runs["on"])[-1]
    assert {k: v for k, v in told.items() if k not in ("places", "random", "bands")} == {
        k: float(v) for k, v in last.items() if k not in ("of", "step", "progress", "flops")
    }
    assert told["random"].keys() == told.keys() - {"places", "random", "bands"}
    assert told["random"]["map_nll"] != told["map_nll"] and "token_std" not in told["bands"]
    assert on["flops_evaluation"] > 0 and on["yardstick_seconds"] > 0
    assert broken["yardstick"] == told and broken["flops_evaluation"] == on["flops_evaluation"]
    for without in (off, blind):
        assert without["yardstick"] == {} and without["flops_evaluation"] == without["yardstick_seconds"] == 0
        assert without["flops_spent"] == on["flops_spent"] and without["config_hash"] == on["config_hash"]


def test_time_of_measuring_is_not_that_of_training(monkeypatch) -> None:
    clock = iter([10.0, 15.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(None, 1)
    meter.start()
    meter.add(6.0, 3)
    meter.pause(2.0)
    assert meter.seconds == 3.0
    assert meter.rates(4.0) == {"samples_per_s": 1, "flops_per_s": 2, "data_wait": 0, "yardstick_s": 2, "eta_s": 2}


def test_measuring_costs_less_than_a_tenth_where_it_can():
    assert [measuring.times(6e10, b) for b in (1e13, 5e12, 2e12, 1.2e12, 5e10)] == [10, 5, 2, 1, 1]


def test_a_small_budget_is_measured_at_the_end_alone(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(yardstick, "PLACES", 8)
    run = pretrain.run(small(tmp_path, "objective=mae", "data.size=16", "budget.flops=2e9", "yardstick=true"))
    assert [(r["of"], float(r["progress"]) > 0.99) for r in rows(run)] == [
        ("bands", False),
        ("encoder", False),
        ("encoder", True),
    ]
    assert "yardstick, nats: map " in (told := capsys.readouterr().out) and "beside the budget" in told
    assert any("yardstick" in p.read_bytes().decode("latin1") for p in (run / "tensorboard").iterdir())


def test_the_table_joins_seeds_and_says_what_was_measured(runs: dict[str, Path], tmp_path: Path, capsys) -> None:
    folders = []
    for seed, nll in ((0, 1.0), (1, 1.2)):
        folder = Path(shutil.copytree(runs["on"], tmp_path / f"s{seed}"))
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("\nseed: 0", f"\nseed: {seed}"))
        ledger = json.loads((folder / "ledger.json").read_text())
        ledger |= {"seed": seed, "flops_spent": 2e12}
        ledger["yardstick"] |= {"map_nll": nll, "random": {"map_nll": 2.0}, "bands": {"map_nll": 1.3}}
        (folder / "ledger.json").write_text(json.dumps(ledger))
        folders.append(str(folder))
    assert cli.main(["yardstick", *folders]) == 0
    head, _, mae, untrained, bands = capsys.readouterr().out.splitlines()
    assert head.startswith("| contender | C | seeds | map NLL |") and "RankMe" in head
    assert mae.startswith("| mae | 2e12 | 2 | 1.100 ± 0.141 |") and "of: map" not in mae
    assert untrained.startswith("| untrained nano | 0 | 2 | 2.000 ± 0.000 | - |")
    assert bands.startswith("| band statistics | 0 | - | 1.300 | - |")
    path = Path(folders[1]) / "ledger.json"
    path.write_text(path.read_text().replace('"map_nll": 1.2', '"map_nll": 1.7'))
    assert "no more than its bands of: map" in table(folders).splitlines()[2]
    assert " not run |" in table([str(runs["off"])])
    assert cli.main(["yardstick"]) == 2 and cli.main(["yardstick", str(tmp_path)]) == 2
    assert cli.main(["yardstick", "--help"]) == 0
