"""What mae, latent and jepa count: hidden, valid tokens and pixels, each as often as any other, and no fillers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from test_objectives import build
from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.models import masking
from gfm_objectives.models.heads import PatchHead, by_cell
from gfm_objectives.objectives.masked_tokens import MaskedTokens, patches

EVERYTHING = {"mask_ratio": 0.3, "predict": 1.0}  # more is asked for than is hidden: the rest are fillers


def hidden(objective: MaskedTokens, batch: Batch) -> dict[str, Tensor]:
    """Sensor -> which of its valid tokens (B, dates * cells) a step of seed 1 hides."""
    torch.manual_seed(1)
    every = objective.encoder.tokenize(batch)
    _, gone = masking.split(every, round((1 - objective.mask_ratio) * every.x.shape[1]), objective.kinds)
    asked = (torch.zeros_like(every.valid).scatter(1, gone, True) & every.valid).unflatten(1, (-1, every.cells))
    slots = torch.tensor([list(batch.sensors).index(s) for s in every.slots])
    return {s: asked[:, slots == k].flatten(1) for k, s in enumerate(batch.sensors)}


def tokens(batch: Batch, sensor: str) -> tuple[Tensor, Tensor]:
    """Pixels (B, dates * cells, 64, C) and their validity (B, dates * cells, 64)."""
    s = batch.sensors[sensor]
    x = rearrange(s.x, "b t c (h p) (w q) -> b (t h w) (p q) c", p=8, q=8)
    return x, rearrange(s.valid, "b t (h p) (w q) -> b (t h w) (p q)", p=8, q=8)


def asking(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor, Tensor]]:
    """What a step asks for, as it does: sensor, positions among the sensor's tokens, and which are no fillers."""
    out: list[tuple[str, Tensor, Tensor]] = []
    find = masking.hidden_of

    def finding(gone: Tensor, every: masking.Tokens, sensor: str, count: int) -> tuple[Tensor, Tensor]:
        where, real = find(gone, every, sensor, count)
        out.append((sensor, where - every.slots.index(sensor) * every.cells, real > 0))
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
    objective.head = Constant()
    error, count, by_sensor = 0.0, 0, {}
    for sensor, which in hidden(objective, batch).items():
        x, valid = tokens(batch, sensor)
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


def test_latent_tells_a_token_from_the_hidden_ones_of_its_place_and_sensor(
    spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build("latent", spec, temperature=0.2, **EVERYTHING)
    said: list[Tensor] = []
    objective.head.register_forward_hook(lambda *args: said.append(args[-1].detach()))
    asked = asking(monkeypatch)
    torch.manual_seed(1)
    out = objective(batch)
    each: dict[str, list[Tensor]] = {}
    for (sensor, where, real), prediction in zip(asked, said, strict=True):
        x, valid = tokens(batch, sensor)
        weight, bias = objective.get_buffer(f"weight_{sensor}"), objective.get_buffer(f"bias_{sensor}")
        assert not real.all()
        for b in real.any(1).nonzero()[:, 0].tolist():
            goals = []
            for k in where[b][real[b]].tolist():
                ok = valid[b, k][:, None]
                filled = torch.where(ok, x[b, k], x[b, k][valid[b, k]].mean(0))
                goals.append(filled.flatten() @ weight + bias)
            query = F.normalize(prediction[b][real[b]].flatten(1) @ weight + bias, dim=1)
            logits = query @ F.normalize(torch.stack(goals), dim=1).T / 0.2
            each.setdefault(sensor, []).append(F.cross_entropy(logits, torch.arange(len(logits)), reduction="none"))
    by_sensor = {f"nce_{s}": float(torch.cat(v).mean()) for s, v in each.items()}
    assert {k: float(v) for k, v in out.items() if k != "loss"} == pytest.approx(by_sensor, rel=1e-4)
    total = torch.cat([t for v in each.values() for t in v]).mean()
    assert float(out["loss"].detach()) == pytest.approx(float(total), rel=1e-4)


def test_jepa_predicts_what_the_teacher_makes_of_everything(
    spec: Spec, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build("jepa", spec, **EVERYTHING)
    said: dict[str, list[Tensor]] = {"token_head": [], "dense_head": []}
    for name, heard in said.items():
        getattr(objective, name).register_forward_hook(lambda *args, heard=heard: heard.append(args[-1].detach()))
    asked = asking(monkeypatch)
    torch.manual_seed(1)
    out = objective(batch)

    def norm(z: Tensor) -> Tensor:
        return (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    with torch.no_grad():
        every = objective.teacher.tokenize(batch)
        z = objective.teacher(every)
        dense = norm(objective.teacher.dense(batch, every, z).movedim(1, -1))
    goal = norm(z)
    each = []
    for (sensor, where, real), told in zip(asked, said["token_head"], strict=True):
        first = every.slots.index(sensor) * every.cells
        for b in range(len(batch)):
            want = goal[b, first + where[b][real[b]]]
            each.append(F.smooth_l1_loss(told[b][real[b]], want, reduction="none").mean(1))
    tokens_loss = float(torch.cat(each).mean())
    pixels = float(F.smooth_l1_loss(said["dense_head"][0].movedim(1, -1), dense))
    assert float(out["tokens"]) == pytest.approx(tokens_loss, rel=1e-4)
    assert float(out["pixels"]) == pytest.approx(pixels, rel=1e-4)
    assert float(out["loss"].detach()) == pytest.approx(tokens_loss + pixels, rel=1e-4)
    assert float(out["spread"]) == pytest.approx(float(z.flatten(0, 1).std(0).mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["mae", "latent", "jepa"])
def test_what_is_hidden_never_reaches_the_prediction(name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec, mask_ratio=0.6).eval()
    other = {}
    for sensor, which in hidden(objective, batch).items():
        s = batch.sensors[sensor]
        gone = which.view(4, s.x.shape[1], 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        noise = torch.randn_like(s.x)
        other[sensor] = Series(torch.where((gone & s.valid)[:, :, None], noise, s.x), s.valid, s.day, s.bands)
        assert not torch.equal(other[sensor].x, s.x)
    told: list[Tensor] = []
    objective.decoder.register_forward_hook(lambda *args: told.append(args[-1]))
    objective.encoder.dense_path.register_forward_hook(lambda *args: told.append(args[-1]))
    losses = []
    for b in (batch, batch.replace(sensors=other)):
        torch.manual_seed(1)
        losses.append(objective(b)["loss"])
    first, second = told[: len(told) // 2], told[len(told) // 2 :]
    assert len(first) == 4 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert losses[0] != losses[1]  # what is hidden is the target


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


def test_of_many_hidden_tokens_chance_picks(spec: Spec, batch: Batch) -> None:
    every = build("mae", spec).encoder.tokenize(batch)
    gone = torch.arange(96).expand(4, 96)
    picks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        where, real = masking.hidden_of(gone, every, "s2", 12)
        assert real.all() and every.valid.gather(1, where).all()
        picks.append(where.sort(1).values)
    assert (picks[0] != picks[1]).any(1).all() and not torch.equal(picks[0][0], picks[0][1])


def test_a_patch_is_told_by_its_token_and_pixel_by_pixel_by_its_cell(spec: Spec, batch: Batch) -> None:
    """The dense features at a token's pixels, in the order in which its target's pixels come."""
    view = build("mae", spec, **EVERYTHING).look(batch)
    head = PatchHead(6, 2, 8, {"s1": ("VV", "VH")})
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    head.gate.bias.data.fill_(3.0)
    head.pixel["s1"].weight.data.copy_(torch.eye(2))
    s1 = batch.sensors["s1"]
    dense = torch.randn(4, 2, 32, 32)
    shown = Series(dense[:, None].expand_as(s1.x), torch.ones_like(s1.valid), s1.day, s1.bands)
    where = torch.stack([torch.randperm(32)[:9] for _ in range(4)]) + 48
    target, _ = patches(view, "s1", shown, where)
    said = head("s1", torch.randn(4, 9, 6), by_cell(dense, 8), where % 16)
    torch.testing.assert_close(said, 3 * target)
    head.token["s1"].bias.data.copy_(torch.arange(128.0))
    told = head("s1", torch.randn(4, 9, 6), by_cell(dense, 8), where % 16)
    torch.testing.assert_close(told - said, torch.arange(128.0).view(64, 2).expand_as(said))
