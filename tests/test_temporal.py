"""temporal, and mix, which withholds dates, a sensor and positions at once."""

from __future__ import annotations

import pytest
import torch
from conftest import random_batch
from test_objectives import build, options

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.objectives.objective import Masked
from gfm_objectives.objectives.temporal import residual


def series(x: list[list[float]], valid: list[list[bool]], day: list[float]) -> Series:
    """One place of one band; x and valid are dates x pixels in a row."""
    return Series(
        torch.tensor(x)[None, :, None, None], torch.tensor(valid)[None, :, None], torch.tensor(day)[None], ("VV",)
    )


def test_the_target_is_what_a_date_has_beyond_the_median_of_the_visible() -> None:
    nan = float("nan")
    shown = series(
        [[1.0, 1.0, 5.0, nan], [2.0, nan, 1.0, nan], [9.0, 4.0, 7.0, nan]],
        [[True, True, True, False], [True, False, True, False], [True, True, True, False]],
        [0.0, 10.0, 20.0],
    )
    asked = series([[10.0, 10.0, nan, 10.0]], [[True, True, False, True]], [5.0])
    y, weight = residual(asked, shown)
    # medians 2 of (1, 2, 9), 2.5 of (1, 4), 5 of (1, 5, 7) under a cloud, none of nothing
    assert y.flatten().tolist() == [8.0, 7.5, 0.0, 0.0]
    assert weight.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("residual", [False, True])
def test_values_or_differences_are_predicted_by_hand(residual: bool, spec: Spec, batch: Batch) -> None:
    """Where the hidden date is valid and, of differences, a visible one."""
    objective = build("temporal", spec, residual=residual, ema=0.0).eval()
    said: list[torch.Tensor] = []
    objective.head.register_forward_hook(lambda *args: said.append(args[-1].detach()))
    torch.manual_seed(1)
    seen, rest = objective.withhold(batch, ())
    torch.manual_seed(1)
    out = objective(batch)
    for prediction, (sensor, hidden) in zip(said, rest.items(), strict=True):
        shown, ok = seen.sensors[sensor], hidden.valid[:, :, None]
        wanted = hidden.x
        if residual:  # one date of each is visible
            assert shown.x.shape[1] == 1
            ok, wanted = ok & shown.valid[:, :, None], hidden.x - shown.x
        error = (prediction - wanted).abs()[ok.expand_as(prediction)].mean()
        assert float(out[f"l1_{sensor}"]) == pytest.approx(float(error), rel=1e-5)


def test_the_last_dates_are_hidden_of_the_share_of_places_asked_for(spec: Spec) -> None:
    batch = random_batch(spec, 64)

    def ahead(future: float) -> float:
        seen, rest = build("temporal", spec, future=future).withhold(batch, ())
        last = [seen.sensors[s].day.amax(1) < rest[s].day.amin(1) for s in ("s2", "s1")]
        return float((last[0] & last[1]).float().mean())

    assert ahead(1.0) == 1.0 and ahead(0.0) < 0.4  # by chance in a sixth
    assert ahead(0.0) < ahead(0.5) - 0.1 < 0.8


def withheld(objective: Masked, batch: Batch) -> Batch:
    """The batch with noise on the dates that a step of seed 1 hides; days tell them apart."""
    torch.manual_seed(1)
    seen, _ = objective.withhold(batch, objective.variants()[-1])
    sensors = dict(batch.sensors)
    for name, s in batch.sensors.items():
        shown = (s.day[:, :, None] == seen.sensors[name].day[:, None]).any(2)
        assert (shown.sum(1) == max(1, s.x.shape[1] // 2)).all()
        x = torch.where(shown[:, :, None, None, None], s.x, torch.randn_like(s.x) * s.valid[:, :, None])
        sensors[name] = Series(x, s.valid & (shown[:, :, None, None] | (x[:, :, 0] > 0)), s.day, s.bands)
    return batch.replace(sensors=sensors)


@pytest.mark.parametrize("name", ["temporal", "mix"])
def test_hidden_dates_never_reach_the_prediction(name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec).eval()
    assert isinstance(objective, Masked)
    assert not hasattr(objective, "parts") or objective.variants()[-1] == ()  # of mix: no sensor withheld
    dense: list[torch.Tensor] = []
    losses = []
    objective.encoder.way_back.register_forward_hook(lambda _, __, out: dense.append(out))
    for b in (batch, withheld(objective, batch)):
        torch.manual_seed(1)
        losses.append(objective(b, objective.variants()[-1])["loss"])
    torch.testing.assert_close(dense[0], dense[1], rtol=0, atol=0)
    assert losses[0] != losses[1]


def test_the_prediction_knows_the_date_it_is_asked_for(spec: Spec, batch: Batch) -> None:
    """A pixel's sign is that of its date's half of the year: only who is told the day can say it."""
    g = torch.Generator().manual_seed(0)
    sensors = {}
    for name, s in batch.sensors.items():
        day = torch.rand(s.day.shape, generator=g) * 365.25
        x = (2 * torch.pi * day / 365.25).sin()[:, :, None, None, None].expand_as(s.x).contiguous()
        sensors[name] = Series(x, torch.ones_like(s.valid), day, s.bands)
    seasonal = batch.replace(sensors=sensors)
    objective = build("temporal", spec)
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-2)
    l1 = []
    for step in range(30):
        torch.manual_seed(step)
        out = objective(seasonal)
        l1.append(float(out["l1_s2"]))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
    assert sum(l1[-5:]) < 0.5 * sum(l1[:5]), l1


def test_mix_sums_its_parts_and_withholds_a_sensor_from_all_of_them(spec: Spec, batch: Batch) -> None:
    parts = options("mix")["parts"]
    parts["temporal"]["weight"] = 3.0
    objective = build("mix", spec, parts=parts)
    passes: list[int] = []
    objective.encoder.register_forward_pre_hook(lambda _, args: passes.append(len(args[0].sensors)))
    way = objective.variants()[0]
    assert way == ("s1", "dem", "s2")
    out = objective(batch, way)
    assert passes == [2]  # one encoding, of two sensors
    told = {k: out[f"{k}_loss"] for k in parts}
    torch.testing.assert_close(out["loss"], told["masked_seg"] + told["cross_sensor"] + 3 * told["temporal"])
    assert "temporal_l1_s1" in out and "temporal_l1_s2" not in out
    assert "cross_sensor_loss" not in objective(batch, ())


def test_mix_leaves_out_what_weighs_nothing(spec: Spec, batch: Batch) -> None:
    bare = Spec(spec.bands, dict.fromkeys(spec.dates, 1), spec.size, spec.gsd, {})
    parts = options("mix")["parts"]
    with pytest.raises(InputError, match=r"'map'.*; objective.parts.masked_seg.weight=0 leaves it out"):
        build("mix", bare, parts=parts)
    parts["masked_seg"]["weight"] = 0.0
    with pytest.raises(InputError, match=r"several dates.*; objective.parts.temporal.weight=0 leaves it out"):
        build("mix", bare, parts=parts)
    parts["temporal"]["weight"] = 0.0
    objective = build("mix", bare, parts=parts)
    assert () not in objective.variants()  # nothing would be left to predict
    with pytest.raises(InputError, match="jepa cannot be mixed; choose from masked_seg"):
        build("mix", bare, parts={"jepa": {"weight": 1.0}})
    parts["cross_sensor"]["weight"] = 0.0
    with pytest.raises(InputError, match="the weight of every part is 0"):
        build("mix", bare, parts=parts)


def test_what_predicts_from_tokens_can_be_mixed_too(spec: Spec, batch: Batch) -> None:
    """From the one encoding of the mix, hidden by its mask."""
    mask = ("name", "mask_ratio", "kinds", "encode")
    parts = {n: {"weight": w} | {k: v for k, v in options(n).items() if k not in mask}
             for n, w in (("mae", 2.0), ("latent", 0.5), ("map_contrast", 3.0))}  # fmt: skip
    objective = build("mix", spec, parts=parts, kinds=["date"], mask_ratio=0.5)
    passes: list[torch.Tensor] = []
    objective.encoder.register_forward_pre_hook(lambda _, args: passes.append(args[1].seen))
    assert objective.variants() == ((),)
    out = objective(batch, ())
    assert len(passes) == 1 and (passes[0].flatten(1).sum(1) == 48).all()
    told = {k: out[f"{k}_loss"] for k in parts}
    torch.testing.assert_close(out["loss"], 2 * told["mae"] + 0.5 * told["latent"] + 3 * told["map_contrast"])
    assert {"mae_l1_s2", "latent_nce_s1", "latent_instance"} <= set(out)
    out["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_thor_sees_no_height_where_it_predicts_it(spec: Spec, batch: Batch) -> None:
    objective = build("thor", spec)
    with_height, without = (objective(batch, way) for way in ((), ("s2", "s1", "dem")))
    assert "mae_l1_dem" in with_height and "mae_l1_dem" not in without
    assert "cross_sensor_l1_s2_s1_to_dem" in without and "cross_sensor_loss" not in with_height
    by_hand = sum(w * without[f"{k}_loss"] for k, w in objective.weights.items())
    torch.testing.assert_close(without["loss"], by_hand)
