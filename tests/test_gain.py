"""Intervals by hand, and their coverage: areas that tasks share, seeds with areas of their own, heavy tails."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gfm_objectives.errors import InputError
from gfm_objectives.gain.intervals import Sampled, estimate, half_width, over_tasks, sample
from gfm_objectives.metrics import METRICS

MIOU = METRICS["miou"].of


def mean(sums):
    """A figure that is linear in what an area adds: statistics (value, 1)."""
    return sums[..., 0] / sums[..., 1]


def values(x, names=None, draws=1000):
    """x (S, A): one tile per area, the figure of a seed being its mean over areas."""
    pairs = np.stack([x, np.ones_like(x)], -1)
    names = names or [f"area {a}" for a in range(x.shape[1])]
    return sample(pairs, [names] * len(x), mean, draws)


def matrices(cms, groups):
    return sample(cms, [groups] * len(cms), MIOU)


# ---------------------------------------------------------------------------------------------------------------------
# Crossed


def test_seeds_alone_give_the_t_interval():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 1)), 8, 1)  # eight areas alike: only the seed varies
    e = estimate([values(x)])
    low, high = stats.t.interval(0.95, 4, x[:, 0].mean(), stats.sem(x[:, 0]))
    assert e.interval == pytest.approx((low, high)) and e.df == pytest.approx(4)


@pytest.mark.parametrize("areas", [3, 8])
def test_areas_alone_give_the_t_interval(areas):
    """The factor (A + 1) / (A - 1) leaves s^2 / A, and t has A - 1 degrees of freedom."""
    x = np.random.default_rng(areas).normal(size=areas)
    e = estimate([values(np.stack([x] * 5), draws=20_000)])
    low, high = stats.t.interval(0.95, areas - 1, x.mean(), stats.sem(x))
    assert e.interval == pytest.approx((low, high), rel=0.03) and e.df == pytest.approx(areas - 1)


def test_miou_has_the_error_of_a_ratio_of_sums():
    """One class right and one never predicted: mIoU = accuracy / 2, a ratio of sums with a textbook error."""
    hits = np.rint(1000 * np.random.default_rng(1).beta(6, 3, 60)).astype(int)
    cm = np.stack([np.stack([hits, 1000 - hits], -1), np.zeros((60, 2), int)], 1)  # (60, 2, 2); class 1 only predicted
    e = estimate([sample([cm] * 5, [[str(i) for i in range(60)]] * 5, MIOU, draws=4000)])
    assert e.mean == pytest.approx(hits.mean() / 2000)
    assert e.error == pytest.approx(hits.std(ddof=1) / 2000 / np.sqrt(60), rel=0.05)


def test_areas_are_weighted_whole():
    hits = np.repeat(np.random.default_rng(2).integers(200, 900, 10), 6)  # six tiles alike per area
    cm = np.stack([np.stack([hits, 1000 - hits], -1), np.zeros((60, 2), int)], 1)
    areas = estimate([matrices([cm] * 5, [str(i // 6) for i in range(60)])])
    tiles = estimate([matrices([cm] * 5, [str(i) for i in range(60)])])
    assert areas.error > 2 * tiles.error and areas.df < 10
    alone = matrices([cm] * 5, ["one"] * 60)  # of a single area the tiles are weighted
    assert alone.areas[0][:2] == ("one/0", "one/1") and estimate([alone]).error == pytest.approx(tiles.error, rel=0.1)


def test_what_has_no_label_is_no_area():
    cm = np.zeros((4, 2, 2), int)
    cm[:3, 0, 0] = 5
    assert matrices([cm], ["a", "b", "b", "c"]).areas == (("a", "b"),)


def test_a_rare_class_never_vanishes():
    cm = np.zeros((8, 2, 2), int)
    cm[:, 0, 0] = 100
    cm[3, 1] = [1, 1]  # half right, in one area alone
    drawn = matrices([cm], list("abcdefgh")).draws
    assert 0.7 < drawn.min() and drawn.max() < 0.8  # (1 + .5) / 2, but for one pixel taken for the other class


def test_tasks_meet_the_same_draws_where_they_share_areas():
    x = np.random.default_rng(3).normal(size=(5, 8))
    here, there = values(x), values(x, [f"elsewhere {a}" for a in range(8)])
    assert not (values(x) - here).draws.any()
    one, joint, apart = (estimate(parts) for parts in ([here], [here, values(x)], [here, there]))
    assert joint.interval == pytest.approx(one.interval)  # a task twice tells nothing new
    assert apart.df > one.df and apart.error < joint.error
    with pytest.raises(AssertionError, match="not paired"):
        here - there


def test_partly_shared_areas_covary_as_they_should():
    """Two tasks of 20 areas, 10 of them shared and alike: var of the sum = 2 s^2 / 20 + 2 (10 / 20) s^2 / 20."""
    x = np.tile([1.0, -1.0], 15)
    names = [f"area {a}" for a in range(30)]
    one = values(x[None, :20], names[:20], 20_000)
    two = values(x[None, 10:], names[10:], 20_000)
    e = estimate([one, two], seedless=True)
    square = 20 / 19 / 20  # s^2 / A
    assert 4 * e.error**2 == pytest.approx(2 * square + square, rel=0.05)
    assert e.df == pytest.approx(19)


def test_pairing_narrows_the_interval():
    cms, areas = population(np.random.default_rng(3), seeds=5, tiles=40, seed_sd=0.1, tile_sd=1.0)
    a, b = (matrices(c, areas) for c in cms)
    paired, alone = estimate([a - b]), (estimate([a]), estimate([b]))
    assert paired.error < 0.6 * np.hypot(alone[0].error, alone[1].error)
    assert paired.mean == pytest.approx(alone[0].mean - alone[1].mean)
    swapped = estimate([(a - b) * -1])
    assert swapped.interval == pytest.approx((-paired.interval[1], -paired.interval[0]))


def test_intervals_that_cannot_be_given():
    x = np.random.default_rng(4).normal(size=(5, 8))
    e = estimate([values(x[:4])])
    assert e.interval is None and e.why == "4 seeds" and e.verdict == "undecided"
    assert estimate([values(x[:1])], seedless=True).interval is not None
    assert estimate([values(x[:, :1])]).why == "one test tile"
    x[2, 3] = math.nan  # R2 of a seed whose truth is constant
    e = estimate([values(x)])
    assert e.verdict == "undecided" and e.why == "not defined for every seed"


# ---------------------------------------------------------------------------------------------------------------------
# Nested, mixed, and neither


def own_areas(x, draws=200):
    """x (S, A): every seed has areas of its own."""
    pairs = np.stack([x, np.ones_like(x)], -1)
    return sample(pairs, [[f"earth {s}: {a}" for a in range(x.shape[1])] for s in range(len(x))], mean, draws)


def test_nested_seeds_give_the_t_interval_over_seeds_and_nothing_else():
    x = np.random.default_rng(5).normal(size=(2, 5, 8))  # two tasks
    parts = [own_areas(task) for task in x]
    assert parts[0].draws is None
    by_seed = x.mean((0, 2))
    low, high = stats.t.interval(0.95, 4, by_seed.mean(), stats.sem(by_seed))
    assert estimate(parts).interval == pytest.approx((low, high))
    assert half_width(5, by_seed.std(ddof=1)) == pytest.approx((high - low) / 2)


def test_nested_seeds_may_have_other_numbers_of_tiles():
    x = [np.ones((4, 2)), np.ones((6, 2))]
    assert sample(x, [list("abcd"), list("efghij")], mean).point.tolist() == [1, 1]


def test_a_suite_of_both_kinds():
    """V = a + b: a of the mean over both tasks, b of the crossed task alone, halved."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(5, 8)), rng.normal(size=(5, 8))
    e, alone = estimate([values(x), own_areas(y)]), estimate([values(x)])
    by_seed = (x.mean(1) + y.mean(1)) / 2
    b = alone.error**2 - x.mean(1).var(ddof=1) / 5
    assert e.error**2 == pytest.approx(by_seed.var(ddof=1) / 5 + b / 4)


def test_seeds_that_share_areas_in_part_are_refused():
    pairs = np.ones((3, 4, 2))
    with pytest.raises(InputError, match="seeds 0 and 2 share 1 of 7 test areas"):
        sample(pairs, [list("abcd"), list("efgh"), list("dijk")], mean)


def test_tasks_as_a_sample():
    low, high = stats.t.interval(0.95, 2, 2, stats.sem([1, 2, 3]))
    assert over_tasks([1, 2, 3]).interval == pytest.approx((low, high))
    assert over_tasks([1, 2]).why == "2 tasks"


# ---------------------------------------------------------------------------------------------------------------------
# Coverage: at least 93 % at nominal 95 %

TRIALS = 600


def correlated(rng, rho, tasks, shape, heavy):
    """Effects (tasks, *shape) of variance 1 and correlation rho between tasks: normal, or Student's with 3 df."""
    draw = (lambda size: rng.standard_t(3, size) / math.sqrt(3)) if heavy else rng.standard_normal
    return math.sqrt(rho) * draw((1, *shape)) + math.sqrt(1 - rho) * draw((tasks, *shape))


def covered(e):
    return e.interval[0] <= 0 <= e.interval[1]


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "t3"])
@pytest.mark.parametrize("tasks", [3, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rho", [0, pytest.param(0.25, marks=pytest.mark.slow), 0.5])
def test_coverage_of_a_mean_over_tasks_that_share_eight_areas(rho, tasks, heavy):
    """Drawn task by task, as if each had areas of its own, the intervals are too short."""
    rng = np.random.default_rng(21)
    held, apart = 0, 0
    for trial in range(TRIALS):
        seeds, areas = correlated(rng, rho, tasks, (5, 1), heavy), correlated(rng, rho, tasks, (1, 8), heavy)
        x = 0.3 * seeds + areas + 0.3 * rng.normal(size=(tasks, 5, 8))
        held += covered(estimate([values(t, [f"{trial}: {a}" for a in range(8)], 200) for t in x]))
        if rho == 0.5:
            apart += covered(estimate([values(t, [f"{k}: {a}" for a in range(8)], 200) for k, t in enumerate(x)]))
    print(f"coverage {held / TRIALS:.3f}, task by task {apart / TRIALS:.3f}")
    assert 0.93 <= held / TRIALS <= 0.985
    assert apart / TRIALS < 0.88


@pytest.mark.parametrize("rho", [0, 0.5])
def test_coverage_where_areas_are_shared_in_part(rho):
    """40 areas, three tasks, the one of 8 areas varying most: all areas but one are too many degrees of freedom."""
    rng = np.random.default_rng(22)
    held, slices = 0, (slice(0, 8), slice(7, 27), slice(20, 40))
    scale = np.array([5, 1, 1])[:, None, None]
    for trial in range(TRIALS):
        names = [f"{trial}: {a}" for a in range(40)]
        x = scale * correlated(rng, rho, 3, (1, 40), False) + 0.1 * rng.normal(size=(3, 5, 40))
        held += covered(estimate([values(t[:, s], names[s], 200) for t, s in zip(x, slices, strict=True)]))
    print(f"coverage {held / TRIALS:.3f}")
    assert 0.93 <= held / TRIALS <= 0.985


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "t3"])
@pytest.mark.parametrize("tasks", [1, 7])
@pytest.mark.parametrize("rho", [0, 0.5])
def test_coverage_with_an_earth_for_each_seed(rho, tasks, heavy):
    rng = np.random.default_rng(23)
    held = 0
    for _ in range(TRIALS):
        x = 0.3 * correlated(rng, rho, tasks, (5, 1), heavy) + correlated(rng, rho, tasks, (5, 8), heavy)
        held += covered(estimate([own_areas(t) for t in x]))
    print(f"coverage {held / TRIALS:.3f}")
    assert 0.93 <= held / TRIALS <= 0.985


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
    ("spread", "tiles", "bootstrap"),
    [(MIXED, 24, 0.93), (MOSTLY_SEEDS, 24, 0.88), (MOSTLY_TILES, 24, 1.0), (MOSTLY_TILES, 8, 0.93)],
    ids=["seeds and tiles", "mostly seeds", "mostly tiles", "few tiles"],
)
def test_coverage_of_differences_in_miou(spread, tiles, bootstrap):
    """Of 600 comparisons the intervals hold the truth in >= 93 %; a plain percentile bootstrap in < `bootstrap`."""
    rng = np.random.default_rng(11)
    many = [population(rng, 100, 400, **spread)[0].sum(2) for _ in range(16)]  # (2, S, K, K)
    truth = np.mean([np.subtract(*MIOU(torch.from_numpy(m)).numpy()).mean() for m in many])
    held, plain = 0, 0
    for _ in range(TRIALS):
        cms, areas = population(rng, 5, tiles, **spread)
        a, b = (sample(c, [areas] * 5, MIOU, draws=200) for c in cms)
        low, high = estimate([a - b]).interval
        held += low <= truth <= high
        draws = resampled(a - b, rng)
        plain += draws[0] <= truth <= draws[1]
    print(f"coverage {held / TRIALS:.3f}, percentile bootstrap {plain / TRIALS:.3f}")
    assert 0.93 <= held / TRIALS <= 0.985
    assert plain / TRIALS < bootstrap


def resampled(difference: Sampled, rng):
    """The percentile interval: the seeds of every draw are drawn as well."""
    draws = np.take_along_axis(difference.draws, rng.integers(5, size=difference.draws.shape), 1).mean(1)
    return np.quantile(draws, [0.025, 0.975])
