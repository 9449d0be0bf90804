"""What is wrong with files is counted: fatal in one line, or left out with a warning; and remembered between starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfm_objectives import cli
from gfm_objectives.data import build_source
from gfm_objectives.data.chips import Chips
from gfm_objectives.data.decoding import Decoder
from gfm_objectives.errors import InputError, InputWarning
from gfm_objectives.sensors import SENSORS

N = 16
IDS = "abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six chips; every fault below happens to some of them."""
    for folder in ("s2", "s1", "label"):
        (tmp_path / folder).mkdir()
    for i, chip in enumerate(IDS):
        np.save(tmp_path / f"s2/{chip}.npy", np.full((2, N, N), 500 + i, np.int16))
        np.save(tmp_path / f"s1/{chip}.npy", np.full((1, N, N), -12, np.float32))
        np.save(tmp_path / f"label/{chip}.npy", np.tri(N, dtype=np.uint8))
    return tmp_path


def options(root: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "chips",
        "root": str(root),
        "gsd": 10,
        "sensors": {
            "s2": {"file": "s2/{chip}.npy", "bands": {"B03": 1, "B08": 2}, "scale": 1e-4, "nodata": 0},
            "s1": {"file": "s1/{chip}.npy", "bands": {"VV": 1}},
        },
        "layers": {"label": {"file": "label/{chip}.npy", "classes": ["dry", "wet"]}},
    } | more


def resave(path: Path, change: Any) -> None:
    np.save(path, change(np.load(path)))


def missing(root: Path, chip: str) -> None:
    (root / f"s1/{chip}.npy").unlink()


def truncated(root: Path, chip: str) -> None:
    path = root / f"s2/{chip}.npy"
    path.write_bytes(path.read_bytes()[:300])


def fewer_bands(root: Path, chip: str) -> None:
    resave(root / f"s2/{chip}.npy", lambda a: a[:1])


def other_size(root: Path, chip: str) -> None:
    resave(root / f"label/{chip}.npy", lambda a: a[: N - 1])


def larger(root: Path, chip: str) -> None:
    for folder in ("s2", "s1", "label"):
        resave(root / f"{folder}/{chip}.npy", lambda a: np.concatenate([a, a], -1).repeat(2, -2))


def unknown_code(root: Path, chip: str) -> None:
    resave(root / f"label/{chip}.npy", lambda a: a + 6)


FAULTS = {
    "missing": (missing, "missing", r"no file s1/b\.npy", "lack a file"),
    "unreadable": (truncated, "unreadable", r"s2/b\.npy: cannot be read, truncated", "cannot be read"),
    "band": (fewer_bands, "band", r"s2/b\.npy: has no band 2; it has 1, counted from 1", "lack a band or date"),
    "size": (
        other_size,
        "size",
        r"label/b\.npy: is 15 x 16 pixels, but s2/b\.npy is 16 x 16; cut them",
        "have files of sizes that do not fit",
    ),
    "code": (
        unknown_code,
        "code",
        r"label/b\.npy: band 1 holds code 6, which is neither a class of label \(0, 1\)",
        "hold an unknown class code",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_counted_or_left_out_where_that_is_asked(root: Path, fault: str):
    spoil, kind, message, words = FAULTS[fault]
    for chip in "be":
        spoil(root, chip)
    with pytest.raises(InputError, match=message) as error:
        build_source(options(root), "pretrain")
    text = str(error.value)
    assert "\n" not in text
    assert (
        f"(2 of 6 pretrain chips {words}: b, e); mend that, or leave such chips out with `skip: [{kind}]` in the yaml"
        in text
    )
    with pytest.warns(InputWarning, match=rf"^2 of 6 pretrain chips {words} and are left out: b, e$"):
        source = build_source(options(root, skip=[kind]), "pretrain")
    assert isinstance(source, Chips) and source.names() == ["a", "c", "d", "f"] and source.groups() == source.names()
    source.read(range(4))
    assert any("left out: b, e" in line for line in source.notes())


def test_chips_without_a_valid_pixel_are_left_out_and_named(root: Path):
    for i, chip in enumerate("acd"):
        resave(root / f"s2/{chip}.npy", lambda a: a * 0)
        if i:  # a keeps its radar, so it has something to learn from
            resave(root / f"s1/{chip}.npy", lambda a: a * np.nan)
    with pytest.warns(InputWarning, match=r"^2 of 6 pretrain chips have no valid pixel and are left out: c, d$"):
        source = build_source(options(root), "pretrain")
    assert source.names() == ["a", "b", "e", "f"]  # type: ignore[attr-defined]
    batch = source.read([0])
    assert not batch.sensors["s2"].valid.any() and batch.sensors["s1"].valid.all()
    shutil.rmtree(root / "s1")
    with pytest.raises(InputError, match=r"none is left for the pretrain split: 3 of 3 .* no valid pixel .*: a, c, d"):
        sensors = {"s2": options(root)["sensors"]["s2"]}
        build_source(options(root, sensors=sensors, chips="[acd]"), "pretrain")


def test_what_is_scored_is_scored_without_a_valid_pixel_too(root: Path):
    for folder in ("s2", "s1"):
        resave(root / f"{folder}/b.npy", lambda a: a * np.float32(np.nan))
    (root / "t.csv").write_text("\n".join(["chip,split", *(f"{c},{'val' if c < 'd' else 'test'}" for c in IDS)]))
    told = options(root, splits={"file": "t.csv"}, size=12)
    with pytest.warns(InputWarning, match=r"^1 of 3 val chips have no valid pixel and are scored: b$"):
        source = build_source(told, "val")
    assert source.tiles() == 3 and source.names() == [c for c in "abc" for _ in range(4)]  # type: ignore[attr-defined]
    assert not source.tile(1).sensors["s2"].valid.any() and source.tile(1).targets["label"].ge(0).all()
    assert source.read(range(4, 8)).targets["label"].ge(0).sum() == N * N


def test_windows_larger_than_every_chip_are_padded_with_a_warning(root: Path):
    with pytest.warns(InputWarning, match=r"^data\.size=20: every pretrain tile is smaller, 16 pixels at most; the"):
        source = build_source(options(root, size=20), "pretrain")
    assert len(source) == 6 and source.read([0]).targets["label"].ge(0).sum() == N * N


def test_empty_windows_are_left_out_and_chips_smaller_than_a_window_padded(root: Path):
    larger(root, "b")
    for name, empty in (("s2", 0), ("s1", np.nan)):
        north_west = np.load(root / f"{name}/b.npy")
        north_west[..., :16, :16] = empty
        north_west[..., 16:, :16] *= 2
        np.save(root / f"{name}/b.npy", north_west)
    for name in ("s2", "s1", "label"):
        resave(root / f"{name}/f.npy", lambda a: a[..., :8, :8])
    with pytest.warns(InputWarning) as caught:
        source = build_source(options(root, size=16), "pretrain")
    assert [str(w.message) for w in caught] == [
        "1 of 9 windows of pretrain chips have no valid pixel and are left out",
    ]
    assert source.names() == ["a", "b", "b", "b", "c", "d", "e", "f"]  # type: ignore[attr-defined]
    assert source.read([7]).targets["label"].ge(0).sum() == 8 * 8
    x = SENSORS["s2"].denormalise(source.read([1, 2, 3]).sensors["s2"].x, ("B03", "B08"))
    np.testing.assert_allclose(x[:, 0, 0, 0, 0], [0.0501, 0.1002, 0.0501], rtol=1e-4)  # NE, SW, SE


def test_chips_that_are_not_one_square_are_cut_into_windows_that_suit_them(root: Path):
    larger(root, "b")
    source = build_source(options(root), "pretrain")
    assert source.spec.size == 16 and len(source) == 5 + 4
    assert (
        "chips of 16 x 16 to 32 x 32 px are cut into windows of 16 px, a side chosen as data.size is not given, the "
        "last ones shifted back to end with the chip" in source.notes()
    )
    for folder in ("s2", "s1", "label"):
        for path in (root / folder).glob("*.npy"):
            resave(path, lambda a: np.zeros((*a.shape[:-2], 600, 600), a.dtype) + 1)
    source = build_source(options(root), "pretrain")
    assert source.spec.size == 128 and len(source) == 6 * 25
    assert len(build_source(options(root, size=600), "pretrain")) == 6
    assert len(build_source(options(root, size=256), "pretrain")) == 54


def test_nan_and_declared_no_data_are_pixels_without_value_or_label(root: Path):
    resave(root / "s1/a.npy", lambda a: np.where(np.eye(N)[None] > 0, np.nan, a))
    resave(root / "label/a.npy", lambda a: np.where(np.eye(N) > 0, np.nan, a.astype(np.float32)))
    batch = build_source(options(root), "pretrain").read([0])
    diagonal = np.eye(N, dtype=bool)
    assert np.array_equal(~batch.sensors["s1"].valid[0, 0].numpy(), diagonal)
    assert np.array_equal(batch.targets["label"][0].numpy() == -1, diagonal)
    assert (batch.sensors["s1"].x[0, 0, 0].numpy()[diagonal] == 0).all()


def test_pixels_have_a_size(root: Path):
    with pytest.raises(InputError, match=r"data\.gsd=-1: expected metres per pixel, greater than 0"):
        build_source({**options(root), "gsd": -1}, "pretrain")


def test_an_unknown_kind_of_fault_is_refused(root: Path):
    with pytest.raises(InputError, match=r"data\.skip=all: no such kind of fault; choose from missing, unreadable"):
        build_source(options(root, skip=["all"]), "pretrain")


def test_a_second_start_reads_no_pixel_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []
    read = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, chip, *tell: reads.append(chip) or read(self, chip, *tell))
    first = build_source(options(root), "pretrain")
    assert reads == list(IDS)
    again = build_source(options(root), "pretrain")
    assert reads == list(IDS) and again.fingerprint == first.fingerprint and len(again) == 6
    build_source(options(root, size=8), "pretrain")
    assert len(reads) == 12
    truncated(root, "c")
    for _ in range(2):  # a fault is remembered as well
        with pytest.raises(InputError, match=r"s2/c\.npy: cannot be read"):
            build_source(options(root), "pretrain")
    assert len(reads) == 18


def test_a_cache_that_cannot_be_written_or_read_is_no_fault(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GFM_CACHE", str(tmp_path / "file"))
    assert len(build_source(options(root), "pretrain")) == 6
    monkeypatch.setenv("GFM_CACHE", str(tmp_path / "cache"))
    build_source(options(root), "pretrain")
    for note in (tmp_path / "cache").iterdir():
        note.write_text("[[1")
    assert len(build_source(options(root), "pretrain")) == 6


def test_the_command_line_says_warnings_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    resave(root / "s2/b.npy", lambda a: a * 0)
    resave(root / "s1/b.npy", lambda a: a * np.nan)
    monkeypatch.setattr(cli, "_train", lambda words: build_source(options(root), "pretrain"))
    assert cli.train([]) == 0
    expected = "warning: 1 of 6 pretrain chips have no valid pixel and are left out: b\n"
    assert capsys.readouterr().err == expected
