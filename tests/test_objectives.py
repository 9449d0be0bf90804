"""One test over every entry of the table: finite loss, gradients reach tokens and dense path, validity respected."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from conftest import NANO
from omegaconf import OmegaConf
from test_models import spoiled

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.config.files import config_root
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.objectives.cross_sensor import quantities
from gfm_objectives.objectives.objective import Objective

NAMES = sorted(OBJECTIVES)


def options(name: str) -> dict:
    file = OmegaConf.to_container(OmegaConf.load(config_root() / "objective" / f"{name}.yaml"))
    return {k: v for k, v in file.items() if k != "ranges"}  # type: ignore[union-attr]


def build(name: str, spec: Spec, **changes: object) -> Objective:
    torch.manual_seed(0)
    here = {"duplicate": 0.0} if name == "contrastive" else {}  # cells of noise all look the same
    return build_objective(options(name) | here | changes, Encoder.from_config(NANO, spec), spec)


@pytest.mark.parametrize("name", NAMES)
def test_finite_loss_and_gradients(name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec)
    reached: set[str] = set()
    for variant in objective.variants():
        torch.manual_seed(1)
        out = objective(batch, variant)
        assert out["loss"].ndim == 0 and torch.isfinite(out["loss"])
        assert all(torch.isfinite(v) and v.ndim == 0 for v in out.values())
        objective.zero_grad()
        out["loss"].backward()
        reached |= {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in (
        "encoder.tokenizer.embed.s2",
        "encoder.blocks.0",
        "encoder.dense_path.stem.s2",
        "encoder.dense_path.up",
    ):
        assert any(n.startswith(part) for n in reached), part
    unused = {n for n, p in objective.named_parameters() if p.requires_grad} - reached
    assert not {n for n in unused if "dem" not in n and not n.endswith(".empty")}, unused


RECORDED = {  # of the first variant, at commit 1f0da0a
    "contrastive": 5.34327030,
    "cross_sensor": 0.81456757,
    "jepa": 1.01611590,
    "latent": 2.51004243,
    "mae": 0.93776363,
    "masked_seg": 1.67980993,
    "mix": 3.64697742,
    "supervised": 1.69049191,
    "temporal": 1.14261222,
}


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_recorded(name: str, spec: Spec, batch: Batch) -> None:
    """A change of the network that is meant to change nothing shows itself here: record anew only what was meant."""
    objective = build(name, spec)
    torch.manual_seed(1)
    loss = objective(batch, objective.variants()[0])["loss"]
    assert float(loss.detach()) == pytest.approx(RECORDED[name], rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_invalid_pixels_change_nothing(name: str, spec: Spec, batch: Batch) -> None:
    for variant in build(name, spec).variants():
        losses = []
        for b in (batch, spoiled(batch), spoiled(batch, 1e6)):
            objective = build(name, spec)
            torch.manual_seed(1)
            losses.append(objective(b, variant)["loss"])
        assert losses[0] == losses[1] == losses[2], variant


@pytest.mark.parametrize("name", NAMES)
def test_learns_one_batch(name: str, spec: Spec, batch: Batch) -> None:
    """A few steps on smooth images lower the loss: the gradient points the right way."""
    shade = torch.linspace(-1, 1, 4)[:, None, None, None, None] + torch.linspace(-0.5, 0.5, 32)
    smooth = {
        k: Series(shade * s.valid[:, :, None] * torch.ones_like(s.x), s.valid, s.day, s.bands)
        for k, s in batch.sensors.items()
    }
    target = torch.arange(4)[:, None, None].expand(4, 32, 32).contiguous()
    easy = batch.replace(sensors=smooth, targets={"map": target})
    objective = build(name, spec, **({"normalise": False} if name == "mae" else {}))
    optimiser = torch.optim.AdamW(objective.parameters(), 3e-3)
    variant = objective.variants()[0]
    plain = name in ("cross_sensor", "temporal", "mix")  # their loss is divided by its running mean
    first = last = 0.0
    for step in range(40):
        torch.manual_seed(step)
        out = objective(easy, variant)
        loss = out["loss"]
        value = float(next(v for k, v in out.items() if "l1_" in k) if plain else loss.detach())
        first, last = (value, value) if step == 0 else (first, value)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert last < 0.75 * first, (first, last)


@pytest.mark.parametrize("name", NAMES)
def test_flops_count_on_meta_and_are_linear_in_the_batch(name: str, spec: Spec) -> None:
    objective = build(name, spec)
    for variant in objective.variants():
        one, two, four = (
            measure(objective, spec.dummy(n), step=lambda m, b: m(b, variant)["loss"]).total  # noqa: B023
            for n in (1, 2, 4)
        )
        if name == "contrastive":  # every place is compared with every other: 2 ways, 3 products, 16 cells of 64 values
            assert two - one == (four - two) / 2 == 2 * 3 * 2 * 16 * 16 * 64
        else:
            assert one == two == four > 0


@pytest.mark.parametrize("name", NAMES)
def test_visible_tokens_are_what_the_encoder_sees(name: str, spec: Spec, batch: Batch) -> None:
    objective = build(name, spec)
    seen: list[int] = []
    objective.encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    for variant in objective.variants():
        seen.clear()
        objective(batch, variant)
        assert sum(seen) == objective.visible(batch, variant)


def test_each_objective_is_one_short_file() -> None:
    for name, cls in OBJECTIVES.items():
        lines = Path(inspect.getfile(cls)).read_text().splitlines()
        assert len(lines) < 150, name


def test_objectives_that_need_a_map_say_so(spec: Spec) -> None:
    bare = Spec(spec.bands, spec.dates, spec.size, spec.gsd, {})
    with pytest.raises(InputError, match="objective masked_seg: needs the target layer 'map'"):
        build("masked_seg", bare)
    with pytest.raises(InputError, match="two sensors"):
        build("cross_sensor", Spec({"s1": ("VV",)}, {"s1": 1}, 32, 10.0, {}))
    with pytest.raises(InputError, match="needs a sensor with several dates; this data has one date of s2, s1, dem"):
        build("temporal", Spec(spec.bands, dict.fromkeys(spec.dates, 1), 32, 10.0, {}))
    build("mae", bare)


def test_masked_seg_never_reads_the_map_as_an_input(spec: Spec, batch: Batch) -> None:
    objective = build("masked_seg", spec).eval()
    logits = []
    objective.head.logits.register_forward_hook(lambda m, args, out: logits.append(out))
    for target in (batch.targets["map"], batch.targets["map"] * 0):
        torch.manual_seed(1)
        objective(batch.replace(targets={"map": target}))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_loss_on_hidden_ignores_labels_of_visible_places(spec: Spec, batch: Batch) -> None:
    losses = {}
    for where in ("hidden", "all"):
        for ratio in (0.5, 1 / 16):
            torch.manual_seed(1)
            losses[where, ratio] = build("masked_seg", spec, loss_on=where, mask_ratio=ratio).eval()(batch)["loss"]
    assert losses["hidden", 0.5] != losses["all", 0.5]
    with pytest.raises(InputError, match="choose all or hidden"):
        build("masked_seg", spec, loss_on="some")


@pytest.mark.parametrize("joint", [True, False])
def test_cross_sensor_never_sees_its_target(joint: bool, spec: Spec, batch: Batch) -> None:
    """The prediction of S1 does not depend on S1's pixels; on the DEM's, with joint alone."""
    objective = build("cross_sensor", spec, joint=joint).eval()
    way = next(w for w in objective.variants() if w[-1] == "s1")
    assert way == (("s2", "dem", "s1") if joint else ("s2", "s1"))

    def told(sensor: str | None) -> torch.Tensor:
        """What the head is told with a sensor's pixels replaced by noise."""
        heard: list[torch.Tensor] = []
        hook = objective.head.out["s1"].register_forward_pre_hook(lambda _, args: heard.append(args[0]))
        sensors = dict(batch.sensors)
        if sensor:
            s = sensors[sensor]
            sensors[sensor] = Series(torch.randn_like(s.x) * s.valid[:, :, None], s.valid, s.day, s.bands)
        torch.manual_seed(1)
        objective(batch.replace(sensors=sensors), way)
        hook.remove()
        return heard[0]

    clean = told(None)
    torch.testing.assert_close(told("s1"), clean, rtol=0, atol=0)
    assert torch.equal(told("dem"), clean) != joint


def test_dem_is_predicted_as_height_and_slope() -> None:
    ramp = torch.arange(8.0).expand(8, 8)[None, None, None]  # rises by 1 a column
    series = Series(ramp, torch.ones(1, 1, 8, 8, dtype=torch.bool), torch.zeros(1, 1), ("elevation",))
    y, weight = quantities("dem", series)
    assert y.shape == (1, 1, 2, 8, 8) and weight.all()
    torch.testing.assert_close(y[0, 0, 1], torch.ones(8, 8))
