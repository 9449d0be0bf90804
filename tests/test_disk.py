"""Faults of the machine: one line each, nothing half written, one process for a folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from kept import kept
from safetensors import SafetensorError
from safetensors.torch import load_file

from gfm_objectives import cli, disk, lock
from gfm_objectives.errors import InputError, InputWarning, explain


def test_tensors_are_readable_by_whom_other_files_are(tmp_path: Path):
    """safetensors leaves them to their owner alone."""
    before = os.umask(0o027)
    try:
        for turn in range(2):  # written anew, too
            disk.write_tensors(tmp_path / "a.safetensors", {"x": torch.full((2,), float(turn))}, {"note": "n"})
            disk.write(tmp_path / "b.json", "{}")
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {"a.safetensors": 0o640, "b.json": 0o640}
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1]


def test_no_file_that_others_are_to_read_is_written_by_safetensors_itself():
    package = Path(disk.__file__).parent
    users = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if "save_file(" in p.read_text()}
    assert users == {"disk.py", "runs/segmenter.py"}  # the second for itself, in a temporary folder


def test_every_file_is_written_whole_or_not_at_all():
    """Through `disk`, or beside its place and renamed: a full disk or a kill in the middle leaves what was there."""
    package = Path(disk.__file__).parent
    writes = re.compile(r"\.write_(text|bytes)\(|\.open\(\"w|write_table\(|\.savefig\((?!out)|\.save\(folder")
    aside = re.compile(r"scratch|\bpart\.|\btemporary\.|with_suffix\(\"\.tmp\"\)|/proc/")
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text().splitlines()
        if path.name != "disk.py" and writes.search(line) and not aside.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("content", ["{", "", "3", '"text"', "\x00", "[" * 5000])
def test_a_damaged_json_is_told_with_the_remedy(content, tmp_path):
    path = tmp_path / "gain.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"gain\.json: damaged, no JSON of ours; delete it") as error:
        disk.read_json(path, "delete it")
    assert "\n" not in str(error.value)
    path.write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="damaged"):
        disk.read_json(path, "delete it", None)
    path.write_text('[{"a": 1}]')
    assert disk.read_json(path, "delete it", None) == [{"a": 1}]


@pytest.mark.parametrize(("content", "needs"), [("[]", ()), ('{"a": 1}', ["b"]), ('{"a": 1}', None), ("[3]", None)])
def test_a_json_of_another_kind_is_damaged_too(content, needs, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: damaged"):
        disk.read_json(tmp_path / "a.json", "delete it", needs)


def test_text_is_utf_8_whatever_the_language_of_the_machine(tmp_path, monkeypatch):
    def latin(path: Path, text: str, encoding: str = "latin-1") -> None:
        path.write_bytes(text.encode(encoding))

    monkeypatch.setattr(Path, "write_text", latin)
    disk.write(tmp_path / "a.json", '{"é": "→"}')
    assert (tmp_path / "a.json").read_bytes().decode("utf-8") == '{"é": "→"}'
    assert disk.read_json(tmp_path / "a.json", "") == {"é": "→"}


FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.csv"),
            "runs/a/metrics.csv: the disk is full;",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "runs"),
            "runs: nothing can be written on this disk; give another",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.csv/b"), "a.csv/b: a file stands where a folder"),
        (FileNotFoundError(errno.ENOENT, "No such file", "runs/a"), "runs/a: is not there, or vanished"),
        (OSError(errno.ENOSPC, "No space left on device"), "here: the disk is full"),
        (OSError(errno.ENOTTY, "Inappropriate ioctl", "a"), "a: Inappropriate ioctl; check that path"),
        (MemoryError(), "not enough memory; "),
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "here: a process that reads data was killed",
        ),
        (BrokenProcessPool("A process in the process pool was terminated abruptly while"), "worker process was killed"),
        (
            BrokenProcessPool("A child process terminated abruptly, the process pool is not usable anymore"),
            "was killed",
        ),
        (RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"), "here: /dev/shm is full"),
        (
            RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/3: file write failed"),
            "disk is full",
        ),
    ],
)
def test_a_fault_of_the_machine_is_one_line_with_its_remedy(error, says):
    told = explain(error, "here")
    assert says in told and "\n" not in told and ";" in told


def test_an_error_of_ours_keeps_its_traceback(capsys, monkeypatch):
    assert explain(RuntimeError("shapes differ")) is None and explain(ValueError("no")) is None
    assert explain(OSError("a library's own words")) is None

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", "a")

    assert cli.guarded(fail) == 2 and capsys.readouterr().err.startswith("error: a: the disk is full")
    monkeypatch.setenv("GFM_TRACEBACK", "1")
    with pytest.raises(OSError, match="No space"):
        cli.guarded(fail)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "ledger.json"
    disk.write(path, "whole")
    with pytest.raises(OSError, match=r"No space.*ledger\.json") as error, disk.replacing(path) as scratch:
        scratch.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(path)
    assert path.read_text() == "whole" and os.listdir(tmp_path) == ["ledger.json"]


def hold(folder: Path, ready) -> None:
    lock.lock(folder)
    ready.set()
    if os.fork() == 0:  # a worker of it, which lives on when its parent is killed
        time.sleep(3)
        os._exit(0)
    time.sleep(60)


def test_what_was_made_for_a_lock_alone_goes_with_it(tmp_path):
    with lock.alone(tmp_path / "results" / "deep" / "demo"):
        (tmp_path / "results" / "other").mkdir()
    assert [p.name for p in tmp_path.rglob("*")] == ["results", "other"]
    with lock.alone(tmp_path / "results" / "other" / "demo"):
        pass
    assert (tmp_path / "results" / "other").is_dir(), "what was there before stays"


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    folder, ready = tmp_path / "demo", FORK.Event()
    holder = FORK.Process(target=hold, args=(folder, ready))
    holder.start()
    assert ready.wait(300)
    with pytest.raises(InputError, match=rf"demo: in use by another process \(\S+ process {holder.pid} since .*name="):
        lock.lock(folder)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lock.alone(folder):
            assert str(os.getpid()) in (folder / lock.NAME).read_text()
            lock.lock(folder)  # its own: no second one is needed
    assert not folder.exists()  # it was empty


@pytest.mark.parametrize(
    "typed",
    [
        "inspect data.size=16 data.dates=1 places=1",
        "export model=model to=native",
        "review sample=map.tif",
        "review compare=old.tif,new.tif",
    ],
)
def test_commands_have_the_folder_they_write_to_themselves(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "export" in typed:
        kept(tmp_path / "model")
    folder, ready = tmp_path / "out" / "demo", FORK.Event()
    holder = FORK.Process(target=hold, args=(folder, ready))
    holder.start()
    assert ready.wait(300)
    words = [*typed.split(), "out=out", "name=demo"]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert "out/demo: in use by another process (" in told and f"process {holder.pid} since" in told
    assert os.listdir(folder) == [lock.NAME]
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    if "review" not in typed:  # maps are not there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            assert cli.main(words) == 0, capsys.readouterr().err
        assert lock.NAME not in os.listdir(folder) and len(os.listdir(folder)) > 1


def test_a_folder_in_use_keeps_what_is_in_it(tmp_path):
    with lock.alone(tmp_path / "demo"):
        (tmp_path / "demo" / "a").touch()
    assert os.listdir(tmp_path / "demo") == ["a"]
    lock.release(tmp_path / "demo")  # nothing is held any more


def test_where_locks_cannot_be_trusted_it_is_said(tmp_path, monkeypatch):
    (tmp_path / lock.NAME).write_text("othernode process 7 since 2026-01-01 00:00:00")
    with pytest.warns(InputWarning, match="last used by othernode process 7 .* may not reach from one machine"):
        lock.lock(tmp_path)
    lock.release(tmp_path)

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", no_locks)
    with pytest.warns(InputWarning, match="has no file locks .*nobody can know .*start one at a time"):
        lock.lock(tmp_path)
    lock.release(tmp_path)


def test_a_reader_that_has_gone_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "gfm_objectives.cli", "eval", "--help"]
    gone = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert gone.returncode == 141 and gone.stderr == ""


def test_a_full_disk_under_weights_names_their_file(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError) as fault:
        disk.write_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert explain(fault.value).startswith(f"{tmp_path / 'model.safetensors'}: the disk is full")
    assert not [*tmp_path.iterdir()]


def test_a_copy_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    disk.copy(tmp_path / "weights", tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"1"
    os.symlink("/dev/full", tmp_path / ".writing-full")
    with pytest.raises(OSError) as fault:
        disk.copy(tmp_path / "weights", tmp_path / "full")
    assert explain(fault.value).startswith(f"{tmp_path / 'full'}: the disk is full")


def test_a_table_printed_to_a_reader_that_has_gone_is_no_fault():
    def leave():
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904  (as rich does)

    assert cli.guarded(leave) == 141
