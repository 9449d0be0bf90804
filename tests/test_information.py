"""Information: bits per pixel are those of fields whose information is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scenes import Scenes

from gfm_objectives import cli
from gfm_objectives.curation.information import NOISE, Bits, account, draw, entropy, lines, steps
from gfm_objectives.inspection import looking
from gfm_objectives.sensors import SENSORS

# One value of normalised B02 in steps of its noise: what `steps` makes of 1.
STEP = float(steps("s2", torch.ones(1, 1, 1, 1, 1), ("B02",)))


def gaussian(deviation):
    """Bits of a normal variable of this deviation, in steps."""
    return math.log2(deviation * math.sqrt(2 * math.pi * math.e))


def field(n, dates, seed=0):
    """(n, dates, 1, 32, 32) white, of ten steps' deviation."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dates, 1, 32, 32, generator=g) * 10 / STEP


def test_steps_round_with_the_deviation_of_the_noise():
    band = SENSORS["s2"].bands[1]
    one = steps("s2", torch.full((1, 1, 1, 1, 1), 1.0), (band.name,))
    assert float(one) * NOISE["reflectance"] * math.sqrt(12) == pytest.approx(band.std)


def test_entropy_of_what_is_known():
    rng = np.random.default_rng(0)
    assert entropy(np.zeros(100, int)) == 0
    assert entropy(rng.integers(0, 256, 200_000)) == pytest.approx(8, abs=0.002)
    assert entropy(np.round(rng.normal(0, 10, 200_000)).astype(int)) == pytest.approx(gaussian(10), abs=0.01)


def test_white_noise_is_new_wherever_it_is():
    found = account(Scenes(field(200, 2)), range(200))[0]
    for value in (found.alone, found.space, found.time):
        assert value == pytest.approx(gaussian(10), abs=0.05)
    assert found.other is None and found.pixels == 200 * 256


def test_a_date_that_repeats_has_only_its_change():
    """x2 = r x1 + sqrt(1 - r^2) e of r = .99: what is new has a deviation of .141 times ten steps."""
    x = field(200, 2)
    x[:, 1] = 0.99 * x[:, 0] + math.sqrt(1 - 0.99**2) * x[:, 1]
    found = account(Scenes(x), range(200))[0]
    assert found.alone == pytest.approx(gaussian(10), abs=0.05)
    assert found.time == pytest.approx(gaussian(1.411), abs=0.05)


def test_rows_that_go_on_are_known_from_the_patch_beside():
    """Every row of a place has one value: a patch has to say it once in a row, unless the one beside has."""
    x = field(400, 1)[..., :1].expand(-1, -1, -1, -1, 32).contiguous()
    found = account(Scenes(x), range(400))[0]
    assert found.alone == pytest.approx(gaussian(10) / 16, abs=0.03)
    assert found.space < 0.01


def test_bits_below_the_noise_do_not_count():
    assert account(Scenes(field(100, 1) * 0.005), range(100))[0].alone < 0.01


def test_what_is_told_names_each_state_of_knowledge():
    found = account(Scenes(field(64, 2)), range(64))
    told = lines(found, 0.75)
    assert "75.0%" in told[0] and "given the patch beside it" in told[1] and "given the date before" in told[1]
    assert "other sensors" not in told[1]


def test_the_chart_shows_the_share_that_is_new_and_leaves_out_what_the_data_has_not():
    figure = draw([Bits("s2", 9, 10.0, 9.0, 5.0, None), Bits("dem", 9, 0.5, 0.25, None, None)], True)
    alone, share = figure.axes
    assert [round(p.get_height(), 2) for p in alone.patches] == [10, 0.5]
    assert [round(p.get_height(), 2) for p in share.patches] == [0.9, 0.5, 0.5]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "given the patch beside it",
        "given the date before",
    ]
    assert "synthetic" in figure.get_suptitle() and [t.get_text() for t in share.texts] == ["90%", "50%", "50%"]


def test_the_figures_stand_in_the_text_too(tmp_path, capsys, monkeypatch):
    """As one line each, however wide the terminal is."""
    line = (
        "s2: 10.00 bits per pixel alone (noise 0.002 reflectance); 9.00 given the patch beside it (90% new) [and more]"
    )
    monkeypatch.setattr(looking, "tell", lambda source, places, path: [line])
    small = ["data.size=16", "data.dates=1", "data.sensors=[dem]", "data.layers=[]", "places=1"]
    small += [f"data.places.{split}=2" for split in ("train", "val", "test")]
    assert cli.main(["inspect", *small, "information=true", f"out={tmp_path}", "name=x"]) == 0
    assert line in capsys.readouterr().out and line in (tmp_path / "x" / "inspect.txt").read_text()
