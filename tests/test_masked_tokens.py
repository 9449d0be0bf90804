"""What mae, latent and jepa count: hidden, valid cells and pixels, each as often as any other, and no fillers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import NANO, random_batch
from einops import rearrange
from test_models import SLOTS, altered
from test_objectives import build, options
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import masking
from gfm_objectives.models.attention import Decoder
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.models.masking import Mask
from gfm_objectives.models.positions import metres
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.latent import Latent
from gfm_objectives.objectives.masked_tokens import MaskedTokens, patches
from gfm_objectives.objectives.objective import View
from gfm_objectives.pretrain.steps import kinds_of_step

EVERYTHING = {"mask_ratio": 0.3, "predict": 1.0}  # more is asked for than is hidden: the rest are fillers


def masked(objective: MaskedTokens, batch: Batch) -> Mask:
    """What a step of seed 1 hides."""
    torch.manual_seed(1)
    return objective.mask(batch, objective.variants()[0])


def hidden(mask: Mask) -> dict[str, Tensor]:
    """Sensor -> which of its valid cells (B, dates * cells) are hidden."""
    gone = mask.valid & ~mask.seen
    return {s: gone[:, SLOTS.index(s) :][:, : SLOTS.count(s)].flatten(1) for s in dict.fromkeys(SLOTS)}


def cells(batch: Batch, sensor: str) -> tuple[Tensor, Tensor]:
    """Pixels (B, dates * cells, 64, C) and their validity (B, dates * cells, 64)."""
    s = batch.sensors[sensor]
    x = rearrange(s.x, "b t c (h p) (w q) -> b (t h w) (p q) c", p=8, q=8)
    return x, rearrange(s.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=8, q=8)


def asking(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor, Tensor]]:
    """What a step asks for, as it does: sensor, numbers among the sensor's cells, and which are no fillers."""
    out: list[tuple[str, Tensor, Tensor]] = []
    find = masking.hidden_of

    def finding(mask: Mask, names: tuple[str, ...], sensor: str, count: int) -> tuple[Tensor, Tensor]:
        where, real = find(mask, names, sensor, count)
        out.append((sensor, where, real > 0))
        return where, real

    monkeypatch.setattr(masking, "hidden_of", finding)
    return out


class Constant(nn.Module):
    """A head that says the same of every pixel."""

    def forward(self, sensor: str, told: Tensor, cells: Tensor, cell: Tensor) -> Tensor:
        return torch.full((*cell.shape, 64, 1), 0.5)


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_is_the_mean_over_hidden_valid_pixels(normalise: bool, spec: Spec, batch: Batch) -> None:
    objective = build("mae", spec, normalise=normalise, **EVERYTHING)
    objective.heads["8"] = Constant()
    error, count, by_sensor = 0.0, 0, {}
    for sensor, which in hidden(masked(objective, batch)).items():
        x, valid = cells(batch, sensor)
        mine, n = 0.0, 0
        for b, k in which.nonzero().tolist():
            pixels = x[b, k][valid[b, k]]  # (n, C)
            if normalise:
                pixels = (pixels - pixels.mean(0)) / (pixels.var(0, correction=0) + 1e-4).sqrt()
            mine, n = mine + float((pixels - 0.5).abs().mean(1).sum()), n + len(pixels)
        by_sensor[f"l1_{sensor}"] = mine / n
        error, count = error + mine, count + n
    torch.manual_seed(1)
    out = objective(batch)
    assert float(out["loss"]) == pytest.approx(error / count, rel=1e-4)
    assert {k: float(v) for k, v in out.items() if k != "loss"} == pytest.approx(by_sensor, rel=1e-4)


def spoken(objective: Latent, batch: Batch, asked: list) -> tuple[dict[str, tuple[Tensor, Tensor, Tensor]], dict]:
    """A step of seed 1: sensor -> predictions and targets (B, K, D), projected by hand, and which are no fillers; and
    what it returns."""
    said: list[Tensor] = []
    objective.heads["8"].register_forward_hook(lambda *args: said.append(args[-1].detach()))
    torch.manual_seed(1)
    out = objective(batch)
    found = {}
    for (sensor, where, real), prediction in zip(asked, said, strict=True):
        x, valid = cells(batch, sensor)
        weight, bias = objective.get_buffer(f"weight_8_{sensor}"), objective.get_buffer(f"bias_8_{sensor}")
        assert not real.all()
        goals = torch.zeros(*where.shape, weight.shape[1])
        for b, k in real.nonzero().tolist():
            at = int(where[b, k])
            filled = torch.where(valid[b, at][:, None], x[b, at], x[b, at][valid[b, at]].mean(0))
            goals[b, k] = filled.flatten() @ weight + bias
        found[sensor] = prediction.flatten(2) @ weight + bias, goals, real
    return found, {k: float(v.detach()) for k, v in out.items()}


def discriminate(query: Tensor, goal: Tensor) -> Tensor:
    """InfoNCE of rows (N, D) at temperature 0.2, each."""
    logits = F.normalize(query, dim=1) @ F.normalize(goal, dim=1).T / 0.2
    return F.cross_entropy(logits, torch.arange(len(logits)), reduction="none")


@pytest.mark.parametrize("within", ["sensor", "place"])
def test_latent_tells_a_cell_from_the_hidden_ones_of_its_place(
    within: str, spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of its sensor, or of any."""
    objective = build("latent", spec, temperature=0.2, within=within, instance=0.0, **EVERYTHING)
    found, out = spoken(objective, batch, asking(monkeypatch))
    everything = tuple(torch.cat(parts, 1) for parts in zip(*found.values(), strict=True))
    groups = found if within == "sensor" else {"place": everything}
    each = {
        name: torch.cat([discriminate(q[b][real[b]], t[b][real[b]]) for b in range(4) if real[b].any()])
        for name, (q, t, real) in groups.items()
    }
    total = float(torch.cat(list(each.values())).mean())
    assert out == pytest.approx({"loss": total, **{f"nce_{s}": float(v.mean()) for s, v in each.items()}}, rel=1e-4)
    with pytest.raises(InputError, match=r"objective\.within=batch: choose from sensor, place"):
        build("latent", spec, within="batch")


def test_latent_tells_places_apart_by_their_means(spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is predicted of all hidden cells of a place, and of their targets."""
    objective = build("latent", spec, temperature=0.2, instance=0.7, **EVERYTHING)
    found, out = spoken(objective, batch, asking(monkeypatch))
    query, goal, real = (torch.cat(parts, 1) for parts in zip(*found.values(), strict=True))
    means = [torch.stack([t[b][real[b]].mean(0) for b in range(4)]) for t in (query, goal)]
    instance = float(discriminate(*means).mean())
    assert out["instance"] == pytest.approx(instance, rel=1e-4) and instance > 0
    plain = build("latent", spec, temperature=0.2, instance=0.0, **EVERYTHING)
    torch.manual_seed(1)
    without = plain(batch)
    assert "instance" not in without
    assert out["loss"] == pytest.approx(float(without["loss"].detach()) + 0.7 * instance, rel=1e-4)


def norm(z: Tensor) -> Tensor:
    return (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def test_jepa_predicts_what_the_teacher_makes_of_everything(spec: Spec, batch: Batch) -> None:
    """Of each cell by the share of its dates and sensors that is hidden; of every pixel."""
    objective = build("jepa", spec, mask_ratio=0.4, variance=0.5, covariance=0.25)
    said: dict[str, list[Tensor]] = {"token_head": [], "dense_head": []}
    for name, heard in said.items():
        getattr(objective, name).register_forward_hook(lambda *args, heard=heard: heard.append(args[-1].detach()))
    shown: list[Tensor] = []
    objective.dense_head.register_forward_pre_hook(lambda _, args: shown.append(args[0].detach()))
    objective.token_head.register_forward_pre_hook(lambda _, args: shown.append(args[0].detach()))
    mask = masked(objective, batch)
    torch.manual_seed(1)
    out = {k: float(v.detach()) for k, v in objective(batch).items()}
    with torch.no_grad():
        everything = objective.teacher(batch)
    error = F.smooth_l1_loss(said["token_head"][0], norm(everything.tokens), reduction="none").mean(-1)
    total = count = 0.0
    for b in range(4):
        for cell in range(16):
            valid, seen = (t[b].flatten(1)[:, cell] for t in (mask.valid, mask.seen))
            share = float((valid & ~seen).sum()) / max(1, int(valid.sum()))
            total, count = total + share * float(error[b, cell]), count + share
    pixels = float(F.smooth_l1_loss(said["dense_head"][0].movedim(1, -1), norm(everything.dense.movedim(1, -1))))
    z, dense = sorted((t for t in shown), key=lambda t: t.ndim)
    apart = by_hand_apart(z.flatten(0, 1)) + by_hand_apart(dense[:, :, ::4, ::4].movedim(1, -1).flatten(0, 2))
    wanted = {
        "loss": total / count + pixels + apart,
        "tokens": total / count,
        "pixels": pixels,
        "apart": apart,
        "spread": float(everything.tokens.flatten(0, 1).std(0, correction=0).mean()),
    }
    assert out == pytest.approx(wanted, rel=1e-4)


def by_hand_apart(x: Tensor) -> float:
    """VICReg's variance term, weighing 0.5, and its covariance term, 0.25."""
    centred = x.double() - x.double().mean(0)
    covariance = centred.T @ centred / len(x)
    hinge = (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
    off = sum(float(covariance[i, j]) ** 2 for i in range(x.shape[1]) for j in range(x.shape[1]) if i != j)
    return 0.5 * float(hinge) + 0.25 * off / x.shape[1]


def test_features_are_kept_apart_by_two_terms(spec: Spec) -> None:
    objective = build("jepa", spec, variance=1.0, covariance=0.0)
    assert float(objective.apart(torch.full((9, 4), 3.0))) == pytest.approx(1 - 0.01)  # constant: the whole hinge
    wide = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert float(objective.apart(wide)) == 0  # deviations above 1, and more does not help
    objective = build("jepa", spec, variance=0.0, covariance=1.0)
    assert float(objective.apart(wide)) == 0  # uncorrelated
    assert float(objective.apart(wide[:, :1].expand(-1, 2))) == pytest.approx(2 * 2.0**2 / 2)  # covariance 2, twice
    x = torch.randn(50, 6) @ torch.randn(6, 6)
    both = build("jepa", spec, variance=0.5, covariance=0.25)
    assert float(both.apart(0.2 * x)) == pytest.approx(by_hand_apart(0.2 * x), rel=1e-4)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_without_its_two_terms_the_teacher_collapses(weight: float, spec: Spec) -> None:
    """In thirty steps; .78 before them, .86 with and .10 without the terms."""
    places = random_batch(replace(spec, size=16), 16)
    objective = build("jepa", spec, ema=0.9, variance=weight, covariance=0.04 * weight).train()
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 3e-3)
    spread = []
    for step in range(30):
        torch.manual_seed(step)
        out = objective(places.take(torch.arange(4) + 4 * (step % 4)))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        objective.after_step(0.0)
        spread.append(float(out["spread"]))
    assert spread[-1] > 0.9 * spread[0] if weight else spread[-1] < 0.3 * spread[0]


@pytest.mark.parametrize("name", ["mae", "latent", "jepa"])
@pytest.mark.parametrize("kind", masking.KINDS)
def test_what_is_hidden_never_reaches_the_prediction(kind: str, name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec, mask_ratio=0.6, kinds=[kind]).eval()
    mask = masked(objective, batch)
    noise = altered(batch, mask)
    sensors = {
        k: Series(torch.where(s.valid[:, :, None], noise.sensors[k].x, s.x), s.valid, s.day, s.bands)
        for k, s in batch.sensors.items()
    }
    told: list[Tensor] = []
    for part in (
        getattr(objective, "decoder", None),
        getattr(objective, "token_head", None),
        objective.encoder.way_back,
    ):
        if part is not None:
            part.register_forward_hook(lambda *args: told.append(args[-1].detach()))
    objective.encoder.vit.register_forward_hook(lambda *args: told.append(args[-1].detach()))
    losses = []
    for b in (batch, batch.replace(sensors=sensors)):
        torch.manual_seed(1)
        losses.append(objective(b)["loss"])
    first, second = told[: len(told) // 2], told[len(told) // 2 :]
    assert len(first) == 3 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert losses[0] != losses[1]  # what is hidden is the target


@pytest.mark.parametrize("name", ["mae", "latent"])
def test_encode_seen_is_of_two_sorts_of_step(name: str, spec: Spec, batch: Batch) -> None:
    """Where whole positions are hidden, the ViT reads the others and the decoder asks them alone, at less cost."""
    objective = build(name, spec, encode="seen", kinds=["random", "cell", "block", "date"])
    assert objective.variants() == (("cell", "block"), ("random", "date"))
    assert build(name, spec, encode="seen", kinds=["date"]).variants() == (("date",),)
    read: list[tuple[int, int]] = []
    objective.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    objective.decoder.register_forward_pre_hook(lambda _, args: read.append(args[2].shape[1]))
    cost = {}
    for way in objective.variants():
        out = objective(batch, way)
        assert torch.isfinite(out["loss"])
        cost[way] = measure(objective, spec.dummy(2), lambda m, b, way=way: m(b, way)["loss"]).total
    assert read == [4] * 4 + [16] * 4  # a quarter of 16, then all; and the same when costs are counted
    assert cost["cell", "block"] < cost["random", "date"]
    mask = objective.mask(batch, ("cell", "block"))
    assert mask.keep is not None and torch.equal(mask.seen.any(1), mask.seen.all(1))
    with pytest.raises(InputError, match=r"objective\.encode=some: choose from all, seen"):
        build(name, spec, encode="some")


def test_convolutions_need_every_cell(spec: Spec) -> None:
    encoder = Encoder.from_config({**NANO, "mixer": "convolution"}, spec)
    build_objective(options("mae"), encoder, spec)
    with pytest.raises(InputError, match=r"objective\.encode=seen: convolutions need every cell; take encode=all"):
        build_objective(options("mae") | {"encode": "seen"}, encoder, spec)


def test_encode_seen_hides_as_well(spec: Spec, batch: Batch) -> None:
    objective = build("mae", spec, encode="seen", kinds=["block"]).eval()
    mask, told = masked(objective, batch), []
    objective.decoder.register_forward_hook(lambda *args: told.append(args[-1]))
    objective.encoder.way_back.register_forward_hook(lambda *args: told.append(args[-1]))
    for b in (batch, altered(batch, mask)):
        encoded = objective.encoder(b, mask)
        torch.manual_seed(1)
        objective.ask(View(batch, mask, encoded))
    assert all(torch.equal(a, b) for a, b in zip(told[:2], told[2:], strict=True)) and len(told) == 4


@pytest.mark.parametrize("predict", [0.25, 0.5])
def test_a_share_of_each_sensor_is_asked_about_and_another_one_each_time(
    predict: float, spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build("mae", spec, predict=predict)
    asked = asking(monkeypatch)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        objective(batch)
    first, same, other = asked[:3], asked[3:6], asked[6:]
    assert [(s, w.shape[1]) for s, w, _ in first] == [(s, round(predict * 16 * t)) for s, t in spec.dates.items()]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_of_many_hidden_cells_chance_picks(batch: Batch) -> None:
    valid = masking.valid_cells(batch, 8)
    mask, picks = Mask(torch.zeros_like(valid), valid), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        where, real = masking.hidden_of(mask, SLOTS, "s2", 12)
        assert real.all() and valid[:, :3].flatten(1).gather(1, where).all()
        picks.append(where.sort(1).values)
    assert (picks[0] != picks[1]).any(1).all() and not torch.equal(picks[0][0], picks[0][1])


def test_the_decoder_reads_tokens_by_hand() -> None:
    """Place and slot make a query; each block adds what its heads read of normed tokens, then an MLP of that."""
    torch.manual_seed(0)
    decoder = Decoder(12, 6, heads=2, depth=2, dim=8)
    for p in decoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    place, slot, context = torch.randn(1, 3, 12), torch.randn(1, 3, 6), torch.randn(1, 5, 12)
    q = decoder.place(place[0]) + slot[0] @ decoder.slot.weight.T
    for block in decoder.blocks:
        query, (key, value) = block.q(block.norm_q(q)), block.kv(block.norm_kv(context[0])).split(8, -1)
        read = []
        for head in (slice(0, 4), slice(4, 8)):
            read.append((query[:, head] @ key[:, head].T / 2).softmax(-1) @ value[:, head])  # 2: the root of its width
        q = q + block.out(torch.cat(read, -1))
        q = q + block.mlp(block.norm_mlp(q))
    torch.testing.assert_close(decoder(place, slot, context)[0], decoder.norm(q), rtol=1e-4, atol=1e-5)


def test_the_decoder_is_told_place_day_and_sensor(spec: Spec, batch: Batch) -> None:
    """Of the cell that is asked for: the code of its place and what the stem is told of its date."""
    objective = build("mae", spec, **EVERYTHING)
    heard: list[tuple[Tensor, ...]] = []
    objective.decoder.register_forward_pre_hook(lambda _, args: heard.append(args))
    mask = masked(objective, batch)
    encoded = objective.encoder(batch, mask)
    torch.manual_seed(1)
    asked = objective.ask(View(batch, mask, encoded))
    place, slot, context = heard[0]
    assert torch.equal(context, encoded.tokens)
    code, first = metres((4, 4), 8, batch.gsd, NANO["dim"]), 0
    for sensor, a in asked.items():
        s, n = batch.sensors[sensor], a.cell.shape[1]
        x, valid = cells(batch, sensor)
        told = objective.encoder.stem.told(sensor, s)
        for b, k in a.real.nonzero().tolist()[:20]:
            assert torch.equal(place[b, first + k], code[b, a.cell[b, k]])
            date = [t for t in range(s.x.shape[1]) if torch.equal(slot[b, first + k], told[b, t])]
            assert len(date) == 1, (sensor, b, k)
            at = date[0] * 16 + int(a.cell[b, k])
            assert torch.equal(a.pixels[b, k], x[b, at]) and torch.equal(a.weight[b, k, :, 0] > 0, valid[b, at])
            assert not mask.seen[b, SLOTS.index(sensor) + date[0]].flatten()[a.cell[b, k]]
        first += n


def test_a_patch_is_told_by_its_cell_and_pixel_by_pixel_by_the_features(batch: Batch) -> None:
    """The dense features at a cell's pixels, in the order in which its target's pixels come."""
    head = PatchHead(6, 2, 8, {"s1": ("VV", "VH")})
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    head.gate.bias.data.fill_(3.0)
    head.pixel["s1"].weight.data.copy_(torch.eye(2))
    s1 = batch.sensors["s1"]
    dense = torch.randn(4, 2, 32, 32)
    shown = Series(dense[:, None].expand_as(s1.x), torch.ones_like(s1.valid), s1.day, s1.bands)
    where = torch.stack([torch.randperm(32)[:9] for _ in range(4)])
    target, _ = patches(shown, where, 8)
    said = head("s1", torch.randn(4, 9, 6), by_cell(dense, 8), where % 16)
    torch.testing.assert_close(said, 3 * target)
    head.token["s1"].bias.data.copy_(torch.arange(128.0))
    told = head("s1", torch.randn(4, 9, 6), by_cell(dense, 8), where % 16)
    torch.testing.assert_close(told - said, torch.arange(128.0).view(64, 2).expand_as(said))


@pytest.mark.parametrize("name", ["mae", "latent", "jepa"])
def test_one_encoder_learns_with_several_patches(name: str, spec: Spec, batch: Batch) -> None:
    """A kind of step for each, of another cost, with heads and frozen projections of its own; a teacher goes along."""
    torch.manual_seed(0)
    encoder = Encoder.from_config({**NANO, "patches": [4, 16]}, spec)
    objective = build_objective(options(name), encoder, spec)
    assert [(v, p) for v, p, _ in kinds_of_step(objective, spec, None)] == [((), 4), ((), 8), ((), 16)]
    cost = []
    for variant, patch, _ in kinds_of_step(objective, spec, None):
        objective.set_patch(patch)
        assert encoder.patch == objective.multiple == patch
        assert name != "jepa" or objective.teacher.patch == patch
        torch.manual_seed(1)
        loss = objective(batch, variant)["loss"]
        assert torch.isfinite(loss)
        loss.backward()
        assert encoder.vit.merge[str(patch)].weight.grad.abs().sum() > 0
        assert objective.visible(batch) == round((1 - objective.mask_ratio) * 6 * (32 // patch) ** 2)
        cost.append(measure(objective, spec.dummy(2), lambda m, b: m(b)["loss"]).total)
    assert len(set(cost)) == 3 and cost[0] > cost[2]
    objective.set_patch()
    assert encoder.patch == 8, "its own"
