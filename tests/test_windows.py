"""Windows: every pixel seen, padded or stitched; tiles of any size; batches padded; no cache that grows."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_batch
from test_pretrain import small
from torch import Tensor

from gfm_objectives import pretrain
from gfm_objectives.batch import Batch, Series, Spec, collate
from gfm_objectives.data.source import normalise
from gfm_objectives.data.windows import TOGETHER, Windows, cut, positions, sliding, stitch, weights
from gfm_objectives.sensors import MIXED, S2_L1C, SENSORS

SIDES = (1, 40, 63, 64, 65, 100, 127, 128, 250)
SIZE = 64


def counted(height: int, width: int, at: Sequence[tuple[int, int]], size: int = SIZE) -> Tensor:
    """(H, W): in how many windows each pixel is."""
    seen = torch.zeros(height, width)
    for top, left in at:
        seen[top : top + size, left : left + size] += 1
    return seen


def tile(height: int, width: int, seed: int = 0) -> Batch:
    """One place of two sensors, some of it invalid, with three kinds of targets."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(1, 2, height, width, generator=g) > 0.1
    x = torch.randn(1, 2, 3, height, width, generator=g) * valid[:, :, None]
    optical = Series(x, valid, torch.tensor([[1.0, 2.0]]), ("B02", "B03", "B04"), "L1C")
    relief = torch.linspace(-3, 3, height)[:, None].expand(1, 1, 1, height, width).clone()
    dem = Series(relief, torch.ones(1, 1, height, width, dtype=torch.bool), torch.zeros(1, 1), ("elevation",))
    targets = {
        "map": torch.randint(0, 5, (1, height, width), generator=g),
        "biomass": torch.rand(1, height, width, generator=g),
        "scene": torch.tensor([3]),
        "scenes": torch.tensor([[0.0, 1.0]]),
    }
    return Batch({"s2": optical, "dem": dem}, targets, torch.tensor([10.0]), torch.tensor([[5.0, 50.0]]))


# ------------------------------------------------------------------------------------------------- positions, cut


@pytest.mark.parametrize("overlap", [0, 16, 63])
def test_every_pixel_lies_in_a_window(overlap: int) -> None:
    for height, width in product(SIDES, SIDES[::2]):
        at = positions(height, width, SIZE, overlap)
        assert counted(height, width, at).min() >= 1 and at == sorted(set(at))
        assert all(top <= max(0, height - SIZE) and left <= max(0, width - SIZE) for top, left in at)  # none is padded


def test_windows_side_by_side_share_no_pixel() -> None:
    for height, width in product(SIDES, SIDES):
        assert counted(height, width, positions(height, width, SIZE, inside=False)).eq(1).all()


def test_overlapping_windows_are_no_more_than_needed() -> None:
    assert [top for top, _ in positions(160, 1, 64, 16)] == [0, 48, 96]
    assert [top for top, _ in positions(161, 1, 64, 16)] == [0, 48, 96, 97]
    assert [top for top, _ in positions(161, 1, 64, 16, inside=False)] == [0, 48, 96, 144]


def test_a_cut_beyond_the_tile_is_invalid_and_without_label() -> None:
    whole = tile(50, 40)
    window = cut(whole, 32, 16, 32)
    s2 = window.sensors["s2"]
    assert window.size == (32, 32) and s2.level == "L1C" and window.gsd is whole.gsd
    assert torch.equal(s2.x[..., :18, :24], whole.sensors["s2"].x[..., 32:, 16:])
    for edge in (window.map_grids(lambda t, _: t[..., 18:, :]), window.map_grids(lambda t, _: t[..., :, 24:])):
        assert (edge.sensors["s2"].x == 0).all() and not edge.sensors["s2"].valid.any()
        assert edge.targets["map"].eq(-1).all() and edge.targets["biomass"].isnan().all()
    assert window.targets["scene"].tolist() == [3] and window.targets["scenes"].shape == (1, 2)


# ------------------------------------------------------------------------------------------------- stitching


def test_weights_are_positive_smooth_and_greatest_in_the_middle() -> None:
    for size in (1, 2, 7, 64):
        w = weights(size)
        assert w.shape == (size, size) and w.min() > 0 and torch.equal(w, w.T) and torch.allclose(w, w.flip(0))
        assert w.max() == w[size // 2, size // 2]
    assert weights(64).diff(dim=0).abs().max() < 0.06 and weights(64)[0].max() < 0.01


@pytest.mark.parametrize("overlap", [0, 16])
def test_what_windows_show_comes_back_as_the_tile(overlap: int) -> None:
    sizes: list[int] = []

    def show(windows: Batch) -> Tensor:
        sizes.append(len(windows))
        return windows.sensors["s2"].x[:, 1]

    for height, width in ((100, 127), (250, 250), (40, 40), (30, 150)):
        whole = tile(height, width)
        out = sliding(show, whole, SIZE, overlap)
        assert out.shape == (3, height, width)
        torch.testing.assert_close(out, whole.sensors["s2"].x[0, 1], rtol=0, atol=2e-6)
        alone = counted(height, width, positions(height, width, SIZE, overlap)) == 1
        assert torch.equal(out[:, alone], whole.sensors["s2"].x[0, 1][:, alone])  # what one window says, bit for bit
    assert max(sizes) == TOGETHER


def test_overlapping_windows_are_blended_without_a_seam() -> None:
    """Windows that contradict each other: the tile goes over from one to the other, by steps smaller than theirs."""
    at = positions(64, 112, 64, 16)
    assert at == [(0, 0), (0, 48)]
    parts = torch.stack([torch.full((1, 64, 64), v) for v in (0.0, 1.0)])
    row = stitch([parts], at, 64, 112)[0, 30]
    assert (row[:48] == 0).all() and (row[64:] == 1).all()
    assert (row.diff() >= 0).all() and row.diff().max() < 0.15 and abs(row[55] + row[56] - 1) < 1e-6
    with pytest.raises(AssertionError, match="fewer windows than the 2 places"):
        stitch([parts[:1]], at, 64, 112)


def test_height_is_relative_to_the_window_as_in_training() -> None:
    means: list[Tensor] = []

    def look(windows: Batch) -> Tensor:
        means.append(windows.sensors["dem"].x.mean((1, 2, 3, 4)))
        return windows.sensors["dem"].x[:, 0]

    sliding(look, tile(200, 64), SIZE)
    assert torch.cat(means).abs().max() < 1e-5
    whole = tile(64, 64)
    assert torch.equal(sliding(look, whole, SIZE), whole.sensors["dem"].x[0, 0])  # one window: nothing is touched


# ------------------------------------------------------------------------------------------------- sources


class Tiles(Windows):
    """Tiles of given shapes, in the sensor's unit; every pixel shows its own number."""

    def __init__(self, split: str, shapes: Sequence[tuple[int, int]], cache_mb: float = 1.0) -> None:
        super().__init__(split, [f"area {i}" for i in range(len(shapes))], shapes, SIZE, cache_mb)
        self.shapes, self.decoded = shapes, 0
        self.spec = Spec({"s1": ("VV",)}, {"s1": 1}, SIZE, 10.0, {})

    def decode(self, number: int) -> Batch:
        self.decoded += 1
        h, w = self.shapes[number]
        x = torch.arange(h * w).float().view(1, 1, 1, h, w)
        s1 = Series(x, torch.ones(1, 1, h, w, dtype=torch.bool), torch.zeros(1, 1), ("VV",))
        return Batch({"s1": s1}, {"y": torch.full((1, h, w), number)}, torch.tensor([10.0]))


SHAPES = [(100, 100), (127, 127), (250, 250), (64, 64), (40, 90)]


def test_training_sees_all_and_makes_up_nothing_and_tests_score_all_once() -> None:
    for split in ("pretrain", "train", "val", "test"):
        source = Tiles(split, SHAPES)
        batch = source.raw(range(len(source)))
        s1, names = batch.sensors["s1"], np.array(source.groups())
        for number, (h, w) in enumerate(SHAPES):
            mine = torch.from_numpy(names == f"area {number}")
            seen = s1.x[mine, 0, 0][s1.valid[mine, 0]].long()
            assert torch.equal(seen.unique(), torch.arange(h * w)), (split, h, w)
            if split in ("val", "test"):
                assert len(seen) == h * w == batch.targets["y"][mine].ge(0).sum()
            else:
                assert s1.valid[mine].all() == (min(h, w) >= SIZE)


def test_tiles_are_whole_and_their_areas_are_those_of_their_windows() -> None:
    source = Tiles("test", SHAPES)
    assert source.tiles() == 5 and [source.tile(k).size for k in range(5)] == SHAPES
    assert source.tile_groups() == list(dict.fromkeys(source.groups()))
    raw = source.decode(0)
    assert torch.equal(source.tile(0).sensors["s1"].x, normalise(raw).sensors["s1"].x)
    one = source.tile(3)
    one.targets["y"].zero_()
    one.sensors["s1"].valid.zero_()  # a consumer that works in place
    assert source.tile(3).targets["y"].eq(3).all() and source.tile(3).sensors["s1"].valid.all()


def test_a_cache_keeps_what_fits_and_the_tile_read_last() -> None:
    source = Tiles("test", [(100, 100)] * 50, cache_mb=0.5)  # a tile takes 0.13 MB
    for k in [*range(50), *range(50)]:
        source.tile(k)
    held = [*source._cache.values(), source._last[1]]  # type: ignore[index]
    assert len(held) == 5 and source.decoded == 4 + 46 * 2
    windows = range(0, 4)
    source.read(windows), source.read([source.groups().index("area 30") + k for k in windows])
    assert source.decoded == 97  # one tile, for all four of its windows
    assert len(pickle.dumps(source)) < 6000 and len(pickle.loads(pickle.dumps(source))._cache) == 0


@pytest.mark.slow
def test_a_thousand_large_tiles_are_read_in_under_a_gigabyte(tmp_path: Path) -> None:
    """Of 512 x 512 px, 10 bands and 4 dates, as one file under many names; GFM_TILES chooses fewer or more."""
    if "GFM_TILES" not in os.environ:
        pytest.skip("GFM_TILES is not set to a number of tiles, such as 1000: memory is not measured")
    count = int(os.environ["GFM_TILES"])
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x/0.npy", np.random.default_rng(0).integers(1, 10_000, (4, 10, 512, 512), dtype=np.uint16))
    for i in range(1, count):
        (tmp_path / f"x/{i}.npy").hardlink_to(tmp_path / "x/0.npy")
    code = f"""
import resource, time
from gfm_objectives.data import build_source
from gfm_objectives.sensors import S2_TEN
bands = {{b: i + 1 for i, b in enumerate(S2_TEN)}}
s2 = {{"file": "x/{{chip}}.npy", "bands": bands, "scale": 1e-4, "dates": 4}}
began = time.time()
options = {{"name": "chips", "root": {str(tmp_path)!r}, "gsd": 10, "size": 64, "sensors": {{"s2": s2}}}}
source = build_source(options, "pretrain")
surveyed = time.time()
total = sum(float(source.tile(k).sensors["s2"].x[0, 0, 0, 0, 0]) for k in range(source.tiles()))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(source.tiles(), round(surveyed - began), round(time.time() - surveyed), round(peak))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tiles, _, _, peak = map(int, done.stdout.split())
    print(done.stdout)
    assert tiles == count and peak < 1024, done.stdout


# ------------------------------------------------------------------------------------------------- batches


def test_batches_are_padded_to_a_multiple_at_the_bottom_and_right() -> None:
    whole = tile(50, 40)
    padded = whole.pad_to(16)
    assert padded.size == (64, 48) and whole.pad_to(10) is whole
    back = padded.map_grids(lambda t, _: t[..., :50, :40])
    assert all(torch.equal(back.sensors[k].x, s.x) for k, s in whole.sensors.items())
    for edge in (padded.map_grids(lambda t, _: t[..., 50:, :]), padded.map_grids(lambda t, _: t[..., 40:])):
        assert not edge.sensors["s2"].valid.any() and (edge.sensors["s2"].x == 0).all()
        assert edge.targets["map"].eq(-1).all() and edge.targets["biomass"].isnan().all()
    assert padded.targets["scene"].tolist() == [3] and padded.sensors["s2"].level == "L1C"


def test_a_level_goes_with_its_series(spec: Spec) -> None:
    s2 = tile(8, 8).sensors["s2"]
    assert s2.map(torch.clone).level == s2.take_dates(torch.tensor([[1]])).level == "L1C"
    early = random_batch(spec, 2)
    early = early.replace(sensors={k: s.replace(level="L1C" if k == "s2" else "") for k, s in early.sensors.items()})
    assert early.take(torch.tensor([1])).sensors["s2"].level == "L1C"
    levels = [collate([a, b]).sensors["s2"].level for a, b in ((early, early), (early, random_batch(spec, 1)))]
    assert levels == ["L1C", MIXED]
    raw = early.sensors["s2"].replace(x=torch.full_like(early.sensors["s2"].x, 0.2))
    x = normalise(early.replace(sensors={"s2": raw})).sensors["s2"].x
    assert torch.equal(x, S2_L1C.normalise(raw.x, raw.valid, raw.bands))
    assert not torch.equal(x, SENSORS["s2"].normalise(raw.x, raw.valid, raw.bands))


@pytest.mark.parametrize("objective", ["masked_seg", "mae", "cross_sensor"])
def test_a_size_that_is_no_multiple_of_the_patch_trains(tmp_path: Path, objective: str) -> None:
    out = pretrain.run(small(tmp_path, f"objective={objective}", "data.size=20", "data.dates=1", "budget.flops=1e10"))
    assert (out / "encoder.safetensors").exists()
