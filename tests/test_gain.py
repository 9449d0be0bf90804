"""Gains by hand, the choice of the headline U-Net, and the coverage of the intervals."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gfm_objectives.errors import InputError
from gfm_objectives.gain import summarise, write
from gfm_objectives.gain.intervals import estimate, sample
from gfm_objectives.gain.prediction import Correlation, correlations
from gfm_objectives.metrics import iou
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score

P = 2e13
GOOD, BAD = [[8, 2], [1, 9]], [[6, 4], [3, 7]]
GAIN = (8 / 11 + 9 / 12) / 2 - (6 / 13 + 7 / 14) / 2  # GOOD - BAD, on paper


def row(contender, cm, seed=0, task="t", fraction=1.0, val=0.5, labels=100, **fields):
    if contender.startswith("unet+"):
        fields["extra_flops"] = float(contender[5:])
    if contender in ("masked_seg", "mae"):
        fields["pretrain_flops"] = P
    tiles = np.array([cm, cm])  # two tiles alike: their sum scores as one
    return Score.measured(tiles, None, task=task, fraction=fraction, contender=contender, seed=seed, val_miou=val,
                          labels=labels, **fields)  # fmt: skip


def one(rows, **wanted):
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


def test_gain_on_paper():
    rows = [row("masked_seg", GOOD), row("unet", BAD), row("unet+2e13", BAD, val=0.4), row("scratch", GOOD)]
    s = summarise(rows)
    g = one(s["gains"], against="headline", n=1)
    assert g["gain"] == pytest.approx(GAIN) and g["versus"] == "unet" and g["status"] == "ok"
    assert g["interval"] == "not given (1 seed)" and g["verdict"] == "undecided"
    assert g["per_eflop"] == pytest.approx(GAIN / 2e-5)
    assert one(s["gains"], against="scratch")["gain"] == pytest.approx(0)
    assert one(s["means"], against="headline", n=1)["undecided"] == 1


def test_headline_is_chosen_on_validation_not_test():
    rows = [row("masked_seg", GOOD), row("unet", GOOD, val=0.6), row("unet+2e13", BAD, val=0.7)]
    g = one(summarise(rows)["gains"], against="headline", n=1)
    assert g["versus"] == "unet+2e13" and g["gain"] == pytest.approx(GAIN)  # though plain unet tests better
    assert one(summarise(rows)["gains"], against="unet")["gain"] == pytest.approx(0)


def test_missing_longer_unet_is_not_run_never_replaced():
    s = summarise([row("masked_seg", GOOD), row("unet", BAD), row("unet+1e13", BAD)])
    assert s["suite_size"] == 1
    assert one(s["gains"], against="headline", n=1)["status"] == "not run: unet+2e+13"
    assert one(s["gains"], against="headline", n=1)["gain"] is None
    assert one(s["gains"], against="headline", n=2)["gain"] == pytest.approx(GAIN)  # 1e13 = P / 2 was run
    assert one(s["gains"], against="scratch")["status"] == "not run: scratch"
    even = one(s["break_even"], task="t")
    assert even["n"] == 2 and even["measured"] == [2]
    s = summarise([row("masked_seg", GOOD), row("unet+2e13", BAD)])
    assert one(s["gains"], against="headline", n=1)["status"] == "not run: unet"
    assert one(s["break_even"], task="t")["n"] == "not run"


def test_a_headline_needs_validation():
    s = summarise([row("masked_seg", GOOD), row("unet", BAD, val=float("nan")), row("unet+2e13", BAD)])
    assert one(s["gains"], against="headline", n=1)["status"] == "not run: validation of unet and unet+2e13"


def test_break_even_is_the_smallest_n_with_a_gain():
    rows = [row("masked_seg", [[7, 3], [2, 8]]), row("unet", BAD, val=0.1)]
    rows += [row("unet+2e13", GOOD, val=0.3), row("unet+5e12", BAD, val=0.2)]
    s = summarise(rows, suite_size=8)
    assert [g["n"] for g in s["gains"] if g["against"] == "headline"] == [1, 4, 8]
    even = one(s["break_even"], task="t")
    assert even["n"] == 4 and even["measured"] == [1, 4]
    worse = [row("masked_seg", BAD), row("unet", GOOD), row("unet+2e13", GOOD)]
    assert one(summarise(worse)["break_even"], task="t")["n"] == "none"


def test_means_over_tasks():
    rows = []
    for task, cm in (("a", GOOD), ("b", BAD), ("c", GOOD)):
        for seed in range(5):
            rows += [row("mae", cm, seed, task), row("unet", BAD, seed, task), row("unet+2e13", BAD, seed, task)]
    s = summarise(rows)
    mean = one(s["means"], against="headline", n=1)
    assert mean["gain"] == pytest.approx(2 / 3 * GAIN)
    assert mean["median"] == pytest.approx(GAIN) and mean["trimmed"] == pytest.approx(GAIN)
    assert (mean["wins"], mean["losses"], mean["ties"], mean["undecided"]) == (2, 0, 1, 0)
    short = one(s["means"], against="headline", n=3)
    assert short["status"].startswith("not run: unet+") and short["missing"] == ["a", "b", "c"]
    rows = [r for r in rows if (r.task, r.contender) != ("c", "unet+2e13")]
    mean = one(summarise(rows)["means"], against="headline", n=1)
    assert mean["tasks"] == ["a", "b"] and mean["missing"] == ["c"] and mean["gain"] == pytest.approx(GAIN / 2)


def test_only_common_seeds_are_compared():
    rows = [row("mae", GOOD, s) for s in (0, 1, 2)] + [row("unet", BAD, 0), row("unet", GOOD, 7)]
    g = one(summarise(rows)["gains"], against="unet")
    assert g["seeds"] == 1 and g["gain"] == pytest.approx(GAIN)


def test_labels_saved():
    rows = [row("unet", BAD, fraction=0.1, labels=10), row("unet", GOOD, fraction=1.0, labels=1000)]
    rows += [row("mae", GOOD, fraction=0.1, labels=10), row("mae", [[10, 0], [0, 10]], fraction=1.0, labels=1000)]
    s = summarise(rows)
    low, high = one(s["labels_saved"], fraction=0.1), one(s["labels_saved"], fraction=1.0)
    assert low["needed"] == pytest.approx(1000) and low["saved"] == pytest.approx(990)
    assert high["status"] == "more than measured" and high["saved"] is None


def test_rows_without_training_hold_for_every_fraction():
    rows = [row("map", GOOD), row("unet", BAD, fraction=0.2), row("unet", BAD, fraction=1.0)]
    s = summarise(rows)
    assert [m["miou"] for m in s["miou"] if m["contender"] == "map"] == [pytest.approx((8 / 11 + 9 / 12) / 2)] * 2
    assert isinstance(one(s["miou"], contender="map", fraction=0.2)["interval"], list)  # from the tiles alone


def test_summary_is_strict_json(tmp_path):
    write(summarise([row("mae", GOOD), row("unet", BAD, val=float("nan"))]), tmp_path / "gain.json")
    text = (tmp_path / "gain.json").read_text()
    assert "NaN" not in text and json.loads(text)["schema"] == 1


def test_mistakes_are_named():
    with pytest.raises(InputError, match="no finished runs"):
        summarise([])
    with pytest.raises(InputError, match="mixes pretraining budgets"):
        summarise([row("mae", GOOD), row("mae", GOOD, 1, fraction=0.2).__class__.measured(
            np.array([GOOD]), None, task="u", fraction=1.0, contender="mae", seed=1, pretrain_flops=3e13)])  # fmt: skip
    other = Score.measured(np.array([GOOD] * 3), None, task="t", fraction=1.0, contender="unet", seed=0)
    with pytest.raises(InputError, match="scored on other tiles"):
        summarise([row("mae", GOOD), other])


# Intervals


def test_seeds_alone_give_the_t_interval():
    rng = np.random.default_rng(0)
    hits = rng.integers(50, 90, 5)
    cms = [np.array([[[h, 100 - h], [0, 100]]] * 8) for h in hits]  # eight tiles alike: nothing varies but the seed
    e = estimate([sample(cms, [str(i) for i in range(8)], "t")])
    values = [float(iou(torch.from_numpy(c.sum(0))).mean()) for c in cms]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert e.interval == pytest.approx((low, high)) and e.df == pytest.approx(4)


def test_tiles_alone_give_the_cluster_interval():
    """Seeds alike, one class right and one never predicted: mIoU = accuracy, a ratio of sums with a textbook error."""
    rng = np.random.default_rng(1)
    accuracy = rng.beta(6, 3, 60)
    hits = np.rint(1000 * accuracy).astype(int)
    cm = np.zeros((60, 1, 1), int)
    cm = np.stack([np.stack([hits, 1000 - hits], -1), np.zeros((60, 2), int)], 1)  # (60, 2, 2); class 1 only predicted
    e = estimate([sample([cm] * 5, [str(i) for i in range(60)], "t", draws=4000)])
    assert e.mean == pytest.approx(hits.mean() / 2000)
    assert e.error == pytest.approx(hits.std(ddof=1) / 2000 / np.sqrt(60), rel=0.05)
    assert e.df == pytest.approx(59, rel=0.01)


def test_areas_are_drawn_whole():
    rng = np.random.default_rng(2)
    hits = np.repeat(rng.integers(200, 900, 10), 6)  # six tiles alike per area
    cm = np.stack([np.stack([hits, 1000 - hits], -1), np.zeros((60, 2), int)], 1)
    areas = estimate([sample([cm] * 5, [str(i // 6) for i in range(60)], "t")])
    tiles = estimate([sample([cm] * 5, [str(i) for i in range(60)], "t")])
    assert areas.error > 2 * tiles.error and areas.df < 10


def test_pairing_narrows_the_interval():
    cms, areas = population(np.random.default_rng(3), seeds=5, tiles=40, seed_sd=0.1, tile_sd=1.0)
    a, b = (sample(c, areas, "t") for c in cms)
    paired, alone = estimate([a - b]), (estimate([a]), estimate([b]))
    assert paired.error < 0.6 * np.hypot(alone[0].error, alone[1].error)
    assert paired.mean == pytest.approx(alone[0].mean - alone[1].mean)


def test_same_resamples_for_every_contender_of_a_task():
    cm = np.random.default_rng(4).integers(0, 50, (20, 3, 3))
    areas = [str(i) for i in range(20)]
    assert not (sample([cm], areas, "t") - sample([cm], areas, "t")).draws.any()
    assert (sample([cm], areas, "t") - sample([cm], areas, "u")).draws.any()


def test_four_seeds_give_no_interval():
    cms = [np.array([GOOD, BAD])] * 4
    assert estimate([sample(cms, ["a", "b"], "t")]).interval is None


def population(rng, seeds, tiles, seed_sd, tile_sd, own_sd=0.3, noise_sd=0.3, classes=3):
    """Two contenders' matrices (2, S, tiles, K, K): heterogeneous tiles, shared and own difficulty, seeds, noise."""
    truth = 256 * (0.7 * rng.dirichlet([0.6] * classes, tiles) + 0.3 / classes)  # (tiles, K)
    logit = np.array([1.2, 1.0])[:, None, None, None] + rng.normal(0, tile_sd, (tiles, 1))
    logit = logit + rng.normal(0, own_sd, (2, 1, tiles, classes)) + rng.normal(0, seed_sd, (2, seeds, 1, classes))
    logit = logit + rng.normal(0, seed_sd / 2, (1, seeds, 1, 1)) + rng.normal(0, noise_sd, (2, seeds, tiles, classes))
    hit = truth / (1 + np.exp(-logit))  # (2, S, tiles, K)
    cm = hit[..., None] * np.eye(classes)
    for k in range(classes):
        cm[..., k, (k + 1) % classes] += 0.7 * (truth - hit)[..., k]
        cm[..., k, (k + 2) % classes] += 0.3 * (truth - hit)[..., k]
    return cm, [str(i) for i in range(tiles)]


MIXED = {"seed_sd": 0.3, "tile_sd": 0.6}
MOSTLY_SEEDS = {"seed_sd": 0.4, "tile_sd": 0.3, "own_sd": 0.1, "noise_sd": 0.1}
MOSTLY_TILES = {"seed_sd": 0.02, "tile_sd": 0.6}


@pytest.mark.parametrize(
    ("spread", "tasks", "bootstrap"),
    [(MIXED, 1, 0.93), (MOSTLY_SEEDS, 1, 0.88), (MOSTLY_TILES, 1, 1.0), (MIXED, 2, 0.93)],
    ids=["seeds and tiles", "mostly seeds", "mostly tiles", "mean of two tasks"],
)
def test_coverage_with_five_seeds(spread, tasks, bootstrap):
    """Of 600 comparisons the intervals hold the truth in >= 93 %; a plain percentile bootstrap in < `bootstrap`."""
    rng = np.random.default_rng(11)
    many = [population(rng, 100, 400, **spread)[0].sum(2) for _ in range(16)]  # (2, S, K, K)
    truth = np.mean([np.subtract(*iou(torch.from_numpy(m)).mean(-1).numpy()).mean() for m in many])
    trials, held, plain = 600, 0, 0
    for _ in range(trials):
        parts = []
        for t in range(tasks):
            cms, areas = population(rng, 5, 24, **spread)
            parts.append(sample(cms[0], areas, str(t), draws=150) - sample(cms[1], areas, str(t), draws=150))
        low, high = estimate(parts).interval
        held += low <= truth <= high
        draws = np.mean([p.draws for p in parts], 0)  # (R, S); now the seeds are drawn as well
        draws = np.take_along_axis(draws, rng.integers(5, size=draws.shape), 1).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        plain += low <= truth <= high
    print(f"coverage {held / trials:.3f}, percentile bootstrap {plain / trials:.3f}")
    assert 0.93 <= held / trials <= 0.985
    assert plain / trials < bootstrap


def test_rank_correlations_by_hand() -> None:
    """Between contenders the figure predicts, within them it misleads; losses are compared within alone."""

    def run(nll: float, loss: float) -> Ledger:
        return Ledger("mae", 0, "", "", "", yardstick={"map_nll": nll}, loss=loss)

    runs = {
        str(c): [(run(2 - c + 0.1 * k * (c + 1), k * (c + 1)), 0.3 + 0.1 * c + 0.01 * k * (c + 1)) for k in (-1, 0, 1)]
        for c in range(5)
    }
    found = correlations(runs)
    assert list(found) == ["map_nll", "loss"]  # the others were not measured
    between, within = found["map_nll"]
    assert between is not None and between.rho == pytest.approx(1) and between.n == 5
    assert within is not None and within.rho == pytest.approx(-1) and within.n == 15 - 5 + 1
    assert found["loss"][0] is None


def test_the_interval_of_a_rank_correlation() -> None:
    """Bonett and Wright: z +- 1.96 sqrt((1 + rho^2 / 2) / (n - 3))."""
    half = 1.96 * math.sqrt((1 + 0.18) / 7)
    expected = math.tanh(math.atanh(0.6) - half), math.tanh(math.atanh(0.6) + half)
    assert Correlation(0.6, 10).interval == pytest.approx(expected, abs=1e-4)
    assert Correlation(0.6, 4).interval is None
