"""Ranges: the language of a yaml's `ranges` section, what it refuses, in which words; that it leaves no trace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from gfm_objectives.cli import COMMANDS
from gfm_objectives.config import compose, leaves
from gfm_objectives.config.files import choices, config_root, read_entry
from gfm_objectives.config.ranges import find, parse_range
from gfm_objectives.config.usage import usage
from gfm_objectives.errors import InputError
from gfm_objectives.runs.provenance import config_hash

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
OTHERS = {"limit": 8.0, "heads": 3, "none": None}  # other options, for limits by them


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("x > 0", [1, 0.5], [0, -1, "1", True, None, [1], float("nan"), float("inf")]),
        ("0 < x < 1", [0.5], [0, 1]),
        ("0 <= x <= 1", [0, 1, 0.5], [-0.1, 1.1]),
        ("0<=x<1", [0], [1]),
        ("x >= 1e-3", [1e-3], [9e-4]),
        ("-1 <= x", [-1], [-1.5]),
        ("int >= 2", [2], [1, 2.5, None]),
        ("int >= 2 or null", [2, None], [1]),
        ("float", [1, 1.5], ["a", True, None]),
        ("float 0 < x <= 1 or null", [1, None], [2]),
        ("bool", [True], [1, "true"]),
        ("text or null", ["", None], [1]),
        ("folder", ["a-1.b+c_"], ["../x", "a/b", "-a", ""]),
        ("all | hidden", ["all"], ["some", 1, None]),
        ("2 | 4 | 8", [4, 4.0], [3, "4", True]),
        ("auto | cuda:<number>", ["auto", "cuda:12"], ["cuda", "cuda:x", "cuda:1.5"]),
        ("2 of 0 <= x < 1", [[0, 0.5]], [[0.5], [0, 1], [0, 0, 0], 0.5]),
        ("some of a | b", [["a"], ["b", "a"]], [[], ["c"], "a"]),
        ("list of text or null", [[], ["a"], None], [[1], "a"]),
        ("0 < x <= limit", [8], [0, 9]),
        ("x % heads == 0", [6], [5]),
        ("x >= 8 and x % 4 == 0", [8, 12], [4, 9]),
        ("0 < x <= none", [9], [0]),  # null sets no limit
    ],
)
def test_what_lies_in_a_range(text, inside, outside):
    stated = parse_range(text)
    assert [v for v in inside if not stated.holds(v, OTHERS)] == []
    assert [v for v in outside if stated.holds(v, OTHERS)] == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "y > 0", "> 0", "0 > x > 1", "0 < x > 1", "0 < 1", "word", "x = 1", "x == 1", "x != 1", "3"),
        *("itn >= 1", "int x", "text > 0", "a | null", "true | false", "a |", "x > 0 or x < -1", "x % 2 == 1"),
        *("some of", "two of text", "int > 0 and", "x > (1)", "x > __import__('os').getpid()"),
    ],
)
def test_what_is_no_range(text):
    assert parse_range(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 < x < 1", "between 0 and 1, both excluded"),
        ("0 <= x <= 0.95", "from 0 to 0.95"),
        ("0 <= x < 1", "0 or more and less than 1"),
        ("x > 1e13", "greater than 1e13"),
        ("int >= 1 or null", "a whole number, at least 1, or null"),
        ("all | hidden", "one of all, hidden"),
        ("some of a | b", "at least one of a, b"),
        ("list of a | b", "a list of a, b"),
        ("2 of 0 <= x < 1", "2 values, each 0 or more and less than 1"),
        ("some of text", "at least one"),
        ("0 < x <= limit", "greater than 0 and at most limit=8"),
        ("x >= 8 and x % heads == 0", "at least 8 and divisible by heads=3"),
    ],
)
def test_a_range_in_words(text, says):
    assert parse_range(text).words(OTHERS) == says


def shy(folder: Path, ranges: str) -> str:
    file = folder / "shy.yaml"
    file.write_text(f"# Shy.\nuse: mae\nname: mae\nsee: null\nlooks: {{near: 2, far: 3}}\nranges: {ranges}\n")
    return f"objective={file}"


def refusal(*argv: str, entry: str = "train") -> str:
    with pytest.raises(InputError) as error:
        compose(entry, argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ("{mask_ratio: 0 < y < 1}", "ranges.mask_ratio: 0 < y < 1: not a range; write one such as 0 < x < 1, "),
        ("{mask_ratio: 3}", "ranges.mask_ratio: 3: not a range"),
        ("{mask_rato: x > 0}", "ranges.mask_rato: x > 0: the file has no key mask_rato; did you mean mask_ratio?"),
        ("{mask_ratio: x < looks.nea}", "the file has no key looks.nea; did you mean looks.near?"),
        ("{see: x > 0}", "ranges.see: x > 0: the default is null, so name the type too"),
        ("0 < x < 1", "ranges: expected lines of 'key: range'"),
    ],
)
def test_a_faulty_range_names_file_and_key(ranges, says, tmp_path):
    text = refusal(shy(tmp_path, ranges))
    assert text.startswith(f"{tmp_path / 'shy.yaml'}: ranges") and says in text


def test_a_yaml_of_ones_own_states_its_ranges(tmp_path):
    mine = shy(
        tmp_path, '{mask_ratio: 0 < x < 0.5, see: some of text or null, "looks.*": x >= 2, looks.far: x > looks.near}'
    )
    assert "objective.mask_ratio=0.75: must be between 0 and 0.5, both excluded" == refusal(mine)  # mae's own default
    fits = (mine, "objective.mask_ratio=0.4")
    (cfg,) = compose("train", [*fits, "objective.see=a,b"])
    assert cfg.objective.see == ["a", "b"] and "ranges" not in cfg.objective  # a list where the default is null
    assert compose("train", [*fits, "objective.see=null"])[0].objective.see is None
    assert refusal(*fits, "objective.looks.near=1") == "objective.looks.near=1: must be at least 2"
    assert (
        refusal(*fits, "objective.looks.far=2") == "objective.looks.far=2: must be greater than objective.looks.near=2"
    )
    assert refusal(*fits, "objective.predict=2").endswith("must be greater than 0 and at most 1")  # of what it uses


def test_a_yaml_without_ranges_is_not_checked(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\nname: chips\nroot: /there\nclouds: 7\n")
    assert compose("train", [f"data={file}", "data.clouds=9"])[0].data.clouds == 9
    file.write_text("# Mine.\nlayer: label\ndata: {use: hls_water, size: -1}\n")
    assert refusal(f"suite={file}", entry="eval").startswith(
        "tasks.mine.data.size=-1: must be a whole number, from 1 to 65536"
    )
    assert refusal(f"suite={file}", "tasks.mine.train=0", "tasks.mine.data.size=8", entry="eval").startswith(
        "tasks.mine.train=0"
    )


@pytest.mark.parametrize(
    ("entry", "words", "says"),
    [
        (
            "train",
            "encoder.heads=3",
            "encoder.dim=64: must be at least 8 and at most 8192 and divisible by 8 and divisible by encoder.heads=3",
        ),
        (
            "train",
            "encoder=tiny encoder.dim=63",
            "encoder.dim=63: must be at least 8 and at most 8192 and divisible by 8",
        ),
        ("train", "encoder.patch=7", "encoder.patch=7: must be one of 4, 8, 16, "),
        ("train", "encoder.patches=[16,6]", "encoder.patches=16,6: must be a list of 4, 8"),
        ("train", "encoder.cell_dim=20", "encoder.cell_dim=20: must be at least 8 and at most 4096 and divisible by 8"),
        ("train", "encoder.width=1", "encoder.width=1: must be at least 4 and at most 1024 and divisible by 4"),
        ("train", "encoder.optim.lr=0", "encoder.optim.lr=0: must be greater than 0"),
        ("train", "encoder=unet encoder.width=6", "encoder.width=6: must be at least 8 and divisible by 8"),
        ("train", "data.places.train=0", "data.places.train=0: must be from 1 to 1e12"),
        ("train", "data.regions.test=-1", "data.regions.test=-1: must be from 1 to 1e6"),
        ("train", "data=hls_water data.gsd=-1", "data.gsd=-1: must be greater than 0 and at most 1e6"),
        ("train", "budget=medium budget.flops=1e30", "budget.flops=1e30: must be from 1e6 to 1e27"),
        ("train", "objective=mae objective.kinds=randm", "must be at least one of random, cell, block, date, sensor"),
        ("train", "objective=mix objective.parts.masked_seg.seen_weight=2", "seen_weight=2: must be from 0 to 1"),
        ("train", "objective=thor objective.parts.cross_sensor.weight=-1", "weight=-1: must be 0 or more"),
        ("train", "objective=mae objective.encode=some", "objective.encode=some: must be one of all, seen"),
        ("train", "objective=latent objective.within=all", "objective.within=all: must be one of sensor, place"),
        ("eval", "finetune.start=1e13", "finetune.start=1e13: must be from 1e6 to finetune.limit=8e12"),
        ("eval", "suite=crop suite.tasks=[]", "suite.tasks=[]: must be at least one"),
        ("eval", "suite=crop tasks.crop.data.dates=0", "tasks.crop.data.dates=0: must be from 1 to 24"),
        ("eval", "suite=hls_water tasks.hls_water.data.gsd=-1", "data.gsd=-1: must be greater than 0 and at most 1e6"),
        ("eval", "suite=crop tasks.crop.train=0", "tasks.crop.train=0: must be a whole number, at least 1, or null"),
        ("inspect", "places=0", "places=0: must be at least 1, or null"),
    ],
)
def test_what_shipped_ranges_refuse(entry, words, says):
    assert says in refusal(*words.split(), entry=entry)


def test_null_is_taken_where_the_range_says_so():
    assert compose("inspect", ["places=null"])[0].places is None
    assert compose("eval", ["suite=crop", "tasks.crop.train=null"])[0].tasks.crop.train is None


OPEN = {"scale", "offset", "nodata", "min_area", "simplify", "at", "tests.entropy", "places"}  # any size is right


@pytest.mark.parametrize("entry", [name for name, c in COMMANDS.items() if not c.usage])
def test_every_number_of_a_command_has_limits_on_both_sides(entry):
    _, (options, ranges) = read_entry(entry)
    for key, value in leaves(options):
        stated = find(ranges, key)
        like = value if value is not None else stated and stated.like
        one = like[0] if isinstance(like, list) and like else like
        if isinstance(one, int | float) and not isinstance(one, bool) and key not in OPEN:
            assert stated, f"{entry}.yaml: {key}"
            sides = {limit.operator[0] for limit in stated.limits}
            assert sides >= {"<", ">"}, f"{entry}.yaml: {key}: {stated.text}"


def test_help_shows_the_range_beside_the_key():
    text = usage("train", "python train.py")
    assert re.search(r"^  objective\.mask_ratio=0\.25 .*\[0 < x < 1\]$", text, re.M)
    assert re.search(r"^  objective\.parts\.temporal\.weight=1 .*\[x >= 0\]$", text, re.M)
    assert "ranges" not in text


def test_resolved_configs_and_their_hashes_are_those_of_the_yaml_without_ranges(tmp_path, monkeypatch):
    commands = [
        (entry, words.split())
        for page in PAGES
        for entry, words in re.findall(
            r"(?:python |gfm )(train|eval|inspect)(?:\.py)?((?: [\w.]+=[\w.,/-]+)+)", page.read_text()
        )
        if not re.search(r"=\S+\.yaml|=blur", words)
    ]
    commands += [("train", [f"{g}={c}"]) for g in ("objective", "encoder", "data", "budget") for c in choices(g)]
    commands += [("eval", [f"suite={c}"]) for c in choices("suite")]
    assert len(commands) > 40
    checked = [compose(entry, words) for entry, words in commands]
    root = shutil.copytree(config_root(), tmp_path / "configs")
    stated = 0
    for file in root.rglob("*.yaml"):
        plain, found, section = file.read_text().partition("\nranges:")
        stated += len(yaml.safe_load(f"ranges:{section}")["ranges"]) if found else 0
        file.write_text(plain + "\n")
    assert stated > 100  # that there is something to leave a trace
    monkeypatch.setattr("gfm_objectives.config.files.config_root", lambda: root)
    for (entry, words), before in zip(commands, checked, strict=True):
        after = compose(entry, words)
        assert after == before and [*map(config_hash, after)] == [*map(config_hash, before)], words
