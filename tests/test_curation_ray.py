"""Curation by Ray on two workers is curation here, to the last bit. Needs Ray (an extra)."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from scenes import Scenes, strangers

from gfm_objectives.curation.curating import curate
from gfm_objectives.curation.engines import Local, Ray
from gfm_objectives.curation.examination import Limits
from gfm_objectives.curation.keep import Rules

ray = pytest.importorskip("ray", reason="NOT TESTED: engine=ray; Ray is missing (pip install 'gfm-objectives[ray]')")


@pytest.fixture
def two_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # workers read scenes.py too
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_say_what_one_process_says(two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr("gfm_objectives.curation.describing.PART", 8)
    x = strangers(40)
    source = Scenes(torch.cat([x, 1.1 * x[:5] + 0.1, x[7:9]]))
    rules = Rules(epsilon=1e-3)
    here = curate(source, Limits(), rules, clusters=4, engine=Local())
    assert len(here.pairs) == 7 and not here.kept.keep[40:].any() and len(np.unique(here.alike.cluster)) == 4
    read = source.reads
    engine = Ray()
    assert engine.workers == 2
    there = curate(source, Limits(), rules, tmp_path / "stages", clusters=4, engine=engine)
    assert source.reads == read and len(list((tmp_path / "stages").glob("part-*.npz"))) == 6  # workers read
    for a, b in ((here.alike, there.alike), (here.kept, there.kept), (here.pairs, there.pairs)):
        for name in a.__slots__:
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.array_equal(here.described.figures, there.described.figures)
    assert there.seconds > 0 and len(there.described.spent) == 6
