"""Who stands for an opponent, by role, kind and shape and never by name; and that seeds are paired with themselves."""

import math

import numpy as np
import pytest

from gfm_objectives.errors import InputError
from gfm_objectives.gain import summarise
from gfm_objectives.gain.pairing import Pair, Table
from gfm_objectives.scores import Score

P = 2e13
NANO, CONV = '{"depth": 4}', '{"depth": 0}'
ROWS = {  # names are nonsense on purpose
    "a": {"role": "pretrained", "kind": "pretrained", "recipe": "mae", "shape": NANO, "pretrain_flops": P},
    "b": {"role": "scratch", "kind": "unet"},
    "b+": {"role": "scratch", "kind": "unet", "extra_flops": P},
    "b/4": {"role": "scratch", "kind": "unet", "extra_flops": P / 4},
    "c": {"role": "scratch", "kind": "conv", "shape": CONV},
    "c+": {"role": "scratch", "kind": "conv", "shape": CONV, "extra_flops": 1.01 * P},
    "d": {"role": "scratch", "kind": "scratch", "shape": NANO},
    "e": {"role": "saw_map", "kind": "unet_map", "pretrain_flops": P},
    "f": {"role": "saw_map", "kind": "conv_map_input", "shape": CONV},
    "g": {"role": "saw_map", "kind": "unet_map", "pretrain_flops": 3 * P},
    "m": {"role": "untrained", "kind": "map"},
    "p": {"role": "part", "kind": "frozen", "recipe": "mae", "shape": NANO, "pretrain_flops": P},
}


def score(name, value, seed=0, val=0.5, task="t", fraction=1.0, groups=None, **fields):
    """Accuracy `value` of two tiles alike."""
    hits = round(1e6 * value)
    stats = np.array([[[hits, 10**6 - hits], [0, 0]]] * 2)
    about = {"labels": 100, "metric": "accuracy", **ROWS[name], **fields}
    return Score.measured(stats, groups, task=task, fraction=fraction, contender=name, seed=seed, val=val, **about)


def rows_of(**values):
    """Test values, validation being the same."""
    return [score(n.replace("_plus", "+"), v, val=v) for n, v in values.items()]


def versus(scores, against, n=1, contender="a", task="t"):
    pair = Table(scores).pair(task, 1.0, contender, against, n)
    return (pair.versus, set(pair.candidates)) if isinstance(pair, Pair) else pair


EVERY = [score("a", 0.6)] + [
    score(n, test, val=val)
    for n, test, val in [
        ("b", 0.50, 0.50), ("b+", 0.52, 0.55), ("c", 0.58, 0.54), ("c+", 0.51, 0.57), ("d", 0.53, 0.50),
        ("e", 0.57, 0.56), ("f", 0.70, 0.52), ("g", 0.80, 0.90), ("m", 0.9, math.nan),
    ]
]  # fmt: skip


@pytest.mark.parametrize(
    ("against", "who", "among"),
    [
        ("best", "c+", {"b", "b+", "c", "c+", "d"}),
        ("best_on_test", "c", {"b", "b+", "c", "c+", "d"}),
        ("unet", "b+", {"b", "b+"}),
        ("equal", "b", {"b"}),
        ("same", "d", {"d"}),
        ("map", "e", {"e", "f"}),  # g has thrice the FLOPs
    ],
)
def test_every_opponent(against, who, among):
    assert versus(EVERY, against) == (who, among)
    names = {n: f"row {i}" for i, n in enumerate(reversed(ROWS))}
    renamed = [Score.measured(s.stats, None, **{k: getattr(s, k) for k in FIELDS}, contender=names[s.contender])
               for s in EVERY]  # fmt: skip
    assert versus(renamed, against, contender=names["a"]) == (names[who], {names[n] for n in among})


FIELDS = ("task", "fraction", "seed", "role", "kind", "recipe", "shape", "metric", "val", "pretrain_flops",
          "extra_flops")  # fmt: skip


def test_what_was_not_run_is_never_replaced():
    rows = rows_of(a=0.6, b=0.5, d=0.4)
    assert versus(rows, "best") == "not run: no rival with F + P/n"
    assert versus(rows, "unet") == "not run: no U-Net with F + P/n"
    assert versus(rows, "best", n=4) == "not run: no rival with F + P/n"
    assert versus([*rows, score("b/4", 0.5)], "best", n=4) == ("b", {"b", "b/4", "d"})
    assert versus([*rows, score("c+", 0.5)], "unet") == "not run: no U-Net with F + P/n"  # conv's does not do
    assert versus(rows_of(a=0.6, b_plus=0.5), "best") == "not run: no rival at F"
    assert versus(rows_of(a=0.6, b=0.5), "same") == "not run: no row from scratch of its shape at F"
    assert versus(rows_of(a=0.6, g=0.5), "map") == "not run: no rival that saw the map for as few FLOPs"
    assert versus([score("a", 0.6, task="u"), *rows[1:]], "equal") == "not run: a"
    assert versus([score("a", 0.6, 1), *rows[1:]], "equal") == "not run: a and b share no seed"
    assert versus([score("a", 0.6, pretrain_flops=math.nan), *EVERY[1:]], "best") == (
        "not run: the pretraining FLOPs are unknown"
    )


def test_what_was_not_pretrained_has_rivals_at_f_alone():
    assert versus(EVERY, "best", contender="f") == ("c", {"b", "c", "d"})
    assert versus(EVERY, "map", contender="e") == ("f", {"f"})  # not itself
    assert Table(EVERY, 3).shares("f", "best") == [1] and Table(EVERY, 3).shares("e", "best") == [1, 3]


def test_the_shape_is_the_contenders_own():
    tiny = {"shape": '{"depth": 12}'}
    scores = [score("a", 0.6, **tiny), score("p", 0.6), score("d", 0.5), score("c", 0.4, **tiny)]
    assert versus(scores, "same") == ("c", {"c"})
    assert versus(scores, "same", contender="p") == ("d", {"d"})


def test_the_choice_pools_the_seeds_of_all_rivals():
    """The better on most seeds need not be the better on all; seeds that a rival lacks do not count; nor do those of
    the contender."""
    rivals = {"b": (0.6, 0.6, 0.2, 0.9), "b+": (0.5, 0.5, 0.5)}
    scores = [score(n, 0.5, s, val=v) for n, vals in rivals.items() for s, v in enumerate(vals)]
    assert versus([score("a", 0.6, 0), *scores], "unet")[0] == "b+"
    assert versus([score("a", 0.6, 3), *scores], "unet") == "not run: a and b+ share no seed"


def test_a_choice_needs_validation():
    rows = [*rows_of(a=0.6, b=0.5), score("b+", 0.5, val=math.nan)]
    assert versus(rows, "unet") == "not run: validation of b+"
    assert versus(rows, "best_on_test")[0] == "b"
    rows = [*rows_of(a=0.6, b=0.5), score("b+", 0.5, 1)]
    assert versus(rows, "unet") == "not run: b, b+ share no seed"


def test_seeds_are_paired_with_themselves():
    """Luck that a seed brings to both cancels; in another order it would not. Seeds of one side alone are left out."""
    luck = [0.05, -0.02, 0.00, 0.03, -0.04, 0.10]
    mine = [score("a", 0.6 + x, s) for s, x in enumerate(luck)]
    theirs = [score("b", 0.5 + x, s) for s, x in reversed(list(enumerate(luck[:5])))]
    pair = Table([*mine, *theirs]).pair("t", 1.0, "a", "equal")
    assert isinstance(pair, Pair) and pair.seeds == (0, 1, 2, 3, 4)
    assert pair.difference.point == pytest.approx([0.1] * 5)
    assert np.ptp(pair.difference.draws) == pytest.approx(0)


def test_a_gain_is_positive_where_lower_is_better():
    def regression(name, error, seed):
        stats = np.array([[10, 0, 10, 10 * error, 10 * error, 10 * error**2]] * 2)
        return Score.measured(stats, None, metric="rmse", task="t", fraction=1.0, contender=name, seed=seed,
                              val=error, **ROWS[name])  # fmt: skip

    scores = [regression(n, e, s) for n, e in (("a", 2.0), ("b", 3.0), ("b+", 2.5)) for s in range(2)]
    pair = Table(scores).pair("t", 1.0, "a", "unet")
    assert isinstance(pair, Pair) and pair.versus == "b+"
    assert pair.difference.point == pytest.approx([0.5, 0.5])


def test_an_earth_for_each_seed():
    scores = [score(n, v, s, groups=[f"{s}: x", f"{s}: y"]) for n, v in (("a", 0.6), ("b", 0.5)) for s in range(5)]
    table = Table(scores)
    assert table.nested == {"t": True} and table.cells["t", 1.0, "a"].sampled.draws is None
    assert Table([score("m", 0.5, synthetic=True)]).nested == {"t": True}  # one Earth of many
    assert Table([score("m", 0.5)]).nested == {"t": False}


def test_rows_without_training_hold_for_every_fraction():
    table = Table([score("m", 0.5), score("b", 0.5, fraction=0.2), score("b", 0.5, fraction=1.0)])
    assert table.fractions == [0.2, 1.0] and table.cell("t", 0.2, "m") is table.cell("t", 1.0, "m") is not None


def test_scores_that_do_not_belong_together():
    one, two = score("a", 0.6), score("a", 0.6, 1)
    with pytest.raises(InputError, match="no finished runs"):
        summarise([])
    for wrong, message in [
        (score("a", 0.6, 1, pretrain_flops=2 * P), "a mixes pretraining budgets of 2e.13 and 4e.13"),
        (score("a", 0.6, 1, kind="frozen"), "a has kind 'pretrained' and 'frozen'"),
        (score("a", 0.6, 1, metric="miou"), "task t: scored by accuracy and by miou"),
        (score("b", 0.6, groups=["x", "y"]), "task t: b seed 0 was scored on other tiles"),
        (score("a", 0.6, 1, groups=["0", "2"]), "task t: seeds 0 and 1 share 1 of 3 test areas"),
        (score("a", 0.6, 1, groups=["1", "0"]), "task t: a seed 1 was scored on other tiles"),
    ]:
        with pytest.raises(InputError, match=message):
            Table([one, wrong])
    assert Table([one, two]).rows["a"].pretrain_flops == P
