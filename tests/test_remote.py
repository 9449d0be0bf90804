"""Folders that only GDAL reaches: archives, buckets, servers; the same values as from the file system, or one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_chips_silent import S2, tif

from gfm_objectives.data import build_source
from gfm_objectives.data.remote import gdal_name, is_remote, reach
from gfm_objectives.errors import InputError
from gfm_objectives.predict.opening import _paths

LAYERS = {"label": {"file": "y/{chip}.tif", "classes": ["dry", "water"]}}


def folder(root: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for chip in "ab":
        tif(root / f"s2/{chip}.tif", rng.integers(300, 3000, (3, 32, 32)).astype(np.uint16))
        tif(root / f"y/{chip}.tif", rng.integers(0, 2, (32, 32)).astype(np.uint8))
    (root / "s2/notes.txt").write_text("no raster")
    return root


def packed(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            file.write(path, f"set/{path.relative_to(root)}")
    return archive


def read(root: object, **more: Any):
    """(source, its two chips)"""
    options = {"name": "chips", "root": str(root), "gsd": 10, "sensors": {"s2": S2}, "layers": LAYERS} | more
    built = build_source(options, "pretrain")
    assert built.names() == ["a", "b"]
    return built, built.read([0, 1])


@pytest.mark.parametrize(
    ("address", "path", "opened"),
    [
        ("/data/a", "/data/a", "/data/a"),
        ("file:///data/a b", "/data/a b", "/data/a b"),
        ("s3://bucket/a/b", "/vsis3/bucket/a/b", "/vsis3/bucket/a/b"),
        ("https://host/a", "/vsicurl/https:/host/a", "/vsicurl/https://host/a"),
        ("/vsicurl/http://host:81/a", "/vsicurl/http:/host:81/a", "/vsicurl/http://host:81/a"),
        ("/vsizip//data/a.zip/b", "/vsizip/{/data/a.zip}/b", "/vsizip/{/data/a.zip}/b"),
        ("/vsitar/a.tar.gz/b.tar/c", "/vsitar/{a.tar.gz}/b.tar/c", "/vsitar/{a.tar.gz}/b.tar/c"),
        ("/vsizip/{/data/a.zip}/b", "/vsizip/{/data/a.zip}/b", "/vsizip/{/data/a.zip}/b"),
    ],
)
def test_addresses(address: str, path: str, opened: str):
    assert (str(reach(address)), gdal_name(reach(address))) == (path, opened)
    assert is_remote(reach(address)) == opened.startswith("/vsi")


@pytest.mark.parametrize("way", ["file://{root}", "/vsizip/{archive}/set", "/vsizip/{{{archive}}}/set"])
def test_values_are_those_of_the_folder(way: str, tmp_path: Path):
    root = folder(tmp_path / "set")
    archive = packed(root, tmp_path / "all.zip")
    near, wanted = read(root)
    far, batch = read(way.format(root=root, archive=archive))
    assert torch.equal(batch.sensors["s2"].x, wanted.sensors["s2"].x)
    assert torch.equal(batch.targets["label"], wanted.targets["label"])
    assert far.fingerprint == near.fingerprint  # of content, wherever it lies
    assert torch.equal(far.tile(1).targets["label"], wanted.targets["label"][1:])


def test_an_archive_that_changes_is_read_again(tmp_path: Path):
    archive = packed(folder(tmp_path / "set"), tmp_path / "all.zip")
    before, _ = read(f"/vsizip/{archive}/set")
    packed(folder(tmp_path / "set", seed=1), archive)
    os.utime(archive, ns=(1, 1))
    after, _ = read(f"/vsizip/{archive}/set")
    assert after.fingerprint != before.fingerprint


def test_a_table_of_splits_lies_here(tmp_path: Path):
    archive = packed(folder(tmp_path / "set"), tmp_path / "all.zip")
    table = tmp_path / "chips.csv"
    table.write_text("chip,split\na,train\nb,test\n")
    splits = {"by": "column", "file": str(table), "column": "split", "id": "chip", "values": {"train": "train"}}
    options = {"name": "chips", "root": f"/vsizip/{archive}/set", "gsd": 10, "sensors": {"s2": S2}, "splits": splits}
    options["splits"] = splits | {"overlaps": "allow", "values": {"train": "train", "test": "test"}}
    assert [build_source(options, s).names() for s in ("train", "test")] == [["a"], ["b"]]


def test_what_cannot_be_reached_is_one_line(tmp_path: Path):
    archive = packed(folder(tmp_path / "set"), tmp_path / "all.zip")
    (tmp_path / "none.zip").write_bytes(archive.read_bytes()[:200])
    for root in (tmp_path / "no.zip", tmp_path / "none.zip", f"{archive}/other"):
        with pytest.raises(
            InputError, match=r"data.root=/vsizip/.*: no files are found there.*; check the address"
        ) as fault:
            read(f"/vsizip/{root}")
        assert "\n" not in str(fault.value)
    with pytest.raises(InputError, match="this reader needs a folder of this machine"):
        build_source({"name": "oscd", "root": "s3://bucket/oscd"}, "train")


def test_a_scene_to_be_mapped_may_lie_there_too(tmp_path: Path):
    archive = packed(folder(tmp_path / "set"), tmp_path / "all.zip")
    (path,) = _paths([f"/vsizip/{archive}/set/s2/a.tif"], tmp_path)
    assert str(path) == f"/vsizip/{{{archive}}}/set/s2/a.tif"
    assert _paths([f"file://{tmp_path}/set/y"], Path(".")) == (tmp_path / "set/y/a.tif", tmp_path / "set/y/b.tif")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder on a server of this machine: a process of its own, as GDAL lists with Python held."""
    folder(tmp_path / "set")
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield re.search(r"http://[\d.:]+", server.stdout.readline())[0]  # type: ignore[index]
        server.terminate()


def test_a_server_is_read_as_it_is(served: str, tmp_path: Path):
    near, wanted = read(tmp_path / "set")
    for root in (f"{served}/set", f"/vsicurl/{served}/set"):
        far, batch = read(root)
        assert torch.equal(batch.sensors["s2"].x, wanted.sensors["s2"].x) and far.fingerprint == near.fingerprint
    with pytest.raises(
        InputError, match=rf"data.root=/vsicurl/{served}/none: no files .*404.*; check the address; the server"
    ) as fault:
        read(f"{served}/none")
    assert "\n" not in str(fault.value)


def test_a_bucket_without_a_login_is_one_line_that_says_how_to_log_in(monkeypatch: pytest.MonkeyPatch):
    for name, value in (("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_S3_ENDPOINT", "127.0.0.1:9"), ("AWS_HTTPS", "NO")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"data.root=/vsis3/bucket/x: no files .*AWS_NO_SIGN_REQUEST=YES$") as fault:
        read("s3://bucket/x")
    assert "\n" not in str(fault.value)
