"""Beside each score of a real task: how much of its test tiles lies on ground that was learned from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from scenes import Scenes, strangers
from test_report import fill

from gfm_objectives import report
from gfm_objectives.compare import ground
from gfm_objectives.compare.ground import share, shared_ground
from gfm_objectives.curation.leakage import FILE, Leak
from gfm_objectives.data import build_source
from gfm_objectives.data.footprints import met, square
from gfm_objectives.data.torchgeo.adapter import outline
from gfm_objectives.report import tables, words


def at(lon: float, lat: float = 10.0, side: float = 1000) -> np.ndarray:
    return square(np.array([[lon, lat]]), side, side)


class Placed(Scenes):
    """Made-up scenes that know where they lie, or do not."""

    def __init__(self, outlines, name="placed"):
        super().__init__(strangers(len(outlines), 16), name=name)
        self.outlines = outlines

    def footprints(self):
        return list(self.outlines)


def test_each_of_ours_that_meets_one_of_theirs():
    ours = [at(0), at(0.005), at(1), None, at(2), at(2), at(3), at(3)[:1]]
    theirs = [at(0.008), at(2), None, at(4), at(4)]
    assert met(ours, theirs).tolist() == [True, True, False, False, True, True, False, False]
    assert met(theirs, ours).tolist() == [True, True, False, False, False]
    assert met(ours, []).tolist() == [False] * 8 and met([], theirs).tolist() == []


def test_what_is_not_known_is_none():
    assert share([at(0), at(1)], [at(0)]) == 0.5
    assert share([at(0), None], [at(0)]) is None and share([at(0)], [None]) is None and share([], []) is None


def bench(name, test, train, synthetic=False, which=None):
    def kept(source):
        return SimpleNamespace(source=source, which=range(len(source)) if which is None else which)

    sources = {"test": kept(test), "train": SimpleNamespace(source=train)}
    return SimpleNamespace(task=SimpleNamespace(name=name), synthetic=synthetic, source=sources.get)


def row(name, *folders, model="vit"):
    runs = tuple(SimpleNamespace(folder=str(f), model=model) for f in folders)
    return SimpleNamespace(name=name, runs=runs)


def pretrained(folder: Path, data: str) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seed: 0\ndata: {data}\n")
    return folder


def test_training_and_every_pretraining_run_are_looked_at(tmp_path, monkeypatch):
    corpora = {"near": Placed([at(0), at(9)]), "far": Placed([at(9)])}

    def build(options, split):
        assert split == "pretrain"
        if options["root"] not in corpora:
            raise ground.InputError("not here")
        return corpora[options["root"]]

    monkeypatch.setattr(ground, "build_source", build)
    a, b, c, d = (
        pretrained(tmp_path / k, v)
        for k, v in zip(
            "abcd",
            ("{name: chips, root: near}", "{name: chips, root: far}", "{name: chips, root: gone}", "{name: synthetic}"),
            strict=True,
        )
    )
    test, train = Placed([at(0), at(1), at(2), at(3)], "t1"), Placed([at(1), at(5)])
    benches = [bench("water", test, train), bench("earth", test, train, synthetic=True)]
    rows = [row("both", a, b), row("far", b), row("gone", c), row("earths", d), row("scratch")]
    rows.append(row("published", tmp_path / "x", model="published"))
    assert shared_ground(benches, rows) == {
        "water": {
            "training": 0.25,
            "pretraining": {"both": 0.25, "far": 0.0, "gone": None, "earths": 0.0, "published": None},
        }
    }
    # chips without coordinates: what gfm leakage found, of this very test split
    leak = Leak("pretraining of c", "water test", 4, 3, 2, 1, None, "t1")
    own = Leak("water train", "water test", 4, 2, 2, 1, None, "t1")
    (c / FILE).write_text(json.dumps({"water": [asdict(leak), asdict(own)]}))
    nowhere = bench("water", Placed([None] * 4, "t1"), train)
    assert shared_ground([nowhere], [row("gone", c)]) == {"water": {"training": 0.5, "pretraining": {"gone": 0.75}}}
    other = bench("water", Placed([None] * 4, "t2"), train)
    assert shared_ground([other], [row("gone", c)]) == {"water": {"training": None, "pretraining": {"gone": None}}}


def test_of_a_few_test_tiles_those_count():
    test = Placed([at(0), at(1)])
    found = shared_ground([bench("water", test, Placed([at(1)]), which=[0])], [])
    assert found["water"]["training"] == 0.0


def tif(path: Path, x: float, crs: str | None = "EPSG:32633") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else {"crs": crs, "transform": from_origin(x, 5e6, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", height=32, width=32, count=1, dtype="int16", **place) as file:
        file.write(np.random.default_rng(int(x)).integers(100, 3000, (1, 32, 32), dtype=np.int16))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_chips_and_files_say_where_they_lie(tmp_path):
    for k, x in enumerate((5e5, 5e5 + 160, 5e5 + 5000)):
        tif(tmp_path / f"c{k}.tif", x)
    options = {"name": "chips", "root": str(tmp_path), "gsd": 10.0}
    options |= {"sensors": {"s2": {"file": "{chip}.tif", "bands": {"B08": 1}, "scale": 1e-4}}, "layers": {}}
    source = build_source(options, "pretrain")
    prints = source.footprints()
    assert met(prints[:1], prints[1:2]).tolist() == [True] and met(prints[:2], prints[2:]).tolist() == [False, False]
    np.testing.assert_allclose(outline(tmp_path / "c0.tif"), prints[0])
    tif(tmp_path / "nowhere.tif", 1, None)
    with rasterio.open(tmp_path / "named.tif", "w", "GTiff", 32, 32, 1, "EPSG:4326", dtype="int16") as file:
        file.write(np.ones((1, 32, 32), np.int16))  # of degrees a pixel, if one believed it
    (tmp_path / "broken.tif").write_text("no picture")
    assert [outline(tmp_path / n) for n in ("nowhere.tif", "named.tif", "broken.tif", "labels.json")] == [None] * 4


def test_the_column_stands_beside_real_scores_alone(tmp_path):
    fill(tmp_path, seeds=5, synthetic=False)
    known = {"landcover": {"training": 0.0, "pretraining": {"masked_seg": 0.125}}}
    (tmp_path / "context.json").write_text(json.dumps({"ground": known}))
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    table = text.split("## Test scores")[1].split("##")[0]
    head = "| contender | landcover, 20 % | landcover, 100 % | landcover, shared ground | flood, 20 % | flood, 100 % |"
    assert f"{head} flood, shared ground |" in table and words.GROUND in table
    cells = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert "| training 0 %, pretraining 12.5 % |" in cells["masked_seg"] and "| not known |" in cells["masked_seg"]
    assert "| training 0 % |" in cells["U-Net"] and "| - |" in cells["map, recoded"]
    assert "training 0 %, pretraining not known" in cells["U-Net pretrained on the map"]
    page = (tmp_path / "report.html").read_text()
    assert "landcover: shared ground" in page and "training 0 %, pretraining 12.5 %" in page
    summary = json.loads((tmp_path / "gain.json").read_text())
    assert summary["ground"]["flood"] == {"training": None, "pretraining": {}}
    assert "shared ground" not in tables.scores({k: v for k, v in summary.items() if k != "ground"})
