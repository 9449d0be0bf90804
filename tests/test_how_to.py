"""The how-tos of docs/ do what they say: their commands, as printed, with budgets cut."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from gfm_objectives import cli
from gfm_objectives.config import config_root
from gfm_objectives.errors import InputError
from gfm_objectives.sweep.study import read, shipped

DOCS = Path(__file__).parents[1] / "docs"
ENCODER = "encoder.dim=16 encoder.cell_dim=16 encoder.depth=1 encoder.heads=2 encoder.width=8"
CUT = {  # what a page's command is given instead of, or besides, its own words
    "train": f"budget.flops=2e9 yardstick=false loader.workers=0 threads=1 loggers=[] {ENCODER}",
    "eval": "finetune.flops=1e9 finetune.trials=1 workers=1",
    "finetune": "flops=1e9 trials=0",
}
SMALL = {  # of the procedural Earth
    "train": "data.size=16 data.dates=1 budget.flops=4e8",
    "eval": "seeds=1 finetune.flops=2e9 tasks.landcover.train=4 tasks.landcover.val=2 tasks.landcover.test=4",
}


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page, without `gfm`."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gfm ")]


def cut(words: list[str], *tables: dict[str, str]) -> list[str]:
    """The command with its budget cut."""
    own = {w.partition("=")[0]: w for table in tables for w in table.get(words[0], "").split()}
    return [w for w in words if w.partition("=")[0] not in own] + list(own.values())


def follow(page: str, *tables: dict[str, str]) -> None:
    """Every command of the page, one after the other."""
    typed = commands(page)
    assert typed
    for words in typed:
        assert cli.main(cut(words, *tables)) == 0, words


def fields(root: Path, count: int = 12, size: int = 32) -> None:
    """Images of four bands and masks of two classes that can be told from them, in two areas far apart."""
    rng = np.random.default_rng(0)
    for i in range(count):
        mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((size // 4, size // 4))).astype(np.uint8)
        image = (rng.normal(1500, 200, (4, size, size)) + 1500.0 * mask).astype(np.uint16)
        write(root / "images" / f"{'ab'[i % 2]}_{i:02}.tif", image, 300000 + 90000 * (i % 2) + 1000 * i)
        write(root / "masks" / f"{'ab'[i % 2]}_{i:02}.tif", mask[None], 300000 + 90000 * (i % 2) + 1000 * i)


def write(path: Path, values: np.ndarray, west: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=from_origin(west, 5e6, 10, 10), **shape) as f:
        f.write(values)
        if values.shape[0] == 4:
            f.descriptions = ("B02", "B03", "B04", "B08")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with nothing of the machine's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_objectives_are_compared(desk: Path) -> None:
    follow("compare.md", CUT, SMALL)
    assert "latent" not in (desk / "results/demo/report.md").read_text()
    assert "supervised" in (desk / "results/demo/report.html").read_text()


@pytest.mark.slow
def test_own_chips_meet_the_u_net_and_become_a_map(desk: Path) -> None:
    fields(desk / "fields")
    follow("own_data.md", CUT)
    report = (desk / "results/own/report.md").read_text()
    assert "U-Net" in (desk / "results/rivals/report.md").read_text() and "mae" in report
    write(desk / "scene.tif", np.full((4, 50, 70), 1500, np.uint16), 300000)
    follow("scene.md", CUT)
    with rasterio.open(desk / "fields.tif") as f:
        assert f.shape == (50, 70) and f.crs.to_epsg() == 32633
    assert list((desk / "reviews/fields").glob("*.html"))


def test_a_study_is_planned_and_its_job_shown(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "cluster.md").read_text(), re.S)
    (desk / "study.yaml").write_text(study)
    follow("cluster.md")
    said = capsys.readouterr().out
    assert "laws: 20 runs" in said and "--array" in said


def test_what_ships_as_a_study_can_be_planned(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one seed and budget, since all 720 runs take half a minute to compose."""
    text = (config_root() / "study" / "crossover.yaml").read_text()
    cut_down = text.replace("[0, 1, 2, 3, 4]", "[0]").replace("[1e12, 1e13, 1e14]", "[1e12]")
    assert cut_down.count("[0]") == 1 and cut_down.count("[1e12]") == 1
    (desk / "crossover.yaml").write_text(cut_down)
    assert cli.main(["sweep", "study=crossover.yaml", "plan_only=true"]) == 0
    assert "crossover: 48 runs" in capsys.readouterr().out
    with pytest.raises(InputError, match="nowhere: no such file"):
        read("nowhere", "runs")
    assert shipped("crossover").is_file() and shipped("crossover.yaml") == Path("crossover.yaml")
