"""The table of what takes a second names tests and fixtures that exist, and a test is as slow as what it waits for."""

from __future__ import annotations

import re
from pathlib import Path

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
