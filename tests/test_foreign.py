"""Encoders of others, tiny and with random weights: they give what their own forward gives, on our way back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import random_batch

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.published import COSTS, published
from gfm_objectives.compare.rows import EXTRA_LIMIT, contenders, not_run, notes
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import backbones
from gfm_objectives.models.backbones import Backbone
from gfm_objectives.models.foreign import TORCHGEO, ForeignSegmenter, load_weights, open_backbone, split_name
from gfm_objectives.models.positions import day_features, metres
from gfm_objectives.sensors import S2_TEN, Legend

SPEC = Spec(
    {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)},
    {"s2": 2, "s1": 2, "dem": 1},
    32,
    10.0,
    {"map": Legend("m", tuple("ab"))},
)
NAMES = ("dofa", "croma", "panopticon", "scalemae", "copernicusfm", "timm")
SMALL = {"embed_dim": 32, "depth": 1, "num_heads": 2}


def tiny(name: str) -> Backbone:
    """The real class, as small as it comes."""
    torch.manual_seed(0)
    if name == "timm":
        from timm.models.vision_transformer import VisionTransformer

        return backbones.RGB(SPEC, VisionTransformer(img_size=32, patch_size=16, num_classes=0, **SMALL), 32, 16)
    import torchgeo.models as tg

    if name == "dofa":
        return backbones.DOFA(SPEC, tg.DOFA(img_size=32, **SMALL), 32, 16)
    if name == "croma":
        model = tg.CROMA(encoder_dim=32, encoder_depth=2, num_heads=16, image_size=32)
        return backbones.CROMA(SPEC, model, 32, 8)
    if name == "scalemae":
        return backbones.RGB(SPEC, tg.ScaleMAE(res=10.0, img_size=32, patch_size=16, **SMALL), 32, 16)
    if name == "copernicusfm":
        return backbones.CopernicusFM(SPEC, tg.CopernicusFM(img_size=32, **SMALL), 32, 16)
    return backbones.Panopticon(SPEC, small_panopticon(), 28, 14)


def small_panopticon() -> torch.nn.Module:
    """Its class always builds a ViT-B: here with a small one in its place."""
    from timm.models.vision_transformer import VisionTransformer
    from torchgeo.models import panopticon

    vit = VisionTransformer(img_size=28, patch_size=14, num_classes=0, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panopticon.timm, "create_model", lambda _: vit)
        return panopticon.Panopticon(attn_dim=48, embed_dim=32, img_size=28)


def segmenter(name: str) -> ForeignSegmenter:
    return ForeignSegmenter(tiny(name), SPEC, 3, dim=16, heads=2, cell_dim=16, width=8)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(SPEC, 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_segments_trains_and_is_counted(name, batch):
    model = segmenter(name)
    out = model(batch)
    assert out.shape == (2, 3, 32, 32) and out.dtype == torch.float32 and torch.isfinite(out).all()
    out.square().mean().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert any(g is not None and g.abs().sum() > 0 for n, g in grads.items() if n.startswith("encoder."))
    assert grads["day.weight"].abs().sum() > 0 and grads["head.weight"].abs().sum() > 0
    whole = measure(model, batch, lambda m, b: m(b).mean())
    for p in model.encoder.parameters():
        p.requires_grad_(False)
    frozen = measure(model, batch, lambda m, b: m(b).mean())
    assert 0 < whole.forward == frozen.forward < frozen.total < whole.total


@pytest.mark.parametrize("name", NAMES)
def test_bands_dates_and_sensors_it_reads_matter(name, batch):
    encoder = tiny(name).eval()
    assert encoder.sensors == (("s2",) if name in ("scalemae", "timm") else ("s2", "s1"))
    with torch.no_grad():
        before = encoder(batch)
        for sensor in encoder.sensors:
            assert before[sensor].shape == (2, 2, encoder.grid**2, 32)
            series = batch.sensors[sensor]
            x = series.x.clone()
            x[:, 1] += 0.5
            moved = type(series)(x, series.valid, series.day, series.bands)
            after = encoder(batch.replace(sensors={**batch.sensors, sensor: moved}))
            assert not torch.allclose(after[sensor][:, 1], before[sensor][:, 1])
            assert torch.equal(after[sensor][:, 0], before[sensor][:, 0]), "a date is read by itself"


def test_dofa_gives_its_own_features(batch):
    encoder = tiny("dofa").eval()
    with torch.no_grad():
        ours = encoder.model.fc_norm(encoder(batch)["s2"].mean(2)).flatten(0, 1)
        own = encoder.model.forward_features(batch.sensors["s2"].x.flatten(0, 1), encoder.micrometres["s2"])
    torch.testing.assert_close(ours, own)


def test_copernicusfm_gives_its_own_features(batch):
    encoder, s1 = tiny("copernicusfm").eval(), batch.sensors["s1"]
    for token in (encoder.model.coord_token, encoder.model.pos_embed):
        torch.nn.init.normal_(token)
    nan = torch.full((4,), math.nan)
    about = torch.stack([nan, nan, s1.day.flatten() + 10957, torch.full((4,), 0.16**2)], 1)  # 1970; 16 pixels of 10 m
    with torch.no_grad():
        ours = encoder.model.fc_norm(encoder(batch)["s1"].mean(2)).flatten(0, 1)
        own = encoder.model.forward_features(s1.x.flatten(0, 1), about, [5e7, 5e7], [1e9, 1e9])
    torch.testing.assert_close(ours, own)


def test_panopticon_gives_its_own_features(batch):
    torch.manual_seed(0)
    model = small_panopticon().eval()
    torch.nn.init.normal_(model.model.patch_embed.chnfus.chnemb.embed_transmit)
    encoder = backbones.Panopticon(SPEC, copy.deepcopy(model), 28, 14).eval()
    with torch.no_grad():
        ours = encoder(batch)
        for sensor, ids in (("s2", [492, 560, 665, 704, 740, 783, 833, 865, 1610, 2190]), ("s1", [-1, -2])):
            images = encoder.images(batch.sensors[sensor])
            x = {"imgs": images, "chn_ids": torch.tensor([ids] * 4, dtype=torch.float32)}
            torch.testing.assert_close(ours[sensor].flatten(0, 1), model.model.forward_features(x)[:, 1:])


def test_croma_gives_its_own_features(batch):
    encoder = tiny("croma").eval()
    with torch.no_grad():
        ours, s2, s1 = encoder(batch), batch.sensors["s2"], batch.sensors["s1"]
        x = ((s2.x + 2) / 4).clamp(0, 1)
        filled = [0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9]  # B01 from B02, B09 from B8A
        near = (s1.day[0, 1] - s2.day[0]).abs().argmin()
        own = encoder.model(((s1.x[:1, 1] + 2) / 4).clamp(0, 1), x[:1, near][:, filled])
    torch.testing.assert_close(ours["s2"][:1, near], own["optical_encodings"])
    torch.testing.assert_close(ours["s1"][:1, 1], own["joint_encodings"])


@pytest.mark.parametrize("name", ["dofa", "croma"])
def test_its_vectors_are_merged_over_dates_and_sensors(name, batch):
    """By hand, of the cells of one place: dates that show something, each told its day and sensor; sensors add."""
    model = segmenter(name).eval()
    with torch.no_grad():
        patch, grid = model.patch, 32 // model.patch
        total = torch.zeros(grid * grid, 16)
        for sensor, z in model.encoder(batch).items():
            series = batch.sensors[sensor]
            told = model.day(day_features(series))[0] + model.sensor[sensor]  # (T, 16)
            y = model.resample(z, (grid, grid))[0] + told[:, None]  # (T, cells, 16)
            alive = torch.nn.functional.max_pool2d(series.valid[:1].float(), patch)[0].flatten(1) > 0  # (T, cells)
            e = model.score(y).exp() * alive[..., None]  # (T, cells, 2)
            share = (e / (1 + e.sum(0))).repeat_interleave(8, 2)
            total += (y * share).sum(0)
        by_hand = model.norm(total) + metres((grid, grid), patch, batch.gsd, 16)[0]
        torch.testing.assert_close(model.tokens(batch)[0], by_hand, rtol=1e-4, atol=1e-5)


def test_bands_it_cannot_read_come_in_at_full_resolution(batch):
    """timm's ViT reads three bands of s2: the others, the radar and the relief are read by our stem."""
    model = segmenter("timm").eval()
    with torch.no_grad():
        before = model(batch)
        for sensor, band in (("s2", 9), ("s1", 0), ("dem", 0)):
            series = batch.sensors[sensor]
            x = series.x.clone()
            x[:, :, band] += series.valid
            moved = batch.replace(sensors={**batch.sensors, sensor: series.replace(x=x)})
            assert torch.equal(model.encoder(moved)["s2"], model.encoder(batch)["s2"])
            assert not torch.equal(model(moved), before), sensor


def test_weights_from_a_file(tmp_path):
    from torchgeo.models import DOFA

    torch.manual_seed(1)
    source = DOFA(img_size=64, **SMALL)
    torch.nn.init.normal_(source.pos_embed)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("head")}
    torch.save({"model": state | {"decoder.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "dofa.pth")
    target = DOFA(img_size=32, **SMALL)
    load_weights(target, tmp_path / "dofa.pth", 2)
    assert torch.equal(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert target.pos_embed.shape == (1, 5, 32) and torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    torch.save({k: v for k, v in state.items() if "blocks" not in k}, tmp_path / "half.pth")
    with pytest.raises(InputError, match="parts missing, such as blocks"):
        load_weights(target, tmp_path / "half.pth", 2)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match="do not fit DOFA"):
        load_weights(DOFA(img_size=32, **{**SMALL, "embed_dim": 64}), tmp_path / "other.pth", 2)
    torch.save({"model": Batch}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"holds more than tensors by name, or is damaged; it is not opened"):
        load_weights(target, tmp_path / "code.pth", 2)


def test_names_and_sizes():
    assert split_name("torchgeo:croma_base") == ("torchgeo", "croma_base")
    for name, words in (
        ("torchgeo:doofa", "torchgeo:dofa_small"),
        ("resnet", "give timm:"),
        ("timm:x", "no such"),
    ):
        with pytest.raises(InputError, match=words):
            split_name(name)
    encoder = open_backbone(SPEC, "timm:vit_tiny_patch16_224", 32)
    assert (encoder.size, encoder.grid, encoder.dim) == (32, 2, 192)
    for name, size, words in (
        ("timm:vit_tiny_patch16_224", 40, "multiple of its patch, 16"),
        ("torchgeo:croma_base", 30, "multiple of its patch, 8"),
        ("timm:resnet18", 32, "cannot build it|not a plain ViT"),
    ):
        with pytest.raises(InputError, match=words):
            open_backbone(SPEC, name, size)
    with pytest.raises(InputError, match="reads none of dem"):
        open_backbone(Spec({"dem": ("elevation",)}, {"dem": 1}, 32, 10.0, {}), "timm:vit_tiny_patch16_224", 32)


def test_costs_are_known_for_what_can_be_opened_or_said_to_be_unknown():
    assert {n for n in TORCHGEO if n not in COSTS} == {"dofa_small_patch16_224", "dofa_large_patch16_224"}
    assert all(1e18 < c.flops < 1e21 and len(c.source) > 40 for c in COSTS.values())


def test_rows(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"w")
    encoders = ["torchgeo:croma_base", "timm:vit_tiny_patch16_224", "torchgeo:dofa_base_patch16_224"]
    found = published(encoders, [str(tmp_path / "w.pth"), str(tmp_path / "w.pth"), "random"], 32)
    kinds = ["foreign", "foreign_frozen", "unet", "plus"]
    rows: dict[str, Contender] = {c.name: c for c in contenders(kinds, [], 3, None, found)}
    assert list(rows) == [
        *(f"{n}{s}" for s in ("", ", frozen") for n in (
            "croma_base at 32 px", "vit_tiny_patch16_224 at 32 px", "dofa_base_patch16_224 at 32 px random weights")),
        "U-Net",
    ]  # fmt: skip
    assert rows["croma_base at 32 px"].pretrain_flops == COSTS["croma_base"].flops > EXTRA_LIMIT
    assert math.isnan(rows["vit_tiny_patch16_224 at 32 px"].pretrain_flops)
    assert rows["dofa_base_patch16_224 at 32 px random weights"].pretrain_flops == 0
    assert list(not_run(kinds, list(rows.values()), 3, found)) == ["rivals + 2e19 FLOPs", "rivals + 6.8e18 FLOPs"]
    told = "\n".join(notes(list(rows.values()), found))
    assert "derived, from arXiv:2311.00566" in told and "unknown" in told and "RANDOM" in told
    for weights, words in (
        (["random"], "1 for 3 encoders"),
        ([str(tmp_path / "no"), "random", "random"], "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            published(encoders, weights, None)
