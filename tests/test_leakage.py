"""Leakage: what pretraining shows of a task is named, by ground and by coordinates; strict refuses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scenes import Scenes, ground, strangers, windows

from gfm_objectives import cli
from gfm_objectives.curation import leakage
from gfm_objectives.curation.leakage import Leak, leaks, nearby, told
from gfm_objectives.errors import InputError, InputWarning


def test_shared_ground_is_named_for_each_split_and_between_them():
    scene = ground(3)
    corpus = Scenes(torch.cat([strangers(6), windows(scene, [(40, 40), (80, 10)])]))
    train = Scenes(torch.cat([strangers(4, first=100), windows(scene, [(40, 60)])]))
    test = Scenes(torch.cat([strangers(3, first=200), windows(scene, [(40, 40)]), strangers(1, first=101)]))
    found = {(leak.of, leak.into): leak for leak in leaks("corpus", corpus, {"train": train, "test": test})}
    assert found.keys() == {("corpus", "train"), ("corpus", "test"), ("train", "test")}
    seen = {k: (leak.places, leak.touched, leak.half, leak.copies, leak.near) for k, leak in found.items()}
    assert seen["corpus", "train"] == (5, 1, 1, 1, None)  # 44 of 64 columns are shared
    assert seen["corpus", "test"] == (5, 1, 1, 1, None)
    assert seen["train", "test"] == (5, 2, 2, 2, None)
    assert found["train", "test"].named == ["3", "4"]
    assert found["corpus", "test"].leaks and "20.0% of 5 places share ground" in found["corpus", "test"].line()


def test_bands_in_common_are_compared_whatever_else_each_has():
    x = strangers(4)
    wide, narrow = Scenes(x), Scenes(x[:2, :, :3])
    assert leaks("a", wide, {"b": narrow})[0].copies == 2
    narrow.spec.bands.clear()
    narrow.spec.bands["s1"] = ("VV", "VH", "VV")
    with pytest.raises(InputError, match="no band in common: s2 here and s1 there"):
        leaks("a", wide, {"b": narrow})


def test_other_scales_are_warned_of():
    a, b = Scenes(strangers(2)), Scenes(strangers(2))
    b.spec = dataclasses.replace(b.spec, gsd=30.0)
    with pytest.warns(InputWarning, match="10 m and 30 m"):
        leaks("a", a, {"b": b})


def test_coordinates_compare_across_the_date_line_and_near_the_pole():
    a = np.array([[179.9999, 0.0], [10.0, 89.999]])
    b = np.array([[-179.9999, 0.0], [100.0, 89.999], [0.0, 45.0]])
    assert nearby(a, b, 30) == 1  # 22 m over the date line; 157 m around the pole
    assert nearby(a, b, 200) == 2
    assert nearby(a, np.full((2, 2), np.nan), 30) is None
    assert nearby(np.array([[7.0, 45.0]]), np.array([[7.0, 45.001]]), 111) == 0  # 111.2 m of latitude
    assert nearby(np.array([[7.0, 45.0]]), np.array([[7.0, 45.001]]), 112) == 1


def test_the_command_writes_beside_the_run_and_strict_refuses(tmp_path, capsys, monkeypatch):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\ndata: {name: synthetic, seed: null}\n")
    asked = []

    def build(options, split):
        asked.append((options.get("seed"), split))
        return Scenes(strangers(3, first=0 if split in ("pretrain", "test") else 10 * len(split)), name=split)

    monkeypatch.setattr(leakage, "build_source", build)
    words = ["leakage", str(run), "task=landcover"]
    assert cli.main(words) == 0
    assert "pretraining of a -> landcover test: 100.0% of 3 places share ground" in capsys.readouterr().out
    assert asked[0] == (0, "pretrain")  # the Earth of the run
    told = json.loads((run / leakage.FILE).read_text())["landcover"]
    assert next(leak["copies"] for leak in told if leak["into"] == "landcover test") == 3
    assert cli.main([*words, "strict=true"]) == 2
    assert "strict=true" in capsys.readouterr().err


class Tiles(Scenes):
    """Places of named areas."""

    def __init__(self, *areas: str) -> None:
        super().__init__(torch.zeros(len(areas), 1, 3, 8, 8))
        self.areas = list(areas)

    def groups(self):
        return self.areas


def test_what_needs_no_pixels_is_told_too():
    """Areas that a task's own lists share, and what makers say; places without areas are only numbered."""
    own = {"train": Tiles("T10", "T11", "T11"), "val": Tiles("T12"), "test": Tiles("T11", "T12", "T13")}
    said = leakage.described({"name": "eurosat"}, {"name": "bigearthnet"}, own)
    assert said[0].startswith("by its makers' description: EuroSAT and BigEarthNet show the same European countries")
    assert said[1:] == ["eurosat: 2 of 4 areas are in more than one of its own splits"]
    numbered = {split: Scenes(torch.zeros(3, 1, 3, 8, 8)) for split in ("train", "test")}
    assert leakage.described({"name": "a"}, {"name": "b"}, numbered | {"val": Tiles("T10")}) == []


def test_eval_tells_what_is_known_and_strict_refuses_what_is_not(tmp_path):
    clean = Leak("pretraining", "t test", 9, 0, 0, 0, None, "abc")
    leaking = Leak("pretraining", "t test", 9, 3, 2, 1, None, "abc")

    def run(name, *leaks):
        (tmp_path / name).mkdir()
        (tmp_path / name / leakage.FILE).write_text(json.dumps({"t": [dataclasses.asdict(leak) for leak in leaks]}))
        return str(tmp_path / name)

    a, b, nobody = run("a", clean), run("b", clean, leaking), str(tmp_path / "c")
    tasks = {"t": "abc"}
    assert told([a], tasks, strict=True) == [f"{a}: no ground shared with the test split of t"]
    with pytest.warns(InputWarning, match="b: pretraining -> t test: 33.3% of 9 places share ground"):
        assert len(told([b], tasks, strict=False)) == 1
    assert "is not known; gfm leakage" in told([nobody], tasks, strict=False)[0]
    assert "is not known" in told([a], {"t": "of another split"}, strict=False)[0]
    for run_ in (b, nobody):
        with pytest.raises(InputError, match="strict=true"):
            told([run_], tasks, strict=True)
