"""The table of what takes a second names tests and fixtures that exist, and a test is as slow as what it waits for."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import durations
import pytest

HERE = Path(__file__).resolve().parent


def test_every_row_is_of_a_test_or_fixture_that_exists():
    for name in durations.known():
        file, _, function = name.partition("::")
        where = HERE.parent / file if file.endswith(".py") else HERE / "conftest.py"
        assert re.search(rf"^def {function}\(", where.read_text(), re.M), f"{name}: gone; remove its row"


@pytest.mark.parametrize(
    ("row", "quick"),
    [("tests/a.py::test_x", False), ("tests/a.py::made", False), ("tests::shared", False), ("tests/b.py::made", True)],
)
def test_quick_is_what_neither_takes_long_nor_waits_for_what_does(row, quick, monkeypatch):
    class Item:
        nodeid = "tests/a.py::test_x[one-two]"
        fixturenames = ("made", "shared")
        marks: tuple[str, ...] = ()

        def get_closest_marker(self, name):
            return name in self.marks

        def add_marker(self, name):
            self.marks += (name,)

    monkeypatch.setattr(durations, "known", lambda: {row: 2.0})
    item = Item()
    durations.pytest_collection_modifyitems([item])
    assert (item.marks == ("quick",)) == quick
    slow = Item()
    slow.marks = ("slow",)
    durations.pytest_collection_modifyitems([slow])
    assert slow.marks == ("slow",)


def test_a_test_that_waits_for_nothing_is_quick(request):
    """Else a fixture that all tests have stands in the table, and pytest -m quick runs none."""
    assert request.node.get_closest_marker("quick")


def test_a_fixture_is_as_slow_as_its_dearest_set_up(monkeypatch):
    """Not as all of them: a thousand tests that have it wait for one each."""
    monkeypatch.setattr(durations, "spent", Counter())
    clock = chain((0.0, 0.5, 1.0, 1.75, 2.0, 2.25), repeat(3.0))  # asked once more, when this test ends
    monkeypatch.setattr(durations, "processor", lambda: next(clock))
    for _ in range(3):
        setup = durations.pytest_fixture_setup(SimpleNamespace(baseid="tests", argname="made"))
        next(setup)
        next(setup, None)
    assert durations.spent == {"tests::made": 0.75}
