"""The documentation builds as a site without a warning, every page of it is reached, and its CI runs what is here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def test_every_page_is_in_the_navigation():
    def pages(node):
        if isinstance(node, str):
            return [node]
        return [p for child in (node.values() if isinstance(node, dict) else node) for p in pages(child)]

    reached = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(reached) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("zensical", reason="NOT BUILT: the documentation; install the group docs")
    for name in ("docs", "zensical.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    program = Path(sys.executable).with_name("zensical")
    built = subprocess.run([program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "TerraMind-L is at +1.99" in (tmp_path / "build/site/scaling/index.html").read_text()


def test_what_the_docs_say_of_published_models_is_what_is_computed():
    from gfm_objectives.scaling import published

    text = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    large, few = published.facts()[0], published.facts()[1].split(";")[0]
    assert large in text and few in text and published.facts()[2] in text


@pytest.mark.parametrize("name", ["ci", "release"])
def test_workflows_run_scripts_that_exist(name):
    flow = yaml.safe_load((ROOT / ".github/workflows" / f"{name}.yml").read_text())
    runs = [s["run"] for job in flow["jobs"].values() for s in job["steps"] if "run" in s]
    scripts = [r for r in runs if r.startswith(".ci/")]
    assert scripts and all((ROOT / s).stat().st_mode & 0o100 for s in scripts)
