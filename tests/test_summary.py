"""The summary by hand: gains, means over tasks and what they hide, label curves, costs, and that it is plain JSON."""

import json

import numpy as np
import pytest
from scipy import stats

from gfm_objectives.gain import deviation_of_gains, summarise, write
from gfm_objectives.gain.intervals import half_width
from gfm_objectives.scores import Score

P = 2e13
GOOD, BAD = [[8, 2], [1, 9]], [[6, 4], [3, 7]]
GAIN = (8 / 11 + 9 / 12) / 2 - (6 / 13 + 7 / 14) / 2  # GOOD - BAD, on paper
NANO = '{"depth": 4}'
ROWS = {
    "mae": {"role": "pretrained", "kind": "pretrained", "shape": NANO, "pretrain_flops": P, "search_flops": 3 * P},
    "mae frozen": {"role": "part", "kind": "frozen", "shape": NANO, "pretrain_flops": P},
    "on the map": {"role": "saw_map", "kind": "unet_map", "pretrain_flops": P},
    "map as input": {"role": "saw_map", "kind": "unet_map_input"},
    "U-Net": {"role": "scratch", "kind": "unet"},
    "U-Net, longer": {"role": "scratch", "kind": "unet", "extra_flops": P},
    "U-Net, P/2": {"role": "scratch", "kind": "unet", "extra_flops": P / 2},
    "U-Net, P/4": {"role": "scratch", "kind": "unet", "extra_flops": P / 4},
    "conv": {"role": "scratch", "kind": "conv"},
    "recoded": {"role": "untrained", "kind": "map"},
}


def row(name, cm, seed=0, task="t", fraction=1.0, val=0.5, groups=None, **fields):
    about = {"labels": 100, "metric": "miou", **ROWS[name], **fields}
    tiles = np.array([cm, cm])  # two tiles alike: their sum scores as one
    return Score.measured(tiles, groups, task=task, fraction=fraction, contender=name, seed=seed, val=val, **about)


def points(name, value, seed=0, **fields):
    """Accuracy `value`."""
    return row(name, [[round(1e6 * value), 10**6 - round(1e6 * value)], [0, 0]], seed, metric="accuracy", **fields)


def one(rows, **wanted):
    found = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


def test_a_gain_on_paper():
    s = summarise([row("mae", GOOD), row("U-Net", BAD), row("U-Net, longer", BAD, val=0.4), row("on the map", GOOD)])
    g = one(s["gains"], contender="mae", against="best", n=1)
    assert g["gain"] == pytest.approx(GAIN, rel=1e-5) and g["status"] == "ok" and g["metric"] == "miou"
    assert g["versus"] == "U-Net" and g["candidates"] == ["U-Net", "U-Net, longer"]
    assert g["interval"] == "not given (1 seed)" and g["verdict"] == "undecided" and g["error"] is None
    assert g["per_eflop"] == pytest.approx(GAIN / 2e-5, rel=1e-5)
    assert g["per_eflop_searched"] == pytest.approx(GAIN / 8e-5, rel=1e-5)
    assert one(s["gains"], contender="mae", against="map")["gain"] == 0
    assert one(s["gains"], contender="on the map", against="unet", n=1)["gain"] == pytest.approx(GAIN, rel=1e-5)
    assert {g["contender"] for g in s["gains"]} == {"mae", "on the map"}
    assert one(s["means"], contender="mae", against="best", n=1)["undecided"] == 1


def test_the_order_and_what_was_not_run():
    s = summarise([row(n, GOOD, task=t) for n in ("U-Net", "recoded", "mae", "mae frozen") for t in "tu"])
    assert s["contenders"] == ["mae", "mae frozen", "U-Net", "recoded"]
    assert list(dict.fromkeys(g["against"] for g in s["gains"])) == [
        "best", "best_on_test", "unet", "equal", "same", "map",
    ]  # fmt: skip
    mine = [(g["against"], g["n"]) for g in s["means"] if g["contender"] == "mae"]
    assert mine[:4] == [("best", 1), ("best", 2), ("best_on_test", 1), ("best_on_test", 2)] and ("equal", 2) not in mine
    short = one(s["means"], contender="mae", against="best", n=2)
    assert short["status"] == "not run: no rival with F + P/n" and short["missing"] == ["t", "u"]
    assert short["gain"] is short["interval"] is short["without_best"] is None
    s = summarise([row("mae", GOOD), row("U-Net", BAD, task="u")])
    assert one(s["scores"], task="u", contender="mae")["status"] == "not run"


def test_break_even_is_the_smallest_n_with_a_gain():
    rows = [row("mae", [[7, 3], [2, 8]]), row("U-Net", BAD, val=0.1), row("map as input", GOOD)]
    rows += [row("U-Net, longer", GOOD, val=0.3), row("U-Net, P/4", BAD, val=0.2)]
    s = summarise(rows, suite_size=8)
    assert [g["n"] for g in s["gains"] if (g["contender"], g["against"]) == ("mae", "best")] == [1, 8, 4]
    for against in ("best", "unet"):
        even = one(s["break_even"], task="t", against=against)
        assert even["n"] == 4 and even["measured"] == [1, 4] and even["contender"] == "mae"
    gains = {n: one(s["gains"], against="best", n=n, contender="mae") for n in (1, 4)}
    assert gains[4]["per_eflop"] == pytest.approx(gains[4]["gain"] / (2e-5 / 4), rel=1e-5)
    assert gains[1]["per_eflop"] == pytest.approx(gains[1]["gain"] / 2e-5, rel=1e-5)
    part = [row("mae", GOOD, task=t) for t in "tu"] + [row("U-Net", BAD), row("U-Net, longer", BAD)]
    assert one(summarise(part)["break_even"], task="mean", against="best")["n"] == "not run"  # u lacks rivals
    worse = summarise([row("mae", BAD), row("U-Net", GOOD), row("U-Net, longer", GOOD)])
    assert one(worse["break_even"], task="mean", against="best")["n"] == "none"
    assert one(summarise(rows[:2])["break_even"], task="t", against="best")["n"] == "not run"


# Means


LUCK = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
EFFECTS = {"t": 0.01, "u": 0.20, "v": 0.03, "w": -0.06}


def suite(**fields):
    """Four tasks, five seeds on Earths of their own; the gain of a task is its effect, give or take a seed's luck."""
    rows = []
    for task, effect in EFFECTS.items():
        for seed, luck in enumerate(LUCK):
            at = {"seed": seed, "task": task, "groups": [f"{seed}: x", f"{seed}: y"], **fields}
            rows += [points("mae", 0.5 + effect + luck, **at), points("U-Net", 0.5, **at)]
            rows += [points("U-Net, longer", 0.4, val=0.4, **at)]
    return rows


def test_what_a_mean_over_tasks_hides():
    s = summarise(suite())
    mean = one(s["means"], against="best", n=1)
    effects = np.array(list(EFFECTS.values()))
    half = half_width(5, LUCK.std(ddof=1))
    assert mean["gain"] == pytest.approx(effects.mean()) and mean["seeds"] == 5
    assert mean["interval"] == pytest.approx([effects.mean() - half, effects.mean() + half], rel=1e-4)
    assert mean["median"] == pytest.approx(0.02)
    rest = mean["without_best"]
    assert rest["task"] == "u" and rest["gain"] == pytest.approx(-0.02 / 3, rel=1e-4) and rest["verdict"] == "tie"
    assert rest["interval"] == pytest.approx([-0.02 / 3 - half, -0.02 / 3 + half], rel=1e-4)
    assert mean["per_eflop"] == pytest.approx(effects.mean() / 2e-5, rel=1e-4)  # of all tasks, n = 1
    low, high = stats.t.interval(0.95, 3, effects.mean(), stats.sem(effects))
    assert mean["over_tasks"]["label"] == "tasks"
    assert mean["over_tasks"]["interval"] == pytest.approx([low, high], rel=1e-4)
    assert (mean["wins"], mean["losses"], mean["ties"], mean["undecided"]) == (2, 1, 1, 0)
    assert s["sampling"]["t"] == {"seeds": "nested", "areas": 2, "tiles": 2}


def test_a_mean_names_the_tasks_it_lacks():
    rows = [r for r in suite() if (r.task, r.contender) != ("u", "U-Net, longer")]
    mean = one(summarise(rows)["means"], against="best", n=1)
    assert mean["tasks"] == ["t", "v", "w"] and mean["missing"] == ["u"]
    assert mean["gain"] == pytest.approx(-0.02 / 3, rel=1e-4)
    assert mean["wins"] + mean["losses"] + mean["ties"] + mean["undecided"] == 3


def test_a_mean_is_over_the_seeds_that_all_tasks_have():
    rows = [r for r in suite() if (r.task, r.contender, r.seed) != ("u", "mae", 4)]
    mean = one(summarise(rows)["means"], against="best", n=1)
    assert mean["seeds"] == 4 and mean["interval"] == "not given (4 seeds)"
    assert mean["gain"] == pytest.approx(np.mean(list(EFFECTS.values())) + LUCK[:4].mean(), rel=1e-4)


def test_one_mean_for_each_metric():
    rows = suite() + [row(n, GOOD, s, task="x") for n in ("mae", "U-Net") for s in range(5)]
    means = [m for m in summarise(rows)["means"] if m["against"] == "equal"]
    assert [(m["metric"], m["tasks"]) for m in means] == [("accuracy", list(EFFECTS)), ("miou", ["x"])]
    assert means[1]["without_best"] is None
    assert [m["wins"] + m["losses"] + m["ties"] for m in means] == [4, 1]
    even = [r["metric"] for r in summarise(rows)["break_even"] if (r["task"], r["against"]) == ("mean", "best")]
    assert even == ["accuracy", "miou"]


def test_what_to_expect_of_a_plan():
    """Means over tasks vary as the luck of a seed, which all tasks share; it is no smaller for there being four."""
    sd = LUCK.std(ddof=1)
    assert deviation_of_gains(suite()) == pytest.approx(sd)
    assert deviation_of_gains([r for r in suite() if r.contender != "U-Net, longer"]) == pytest.approx(sd)  # at F
    assert deviation_of_gains([]) is deviation_of_gains([row("mae", GOOD), row("U-Net", BAD)]) is None


# Where every row stands


def test_scores_give_all_figures_and_those_of_classes():
    r = one(summarise([row("mae", GOOD, 0), row("mae", BAD, 1)])["scores"], contender="mae")
    assert r["value"] == pytest.approx((8 / 11 + 9 / 12 + 6 / 13 + 7 / 14) / 4, rel=1e-5) == r["figures"]["miou"]
    assert r["classes"]["iou"] == pytest.approx([(8 / 11 + 6 / 13) / 2, (9 / 12 + 7 / 14) / 2], rel=1e-5)
    assert r["classes"]["f1"] == pytest.approx([(16 / 19 + 12 / 19) / 2, (18 / 21 + 14 / 21) / 2], rel=1e-5)
    assert r["figures"]["accuracy"] == pytest.approx(0.75) and r["val"] == 0.5
    moments = np.array([[4.0, 0, 8, 2, 4, 4]])
    r = summarise([row("mae", GOOD), Score.measured(moments, None, metric="rmse", task="x", fraction=1.0, seed=0,
                   contender="mae", **ROWS["mae"])])["scores"][1]  # fmt: skip
    assert r["figures"] == {"rmse": 1, "mae": 1, "r2": 0.5} and r["classes"] == {}


def test_a_row_without_training_varies_with_its_areas_alone():
    s = summarise([row("recoded", GOOD), row("U-Net", BAD, fraction=0.2), row("U-Net", BAD, fraction=1.0)])
    found = [r for r in s["scores"] if r["contender"] == "recoded"]
    assert [r["fraction"] for r in found] == [0.2, 1.0] and all(isinstance(r["interval"], list) for r in found)
    alone = summarise([row("recoded", GOOD, synthetic=True)])["scores"][0]  # one Earth says nothing of others
    assert alone["interval"] == "not given (1 seed)"


def test_which_knowledge_pays():
    values = {"mae": (0.6, 0.6), "map as input": (0.7, 0.5), "U-Net": (0.4, 0.5), "conv": (0.5, 0.3)}
    rows = [points(n, v, task=t) for n, pair in values.items() for t, v in zip("tu", pair, strict=True)]
    rows += [points("recoded", 0.9)]
    s = summarise(rows)["knowledge"]
    mean = one(s, task="mean")
    assert mean["best"] == {"contender": "map as input", "role": "saw_map", "value": 0.6} or mean["best"] == {
        "contender": "mae", "role": "pretrained", "value": 0.6,
    }  # fmt: skip
    assert mean["by_role"]["scratch"] == {"contender": "U-Net", "role": "scratch", "value": 0.45}
    assert mean["by_role"]["saw_map"]["value"] == 0.6 and mean["by_role"]["part"] is None
    assert mean["incomplete"] == ["recoded"]
    task = one(s, task="t")
    assert task["best"]["contender"] == "recoded" and task["by_role"]["scratch"]["contender"] == "conv"


def test_the_best_is_the_lowest_where_lower_is_better():
    def off(name, error, fraction=1.0, labels=100):
        moments = np.array([[1.0, 0, 8, error, error, error**2]])
        return Score.measured(moments, None, metric="rmse", task="x", fraction=fraction, contender=name, seed=0,
                              val=error, labels=labels, **ROWS[name])  # fmt: skip

    s = summarise([off("mae", 2.0), off("U-Net", 3.0), off("conv", 2.5)])
    assert one(s["knowledge"], task="x")["best"]["contender"] == "mae"
    assert one(s["knowledge"], task="x")["by_role"]["scratch"]["contender"] == "conv"
    few = [
        off("mae", 3.0, 0.1, 10),
        off("U-Net", 4.0, 0.1, 10),
        off("conv", 5.0, 0.1, 10),
        off("U-Net", 2.0, 1.0, 1000),
    ]
    saved = one(summarise([*few, off("conv", 2.5, 1.0, 1000)])["labels_saved"], contender="mae")
    assert saved["versus"] == "U-Net" and saved["needed"] == pytest.approx(100)


def test_labels_saved_are_read_off_the_best_rivals_curve():
    few, all_ = {"fraction": 0.1, "labels": 10}, {"fraction": 1.0, "labels": 1000}
    rows = [points("conv", 0.4, val=0.6, **few), points("conv", 0.6, val=0.4, **all_)]
    rows += [points("U-Net", 0.3, val=0.2, **few), points("U-Net", 0.9, val=0.7, **all_)]
    rows += [points("U-Net, longer", 0.9, val=0.9, **few), points("U-Net, longer", 0.9, val=0.9, **all_)]  # not at F
    rows += [points("mae", 0.5, **few), points("mae", 0.7, **all_)]
    rows += [points("map as input", 0.3, **few)]
    s = summarise(rows)["labels_saved"]
    mine = one(s, contender="mae", fraction=0.1)
    assert mine["versus"] == "conv" and mine["needed"] == pytest.approx(100) and mine["saved"] == pytest.approx(90)
    assert one(s, contender="mae", fraction=1.0)["status"] == "more than measured"
    assert one(s, contender="map as input")["status"] == "fewer than measured"


def test_a_label_curve_that_dips_counts_as_flat():
    values = {0.1: (0.4, 0.5), 0.3: (0.6, 0.6), 1.0: (0.3, 0.55)}
    rows = [points(n, v, fraction=f, labels=round(1000 * f)) for f, pair in values.items()
            for n, v in zip(("U-Net", "mae"), pair, strict=True)]  # fmt: skip
    s = summarise(rows)["labels_saved"]
    assert one(s, fraction=1.0)["needed"] == pytest.approx(np.sqrt(np.sqrt(3)) ** 3 * 100, rel=1e-4)  # 3/4 of the way
    assert [r["status"] for r in s] == ["ok"] * 3


def test_resources_are_means_over_runs():
    rows = [row("mae", GOOD, s, tuning_flops=3.0, epochs=1.0 + s, seconds=2.0 * s) for s in range(3)]
    r = one(summarise(rows)["resources"], contender="mae")
    assert (r["runs"], r["epochs"], r["seconds"], r["tuning_flops"], r["search_flops"]) == (3, 2, 2, 3, 3 * P)


def test_a_summary_is_strict_json_of_six_digits(tmp_path):
    rows = [row("mae", GOOD, seconds=1234567.89), row("U-Net", BAD, val=float("nan"))]
    write(summarise(rows), tmp_path / "gain.json")
    text = (tmp_path / "gain.json").read_text()
    s = json.loads(text)
    assert "NaN" not in text and s["schema"] == 2
    assert one(s["resources"], contender="mae")["seconds"] == 1234570
    assert one(s["gains"], against="equal")["gain"] == float(f"{GAIN:.6g}") != GAIN
