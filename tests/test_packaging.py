"""The wheel stands alone: built, installed into an empty folder, it finds its configs and its console script works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the built wheel installed in it."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("NOT TESTED: the wheel; uv is missing (pip install uv)")
    tmp = tmp_path_factory.mktemp("wheel")
    build = subprocess.run([uv, "build", "--wheel", "-q", "--out-dir", tmp, ROOT], capture_output=True, text=True)
    if build.returncode and "hatchling" in build.stderr and "fetch" in build.stderr:
        pytest.skip(f"NOT TESTED: the wheel; no hatchling and no registry: {build.stderr.splitlines()[-1]}")
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp.glob("*.whl")
    target = tmp / "site"
    install = [uv, "pip", "install", "-q", "--offline", "--no-deps", "--python", sys.executable, "--target", target]
    subprocess.run([*install, wheel], check=True)
    return target


def in_empty_folder(site: Path, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "GFM_DATA"} | {"PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_data_and_pages_travel_in_the_wheel(site):
    for name in (
        "scaling/published_scores.csv",
        "scaling/published_models.csv",
        "report/html/page.css",
        "report/html/page.js",
    ):
        assert (site / "gfm_objectives" / name).read_text() == (ROOT / "gfm_objectives" / name).read_text()


def test_configs_travel_in_the_wheel(site, tmp_path):
    shipped = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.yaml")}
    inside = site / "gfm_objectives" / "configs"
    assert {str(p.relative_to(inside)) for p in inside.rglob("*.yaml")} == shipped
    where = "from gfm_objectives.config.files import config_root; print(config_root())"
    run = in_empty_folder(site, tmp_path, sys.executable, "-c", where)
    assert run.stdout.strip() == str(inside), run.stderr


@pytest.mark.parametrize("entry", ["train", "eval", "inspect", "fit", "published", "report", "sweep", "plan"])
def test_console_script_works_from_an_empty_folder(site, tmp_path, entry):
    run = in_empty_folder(site, tmp_path, site / "bin" / "gfm", entry, "--help")
    assert run.returncode == 0 and run.stderr == "" and f"usage: gfm {entry}" in run.stdout
    if entry == "train":
        module = in_empty_folder(site, tmp_path, sys.executable, "-m", "gfm_objectives.cli", entry, "--help")
        assert module.stdout == run.stdout
    typo = in_empty_folder(site, tmp_path, site / "bin" / "gfm", entry, "nmae=x")
    assert typo.returncode == 2 and typo.stderr == "error: nmae: no such key; did you mean name?\n"
    assert not list(tmp_path.iterdir())


def test_results_that_the_release_reads_are_there():
    named = re.findall(r"\$root/(results/\w+)", (ROOT / ".ci" / "release").read_text())
    assert named and all((ROOT / n / "scores.csv").is_file() for n in named)
