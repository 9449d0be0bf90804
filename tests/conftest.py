"""Shared fixtures: a small spec, a random batch of it, and the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.sensors import S2_TEN, Legend

pytest_plugins = ["durations"]
torch.set_num_threads(1)

NANO = {
    "name": "nano",
    "cell_dim": 32,
    "dim": 64,
    "depth": 2,
    "heads": 2,
    "patch": 8,
    "width": 16,
}  # faster than the shipped one


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Notes on chips read by tests stay with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def chance() -> None:
    """The same for every test, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def spec() -> Spec:
    bands = {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)}
    return Spec(bands, {"s2": 3, "s1": 2, "dem": 1}, 32, 10.0, {"map": Legend("letters", tuple("abcde"))})


@pytest.fixture
def batch(spec: Spec) -> Batch:
    return random_batch(spec, 4)


def random_batch(spec: Spec, n: int, seed: int = 0) -> Batch:
    """Noise with a tenth of the patches and a tenth of the pixels invalid, and labels with gaps."""
    g = torch.Generator().manual_seed(seed)
    empty = spec.dummy(n, "cpu")
    sensors = {}
    for name, s in empty.sensors.items():
        valid = torch.rand(s.valid.shape, generator=g) > 0.1
        blocks = torch.rand(*s.valid.shape[:2], spec.size // 8, spec.size // 8, generator=g) > 0.1
        valid &= blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)
        x = torch.randn(s.x.shape, generator=g).masked_fill(~valid[:, :, None], 0)
        day = 7300 + torch.sort(torch.rand(s.day.shape, generator=g) * 365, 1).values
        sensors[name] = type(s)(x, valid, day, s.bands)
    targets = {
        k: torch.randint(-1, len(legend), (n, spec.size, spec.size), generator=g) for k, legend in spec.legends.items()
    }
    return empty.replace(sensors=sensors, targets=targets)


@pytest.fixture(scope="session")
def gfm_data() -> Path:
    """The folder of real data; tests that need it are skipped, saying so, without it."""
    root = os.environ.get("GFM_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("GFM_DATA is not set to a folder: tests on real data do not run")
    return Path(root)
