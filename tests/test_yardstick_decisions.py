"""What the yardstick's figures are made of: who is judged by whom, what is averaged, and each probe by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import NANO, random_batch
from torch import Tensor

from gfm_objectives.batch import Spec
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.flops import measure
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.yardstick import Yardstick, probes
from gfm_objectives.yardstick.features import ALL, Features, of_encoder, views
from gfm_objectives.yardstick.yardstick import held_out


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def source() -> Synthetic:
    return Synthetic("val", size=16, dates=2, sensors=["s2", "s1"])


@pytest.fixture(scope="module")
def stick(source: Synthetic) -> Yardstick:
    return Yardstick(source, Encoder.from_config(NANO, source.spec))


def test_no_area_is_judged_by_what_was_fitted_on_it(
    source: Synthetic, stick: Yardstick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place is judged once, by probes that saw none of its area; features here say which place they are of.

    A figure is the mean of the means of both halves, and of all sensors that are withheld.
    """
    index, _ = held_out(source)
    n, areas = len(index), [source.groups()[i] for i in index]
    here = torch.arange(n).double()[:, None, None]
    features = Features({v: here.expand(n, stick.pixel.shape[1], 1) for v in stick.views}, here)
    calls: dict[str, list[tuple[set[int], set[int], float]]] = {}

    def spy(name: str) -> Callable:
        do = getattr(probes, name)

        def spying(fit: Tensor, y: Tensor, x: Tensor, *rest: object) -> Tensor:
            out = do(fit, y, x, *rest)
            mean = float(out.mean()) if name != "knn" else float("nan")
            calls.setdefault(name, []).append((set(fit[:, 0].int().tolist()), set(x[:, 0].int().tolist()), mean))
            return out

        return spying

    for name in ("class_nll", "value_nll", "knn"):
        monkeypatch.setattr(probes, name, spy(name))
    figures = stick.score(features)
    assert {k: len(v) for k, v in calls.items()} == {"class_nll": 2, "knn": 2, "value_nll": 2 * (1 + 1 + 2)}
    for pairs in calls.values():
        for (fit, judged, _), (other_fit, other_judged, _) in zip(pairs[::2], pairs[1::2], strict=True):
            assert (fit, judged) == (other_judged, other_fit)
            assert len(fit | judged) > 0.7 * n  # some are under clouds
            assert not {areas[i] for i in fit} & {areas[i] for i in judged}

    def mean(name: str, *which: int) -> float:
        chosen = [calls[name][i][2] for i in which]
        return sum(chosen) / len(chosen)

    assert figures["map_nll"] == pytest.approx(mean("class_nll", 0, 1))
    assert figures["sensor_nll"] == pytest.approx(mean("value_nll", 0, 1, 2, 3))
    assert figures["date_nll"] == pytest.approx(mean("value_nll", 4, 5, 6, 7))
    assert figures == {**figures, **probes.spread(here)}


def test_neighbours_name_the_majority_of_labelled_cells_alone(
    source: Synthetic, stick: Yardstick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 x 16 pixels are one cell: its features say its class, but for places without label, which are not asked."""
    target = stick.batch.targets["map"].clone()
    target[:] = (torch.arange(len(target)) // 2 % 2)[:, None, None]
    target[::7] = -1
    monkeypatch.setattr(stick, "batch", stick.batch.replace(targets={"map": target}))
    kind = target[:, 0, 0].double()
    right = torch.stack([kind, 1 - kind, torch.ones_like(kind)], 1)[:, None] + 0.01 * noise(len(kind), 1, 3)
    features = Features({v: right.expand(-1, stick.pixel.shape[1], -1) for v in stick.views}, right)
    figures = stick.score(features)
    assert figures["knn"] == 1.0 and figures["map_nll"] < 0.05


def test_all_features_are_paid_for(source: Synthetic, stick: Yardstick) -> None:
    """Each view of each held-out place once, forward alone; half of every measure is in the probes."""
    encoder = Encoder.from_config(NANO, source.spec)
    one = {"s2": 2, "s1": 2}
    assert list(stick.views.values()) == [one, {**one, "s2": 0}, {**one, "s1": 0}, {"s2": 1, "s1": 1}]
    bands, legends = source.spec.bands, source.spec.legends
    price = 0.0
    for dates in stick.views.values():
        shown = {s: t for s, t in dates.items() if t}
        spec = Spec({s: bands[s] for s in shown}, shown, 16, 10.0, legends)
        price += measure(encoder, spec.dummy(2), lambda m, b: m.features(b).sum().detach()).forward
    assert stick.cost == pytest.approx(48 * price)


def test_features_are_those_of_the_encoder(spec: Spec) -> None:
    torch.manual_seed(0)
    encoder, batch = Encoder.from_config(NANO, spec).eval(), random_batch(spec, 20)  # two chunks
    features = of_encoder(encoder, batch, views(spec), torch.arange(1024).expand(20, -1), torch.float32)
    with torch.no_grad():
        encoded = encoder(batch)
        z, dense = encoded.tokens.double(), encoded.dense.double()
    torch.testing.assert_close(features.tokens, z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.pixels[ALL], dense.flatten(2).mT, rtol=1e-4, atol=1e-4)
    by_hand = torch.stack([dense[:, :, r : r + 16, c : c + 16].mean((2, 3)) for r in (0, 16) for c in (0, 16)], 1)
    torch.testing.assert_close(features.cells, by_hand, rtol=1e-4, atol=1e-4)


# -- probes


def test_ridge_by_hand() -> None:
    """One feature: the slope of standardised values shrinks by 1 / (1 + RIDGE), and the rest is the error's."""
    x, y = noise(50, 1), noise(50, 1, seed=1)
    y = 4 * (x + 0.5 * y) + 7
    xs, ys = ((t - t.mean()) / t.std(correction=0) for t in (x, y))
    slope = float((xs * ys).mean()) / (1 + 1e-3)
    variance = float((ys - slope * xs).square().mean())
    judge, truth = noise(9, 1, seed=2), 5 + noise(9, 1, seed=3)
    error = (truth - y.mean()) / y.std(correction=0) - slope * (judge - x.mean()) / x.std(correction=0)
    by_hand = 0.5 * math.log(2 * math.pi * variance) + error.square() / (2 * variance)
    torch.testing.assert_close(probes.value_nll(x, y, judge, truth), by_hand)


def test_the_logistic_probe_is_at_the_minimum_of_its_penalised_loss() -> None:
    """Whose gradient is 0: cross-entropy and half the ridge on weights of standardised features, intercept included."""
    x, labels = 3 * noise(80, 2) + 5, (noise(80, seed=1) > 0.3).long()
    weight, bias = probes.logistic(x, labels, 3)
    mean, std = x.mean(0), x.std(0, correction=0)
    w = torch.cat([weight * std[:, None], (bias + mean @ weight)[None]]).requires_grad_()
    fit = F.pad((x - mean) / std, (0, 1), value=1.0)
    (F.cross_entropy(fit @ w, labels) + 0.0005 * w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4 and w.detach().abs().max() > 0.3


def test_a_constant_feature_tells_nothing() -> None:
    x, labels = noise(40, 2), (noise(40, seed=1) > 0).long()
    flat = torch.cat([x, torch.full((40, 1), 3.0).double()], 1)
    strange = torch.cat([x[:5], 1e6 * noise(5, 1, seed=2)], 1)  # it is not constant where it is judged
    expected = probes.class_nll(x, labels, x[:5], labels[:5], 2)
    torch.testing.assert_close(probes.class_nll(flat, labels, strange, labels[:5], 2), expected)


def test_ten_neighbours_vote_by_the_angle_between_standardised_features() -> None:
    fit = noise(60, 4) * torch.tensor([1.0, 50.0, 1.0, 1.0]).double() + 9
    labels, x = torch.arange(60) % 3, noise(7, 4, seed=1) * torch.tensor([1.0, 50.0, 1.0, 1.0]).double() + 9
    a, b = ((t - fit.mean(0)) / fit.std(0, correction=0) for t in (fit, x))
    cosine = (b @ a.T) / b.norm(dim=1)[:, None] / a.norm(dim=1)
    by_hand = [labels[row.argsort(descending=True)[:10]].bincount(minlength=3).argmax() for row in cosine]
    assert probes.knn(fit, labels, x, 3).tolist() == [int(v) for v in by_hand]


def test_spread_by_hand() -> None:
    z = noise(5, 6, 4) + 0.5
    unit = z.flatten(0, 1) / z.flatten(0, 1).norm(dim=1, keepdim=True)
    place = z.mean(1) / z.mean(1).norm(dim=1, keepdim=True)
    pairs = [float(place[i] @ place[j]) for i in range(5) for j in range(5) if i != j]
    told = probes.spread(z, "x_")
    assert told["x_std"] == pytest.approx(float(unit.var(0, correction=0).sqrt().mean()) * 2)
    assert told["x_cosine"] == pytest.approx(sum(pairs) / 20)
    assert told["x_rankme"] == probes.rankme(z.flatten(0, 1))
    assert probes.spread(z[:1])["cosine"] == pytest.approx(0)  # of one place there are no pairs


@pytest.mark.parametrize(("name", "value", "collapsed"), [("rankme", 1.9, 2.1), ("std", 0.04, 0.06)])
def test_the_alarm_is_raised_below_its_limits(name: str, value: float, collapsed: float) -> None:
    healthy = {"rankme": 9.0, "std": 0.9, "cosine": 0.1}
    assert name in probes.alarm(healthy | {name: value}) and probes.alarm(healthy | {name: collapsed}) == ""
    assert "cosine" in probes.alarm(healthy | {"cosine": 0.9995}) and probes.alarm(healthy | {"cosine": 0.9985}) == ""
    assert name in probes.alarm(healthy | {f"token_{name}": value})
