"""gfm prepare alone in its folder, after kills and damage; what it writes is tested by test_shards."""

from __future__ import annotations

import errno
import os
from unittest.mock import MagicMock, Mock

import pytest
from test_shards import Places, config

from gfm_objectives import data, lock
from gfm_objectives.data import prepare
from gfm_objectives.errors import InputError


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "places", f"{Places.__module__}:{Places.__name__}")


def test_what_a_kill_or_damage_leaves_is_written_again(tmp_path):
    whole = prepare.run(config(tmp_path / "whole"))
    root = tmp_path / "p"
    root.mkdir()
    (root / ".writing-plan.json").write_text("{")  # killed while it wrote its first file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_index", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config(tmp_path))
    assert not (root / ".lock").exists() and (root / "plan.json").exists()
    (root / "pretrain" / "00000.json").write_text('{"file": ')
    (root / "pretrain" / "00001.json").write_text("[]")
    prepare.run(config(tmp_path))
    for path in sorted((whole / "pretrain").iterdir()):
        assert (root / "pretrain" / path.name).read_bytes() == path.read_bytes(), path.name


def stop(*_):
    raise KeyboardInterrupt


def test_an_interrupt_ends_the_workers_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    worker = Mock()
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", MagicMock())
    monkeypatch.setattr(prepare.multiprocessing, "active_children", lambda: [worker])

    def interrupt(futures):
        (tmp_path / "p" / "pretrain").mkdir()
        (tmp_path / "p" / "pretrain" / ".writing-00000.bin").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config(tmp_path, workers=2))
    worker.kill.assert_called_once_with()
    assert sorted(p.name for p in (tmp_path / "p").rglob("*")) == ["plan.json", "pretrain"]


def test_overwrite_deletes_shards_alone(tmp_path):
    (tmp_path / "p").mkdir()
    (mine := tmp_path / "p" / "scene.tif").write_text("dear")
    with pytest.raises(InputError, match="holds files that are no shards; choose another name="):
        prepare.run(config(tmp_path, overwrite=True))
    assert mine.read_text() == "dear"
    root = prepare.run(config(tmp_path / "made"))
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match="holds the data that is read; choose another out= or name="):
        prepare.run(config(root.parent, overwrite=True, data={"name": "shards", "root": str(root)}))
    assert sorted(root.rglob("*")) == before


def test_two_at_once_are_refused_and_overwrite_keeps_the_lock(tmp_path, monkeypatch):
    prepare.run(config(tmp_path))
    held = {}

    def look(*about):
        held["lock"] = (tmp_path / "p" / ".lock").read_text()
        with monkeypatch.context() as patch:
            patch.setattr(lock, "_held", {})
            taken = OSError(errno.EAGAIN, "Resource temporarily unavailable")
            patch.setattr(lock.fcntl, "lockf", Mock(side_effect=taken))  # as any other process would find it
            with pytest.raises(InputError, match=r"p: in use by another process \(.*give another name="):
                prepare.run(config(tmp_path))
        return write(*about)

    write = prepare.write
    monkeypatch.setattr(prepare, "write", look)
    prepare.run(config(tmp_path, overwrite=True))
    assert str(os.getpid()) in held["lock"] and not (tmp_path / "p" / ".lock").exists()
