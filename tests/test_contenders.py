"""Who is compared: every kind builds what its name says, rows follow from runs, and what is odd about them is told."""

from __future__ import annotations

import json

import pytest
import torch
from small import BANDS, LANDCOVER, OPTIONS, make_conv_run, make_run, make_unet_run

from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.contenders import KINDS
from gfm_objectives.compare.published import published
from gfm_objectives.compare.rows import contenders, not_run, notes
from gfm_objectives.errors import InputError
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.unet import FIRST
from gfm_objectives.runs.checkpoint import load_model
from gfm_objectives.runs.finished import group_runs
from gfm_objectives.scores import ROLES


@pytest.fixture(scope="module")
def bench():
    return open_bench("landcover", LANDCOVER)


def test_every_role_is_known():
    assert {k.role for k in KINDS.values()} == set(ROLES)


def test_encoders_of_another_shape_have_scratch_and_conv_rows_of_their_own(tmp_path):
    """Two rows of one name would be merged without a word."""
    wide = Encoder(BANDS, **(OPTIONS | {"width": 16}))
    deep = Encoder(BANDS, **(OPTIONS | {"depth": 2}))
    runs = [make_run(tmp_path / "narrow"), make_run(tmp_path / "wide", model=wide, mask_ratio=0.5)]
    assert [c.name for c in contenders(["scratch"], runs[:1], 1, None)] == ["ViT from scratch"]
    names = [c.name for c in contenders(["scratch", "conv"], runs, 1, None)]
    assert names == [f"{k} width={w}" for k in ("ViT from scratch", "conv") for w in (8, 16)]
    runs[1] = make_run(tmp_path / "deep", model=deep, mask_ratio=0.4)
    names = [c.name for c in contenders(["scratch", "conv"], runs, 1, None)]
    assert names == ["ViT from scratch depth=1", "ViT from scratch depth=2", "conv"], (
        "without a ViT they are one network"
    )


def test_the_shape_of_a_pretrained_row_is_that_of_its_scratch_row(tmp_path):
    rows = contenders(["pretrained", "fresh_tokens", "scratch"], [make_run(tmp_path / "a")], 1, None)
    assert len({c.shape for c in rows}) == 1 and json.loads(rows[0].shape)["depth"] == 1


def test_every_kind_of_contender_builds(bench, tmp_path):
    runs = [make_run(tmp_path / "a"), make_unet_run(tmp_path / "u"), make_conv_run(tmp_path / "c")]
    rows = contenders(["all"], runs, 3, None, published(["timm:vit_tiny_patch16_224"], [], 16))
    assert {c.kind for c in rows} == KINDS.keys() - {"unet_imagenet", "continued"}  # of which there are no runs here
    assert len({c.name for c in rows}) == len(rows)
    extra = {(c.kind, round(c.extra_flops)) for c in rows if c.extra_flops}
    assert extra == {(k, e) for k in ("unet", "conv", "scratch", "pixel") for e in (300_000_000, 100_000_000)}
    weights, batch = {}, bench.source("train").read([0, 1, 2])
    for c in (c for c in rows if c.trained and not c.extra_flops):
        model = c.build(bench.spec, bench.outputs, c.space(bench.spec, 4).start, 0)
        assert model(batch).shape == (3, bench.classes, 16, 16), c.kind
        weights[c.kind] = {n: p for n, p in model.named_parameters()}
    pre = weights["pretrained"]

    def same(kind, name):
        return torch.equal(pre[name], weights[kind][name])

    parts = {
        "stem": "encoder.stem.day.weight",
        "vit": "encoder.vit.blocks.0.attn.qkv.weight",
        "way_back": "encoder.way_back.coarse.0.weight",
    }
    token = parts["vit"]
    for kind, kept in (
        ("frozen", {"stem", "vit", "way_back"}),
        ("fresh_dense", {"stem", "vit"}),
        ("fresh_tokens", {"stem", "way_back"}),
        ("scratch", set()),
    ):
        assert {part for part, name in parts.items() if same(kind, name)} == kept, kind
    assert weights["scratch"].keys() == pre.keys()
    assert token not in weights["conv"] and weights["conv"].keys() == weights["conv_map"].keys()
    unet = dict(load_model(runs[1]).named_parameters())
    kept = [n for n in unet if torch.equal(unet[n], weights["unet_map"][f"encoder.{n}"])]
    assert set(unet) - set(kept) == {FIRST}, "the task has other bands: the first convolution alone differs"


def test_rows_that_read_the_map_do(bench, tmp_path):
    """And no other row does: another map changes what they say, and nothing else."""
    rows = contenders(["all"], [make_run(tmp_path / "a"), make_conv_run(tmp_path / "c")], 1, None)
    batch = bench.source("train").read([0, 1])
    other = batch.replace(targets={**batch.targets, "map": (batch.targets["map"] + 1) % 8})
    told = set()
    for c in (c for c in rows if c.trained and not c.extra_flops):
        model = c.build(bench.spec, bench.outputs, c.space(bench.spec, 4).start, 0).eval()
        for p in model.parameters():  # what starts at 0 must not hide it
            p.data += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        if not torch.equal(model(batch), model(other)):
            told.add(c.kind)
    assert told == {"unet_map_input", "conv_map_input", "scratch_map_input", "pretrained_map_input", "map_context"}


def test_the_rival_of_other_means_is_told(tmp_path):
    run = make_run(tmp_path / "a")
    kinds = ["pretrained", "unet_map", "conv_map", "plus"]
    rows = contenders(kinds, [run], 3, None)
    assert list(not_run(kinds, rows, 3)) == ["U-Net pretrained on the map", "conv pretrained on the map"]
    assert not notes(rows)
    same = contenders(kinds, [run, make_unet_run(tmp_path / "u"), make_conv_run(tmp_path / "c")], 3, None)
    assert not not_run(kinds, same, 3) and not notes(same)
    other = contenders(kinds, [run, make_unet_run(tmp_path / "v", flops=6e8)], 3, None)
    why = "U-Net pretrained on the map had 6e+08 pretraining FLOPs, which no encoder beside it had."
    assert notes(other) == [why]
    masked = make_run(tmp_path / "m", objective="masked_seg", model=Encoder(BANDS, **OPTIONS | {"depth": 0}))
    with pytest.raises(InputError, match=r"conv pretrained with objective=masked_seg; .* must be objective=supervised"):
        contenders(kinds, [run, masked], 3, None)


def test_the_search_for_a_recipe_is_charged_to_its_own_rows(tmp_path):
    trials = [make_run(tmp_path / f"t{i}", lr=i, flops=1e8) for i in range(3)]
    trials.append(make_unet_run(tmp_path / "tu", flops=5e8))
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", objective="jepa"), make_unet_run(tmp_path / "u")]
    rows = contenders(["pretrained", "unet_map", "unet", "plus"], runs, 1, None, search=trials)
    assert {c.name: c.search_flops for c in rows} == {
        "mae": 3e8,
        "jepa": 0.0,
        "U-Net pretrained on the map": 5e8,
        "U-Net": 0.0,
        "U-Net + 3e8 FLOPs": 0.0,
    }


def test_runs_are_grouped_by_recipe(tmp_path):
    a0, a1 = (make_run(tmp_path / f"a{s}", seed=s, mask_ratio=0.75) for s in (1, 0))
    other = make_run(tmp_path / "b", objective="masked_seg")
    assert {n: [r.seed for r in v] for n, v in group_runs([a0, a1, other]).items()} == {
        "mae": [0, 1],
        "masked_seg": [0],
    }
    clash = make_run(tmp_path / "c", mask_ratio=0.5)
    assert list(group_runs([a0, clash])) == ["mae mask_ratio=0.75", "mae mask_ratio=0.5"]
    lists = [make_run(tmp_path / f"l{k}", keep=f"/{f}.parquet") for k, f in enumerate(("x/all", "x/few", "y/few"))]
    assert list(group_runs(lists[:2])) == ["mae keep=all", "mae keep=few"]
    assert list(group_runs(lists[1:])) == ["mae keep=/x/few.parquet", "mae keep=/y/few.parquet"]
    twice = make_run(tmp_path / "d", seed=1, mask_ratio=0.75)
    with pytest.raises(InputError, match="same recipe and seed"):
        group_runs([a0, twice])


def test_an_earth_asked_for_by_the_runs_own_seed_makes_no_other_recipe(tmp_path):
    """train.py seed=3 data.seed=3 pretrains on the Earth that seed=3 alone does."""
    runs = []
    for seed, earth in ((0, 0), (1, None), (2, 0)):
        runs.append(make_run(tmp_path / str(seed), seed=seed))
        path = tmp_path / str(seed) / "config.yaml"
        path.write_text(path.read_text() + f"data: {{name: synthetic, seed: {'null' if earth is None else earth}}}\n")
    groups = {n: [r.seed for r in v] for n, v in group_runs(runs).items()}
    assert groups == {"mae seed=null": [0, 1], "mae seed=0": [2]}


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "no", "no such folder"), (tmp_path / "empty", "has not finished")):
        with pytest.raises(InputError, match=words):
            group_runs([str(folder)])
    with pytest.raises(InputError, match="choose from all, plus, pretrained"):
        contenders(["unett"], [], 1, None)
    with pytest.raises(
        InputError, match=r"nothing pretrained to compare; give checkpoint=runs/<name> .* contenders=unet"
    ):
        contenders(["pretrained", "unet"], [], 1, None)
    with pytest.raises(InputError, match="nothing to compare"):
        contenders(["unet_map"], [], 1, None)
