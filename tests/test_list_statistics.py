"""data.protocol=pangaea: figures of the training list alone, kept with its hash, refused for another list."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch

from gfm_objectives.cli import main
from gfm_objectives.data.torchgeo.adapter import Adapter
from gfm_objectives.data.torchgeo.statistics import fit, hash_of, of_list
from gfm_objectives.data.torchgeo.table import DATASETS
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.sensors import LEVELS, calibration, relisted

pytestmark = pytest.mark.filterwarnings("ignore::gfm_objectives.errors.InputWarning")


def pastis(root: Path, split: str, **options) -> Adapter:
    return Adapter(DATASETS["pastis"], split, root=str(root), size=16, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pastis")
    layouts.pastis(folder)
    return folder


def raw_values(root: Path, split: str, sensor: str) -> np.ndarray:
    """(pixels, bands) in the sensor's unit, of the valid ones, read one by one."""
    source, out = pastis(root, split, sensors=[sensor]), []
    for k in range(source.tiles()):
        s = source.decode(k).sensors[sensor]
        out += [s.x[0, t, :, r, c].numpy() for t in range(s.x.shape[1]) for r in range(16) for c in range(16)
                if s.valid[0, t, r, c]]  # fmt: skip
    return np.array(out, float)


def test_figures_are_those_of_the_training_tiles_alone(root: Path, tmp_path: Path):
    file = tmp_path / "figures.json"
    splits = {s: pastis(root, s, protocol="pangaea", statistics=str(file)) for s in ("val", "train", "test")}
    about = json.loads(file.read_text())
    values = raw_values(root, "train", "s2")
    for k, band in enumerate(splits["train"].spec.bands["s2"]):
        assert about["figures"]["s2"][band] == pytest.approx([values[:, k].mean(), values[:, k].std()], rel=1e-5)
    everything = np.concatenate([values, raw_values(root, "test", "s2")])
    band = splits["train"].spec.bands["s2"][0]
    assert abs(everything[:, 0].mean() - about["figures"]["s2"][band][0]) > 1e-6  # test tiles have no say
    assert about["list"] == hash_of(splits["train"]._reader.names) and about["tiles"] == splits["train"].tiles()
    train = splits["train"]
    s = train.read(range(len(train))).sensors["s2"]
    x = s.x.double().movedim(2, -1)[s.valid]
    assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 1e-2
    levels = {source.read([0]).sensors["s2"].level for source in splits.values()}
    assert len(levels) == 1 and levels.pop().startswith("list-")
    plain = pastis(root, "train")
    assert plain.fingerprint != train.fingerprint and plain.read([0]).sensors["s2"].level == ""


def test_a_changed_list_is_refused_and_so_is_another_set(root: Path, tmp_path: Path):
    file = tmp_path / "figures.json"
    pastis(root, "train", protocol="pangaea", statistics=str(file))
    before = file.read_bytes()
    other = {"train": [1, 2], "val": [4], "test": [5]}
    for split in ("train", "test"):  # whoever opens it
        with pytest.raises(InputError, match=r"figures\.json: is of \d+ training tiles of pastis \(list \w{8}\), and"):
            pastis(root, split, protocol="pangaea", statistics=str(file), folds=other)
    assert file.read_bytes() == before
    moved = {"train": [1, 2, 3], "val": [5], "test": [4]}  # the training list is the same
    pastis(root, "test", protocol="pangaea", statistics=str(file), folds=moved)
    with pytest.raises(InputError, match=r"of pastis .* of mados"):
        of_list(file, "mados", ["a"], list)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"figures\.json: holds no statistics of a training list; delete it"):
        pastis(root, "train", protocol="pangaea", statistics=str(file))
    with pytest.raises(InputError, match=r"data\.protocol=geobench: no such protocol; choose from pangaea, or null"):
        pastis(root, "train", protocol="geobench")
    with pytest.raises(InputError, match=r"data\.statistics: says where .* needs data\.protocol=pangaea"):
        pastis(root, "train", statistics=str(file))


def test_a_second_start_reads_no_tile_and_without_a_file_the_cache_keeps_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GFM_CACHE", str(tmp_path))
    first = pastis(root, "train", protocol="pangaea")
    (file,) = tmp_path.glob("statistics-*.json")
    monkeypatch.setattr("gfm_objectives.data.torchgeo.statistics.fit", lambda tiles: pytest.fail("computed again"))
    assert pastis(root, "train", protocol="pangaea").fingerprint == first.fingerprint
    assert file.stat().st_mode & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_another_process_knows_the_level(root: Path, tmp_path: Path):
    source = pastis(root, "train", protocol="pangaea", statistics=str(tmp_path / "f.json"))
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(source))
    read = "pickle.load(open(sys.argv[1], 'rb')).read([0]).sensors['s2']"
    code = f"import pickle, sys; print({read}.x.double().sum().item())"
    words = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "s.pkl")]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(told.stdout) == pytest.approx(source.read([0]).sensors["s2"].x.double().sum().item())


def test_a_kept_models_figures_bring_their_level_back(root: Path, tmp_path: Path):
    source = pastis(root, "train", protocol="pangaea", statistics=str(tmp_path / "f.json"))
    level = source.read([0]).sensors["s2"].level
    kept = json.loads((tmp_path / "f.json").read_text())["figures"]
    was = LEVELS.pop(("s2", level))
    with pytest.raises(ValueError, match="has no level"):
        calibration("s2", level)
    relisted({"s2": level, "s1": ""}, kept)
    assert calibration("s2", level) == was


def test_invalid_pixels_and_bands_that_are_the_same_everywhere(root: Path):
    batch = pastis(root, "train").decode(0)
    s = batch.sensors["s2"]
    x = s.x.clone()
    x[:, :, 1] = 0.25
    x[:, :, :, 0] = 1e6
    valid = torch.ones_like(s.valid)
    valid[:, :, 0] = False
    figures = fit([batch.replace(sensors={"s2": s.replace(x=x, valid=valid)})])["s2"]
    assert figures[s.bands[1]] == pytest.approx([0.25, 1.0]) and max(m for m, _ in figures.values()) < 1e3
    with pytest.raises(InputError, match="s2: no training tile has a valid pixel"):
        fit([batch.replace(sensors={"s2": s.replace(valid=torch.zeros_like(s.valid))})])


def test_the_guards_still_compare_with_the_table(tmp_path: Path):
    layouts.pastis(tmp_path)
    for file in (tmp_path / "DATA_S2").glob("*.npy"):
        np.save(file, np.load(file) * 30)
    with pytest.warns(InputWarning, match="lie far from the reflectance expected"):
        pastis(tmp_path, "train", protocol="pangaea", statistics=str(tmp_path / "f.json"))


def test_shards_refuse_figures_that_they_do_not_know(capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", "data=pastis", "data.protocol=pangaea", "out=/nowhere"]) == 2
    assert "data.protocol=pangaea: shards know the figures of the sensor table alone" in capsys.readouterr().err
