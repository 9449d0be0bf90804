"""A long reading tells how far it has come, off a terminal too: after some seconds, then now and then."""

from __future__ import annotations

import pytest
from held import Held
from test_finetune import SEGMENTATION, build, flops, places

from gfm_objectives.data import telling
from gfm_objectives.data.places import Kept
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.finetune import HParams, evaluate, finetune


def test_lines_off_a_terminal(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: clock[0])
    with telling.Telling("places", 100) as tell:
        for clock[0], count in ((1.0, 10), (6.0, 60), (7.0, 70), (40.0, 80), (41.0, 100)):
            tell.done(count)
        tell.stage("clustering")
    assert capsys.readouterr().out.splitlines() == [
        "  60 of 100 places, 10 a second, 0.1 min left",
        "  80 of 100 places, 2 a second, 0.2 min left",
        "  clustering",
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_on_a_terminal_and_nothing_where_nobody_asks(shown, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("rich._console", None)  # another test may have made it where there was no terminal
    with telling.Telling("places", 4, shown) as tell:
        tell.done(4)
    assert ("places" in capsys.readouterr().out) == shown and (tell.bar is not None) == shown


@pytest.mark.parametrize("shown", [True, False])
def test_fine_tuning_and_judging_tell_where_it_is_asked_for(shown, capsys, monkeypatch):
    for name in ("FIRST", "EVERY"):
        monkeypatch.setattr(telling, name, -1.0)
    train, hparams = Held(places(12)), HParams(0.01, batch_size=4, head_first=True)
    finetune(build(), train, SEGMENTATION, "label", flops(400), hparams, seed=0, shown=shown)
    evaluate(build(), train, SEGMENTATION, "label", 3, 8, shown=shown)  # four windows a tile
    said = capsys.readouterr().out
    for words in ("of 3 batches for the head", "places learned", "11 of 12 tiles judged"):
        assert (words in said) == shown, said


def test_what_is_read_once_and_kept_tells(capsys, monkeypatch):
    monkeypatch.setattr(telling, "FIRST", -1.0)
    Kept(Synthetic("train", size=16, dates=1), 4, ("map",)).read([0])
    assert "1 of 4 places read" in capsys.readouterr().out
