"""gfm inspect: what it counts, what it warns of, what it writes, and that a faulty split does not hide the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from held import Held
from PIL import Image
from test_chips_faults import options, resave, root  # noqa: F401
from test_config import one

from gfm_objectives import cli
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.config import save
from gfm_objectives.data import build_source
from gfm_objectives.inspection import look
from gfm_objectives.inspection.looking import shown
from gfm_objectives.report.pictures import image
from gfm_objectives.sensors import Legend


@pytest.fixture
def yaml(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """Writes options as a yaml and returns the words for it."""
    from omegaconf import OmegaConf

    def write(**more: Any) -> list[str]:
        (tmp_path / "mine.yaml").write_text(OmegaConf.to_yaml(options(root, **more)))
        return ["inspect", "mine.yaml"]

    monkeypatch.chdir(tmp_path)
    return write


def test_counts_are_of_valid_pixels_in_the_sensors_unit(root: Path):  # noqa: F811
    resave(root / "s2/a.npy", lambda a: np.where(np.eye(16) > 0, 0, a))  # no data
    source = build_source(options(root), "pretrain")
    found = look(source, range(len(source)))
    s2 = found.sensors["s2"]
    assert (found.places, found.read, found.areas) == (6, 6, 6)
    assert (s2.pixels, s2.valid, s2.empty) == (6 * 256, 6 * 256 - 16, 0) and s2.days is None
    band = s2.bands["B03"]
    assert band.n == s2.valid and band.low == pytest.approx(0.05) and band.high == pytest.approx(0.0505)
    values = np.repeat(np.arange(6) * 1e-4 + 0.05, [240, *[256] * 5])
    assert band.mean == pytest.approx(values.mean()) and band.std == pytest.approx(values.std(), rel=1e-3)
    assert found.layers["label"].pixels.tolist() == [6 * 120, 6 * 136, 0] and found.layers["label"].empty == 0


def test_the_command_shows_and_writes_what_was_understood(yaml: Any, capsys: Any):
    assert cli.main(yaml(splits={"by": "random"})) == 0
    out = capsys.readouterr().out
    for text in ("mine: places of 16 x 16 px at 10 m", "Sensor s2: reflectance, 1 date", "Layer label", "dry", "46.9%"):
        assert text in out
    assert "train: chips: 4, areas: 4, split at random, seed 0" in out
    assert "data.sensors.s2: B03, B08 lie far from the expected reflectance" in out  # they hardly vary
    folder = Path("inspect/mine")
    assert (folder / "inspect.txt").read_text().startswith("mine: places")
    with Image.open(folder / "inspect.png") as picture:
        assert min(picture.size) > 500 and np.array(picture.convert("L")).std() > 10


def test_a_scale_is_proposed_that_brings_values_to_what_models_expect(yaml: Any, root: Path, capsys: Any):  # noqa: F811
    grey = np.random.default_rng(0).integers(0, 256, (1, 16, 16))
    for path in (root / "s1").glob("*.npy"):
        np.save(path, grey.astype(np.uint8))
    cli.main(yaml())
    line = next(
        t for t in " ".join(capsys.readouterr().out.split()).split("data.sensors.") if t.startswith("s1: VV lie")
    )
    scale, offset = (float(line.split(f"{k}: ")[1].split(" ")[0]) for k in ("scale", "offset"))
    assert scale * grey.mean() + offset == pytest.approx(-11, abs=0.3) and scale * grey.std() == pytest.approx(
        4.5, 0.02
    )


def test_a_split_that_cannot_be_read_comes_last_and_sets_the_exit_code(yaml: Any, root: Path, capsys: Any):  # noqa: F811
    (root / "t.csv").write_text("chip,split\n" + "".join(f"{c},{'train' if c < 'e' else 'test'}\n" for c in "abcdef"))
    assert cli.main(yaml(splits={"file": "t.csv"})) == 2
    out, err = capsys.readouterr()
    assert "Splits" in out and err.count("\n") == 1 and "the val split is empty" in err


def test_faults_of_the_command(yaml: Any, capsys: Any):
    assert cli.main([*yaml(), "data.gsd=wide"]) == 2
    assert "data.gsd=wide: expected a whole number" in capsys.readouterr().err
    assert cli.main(["inspect", "their.yaml"]) == 2
    assert "data=their.yaml: no such file" in capsys.readouterr().err
    assert cli.main(["inspect", "--help"]) == 0
    assert "usage: gfm inspect" in capsys.readouterr().out


def test_an_inspection_is_named_by_its_data(tmp_path: Path):
    assert one(entry="inspect").name == "synthetic" and one("data=hls_water", entry="inspect").name == "hls_water"
    cfg = one("places=3", entry="inspect")
    save(cfg, tmp_path / "c.yaml")
    assert one(f"config={tmp_path / 'c.yaml'}", entry="inspect") == cfg


def test_two_of_three_colours_are_shown_in_grey(root: Path):  # noqa: F811
    batch = build_source(options(root), "pretrain").read([0])
    assert image(batch).shape == (1, 16, 16, 3)


@pytest.mark.skipif("GFM_DATA" not in os.environ, reason="GFM_DATA is not set: the real folders are absent")
@pytest.mark.parametrize("folder", ["s1s2_pairs", "multi_sensor"])
def test_real_folders_are_read_by_a_few_lines(folder: str):
    real = {
        "s1s2_pairs": {
            "sensors": {
                "s2": {"file": "opt/{chip}.png", "bands": {"B04": 1, "B03": 2, "B02": 3}},
                "s1": {"file": "sar/{chip}.png", "bands": {"VH": 1}},
            },
            "size": 256,
            "chips": "2*",
        },
        "multi_sensor": {
            "sensors": {
                "s2": {"file": "S2L2A/{chip}.tif", "bands": {"B02": 2, "B8A": 9}, "scale": 1e-4},
                "s1": {"file": "S1RTC/{chip}.tif", "bands": {"VV": 1, "VH": 2}},
                "dem": {"file": "DEM/{chip}.tif", "bands": {"elevation": 1}},
            },
            "layers": {"map": {"file": "LULC/{chip}.tif", "classes": list("abcdefghi"), "codes": list(range(1, 10))}},
            "splits": {"by": "location", "km": 20, "shares": {"train": 3, "val": 1, "test": 1}},
        },
    }[folder]
    source = build_source({"name": "chips", "root": f"$GFM_DATA/{folder}", "gsd": 10, **real}, "pretrain")
    if folder == "s1s2_pairs":
        assert len(source) == 16 * len(set(source.groups())) == 16 * 4
    else:
        assert len(source) == 3 and source.spec.size == 224
    found = look(source, [0])
    assert all(t.valid == t.pixels for t in found.sensors.values())


@pytest.mark.parametrize(("legend", "chosen"), [(("dry", "wet"), [1, 17, 20]), ((), [3, 11, 18, 26])])
def test_the_page_shows_places_with_every_class(legend: tuple[str, ...], chosen: list[int]):
    """Of thirty places three have both classes; of numbers and without labels they are evenly spread."""
    y = torch.zeros(30, 4, 4, dtype=torch.long)
    y[[1, 17, 20], :2] = 1
    s2 = Series(torch.zeros(30, 1, 1, 4, 4), torch.ones(30, 1, 4, 4, dtype=torch.bool), torch.zeros(30, 1), ("B02",))
    spec = Spec({"s2": ("B02",)}, {"s2": 1}, 4, 10.0, {"y": Legend("y", legend)})
    places = shown(Held(Batch({"s2": s2}, {"y": y}, torch.full((30,), 10.0)), spec))
    assert len(places) == 4 and [k for k in places if not legend or k in chosen] == chosen
