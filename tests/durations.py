"""Which tests are quick: all that are not slow and are not in durations.csv, where those of .3 seconds or more stand.

    pytest -m quick                                       # all but those of .3 seconds or more
    GFM_DURATIONS=1 pytest -m "not slow"                  # measures anew; rows of what did not run stay as they are

Fixtures have rows of their own: a test is as slow as what it has to wait for. Seconds are of processors, those of
processes that a test started and waited for included, so that a loaded machine measures what a quiet one does.
"""

from __future__ import annotations

import csv
import fcntl
import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).with_suffix(".csv")
LEAST = 0.3  # seconds of a processor, over all parameters of a test
spent: Counter[str] = Counter()


def known() -> dict[str, float]:
    with TABLE.open(newline="") as file:
        return {row["test"]: float(row["seconds"]) for row in csv.DictReader(file)}


def needs(item: pytest.Item) -> set[str]:
    """The test, without its parameters, and its fixtures, as the table names them."""
    file, _, name = item.nodeid.partition("::")
    fixtures = getattr(item, "fixturenames", ())
    return {
        f"{file}::{name.partition('[')[0]}",
        *(f"{file}::{f}" for f in fixtures),
        *(f"tests::{f}" for f in fixtures),
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long = known().keys()
    for item in items:
        if not item.get_closest_marker("slow") and needs(item).isdisjoint(long):
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, Any, Any]:
    begun = processor()
    try:
        return (yield)
    finally:
        if fixturedef.baseid:  # of ours; the dearest set-up, not all of them: each test waits for one
            name = f"{fixturedef.baseid}::{fixturedef.argname}"
            spent[name] = max(spent[name], processor() - begun)  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    begun = processor()
    try:
        return (yield)
    finally:
        spent[item.nodeid.partition("[")[0]] += processor() - begun  # type: ignore[assignment]


def processor() -> float:
    """Seconds of processors until now."""
    return sum(os.times()[:4])


def pytest_sessionfinish() -> None:
    if "GFM_DURATIONS" in os.environ:
        with TABLE.open("r+", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # workers of one run write one after the other
            rows = known() | spent
            file.truncate()
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("seconds", "test"))
            writer.writerows((f"{s:.1f}", test) for test, s in sorted(rows.items()) if s >= LEAST)
