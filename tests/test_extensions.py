"""An objective in a package of its own: the one of docs/objective.md, as a user would install it."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from test_pretrain import small

from gfm_objectives import cli, config, pretrain
from gfm_objectives.config.files import choices
from gfm_objectives.errors import InputError
from gfm_objectives.objectives import find_objective

HOW_TO = (Path(__file__).parents[1] / "docs" / "objective.md").read_text()


def block(language: str, word: str) -> str:
    (text,) = (b for b in re.findall(rf"```{language}\n(.*?)```", HOW_TO, re.S) if word in b)
    return text


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with that one in it; further ones are broken in one way each."""
    site = tmp_path / "site"
    about = site / "blur_objective-0.1.dist-info"
    about.mkdir(parents=True)
    (site / "blur_objective.py").write_text(block("python", "class Blur"))
    (site / "blur.yaml").write_text(block("yaml", "name: blur"))
    (site / "noyaml.py").write_text("")
    (site / "rude_package").mkdir()
    (site / "rude_package" / "__init__.py").write_text("raise ValueError('not today')")
    (site / "torn.py").write_text("")
    (site / "torn.yaml").write_text("# Torn.\nname: [torn")
    for name in ("crash", "nothing"):
        (site / f"{name}.yaml").write_text(f"# Broken.\nname: {name}\n")
    (site / "crash_objective.py").write_text("import no_such_library")
    (site / "nothing_objective.py").write_text("nothing = None")
    points = tomllib.loads(block("toml", "blur"))["project"]["entry-points"]
    points["gfm_objectives.objectives"] |= {
        "noyaml": "noyaml:X",
        "gone": "no_such_package.module:X",
        "rude": "rude_package.module:X",
        "torn": "torn:X",
        "crash": "crash_objective:X",
        "nothing": "nothing_objective:nothing",
    }
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: blur-objective\nVersion: 0.1\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in points.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(site)
    yield site
    for module in ("blur_objective", "nothing_objective"):
        sys.modules.pop(module, None)


def test_it_trains_like_any_other(site: Path, tmp_path: Path) -> None:
    cfg = small(tmp_path, "objective=blur", "objective.mask_ratio=0.25")
    assert cfg.objective == {"name": "blur", "mask_ratio": 0.25} and "blur_objective" not in sys.modules
    run = pretrain.run(cfg)
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["objective"] == "blur" and ledger["flops_spent"] == pytest.approx(1e10, rel=0.005)
    (again,) = config.compose("train", [f"config={run}"])
    assert again.objective == cfg.objective


def test_help_and_hints_know_it(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^    blur +Predict the mean colour", told, re.M)
    for word, says in (
        ("objective=blurr", "did you mean blur?"),
        ("blur", "did you mean objective=blur?"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            config.compose("train", [word])
    with pytest.raises(InputError, match=r"no such key with objective=blur; did you mean objective\.mask_ratio\?"):
        config.compose("train", ["objective=blur", "objective.mask_rato=0.5"])
    assert "blur_objective" not in sys.modules


def test_its_ranges_are_checked_and_a_faulty_one_names_its_file(site: Path) -> None:
    with pytest.raises(InputError, match=r"^objective\.mask_ratio=2: must be between 0 and 1, both excluded$"):
        config.compose("train", ["objective=blur", "objective.mask_ratio=2"])
    file = site / "blur.yaml"
    assert "0 < x < 1" in file.read_text()
    file.write_text(file.read_text().replace("0 < x < 1}", "x betwen 0 and 1}"))
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(file))}: ranges\.mask_ratio: x betwen 0 and 1: not a range;"
    ):
        config.compose("train", ["objective=blur"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("crash", "crash_objective:X cannot be loaded: No module named 'no_such_library'"),
        ("nothing", "nothing_objective:nothing is not a subclass of Objective"),
        ("absent", "no such objective; choose from contrastive, .*blur"),
    ],
)
def test_a_broken_one_says_so_when_it_is_asked_for(name: str, says: str, site: Path) -> None:
    with pytest.raises(InputError, match=says):
        find_objective(name)


def test_a_broken_one_breaks_only_itself(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["--help", "objective"], ["--help", "blur"]):
        assert cli.train(words) == 0
    told = capsys.readouterr().out
    assert re.search(r"^    torn +\(broken: group=choice says", told, re.M) and "rude" not in told
    assert config.compose("train", ["objective=blur"]) and config.compose("train", ["objective=mae"])
    with pytest.raises(InputError, match=r"torn\.yaml, line 2: not valid yaml"):
        config.compose("train", ["objective=torn"])


@pytest.mark.parametrize("name", ["noyaml", "gone", "rude"])
def test_one_without_options_is_no_choice(name: str, site: Path) -> None:
    assert name not in choices("objective")
    told = rf"^objective={name}: the package blur-objective has no \S*{name}\.yaml, .* to ship it .*: name: {name}$"
    with pytest.raises(InputError, match=told):
        config.compose("train", [f"objective={name}"])
    assert config.compose("train", ["objective=blur", "seed=1"]) and choices("objective")
