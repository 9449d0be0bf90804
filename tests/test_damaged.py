"""Damaged ledgers, checkpoints, scores and weights are told in one line with the remedy, and never executed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small import config, make_run
from test_pretrain import small

from gfm_objectives import cli, compare, lock, pretrain
from gfm_objectives.compare.rows import contenders
from gfm_objectives.compare.trials import TrialLog
from gfm_objectives.data import build_source
from gfm_objectives.errors import InputError
from gfm_objectives.report import figures
from gfm_objectives.report.html import pictures
from gfm_objectives.runs.checkpoint import check_state, load_model, read_weights
from gfm_objectives.runs.folder import open_folder, using
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.scores import Score, Store


class Opened:
    """What a malicious file would do when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def refusal(call, *args) -> str:
    with pytest.raises(InputError) as error:
        call(*args)
    text = str(error.value)
    assert "\n" not in text and ";" in text and "weights_only=False" not in text and "pickle" not in text
    return text


@pytest.mark.parametrize("content", ['{"objective": "ma', "[1, 2]", "3", '{"objective": "mae"}', "", "\x00"])
def test_a_damaged_ledger(content, tmp_path):
    run = Path(make_run(tmp_path / "a"))
    (run / "ledger.json").write_text(content)
    assert refusal(Ledger.read, run / "ledger.json").startswith(f"{run}/ledger.json: damaged, no ledger; bring")


@pytest.mark.parametrize(("key", "value"), [("seed", "one"), ("flops_spent", None), ("flops_budget", [1])])
def test_a_ledger_of_wrong_types(key, value, tmp_path):
    path = Path(make_run(tmp_path / "a")) / "ledger.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert f"damaged, {key} is {value!r} and no number" in refusal(Ledger.read, path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("encoder.json", "[]"),
        ("encoder.json", '{"format": "new"}'),
        ("encoder.json", '{"format": 3, "options": [], "bands": {}}'),
        ("encoder.safetensors", "no weights"),
        ("config.yaml", "name: ["),
    ],
)
def test_a_damaged_run_in_a_comparison(file, content, tmp_path):
    run = Path(make_run(tmp_path / "a"))
    (run / file).write_text(content)
    if file == "config.yaml":
        with pytest.raises(InputError, match=r"config\.yaml, line \d: not valid yaml"):
            contenders(["pretrained"], [str(run)], 1, None)
    else:
        assert "damaged or do not match" in refusal(load_model, run)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (2, "of an encoder that merged dates later (format 2); train it again"),
        (4, "written by a newer gfm-objectives (format 4); upgrade"),
    ],
)
def test_a_run_of_another_format(number, says, tmp_path):
    run = Path(make_run(tmp_path / "a"))
    about = json.loads((run / "encoder.json").read_text())
    (run / "encoder.json").write_text(json.dumps(about | {"format": number}))
    assert refusal(load_model, run) == f"{run}: {says}"


def test_a_damaged_checkpoint_of_an_unfinished_run(tmp_path):
    path, executed = tmp_path / "last.ckpt", tmp_path / "executed"
    torch.save({"run": {"step": 3}, "state_dict": {"a": torch.zeros(1000)}}, path)
    assert "of an earlier version" in refusal(check_state, path)
    torch.save({"run": {"step": 3}, "state_dict": {"a": torch.zeros(1000)}, "optimizer": {}}, path)
    check_state(path)
    whole = path.read_bytes()
    for content in (whole[:2000], whole[:-30], b"", b"no checkpoint", bytes(1000)):
        path.write_bytes(content)
        assert "delete it, and the same command starts again" in refusal(check_state, path)
    torch.save({"run": Opened(executed), "state_dict": {}, "optimizer": {}}, path)
    assert "holds more than tensors and plain values" in refusal(check_state, path)
    torch.save([1], path)
    assert "no checkpoint of a run" in refusal(check_state, path)
    assert not executed.exists()


def test_it_is_told_before_anything_is_trained(tmp_path):
    cfg = small(tmp_path)
    with using(cfg):
        out = open_folder(cfg)
    (out / "checkpoints" / "last.ckpt").write_text("cut off")
    (out / "checkpoints" / "last.tmp").touch()
    (out / ".writing-ledger.json").touch()
    assert "last.ckpt" in refusal(pretrain.run, cfg)
    assert sorted(os.listdir(out)) == ["checkpoints", "config.yaml"]  # scratch files and the lock are gone
    assert os.listdir(out / "checkpoints") == ["last.ckpt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay", "RUN"], "run=RUN: its config.yaml is of no pretraining run; write gfm replay"),
        (["finetune", "settings=RUN"], "settings=RUN: its config.yaml is of no comparison; give a results folder"),
    ],
)
def test_the_folder_of_another_program(words, says, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("name: x\nmodels: models\n")
    assert cli.main([w.replace("RUN", str(tmp_path)) for w in words]) == 2
    err = capsys.readouterr().err
    assert says.replace("RUN", str(tmp_path)) in err and err.count("\n") == 1


def test_overwrite_deletes_runs_alone(tmp_path):
    cfg = small(tmp_path, "overwrite=true")
    other = Path(cfg.runs) / cfg.name
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("debug: true\n")  # as many a project has
    with using(cfg):
        assert "holds a config.yaml and no run; choose another name=" in refusal(open_folder, cfg)
    assert os.listdir(other) == ["config.yaml"]
    (other / "checkpoints").mkdir()
    begun = small(tmp_path, "overwrite=true", f"init={other}")
    with using(begun):
        assert "overwrite=true would delete; choose another name=" in refusal(open_folder, begun)
    assert (other / "config.yaml").exists()


def test_another_process_in_the_folder_is_left_alone(tmp_path, monkeypatch):
    cfg = small(tmp_path, "overwrite=true")
    with using(cfg):
        out = open_folder(cfg)
        (out / "metrics.tmp").touch()
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_RANK", "1")  # a further process of this run, on another GPU
            assert open_folder(cfg) == out and (out / "config.yaml").exists()
        held = lock._held.copy()
        monkeypatch.setattr(lock, "_held", {})  # as any other process would have it
        with pytest.raises(InputError, match="x"), using(cfg):
            raise InputError("x")
        monkeypatch.setattr(lock, "_held", held)
        assert (out / "metrics.tmp").exists()
    assert sorted(os.listdir(out)) == ["checkpoints", "config.yaml", "metrics.tmp"]
    with using(cfg):
        open_folder(cfg)  # overwrite
        assert sorted(os.listdir(out)) == [".lock", "checkpoints", "config.yaml"]


def stored(folder: Path) -> Store:
    store = Store(folder)
    stats = np.ones((2, 2, 2))
    about = {"task": "t", "fraction": 1.0, "seed": 0, "kind": "unet", "metric": "miou", "role": "scratch"}
    for name in ("a", "b"):
        store.add(Score.measured(stats, None, contender=name, **about))
    return Store(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("scores.csv", "t,1.0,b", "t,one,b", "line 3: damaged (could not convert string to float: 'one')"),
        ("scores.csv", "False", "Maybe", "line 2: damaged"),
        ("statistics.csv", "2;2;2", "2;2;3", "line 2: damaged"),
        ("statistics.csv", "2;2;2,eN", "2;2;2,??", "line 2: damaged"),
        ("scores.csv", "t,1.0,b", "t,\udcff,b", "damaged, no text; bring it back"),
    ],
)
def test_damaged_scores(file, old, new, says, tmp_path):
    store = stored(tmp_path)
    assert len(store.load()) == 2
    path = tmp_path / file
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode(errors="surrogateescape")))
    told = refusal(Store(tmp_path).load)
    assert told.startswith(f"{path}") and says in told


@pytest.mark.parametrize("line", ['{"key": "a", "cell', "[]", '{"key": 3}', "\x00"])
def test_a_damaged_trial(line, tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(f"{line}\n")
    assert refusal(TrialLog, path).startswith(f"{path}, line 1: damaged, no trial; delete the line")
    path.write_text(line)  # the torn line of a kill
    assert TrialLog(path).rows == {} and path.read_text() == line  # reading writes nothing


def test_a_plan_leaves_nothing_behind(tmp_path):
    compare.run(config(tmp_path, plan_only=True, contenders=["unet"], fractions=[1.0]))
    assert os.listdir(tmp_path) == []


def test_weights_of_others_are_never_executed(tmp_path):
    path, executed = tmp_path / "w.pth", tmp_path / "executed"
    torch.save({"a": Opened(executed)}, path)
    told = refusal(contenders, ["unet_imagenet"], [], 1, str(path))
    assert told.startswith(f"unet.weights={path}: holds more than tensors") and not executed.exists()
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    assert "not torchvision's resnet34" in refusal(contenders, ["unet_imagenet"], [], 1, str(path))


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"}", b"(", b"0", b"2", b"a", b"e", b"s", b"u", b"\x85", b"R", b"J\xff\xff"]
)
def test_any_bytes_given_as_weights_are_one_line(content, tmp_path):
    """torch reads them as instructions, which take from a stack that is empty."""
    (tmp_path / "table.csv").write_bytes(content)
    for call in (lambda: read_weights(tmp_path / "table.csv", "init"), lambda: check_state(tmp_path / "table.csv")):
        assert "table.csv: " in refusal(call)


def test_damaged_predictions_are_one_line_wherever_they_are_drawn(tmp_path):
    (tmp_path / "predictions.npz").write_bytes(b"PK\x03\x04 and no more")
    for draw in (
        lambda: pictures.section({"tasks": []}, {}, tmp_path),
        lambda: figures.draw({"gains": [], "fractions": [1.0], "tasks": []}, None, tmp_path, {}, []),
    ):
        assert "predictions.npz: damaged; delete it, and the report lacks its pictures" in refusal(draw)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"splits": {"train": {}}},
        {"splits": 3},
        {"splits": {"train": {"fingerprint": "f", "shards": [], "places": "x"}}, "spec": {"bands": 1}},
    ],
)
def test_an_index_of_shards_that_lacks_something_is_one_line(index, tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"format": "gfm-shards-1", **index}))
    told = refusal(build_source, {"name": "shards", "root": str(tmp_path)}, "train")
    assert "index.json: damaged (" in told and "run gfm prepare again" in told and "\n" not in told
