"""Configs: groups, overrides, sweeps, names, the way back from a resolved file, and what is refused in which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfm_objectives.cli import COMMANDS
from gfm_objectives.config import compose, leaves, save
from gfm_objectives.config.files import choices, config_root, load_choice, read_entry
from gfm_objectives.config.usage import _comments, usage
from gfm_objectives.errors import InputError

GROUPS = ("objective", "encoder", "data", "budget")


def one(*argv: str, entry: str = "train"):
    (cfg,) = compose(entry, argv)
    return cfg


def refusal(*argv: str, entry: str = "train") -> str:
    with pytest.raises(InputError) as error:
        compose(entry, argv)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_override_keeps_the_type_of_the_default():
    cfg = one("objective=mae", "encoder=tiny", "budget.flops=2e12", "budget.warmup=1e3", "optim.clip=2", "seed=3")
    assert cfg.objective.name == "mae" and cfg.encoder.dim == 192
    assert cfg.budget.flops == 2e12 and isinstance(cfg.budget.flops, float)
    assert cfg.budget.warmup == 1000 and isinstance(cfg.budget.warmup, int)
    assert cfg.optim.clip == 2.0 and isinstance(cfg.optim.clip, float)
    assert cfg.name == "mae-tiny-synthetic-2e12-s3"
    assert dict(cfg.choices) == {"objective": "mae", "encoder": "tiny", "data": "synthetic", "budget": "small"}


def test_null_keys_take_what_they_declare():
    assert one("threads=2").threads == 2
    assert one("name=12").name == "12"
    assert one("name=null").name == one().name
    assert one("overwrite=true").overwrite is True


@pytest.mark.parametrize("text", ["0.8,0.99", "[0.8,0.99]", "[0.8, 0.99]"])
def test_a_key_whose_default_is_a_list_takes_the_list(text):
    assert one(f"optim.betas={text}").optim.betas == [0.8, 0.99]


def test_equal_items_are_meant_where_each_has_a_place():
    assert one("optim.betas=0.9,0.9").optim.betas == [0.9, 0.9]
    assert one("bands=-,B02,-,B03", entry="predict").bands == ["-", "B02", "-", "B03"]


def test_home_is_filled_in_where_the_shell_does_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert one("runs=~/a", "init=null").runs == "/home/me/a" and one("keep_at=~").keep_at is None
    assert one("checkpoint=~/a,b,~/c", entry="eval").checkpoint == ["/home/me/a", "b", "/home/me/c"]


def test_comma_list_sweeps_the_product_with_distinct_names():
    names = [c.name for c in compose("train", ["objective=mae,masked_seg", "seed=0,1", "name=demo"])]
    assert names == ["demo-mae-s0", "demo-mae-s1", "demo-masked_seg-s0", "demo-masked_seg-s1"]
    derived = [c.name for c in compose("train", ["budget.flops=1e12,2.5e12", "optim.lr=1e-3,3e-4"])]
    assert derived[0] == "masked_seg-nano-synthetic-1e12-s0-lr0.001" and len(set(derived)) == 4
    configs = compose("train", ["objective=mae,masked_seg", "objective.mask_ratio=0.4,0.5"])
    assert [(c.objective.name, c.objective.mask_ratio) for c in configs] == [
        ("mae", 0.4),
        ("mae", 0.5),
        ("masked_seg", 0.4),
        ("masked_seg", 0.5),
    ]


def test_eval_lists_do_not_sweep():
    cfg = one("checkpoint=runs/a,runs/b", "fractions=0.2,1.0", "contenders=scratch,unet", entry="eval")
    assert cfg.checkpoint == ["runs/a", "runs/b"] and cfg.fractions == [0.2, 1.0]
    assert cfg.contenders == ["scratch", "unet"]
    assert one("checkpoint=runs/a", "fractions=1", entry="eval").fractions == [1.0]


def test_eval_loads_the_tasks_of_the_suite_and_their_overrides():
    cfg = one("suite=synthetic", entry="eval")
    assert list(cfg.tasks) == list(cfg.suite.tasks)
    first = cfg.suite.tasks[0]
    cfg = one("suite=synthetic", f"suite.tasks={first}", f"tasks.{first}.train=50", entry="eval")
    assert list(cfg.tasks) == [first] and cfg.tasks[first].train == 50
    assert cfg.tasks[first].data.name == "synthetic" and "use" not in cfg.tasks[first].data


def test_a_task_is_a_suite_of_its_own(tmp_path):
    task = choices("task")[0]
    assert list(one(f"suite={task}", entry="eval").tasks) == [task]
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nlayer: label\ndata: {use: hls_water, gsd: 10}\n")
    cfg = one(f"suite={file}", "tasks.mine.train=5", entry="eval")
    assert cfg.tasks.mine.train == 5 and cfg.tasks.mine.data.gsd == 10
    assert cfg.tasks.mine.data.layers == load_choice("data", "hls_water")["layers"]


@pytest.mark.parametrize(
    ("entry", "argv"),
    [
        ("train", ["objective=mae", "budget.flops=2e12", "seed=4"]),
        ("train", ["objective=cross_sensor", "encoder=small", "name=demo", "optim.betas=0.8,0.9"]),
        ("train", ["objective=mix", "objective.parts.temporal.weight=0.5"]),
        ("train", ["data=hls_water"]),
        ("eval", ["suite=synthetic", "checkpoint=runs/a,runs/b"]),
        ("eval", ["suite=hls_water", "tasks.hls_water.train=9", "name=x"]),
        ("eval", ["suite=flood,crop", "tasks.crop.train=9"]),
        ("finetune", ["task=flood", "trials=2"]),
        ("predict", ["model=models/water", "bands=-,B02,-"]),
    ],
)
def test_resolved_config_comes_back_the_same(entry, argv, tmp_path):
    cfg = one(*argv, entry=entry)
    save(cfg, tmp_path / "config.yaml")
    assert one(f"config={tmp_path / 'config.yaml'}", entry=entry) == cfg
    assert one(f"config={tmp_path}", entry=entry) == cfg  # the run folder will do


def test_words_apply_on_top_of_a_resolved_config(tmp_path):
    file = tmp_path / "config.yaml"
    save(one("objective=mae", "objective.mask_ratio=0.6", "encoder=tiny", "optim.lr=2e-3"), file)
    again = one(f"config={file}", "seed=1")
    assert (again.objective.mask_ratio, again.optim.lr, again.encoder.dim) == (0.6, 2e-3, 192)
    assert again.name == "mae-tiny-synthetic-1e13-s1"  # a derived name follows
    other = one("objective=masked_seg", f"config={file}")
    assert other.objective == one("objective=masked_seg").objective and other.optim.lr == 2e-3
    file.write_text(file.read_text().replace("mask_ratio", "mask_rato"))
    assert refusal(f"config={file}").endswith("did you mean objective.mask_ratio?")


def test_a_file_is_a_choice(tmp_path):
    file = tmp_path / "shy.yaml"
    file.write_text("use: mae\nmask_ratio: 0.9\n")
    cfg = one(f"objective={file}", "objective.predict=0.5")
    assert cfg.objective == {**one("objective=mae").objective, "mask_ratio": 0.9, "predict": 0.5}
    assert cfg.name == "shy-nano-synthetic-1e13-s0"
    file.write_text(f"use: {file}\n")
    assert "circle" in refusal(f"objective={file}")


def test_environment_is_asked_for_only_where_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("CHIPS_HERE", raising=False)
    file = tmp_path / "mine.yaml"
    file.write_text("name: chips\nroot: ${oc.env:CHIPS_HERE}/mine\n")
    text = refusal(f"data={file}")
    assert str(file) in text and "export CHIPS_HERE=/folder" in text and "data.root" in text
    assert one(f"data={file}", "data.root=/there").data.root == "/there"
    monkeypatch.setenv("CHIPS_HERE", "/here")
    assert one(f"data={file}").data.root == "/here/mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("objetive=mae", "objetive: no such key; did you mean objective?"),
        ("objective.mask_rato=0.5", "did you mean objective.mask_ratio?"),
        ("budjet.flops=1e13", "did you mean budget.flops?"),
        ("lr=1e-3", "did you mean optim.lr?"),
        ("gpus=5", "gpus: no such key; --help"),
        ("epochs=5", "epochs: no such key; it is one of gfm finetune, and --help"),
        ("objective=supervised objective.mask_ratio=0.5", "with objective=supervised; objective has "),
        ("objective=mea", "did you mean mae? choices: contrastive, cross_sensor, "),
        ("data=hls_waterr", "did you mean hls_water? choices: "),
        ("data=folder/mine.yaml", "data=folder/mine.yaml: no such file"),
        ("config=runs/nope/config.yaml", "runs/nope/config.yaml: no such file"),
        ("budget.flops=-1", "budget.flops=-1: must be from 1e6 to 1e27"),
        ("budget.flops=1", "budget.flops=1: must be from 1e6 to 1e27"),
        ("budget.flops=abc", "budget.flops=abc: expected a number (default 1e13)"),
        ("budget.flops=nan", "expected a number"),
        ("budget.flops=null", "expected a number"),
        ("seed=1.5", "seed=1.5: expected a whole number"),
        ("seed=-1", "seed=-1: must be from 0 to 9223372036854775807"),
        ("overwrite=1", "overwrite=1: expected true or false"),
        ("objective.mask_ratio=1.0", "must be between 0 and 1"),
        ("objective=mix objective.parts.temporal.wieght=0", "did you mean objective.parts.temporal.weight?"),
        ("objective=mix objective.parts.temporal.weight=-1", "must be 0 or more"),
        ("objective.name=mae", "write objective=mae"),
        ("optim=3", "optim is a section; set one of its keys: optim.lr, "),
        ("optim.betas=0.9", "must be 2 values, each 0 or more and less than 1"),
        ("resume=sometimes", "must be one of auto, never"),
        ("device=gpu", "must be one of auto, cpu, cuda, cuda:<number>"),
        ("name=../x", "must be a folder name"),
        ("name=a,b", "one name only"),
        ("seed=0,0", "0 is listed twice"),
        ("keep_at=[1e9,1e9]", "keep_at=1e9,1e9: 1e9 is listed twice"),
        ("data.sensors=[s2", "data.sensors=[s2: must be at least one of s2"),
        ("data.sensors=[s2,,s1]", "data.sensors=s2,,s1: an item of the list is empty"),
        ("data.sensors=" + "[" * 9999, "a list within a list"),
        ("optim.betas=0.9,x", "expected a number (default 0.9,0.95)"),
        ("keep_at=x", "keep_at=x: expected a number"),
        ("seed=" + "9" * 400, "expected a whole number"),
        ("budget.warmup=1e300", "budget.warmup=10000000... (301 digits): must be"),
        ("config=~nosuch.user/x.yaml", "config=~nosuch.user/x.yaml: no such file"),
        ("data=~nosuch.user/x", "data=~nosuch.user/x: no such choice"),
        ("optim.lr=1e-3,0.001", "two runs of this sweep are the same"),
        ("optim.betas.0=0.9", "did you mean optim.betas?"),
        ("seed=0,", "an item of the list is empty"),
        ("seed=", "the value after = is missing"),
        ("=3", "the key before = is missing"),
        ("--objective mae", "write objective=mae"),
        ("--objective=mae", "write objective=mae"),
        ("mae", "did you mean objective=mae?"),
        ("encoder=tiny encoder=small", "given twice"),
    ],
)
def test_refused_in_one_line(words, says):
    assert says in refusal(*words.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("seeds=0", "seeds=0: must be from 1 to 1000"),
        ("fractions=0.2,1.5", "fractions=0.2,1.5: must be at least one, each greater than 0 and at most 1"),
        ("fractions=0", "each greater than 0 and at most 1"),
        ("fractions=[]", "must be at least one"),
        ("world=test", "must be one of dev, final"),
        ("suite=synthetik", "did you mean synthetic?"),
        ("finetune.flops=-3", "finetune.flops=-3: must be a number, from 1e6 to 1e27, or null"),
        ("suite.tasks=nope", "task=nope: no such choice"),
        ("seed=3", "did you mean seeds?"),
        ("suite=[]", "suite=[]: names none; --help suite lists the choices"),
    ],
)
def test_refused_in_one_line_by_eval(words, says):
    assert says in refusal(*words.split(), entry="eval")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [mae\n", "line 2: not valid yaml"),
        ("name: mae\nname: mae\n", "line 2: not valid yaml"),
        ("- mae\n", "expected lines of 'key: value'"),
    ],
)
def test_bad_yaml_is_named(text, says, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert str(file) in refusal(f"objective={file}") and says in refusal(f"objective={file}")


def test_a_config_of_another_kind_is_refused(tmp_path):
    save(one(), tmp_path / "config.yaml")
    assert "not a resolved eval config" in refusal(f"config={tmp_path}", entry="eval")
    assert "not a resolved train config" in refusal(f"config={config_root() / 'train.yaml'}")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("weight_decay: 0.05", "weight_decay: fast", "optim.weight_decay=fast: expected a number"),
        ("seed: 0", "sede: 0", "sede: no such key; did you mean seed?"),
        ("  dim: 64", "  dim: -64", "encoder.dim=-64: must be at least 8"),
        ("flops: 10000000000000.0", "flops: lots", "budget.flops=lots: expected a number"),
        ("  flops: 10000000000000.0\n", "", None),  # what is missing has its default
    ],
)
def test_an_edited_config_is_checked_like_a_command_line(before, after, says, tmp_path):
    file = tmp_path / "config.yaml"
    save(one(), file)
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    if says is None:
        assert one(f"config={file}") == one()
    else:
        assert says in refusal(f"config={file}")


@pytest.mark.parametrize("group", GROUPS)
def test_every_shipped_choice_composes(group):
    assert choices(group)
    for name in choices(group):
        assert one(f"{group}={name}")[group]


def test_every_shipped_suite_and_task_composes():
    for name in choices("suite"):
        cfg = one(f"suite={name}", entry="eval")
        assert len(cfg.tasks) == len(cfg.suite.tasks) >= 1


@pytest.mark.parametrize("entry", [name for name, c in COMMANDS.items() if not c.usage])
def test_every_key_of_a_command_is_explained_in_its_yaml(entry):
    _, (options, _) = read_entry(entry)
    told = _comments(config_root() / f"{entry}.yaml")
    assert [k for k, _ in leaves(options) if not {k, k.rpartition(".")[0]} & told.keys()] == []


@pytest.mark.parametrize("entry", ["train", "eval"])
def test_help_shows_every_choice_and_key(entry):
    text = usage(entry, "python x.py")
    groups = GROUPS if entry == "train" else ("suite",)
    for group in groups:
        for name in choices(group):
            assert f"    {name}" in text
    if entry == "train":
        assert "objective.mask_ratio=0.25" in text and "only with objective=mae" in text
        assert "optim.lr=0.012" in text and "peak learning rate" in text
        assert "budget.flops=1e13" in text
    else:
        assert "finetune.trials=8" in text and "tuning trials" in text
        assert "tasks." not in text and "--help TOPIC tells more of one thing: suite, task" in text
        every = usage(entry, "python x.py", ["task"])
        assert all(f"  tasks.{name}.train=" in every for name in choices("task"))


@pytest.mark.parametrize(
    ("entry", "topic"),
    [*((e, "") for e in ("train", "eval", "inspect")), *(("train", g) for g in GROUPS), ("eval", "task")],
)
def test_every_key_is_explained_and_no_sentence_is_cut(entry, topic):
    text = usage(entry, "gfm x", [topic] if topic else [])
    keys = re.findall(r"^  (\w[\w.]*)=\S*(.*)$", text, re.M)
    groups = {*GROUPS, "suite"}
    assert (
        len(keys) > 5 and [k for k, told in keys if not re.sub(r"\[.*\]$", "", told).strip() and k not in groups] == []
    )
    about = re.findall(r"^    \w+ {2,}(\S.*)$", text, re.M)
    assert [a for a in about if not a.endswith((".", ")"))] == [] and "python train.py" not in text


def test_help_on_one_thing():
    assert usage("train", "gfm train", ["optim"]).count("\n") == 5
    assert usage("eval", "gfm eval", ["flood"]).startswith("suite=flood: Dry land, permanent water and flood")
    assert usage("train", "gfm train", ["encoder=tiny"]).splitlines()[1].startswith("  encoder.cell_dim=96")
    assert usage("eval", "gfm eval", ["tasks.flood.train"]).splitlines()[-1].startswith("  tasks.flood.train=")
    one = usage("finetune", "gfm finetune", ["flood"])  # there a task is not one of several
    assert "  task.train=" in one and "tasks." not in one
    with pytest.raises(InputError, match=r"--help fluud: nothing of that name; a group \(suite, task\)"):
        usage("eval", "gfm eval", ["fluud"])


def test_yaml_beside_yaml(tmp_path, monkeypatch):
    """`use` and `root` are looked for beside the file, then where one is; a task has the name it gives itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "there").mkdir(parents=True)
    data = "name: chips\nroot: there\ngsd: 10\nsensors: {s2: {file: '{chip}.tif', bands: {B02: 1}}}\n"
    (tmp_path / "sub" / "d.yaml").write_text(data)
    (tmp_path / "sub" / "t.yaml").write_text("name: mine\nlayer: label\ndata: {use: ./d.yaml}\n")
    cfg = one("suite=sub/t.yaml", "tasks.mine.train=5", entry="eval")
    assert list(cfg.tasks) == ["mine"] and cfg.tasks.mine.data.root == "sub/there" and cfg.tasks.mine.train == 5
    save(cfg, tmp_path / "config.yaml")
    assert one(f"config={tmp_path / 'config.yaml'}", entry="eval") == cfg
    assert (
        one("data=sub/d.yaml").data.root == "sub/there"
        and one("data=sub/d.yaml", "data.root=there").data.root == "there"
    )
    (tmp_path / "here.yaml").write_text(data)
    (tmp_path / "sub" / "other.yaml").write_text("layer: label\ndata: {use: ./here.yaml}\n")
    assert one("suite=sub/other.yaml", entry="eval").tasks.other.data.root == "there"  # where one is
    (tmp_path / "twin.yaml").write_text("name: mine\nlayer: label\ndata: {use: ./here.yaml}\n")
    with pytest.raises(InputError, match=r"two tasks are named mine; give one another `name:`"):
        one("suite=sub/t.yaml,twin.yaml", entry="eval")
    (tmp_path / "odd.yaml").write_text("name: ../x\nlayer: label\ndata: {use: ./here.yaml}\n")
    with pytest.raises(InputError, match=r"task=odd.yaml: name: '../x' is no name"):
        one("suite=odd.yaml", entry="eval")


def test_any_yaml_of_chips_can_be_used_without_a_part(tmp_path):
    file = tmp_path / "d.yaml"
    file.write_text("name: chips\nroot: there\ngsd: 10\nsensors: {s2: {file: '{chip}.tif', bands: {B02: 1}}}\n")
    plain, less = one(f"data={file}"), one(f"data={file}", "data.without=s2,map")
    assert "without" not in plain.data and less.data.without == ["s2", "map"]
    save(less, tmp_path / "config.yaml")
    assert one(f"config={tmp_path / 'config.yaml'}") == less
    with pytest.raises(InputError, match=r"data.without: no such key with data=synthetic"):
        one("data.without=[s2]")


def test_suites_join():
    assert one("suite=[flood, core]", entry="eval") == one("suite=flood,core", entry="eval")
    cfg = one("suite=flood,core", "suite.tasks=flood,crop", entry="eval")
    assert list(cfg.tasks) == ["flood", "crop"]
    cfg = one("suite=flood,core", "tasks.crop.train=7", entry="eval")
    assert list(cfg.tasks) == ["flood", "landcover", "crop"] and cfg.suite.name == "flood+core"
    assert cfg.tasks.crop.train == 7 and cfg.choices.suite == "flood,core"


@pytest.mark.parametrize(
    ("entry", "words", "says"),
    [
        ("train", "data=flood", "it is a task: eval suite=flood;"),
        ("train", "objective=nano", "it is of another group: encoder=nano;"),
        ("eval", "suite=mmearth", "it is of another group: train data=mmearth;"),
        ("train", "data={desk}", "it is a folder: describe it in a yaml (docs/chips.md)"),
        ("train", "data={desk}/a.csv", "it is a file of another kind"),
        ("train", "encoder={desk}/run", "it is a run folder: eval checkpoint="),
        ("train", "data={desk}/task.yaml", "describes a task; give it to eval, suite="),
        ("eval", "suite={desk}/data.yaml", "describes data, to train on: data="),
        ("train", "data={desk}/empty.yaml", "the file is empty"),
        ("train", "data={desk}/nameless.yaml", "has no line 'name: chips'"),
        ("eval", "suite={desk}/task", "did you mean suite={desk}/task.yaml? "),
        ("inspect", "data={desk}/shards", "it is a folder of shards: data=shards data.root={desk}/shards;"),
        ("train", "data={desk}/synthetic", "nor is there a file or folder of that name;"),
        ("train", "budget=1e13", "no such choice; write budget.flops=1e13;"),
        ("train", "checkpoint=runs/a", "no such key; it is one of gfm eval, gfm export, gfm finetune, and --help"),
        ("eval", "task=flood", "no such key; it is one of gfm finetune, gfm leakage, and --help"),
        ("eval", "metric=iou", "metric: no such key; --help lists every key"),
        ("eval", "runs/a", "runs/a: expected key=value, as in checkpoint="),
        ("predict", "a.tif", "a.tif: expected key=value, as in model=models/water input=scene.tif output=water.tif;"),
        ("eval", "checkpoint runs/a", "checkpoint: expected key=value, with no spaces around ="),
    ],
)
def test_one_thing_given_as_another_says_what_to_type(entry, words, says, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.json").touch()
    (tmp_path / "a.csv").touch()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "index.json").touch()
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "task.yaml").write_text("layer: label\ndata: {use: hls_water}\n")
    (tmp_path / "data.yaml").write_text("name: chips\nroot: here\nsensors: {}\n")
    (tmp_path / "nameless.yaml").write_text("gsd: 10.0\n")
    assert says.format(desk=tmp_path) in refusal(*words.format(desk=tmp_path).split(), entry=entry)


@pytest.mark.parametrize("name", [n for n in choices("encoder") if n != "published"])  # as large as what it is of
def test_every_encoder_builds_with_the_parameters_it_names(name):
    import torch

    from gfm_objectives.batch import Spec
    from gfm_objectives.models import build_encoder
    from gfm_objectives.sensors import S2_TEN, SENSORS

    bands = {"s2": S2_TEN, "s1": SENSORS["s1"].band_names, "dem": SENSORS["dem"].band_names}
    spec = Spec(bands, {"s2": 4, "s1": 4, "dem": 1}, 64, 10.0, {})
    with torch.device("meta"):
        millions = sum(p.numel() for p in build_encoder(load_choice("encoder", name), spec).parameters()) / 1e6
    said = float((config_root() / "encoder" / f"{name}.yaml").read_text().split()[1])
    assert abs(said / millions - 1) < 0.05, f"{name}.yaml says {said} M parameters, it has {millions:.2f} M"


def test_every_choice_says_what_it_is():
    for file in Path(config_root()).rglob("*.yaml"):
        assert file.read_text().startswith("# "), f"{file}: the first line must be a comment that says what it is"
