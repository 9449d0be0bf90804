"""A comparison of tasks that are no segmentation goes the same way: numbers, scenes, several labels a place."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from small import config, make_run

from gfm_objectives import compare, data
from gfm_objectives.batch import Batch
from gfm_objectives.data.synthetic import Synthetic
from gfm_objectives.scores import Store
from gfm_objectives.sensors import Legend


class Facts(Synthetic):
    """The procedural Earth with what else can be asked of a place: greenness of every pixel, the commonest class of
    the map, and which classes it shows."""

    def __init__(
        self, split: str, *, seed: int | None = None, size: int = 64, dates: int = 4, sensors=("s2",), layers=("map",)
    ) -> None:
        super().__init__(split, seed=seed, size=size, dates=dates, sensors=sensors, layers=layers)
        classes = self.spec.legends["map"].classes
        self.spec.legends.update(
            green=Legend("green", ("greenness",)), commonest=Legend("m", classes), shown=Legend("s", classes)
        )

    def read(self, indices) -> Batch:
        batch = super().read(indices)
        series, y = batch.sensors["s2"], batch.targets["map"]
        red, near = (series.x[:, 0, series.bands.index(b)] for b in ("B04", "B08"))
        green = torch.where(series.valid[:, 0], 100 + 10 * (near - red), torch.nan)
        counts = torch.stack([(y == k).flatten(1).sum(1) for k in range(len(self.spec.legends["map"]))], 1)
        facts = {"green": green, "commonest": counts.argmax(1), "shown": (counts > 0).float()}
        return batch.replace(targets=batch.targets | facts)


DATA = {"name": "facts", "size": 16, "dates": 2, "sensors": ["s2", "dem"], "layers": ["map"]}
FEW = {"data": DATA, "train": 6, "val": 3, "test": 5}


pytestmark = pytest.mark.filterwarnings("ignore:.*no labelled pixel")  # of three places


@pytest.fixture
def facts(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "facts", f"{__name__}:Facts")


@pytest.mark.parametrize(
    ("kind", "layer", "metric", "also"),
    [
        ("regression", "green", "rmse", {"mae", "r2"}),
        ("scene", "commonest", "accuracy", {"miou", "f1"}),
        ("multilabel", "shown", "map", {"multilabel_f1"}),
    ],
)
def test_from_files_to_a_gain_table(kind, layer, metric, also, tmp_path, facts):
    task = {**FEW, "kind": kind, "layer": layer, "metric": metric}
    cfg = config(tmp_path, checkpoint=[make_run(tmp_path / "a")], contenders=["pretrained", "scratch", "unet", "pixel"])
    cfg = OmegaConf.merge(OmegaConf.to_container(cfg) | {"tasks": {layer: task}}, {"finetune": {"trials": 6}})
    out = compare.run(cfg)
    scores = Store(out).load()
    assert {s.metric for s in scores} == {metric} and len(scores) == 4 * 2
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert any(r["hparams"].get("head_first") for r in trials)
    gain = json.loads((out / "gain.json").read_text())
    (row,) = [r for r in gain["scores"] if r["contender"] == "mae"]
    assert also | {metric} <= row["figures"].keys()
    found = {(m["contender"], m["against"]): m for m in gain["means"]}
    theirs = next(r for r in gain["scores"] if r["contender"] == "U-Net")["value"]
    sign = -1 if metric == "rmse" else 1
    assert found["mae", "equal"]["gain"] == pytest.approx(sign * (row["value"] - theirs), rel=1e-3, abs=1e-6)
    if kind == "regression":  # in its own unit, around its own mean: neither 0 nor the standardised 1
        assert 0.1 < row["value"] < 100 and (out / "figures" / f"predictions-{layer}.png").exists()
    else:
        assert not (out / "predictions.npz").exists()
    assert "the best row is" in (out / "report.md").read_text()
