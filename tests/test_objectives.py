"""One test over every entry of the table: finite loss, gradients reach every part, validity respected."""

from __future__ import annotations

import inspect
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import NANO
from omegaconf import DictConfig, OmegaConf
from test_models import spoiled

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.config import compose
from gfm_objectives.config.files import config_root
from gfm_objectives.errors import InputError
from gfm_objectives.flops import measure
from gfm_objectives.models import masking
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.objectives.cross_sensor import quantities, slope_degrees
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.sensors import calibration

NAMES = sorted(OBJECTIVES)
RECIPES = [*NAMES, "thor"]  # every yaml of configs/objective; thor is mix with other parts


def options(name: str) -> dict:
    """Of the yaml, as a new dictionary."""
    return OmegaConf.to_container(composed(name))  # type: ignore[return-value]


@cache
def composed(name: str) -> DictConfig:
    (cfg,) = compose("train", [f"objective={name}"])
    return cfg.objective


def build(name: str, spec: Spec, **changes: object) -> Objective:
    torch.manual_seed(0)
    here = {"duplicate": 0.0} if name == "contrastive" else {}  # cells of noise all look the same
    return build_objective(options(name) | here | changes, Encoder.from_config(NANO, spec), spec)


@pytest.mark.parametrize("name", RECIPES)
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
    assert {n for n, p in objective.named_parameters() if p.requires_grad} == reached


RECORDED = {  # of the first variant
    "contrastive": 4.31166840,
    "cross_sensor": 0.90672231,
    "jepa": 1.68756640,
    "latent": 2.43642616,
    "mae": 0.94864732,
    "map_contrast": 6.46594906,
    "masked_seg": 1.63931215,
    "mix": 3.46709156,
    "supervised": 1.65366340,
    "temporal": 0.96739829,
    "thor": 3.02671146,
}


def test_every_recipe_is_tested() -> None:
    assert RECIPES == [
        *NAMES,
        *sorted(p.stem for p in (config_root() / "objective").glob("*.yaml") if p.stem not in NAMES),
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_recorded(name: str, spec: Spec, batch: Batch) -> None:
    """A change of the network that is meant to change nothing shows itself here: record anew only what was meant."""
    objective = build(name, spec)
    torch.manual_seed(1)
    loss = objective(batch, objective.variants()[0])["loss"]
    assert float(loss.detach()) == pytest.approx(RECORDED[name], rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_invalid_pixels_change_nothing(name: str, spec: Spec, batch: Batch) -> None:
    for variant in build(name, spec).variants():
        losses = []
        for b in (batch, spoiled(batch), spoiled(batch, 1e6)):
            objective = build(name, spec)
            torch.manual_seed(1)
            losses.append(objective(b, variant)["loss"])
        assert losses[0] == losses[1] == losses[2], variant


@pytest.mark.parametrize("name", RECIPES)
def test_half_precision_changes_little(name: str, spec: Spec, batch: Batch) -> None:
    """The loss is of float32 under autocast, and every gradient finite."""
    objective = build(name, spec)
    for variant in objective.variants():
        losses = []
        for half in (False, True):
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                losses.append(objective.eval()(batch, variant)["loss"])
        assert losses[1].dtype == torch.float32
        torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02)
        losses[1].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


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
    told = "tokens" if name == "jepa" else "loss"  # of jepa without the terms that keep features apart
    floor = math.log(63) if name == "map_contrast" else 0.0  # of 64 pixels of a class all are equally alike
    first = last = 0.0
    for step in range(40):
        torch.manual_seed(step)
        out = objective(easy, variant)
        loss = out["loss"]
        value = float(next(v for k, v in out.items() if "l1_" in k) if plain else out[told].detach()) - floor
        first, last = (value, value) if step == 0 else (first, value)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert last < 0.75 * first, (first, last)


PAIRS = {  # FLOPs of a sample for each further place of the batch: products of vectors, forward and backward
    "contrastive": 2 * 3 * 2 * 16 * 16 * 64,  # 16 cells, both ways
    "latent": 2 * 2 * 64,  # the mean of a place; targets need no gradient
    "map_contrast": 3 * 2 * 64 * 64 * 32,  # 64 pixels
}


@pytest.mark.parametrize("name", RECIPES)
def test_flops_count_on_meta_and_grow_with_the_batch_by_pairs_alone(name: str, spec: Spec) -> None:
    objective = build(name, spec)
    for variant in {*objective.variants()[:1], *objective.variants()[-1:]}:
        one, two, four = (
            measure(objective, spec.dummy(n), step=lambda m, b: m(b, variant)["loss"]).total  # noqa: B023
            for n in (1, 2, 4)
        )
        pairs = PAIRS.get("map_contrast" if name == "thor" else name, 0)
        assert one > 0 and two - one == (four - two) / 2 == pairs


@pytest.mark.parametrize("name", RECIPES)
def test_visible_cells_are_what_the_encoder_sees(name: str, spec: Spec, batch: Batch) -> None:
    """Cells of slots that are shown; what is withheld, or hidden, is not."""
    objective = build(name, spec)
    seen: list[int] = []

    def looking(_: object, args: tuple) -> None:
        every = len(masking.slots(args[0])) * 16
        seen.append(int(args[1].seen[0].sum()) if len(args) > 1 else every)

    objective.encoder.register_forward_pre_hook(looking)
    for variant in objective.variants():
        seen.clear()
        objective(batch, variant)
        assert sum(seen) == objective.visible(batch, variant), variant


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


@pytest.mark.parametrize("joint", [True, False])
def test_cross_sensor_never_sees_its_target(joint: bool, spec: Spec, batch: Batch) -> None:
    """The prediction of S1 does not depend on S1's pixels; on the DEM's, with joint alone."""
    objective = build("cross_sensor", spec, joint=joint).eval()
    way = next(w for w in objective.variants() if w[-1] == "s1")
    assert way == (("s2", "dem", "s1") if joint else ("s2", "s1"))

    def told(sensor: str | None) -> torch.Tensor:
        """What the head is told with a sensor's pixels replaced by noise."""
        heard: list[torch.Tensor] = []
        hook = objective.head.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
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


def test_sources_and_what_is_wanted_are_chosen(spec: Spec) -> None:
    assert build("cross_sensor", spec).variants() == (("s1", "dem", "s2"), ("s2", "dem", "s1"), ("s2", "s1", "dem"))
    assert build("cross_sensor", spec, wanted=["dem"]).variants() == (("s2", "s1", "dem"),)
    assert build("cross_sensor", spec, sources=["s2"]).variants() == (("s2", "s1"), ("s2", "dem"))
    alone = build("cross_sensor", spec, joint=False, wanted=["s1", "dem"])
    assert alone.variants() == (("s2", "s1"), ("s2", "dem"), ("s1", "dem"))
    assert set(alone.head.out) == {"s1", "dem"}
    for key in ("sources", "wanted"):
        with pytest.raises(InputError, match=f"objective.{key}: hls is not in this data, which has s2, s1, dem"):
            build("cross_sensor", spec, **{key: ["hls"]})
    for joint in (True, False):
        with pytest.raises(
            InputError, match=r"objective\.sources=\['s1'\], objective\.wanted=\['s1'\]: nothing else to"
        ):
            build("cross_sensor", spec, joint=joint, sources=["s1"], wanted=["s1"])


def dem(height: torch.Tensor, valid: torch.Tensor | None = None) -> Series:
    """Of metres (H, W)."""
    ok = torch.ones_like(height, dtype=torch.bool) if valid is None else valid
    x = calibration("dem").normalise(height[None, None, None], ok[None, None], ("elevation",))
    return Series(x, ok[None, None], torch.zeros(1, 1), ("elevation",))


@pytest.mark.parametrize("rise", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(("gsd", "along"), [(10.0, 0), (10.0, 1), (30.0, 2)])
def test_the_dem_is_predicted_as_height_and_slope_in_degrees(rise: float, gsd: float, along: int) -> None:
    """A plane that rises by so many metres a pixel, along columns, rows or both: as steep at its edges as inside."""
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = rise * (column, row, row + column)[along]
    y, weight = quantities("dem", dem(plane), torch.tensor([gsd]))
    assert y.shape == weight.shape == (1, 1, 2, 8, 8) and weight.all()
    degrees = math.degrees(math.atan(rise * (2**0.5 if along == 2 else 1) / gsd))
    torch.testing.assert_close(y[0, 0, 1] * 10, torch.full((8, 8), degrees), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(y[0, 0, 0], dem(plane).x[0, 0, 0])


def test_slopes_beside_holes_and_edges_by_hand() -> None:
    """The mean of what is known on either side; where a row or a column tells nothing, no slope is known."""
    height = torch.tensor(
        [[0.0, 3, 6, 0], [4, 7, 0, 13], [8, 11, 14, 17], [0, 23, 0, 29]]
    )  # 3 a column, 4 a row, then 12
    valid = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]]).bool()
    flat, steep = (math.degrees(math.atan(math.hypot(3, down))) for down in (4, (4 + 12) / 2))
    wanted = torch.tensor([[flat, flat, 0, 0], [flat, flat, 0, 0], [flat, steep, 0, steep], [0, 0, 0, 0]])
    slope, known = slope_degrees(height[None, None], valid[None, None], torch.tensor([1.0]))
    torch.testing.assert_close(slope[0, 0], wanted)
    assert torch.equal(known[0, 0], wanted > 0)
    anything, _ = slope_degrees(height.masked_fill(~valid, 1e6)[None, None], valid[None, None], torch.tensor([1.0]))
    torch.testing.assert_close(anything, slope, rtol=0, atol=0)
    y, weight = quantities("dem", dem(height, valid), torch.tensor([1.0]))
    torch.testing.assert_close(y[0, 0, 1] * 10, wanted, rtol=1e-3, atol=1e-2)
    assert torch.equal(weight[0, 0] > 0, torch.stack([valid, known[0, 0]]))


# -- map_contrast


def test_map_contrast_by_hand(spec: Spec, batch: Batch) -> None:
    """Over labelled pixels with another of their class: the mean log share of those among all other labelled ones."""
    g = torch.Generator().manual_seed(3)
    sparse = batch.targets["map"].masked_fill(torch.rand(4, 32, 32, generator=g) > 0.01, -1)  # fewer than are drawn
    objective, said = build("map_contrast", spec, temperature=0.3, pixels=32), []
    objective.head.register_forward_hook(lambda *args: said.append(args[-1].detach().double()))
    heard: list[torch.Tensor] = []
    objective.head.register_forward_pre_hook(lambda _, args: heard.append(args[0].detach()))
    dense: list[torch.Tensor] = []
    objective.encoder.way_back.register_forward_hook(lambda *args: dense.append(args[-1].detach()))
    torch.manual_seed(1)
    loss = objective(batch.replace(targets={"map": sparse}))["loss"]
    where = {tuple(v.tolist()): (b, r, c) for b in range(4) for r in range(32) for c in range(32)
             for v in [dense[0][b, :, r, c]]}  # fmt: skip
    pixels = [where[tuple(v.tolist())] for v in heard[0]]
    assert len(pixels) == len(set(pixels)) == 4 * 32
    label = [int(sparse[p]) for p in pixels]
    assert sum(v >= 0 for v in label) == int((sparse >= 0).sum()), "labelled ones are drawn first"
    x = torch.nn.functional.normalize(said[0], dim=1)
    terms = []
    for i, mine in enumerate(label):
        others = [j for j, v in enumerate(label) if v >= 0 and j != i]
        friends = [j for j in others if label[j] == mine]
        if mine >= 0 and friends:
            every = torch.stack([x[i] @ x[j] / 0.3 for j in others]).logsumexp(0)
            terms.append(sum(every - x[i] @ x[j] / 0.3 for j in friends) / len(friends))
    assert float(loss.detach()) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-4)


@pytest.mark.parametrize("labelled", [0, 1])
def test_map_contrast_of_nothing_to_compare_is_nothing(labelled: int, spec: Spec, batch: Batch) -> None:
    target = torch.full_like(batch.targets["map"], -1)
    target[0, 3, :labelled] = 2
    objective = build("map_contrast", spec)
    loss = objective(batch.replace(targets={"map": target}))["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in objective.parameters())


# -- mixtures


def test_thor_is_mix_with_the_weights_of_its_paper(spec: Spec) -> None:
    """Its height is withheld in every second step, hence twice 0.1."""
    objective = build("thor", spec)
    assert objective.weights == {"masked_seg": 0.1, "map_contrast": 0.1, "cross_sensor": 0.2, "mae": 1.5}
    assert objective.variants() == (("s2", "s1", "dem"), ())
    assert objective.mask_ratio == 0.75 and objective.kinds == ("random", "block", "date", "sensor")
