"""Laws come back from noisy points with intervals that cover; what the points do not say is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from gfm_objectives.cli import main
from gfm_objectives.errors import InputError
from gfm_objectives.scaling import LAWS, Points, fit, laws, optimum, read
from gfm_objectives.scaling.fitting import usual

TRUE = {"E": 1.0, "A": 30.0, "B": 300.0, "a": 0.35, "b": 0.4}
MEANING = {"N": "parameters", "D": "tokens", "C": "flops"}


def surface(noise=0.02, seed=0, shared=0.0, sizes=5, k=6.0):
    """Losses on a grid of sizes and tokens; `shared`: noise that the runs of a trunk have in common."""
    rng = np.random.default_rng(seed)
    n, d = (m.ravel() for m in np.meshgrid(np.geomspace(1e5, 1e8, sizes), np.geomspace(1e6, 1e9, 6), indexing="ij"))
    trunks = np.arange(len(n)) // 3 if shared else np.arange(len(n))
    loss = TRUE["E"] + TRUE["A"] / n ** TRUE["a"] + TRUE["B"] / d ** TRUE["b"]
    loss *= np.exp(noise * rng.normal(size=len(n)) + shared * rng.normal(size=len(n))[trunks])
    return Points({"parameters": n, "tokens": d, "flops": k * n * d, "loss": loss}, "loss", trunks, MEANING)


def curve(law, parameters, noise, seed=0, count=12):
    """Points of a law over FLOPs, in the column that the law is of."""
    rng = np.random.default_rng(seed)
    c = np.geomspace(1e11, 1e15, count)
    y = LAWS[law].predict(np.array([parameters]), c[:, None])[0]
    y = y * np.exp(noise * rng.normal(size=count)) if LAWS[law].relative else y + noise * rng.normal(size=count)
    of = "loss" if LAWS[law].relative else "gain"
    return Points({"flops": c, of: y}, of, np.arange(count), MEANING)


@pytest.mark.parametrize("method", ["huber", "least_squares"])
def test_without_noise_the_law_itself_comes_back(method):
    found = fit(surface(noise=1e-9), method=method, resamples=5).parameters()
    assert {n: v.value for n, v in found.items()} == pytest.approx(TRUE, rel=1e-3)


def test_one_wild_run_moves_least_squares_and_not_huber():
    points = surface(noise=0.005)
    points.values["loss"][7] *= 2
    huber, squares = (fit(points, method=m, resamples=100).parameters() for m in ("huber", "least_squares"))
    assert abs(huber["b"].value - TRUE["b"]) < 0.03 < abs(squares["b"].value - TRUE["b"])


@pytest.mark.parametrize("shared", [0.0, 0.02])
def test_intervals_cover(shared):
    """95 % nominal; of 150 intervals of 5 parameters, which are dependent, at least 90 % are seen to."""
    count = 30
    inside = [
        v.low <= TRUE[n] <= v.high
        for s in range(count)
        for n, v in fit(surface(0.02, s, shared, sizes=4), method="least_squares", resamples=120, seed=s)
        .parameters()
        .items()
    ]
    assert 0.9 <= np.mean(inside) < 0.995


def test_runs_of_a_trunk_are_no_independent_evidence():
    wide = []
    for seed in range(4):
        points = surface(0.005, seed, shared=0.03)
        alone = Points(points.values, "loss", np.arange(len(points)), MEANING)
        both = [fit(p, method="least_squares", resamples=120) for p in (points, alone)]
        wide.append([f.resamples[:, 3].std() for f in both])
    together, apart = np.mean(wide, 0)
    assert together > 1.2 * apart


def test_power_law_and_saturating_gain_come_back():
    power = fit(curve("power", [50.0, 0.1], 0.01), resamples=200).parameters()
    assert power["a"].low < 0.1 < power["a"].high and power["a"].high - power["a"].low < 0.02
    gain = fit(curve("saturating", [4.0, 3e4, 0.35], 0.02), resamples=200).parameters()
    assert gain["E"].low < 4 < gain["E"].high and gain["a"].value == pytest.approx(0.35, abs=0.05)


def test_a_gain_without_an_end_has_no_ceiling():
    """Points a decade, as all of them may be in the range measured: any E far away fits as well."""
    points = curve("saturating", [4.0, 3e4, 0.35], 0.0)
    rng = np.random.default_rng(1)
    points.values["gain"][:] = np.log10(points.column("C")) + 0.05 * rng.normal(size=len(points))
    found = fit(points, resamples=200)
    assert not found.bounded and not found.parameters()["E"].bounded
    with pytest.raises(InputError, match="do not bound"):
        found.predict(float(points.column("C").max()))


def test_what_falls_with_compute_has_a_coefficient_below_zero():
    points = curve("saturating", [4.0, 3e4, 0.35], 0.02)
    points.values["gain"][:] = 10 - points.values["gain"]
    below = fit(points, resamples=200).parameters()["A"]
    assert below.low < -3e4 < below.high < 0


def test_the_slopes_of_residuals_are_their_derivatives():
    rng = np.random.default_rng(0)
    for law in LAWS.values():
        x = np.exp(rng.normal(size=(7, len(law.inputs))))
        theta = rng.uniform(0.5, 1, (1, len(law.names)))
        y = np.ones((1, 7))
        _, slopes = law.residuals(theta, x, y)
        for p in range(len(law.names)):
            step = np.eye(len(law.names))[p] * 1e-6
            if not np.isfinite(law.residuals(theta - step, x, y)[0]).all():
                continue
            difference = law.residuals(theta + step, x, y)[0] - law.residuals(theta - step, x, y)[0]
            assert slopes[0, :, p] == pytest.approx(difference[0] / 2e-6, rel=1e-4, abs=1e-6)


def test_the_best_size_is_where_the_law_is_least():
    found = fit(surface(1e-9, k=8.0), resamples=100)
    n, d = (float(x[0]) for x in optimum.best(found, 1e14, found.theta[None]))
    assert 8 * n * d == pytest.approx(1e14)  # the measured FLOPs per token and parameter, not 6
    grid = n * np.geomspace(0.5, 2, 201)
    losses = [found.predict(m, 1e14 / 8 / m).value for m in grid]
    assert grid[int(np.argmin(losses))] == pytest.approx(n, rel=0.02)
    at_ridge = found.predict((1e14 / 8 / 20) ** 0.5, (1e14 / 8 * 20) ** 0.5).value
    cost = optimum.at(found, 1e14)["ridge_cost"]
    assert cost.value == pytest.approx(at_ridge - min(losses), rel=1e-3)


def test_nothing_is_told_beyond_a_decade_or_of_what_is_not_bounded():
    found = fit(surface(), resamples=100)
    assert found.predict(9e8, 1e9).bounded
    with pytest.raises(InputError, match="more than a decade beyond"):
        found.predict(1.1e9, 1e9)
    rng = np.random.default_rng(0)
    flat = surface()
    flat.values["loss"][:] = np.exp(0.05 * rng.normal(size=len(flat)))
    loose = fit(flat, resamples=100)
    assert not loose.bounded
    with pytest.raises(InputError, match="do not bound"):
        loose.predict(1e6, 1e7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": lambda v: 20 * v["parameters"]}, "move together"),
        ({"tokens": lambda v: np.full_like(v["parameters"], 1e6)}, "1 different values"),
        ({"loss": lambda v: v["loss"] - 2}, "losses are positive"),
    ],
)
def test_points_that_cannot_tell_are_refused(change, says):
    points = surface()
    values = dict(points.values) | {k: make(points.values) for k, make in change.items()}
    with pytest.raises(InputError, match=says):
        fit(Points(values, "loss", points.trunks, MEANING), resamples=100)


def test_too_few_independent_points_are_refused():
    points = surface()
    with pytest.raises(InputError, match="3 independent points"):
        fit(Points(points.values, "loss", np.arange(len(points)) % 3, MEANING))


def write(path, points, **extra):
    columns = {**points.values, **extra}
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def test_command_fits_anybodys_points(tmp_path, capsys):
    points = surface(0.01)
    path = write(tmp_path / "points.csv", points, encoder=points.values["parameters"] / 2)
    out = tmp_path / "new" / "fit.json"
    assert main(["fit", str(path), f"out={out}", "resamples=100", "at=1e14"]) == 0
    said = capsys.readouterr().out
    known = json.loads(out.read_text())
    assert known["formula"] == "E + A/N^a + B/D^b" and known["points"] == 30 and known["refused"] == []
    a = known["fits"]["huber"]["a"]
    assert a["interval"][0] < TRUE["a"] < a["interval"][1] and f"{a['value']:.3g}" in said
    assert known["optimum"][0]["flops"] == 1e14
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert main(["fit", str(path), f"out={out}", "resamples=100", "N=encoder"]) == 0
    halved = json.loads(out.read_text())
    assert halved["inputs"]["N"] == {"column": "encoder", "span": [5e4, 5e7]}
    assert halved["fits"]["huber"]["a"]["value"] == pytest.approx(a["value"], rel=1e-4)  # only A knows the unit
    assert main(["fit", str(path), f"out={out}", "resamples=100", "at=1e25"]) == 2
    assert "C=1e+25: more than a decade" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("paramètres,tokens,loss\n1,2,3\n", "no table in UTF-8"),
        ("parameters,tokens\n1,2\n", "no column loss, score or gain"),
        ("parameters,tokens,loss\n1,2,x\n", "line 2: loss=x: expected a number"),
        ("parameters,tokens,loss\n0,2,1\n", "line 2: parameters=0: expected a positive number"),
        ("parameters,loss\n" + "1,2\n" * 9, "p.csv: no column tokens, and no column flops instead; it has parameters"),
        ("parameters,tokens,loss\n1,2,-3\n", "line 2: loss=-3: expected a positive number"),
        ("parameters;tokens;loss\n1;2;1,5\n", "line 2: loss=1,5: expected a number, such as 1.5"),
        ("parameters;tokens;loss\n1;2\n", "line 2: more or fewer cells than the first line"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_in_a_line(text, says, tmp_path, capsys):
    (tmp_path / "p.csv").write_text(text, encoding="latin-1")
    assert main(["fit", str(tmp_path / "p.csv"), f"out={tmp_path / 'f.json'}"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize("parted", [";", "\t"])
def test_tables_as_other_spreadsheets_save_them_are_read(parted, tmp_path):
    path = write(tmp_path / "p.csv", surface(), validation_loss=surface().y)
    path.write_text(path.read_text().replace(",", parted))
    points = read(path, of="validation_loss")
    assert (points.y == read(path).y).all() and usual(points) == "surface"


def test_the_points_are_not_written_over(tmp_path, capsys):
    (points := tmp_path / "p.csv").write_text("parameters,tokens,loss\n1,2,3\n")
    assert main(["fit", str(points), f"out={points}"]) == 2
    assert "ends in .json" in capsys.readouterr().err and points.read_text().startswith("parameters")


def test_flops_that_were_not_measured_are_six_n_d(tmp_path):
    path = write(
        tmp_path / "p.csv",
        Points({k: v for k, v in surface().values.items() if k != "flops"}, "loss", np.arange(30), MEANING),
    )
    points = read(path)
    assert points.flops_per == pytest.approx(6) and points.column("C")[0] == pytest.approx(6 * 1e5 * 1e6)


def test_solver_finds_what_scipy_finds():
    from scipy.optimize import least_squares

    points = surface(0.05)
    x = points.inputs(("N", "D"))
    x = x / np.exp(np.log(x).mean(0))
    law, y = LAWS["surface"], points.y[None]
    start = laws.begin(law, x, points.y, keep=1)
    for delta, loss in ((None, "linear"), (0.03, "huber")):
        _, cost = laws.solve(law, x, y, start, delta, steps=300)
        theirs = least_squares(
            lambda t: law.residuals(t[None], x, y)[0][0], start[0], loss=loss, f_scale=delta or 1.0, xtol=1e-12
        )
        assert cost[0] == pytest.approx(theirs.cost, rel=1e-5)
