"""A long reading tells how far it has come, off a terminal too: after some seconds, then now and then."""

from __future__ import annotations

import pytest

from gfm_objectives.data import telling


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
    with telling.Telling("places", 4, shown) as tell:
        tell.done(4)
    assert ("places" in capsys.readouterr().out) == shown and (tell.bar is not None) == shown
