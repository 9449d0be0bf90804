"""The published figures: what is said of them is computed from them, and drawn apart from ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_objectives.cli import main
from gfm_objectives.scaling import essay, published

ROOT = Path(__file__).resolve().parent.parent


def test_facts_of_all_labels():
    large = published.of("TerraMind-L", 1.0)
    assert round(large.mean, 2) == 1.99 and (large.wins, large.losses) == (4, 5) and round(large.median, 2) == -0.64
    assert (large.best, large.worst) == ("MADOS", "AI4SmallFarms")
    assert round(large.without("MADOS"), 2) == -0.36 and round(large.without("AI4SmallFarms"), 2) == 4.60
    assert round(large.by_task["MADOS"], 1) == 20.8 and round(large.by_task["AI4SmallFarms"], 1) == -18.9


def test_facts_of_few_labels():
    means = {g.model: round(g.mean, 2) for g in published.gains(0.1)}
    wanted = {"THOR-B": 5.90, "TerraMind-B": 5.54, "THOR-T": 4.84, "CROMA": 1.66, "ViT": -0.39, "DOFA": -3.09}
    assert {m: means[m] for m in wanted} == wanted
    thor = published.of("THOR-B", 0.1)
    assert thor.best == "CropTypeMapping-SS" and 0.5 < thor.share(thor.best) < 0.55


def test_facts_of_eight_tasks():
    ramen = published.of("RAMEN", 1.0)
    assert len(ramen.by_task) == 8 and (ramen.wins, ramen.losses) == (5, 3)
    assert round(ramen.mean, 2) == 2.81 and round(ramen.without("MADOS"), 2) == 1.08
    large = published.of("TerraMind-L", 1.0)
    assert round(large.without("FiveBillionPixels"), 2) == 1.88
    assert round(large.without("FiveBillionPixels", "MADOS"), 2) == -0.82


def test_words_say_what_was_computed():
    text = " ".join(published.facts())
    for part in (
        "+1.99",
        "4 wins and 5 losses",
        "-0.64",
        "-0.36",
        "+4.60",
        "THOR-B +5.90",
        "TerraMind-B +5.54",
        "53 %",
    ):
        assert part in text


def test_every_figure_has_a_source_and_a_flag():
    rows = published._rows("published_scores.csv")
    assert len(rows) == 233 and all(r["source"] for r in rows)
    assert all((r["confirmed"] == "yes") == bool(r["confirmed_by"]) for r in rows)
    assert len({(r["model"], r["task"], r["label_fraction"]) for r in rows}) == len(rows)
    assert all(c.source and c.tokens_distinct < c.tokens_seen and not c.confirmed for c in published.costs().values())
    assert not published.of("TerraMind-L", 1.0).confirmed and published.of("TerraMind-B", 0.1).confirmed


def test_figures_show_ours_apart(tmp_path, capsys):
    mine = str(ROOT / "results" / "hls_water")
    assert main(["published", mine, f"out={tmp_path}"]) == 0
    assert "TerraMind-L is at +1.99" in capsys.readouterr().out
    for name in ("gain_by_tokens.svg", "gain_by_flops.svg"):
        text = (tmp_path / name).read_text()
        assert text.count("ours: other tasks (real)") == 2 and "TerraMind-L" in text
    rows = essay.own(mine)
    assert {r.fraction for r in rows} == {0.1, 1.0} and all(r.flops == pytest.approx(2e12, rel=0.01) for r in rows)
    assert main(["published", str(tmp_path), f"out={tmp_path}"]) == 2
    assert "no gain.json" in capsys.readouterr().err


def test_both_ways_of_counting_tokens_are_drawn():
    text = essay.figures([])["gain_by_tokens.svg"]
    assert "every pass counted" in text and "distinct patches" in text and "ours" not in text
