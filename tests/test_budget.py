"""FLOPs counted against figures derived by hand, the budget, the schedule and the ledger."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import NANO
from torch import Tensor, nn

from gfm_objectives import flops as counting
from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.budget import Budget, wsd
from gfm_objectives.device import peak
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost, measure, measure_once
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.runs.ledger import Ledger


def batch(n: int, channels: int = 3, size: int = 32) -> Batch:
    x = torch.zeros(n, 1, channels, size, size)
    valid = torch.ones(n, 1, size, size, dtype=torch.bool)
    return Batch({"s2": Series(x, valid, torch.zeros(n, 1), ("B02",) * channels)}, {}, torch.full((n,), 10.0))


def image(b: Batch) -> Tensor:
    return b.sensors["s2"].x[:, 0]


def on_image(model: nn.Module, b: Batch) -> Tensor:
    return model(image(b)).sum()


def test_vit_base_forward():
    import timm

    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224")
    n, d = 197, 768
    block = 2 * n * (4 * d * d + 2 * d * 4 * d) + 2 * 2 * n * n * d  # qkv, proj, mlp; scores and values
    by_hand = 12 * block + 2 * 196 * 768 * d + 2 * d * 1000
    cost = measure(vit, batch(1, size=224), on_image)
    assert cost.forward == by_hand
    assert cost.forward == pytest.approx(35.1e9, rel=2e-3)
    # Every product has two gradients, except that the image needs none.
    assert cost.total == 3 * by_hand - 2 * 196 * 768 * d


class TinyMAE(nn.Module):
    """Encodes a quarter of 64 tokens with one block, decodes all of them with another, narrower one."""

    def __init__(self, dim: int = 32, narrow: int = 16, patch: int = 4, heads: int = 2) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.patch = patch
        self.embed = nn.Linear(3 * patch**2, dim)
        self.encoder = Block(dim, heads)
        self.down = nn.Linear(dim, narrow)
        self.decoder = Block(narrow, heads)
        self.out = nn.Linear(narrow, 3 * patch**2)

    def forward(self, b: Batch, mask: bool = False) -> dict[str, Tensor]:
        patches = F.pixel_unshuffle(image(b), self.patch).flatten(2).mT  # (B, 64, 48)
        tokens = self.embed(patches[:, :16])
        attend = torch.ones(len(b), 1, 1, 16, dtype=torch.bool, device=tokens.device) if mask else None
        hidden = self.down(self.encoder(tokens, attn_mask=attend))
        every = torch.cat([hidden, hidden.new_zeros(len(b), 48, hidden.shape[-1])], 1)
        return {"loss": (self.out(self.decoder(every)) - patches).square().mean()}


def block_flops(n: int, d: int) -> int:
    return 2 * n * 12 * d * d + 4 * n * n * d


def test_mae_step_by_hand():
    embed, encoder, down = 2 * 16 * 48 * 32, block_flops(16, 32), 2 * 16 * 32 * 16
    decoder, out = block_flops(64, 16), 2 * 64 * 16 * 48
    cost = measure(TinyMAE(), batch(2), parts=("encoder", "decoder", "decoder.mlp"))
    assert cost.forward == embed + encoder + down + decoder + out
    assert cost.total == 3 * cost.forward - embed  # no gradient of the pixels
    mlp = 2 * 64 * 8 * 16 * 16
    assert cost.parts == {
        "encoder": 3 * encoder,
        "decoder": 3 * (decoder - mlp),
        "decoder.mlp": 3 * mlp,
        "other": 2 * embed + 3 * (down + out),
    }
    assert sum(cost.parts.values()) == cost.total


@pytest.mark.parametrize("mask", [False, True])
def test_independent_of_batch_size_and_attention_kernel(mask):
    def step(m: nn.Module, b: Batch) -> Tensor:
        return m(b, mask=mask)["loss"]

    model = TinyMAE()
    one = measure(model, batch(1), step)
    assert one == measure(model, batch(7), step) == measure(model, batch(1))
    for fused in (True, False):
        model.encoder.attn.fused_attn = fused
        assert measure(model, batch(2), step) == one


def test_frozen_parameters_cost_no_gradient():
    model = TinyMAE()
    full = measure(model, batch(2))
    model.embed.requires_grad_(False)
    model.encoder.requires_grad_(False)
    frozen = measure(model, batch(2), parts=("embed", "encoder"))
    assert frozen.forward == full.forward
    assert frozen.parts["encoder"] == block_flops(16, 32)
    assert frozen.total == 3 * full.forward - 2 * 2 * 16 * 48 * 32 - 2 * block_flops(16, 32) - 2 * 16 * 32 * 16
    model.requires_grad_(False)
    assert measure(model, batch(2)).total == full.forward


def test_what_is_counted_once_is_counted_anew_for_whatever_changes_it(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Cost] = []
    monkeypatch.setattr(counting, "_KNOWN", {})
    monkeypatch.setattr(counting, "measure", lambda *args: counted.append(measure(*args)) or counted[-1])
    steps = {
        "sum": lambda m, b: m.features(b).sum(),
        "pairs": lambda m, b: (m.features(b).flatten(1) @ m.features(b).flatten(1).mT).sum(),
    }

    def check(model: Encoder, places: Batch, of: str = "sum") -> None:
        before = len(counted)
        once = measure_once(model, places, steps[of], (of,))
        assert once == measure_once(model, places, steps[of], (of,)) == measure(model, places, steps[of])
        assert len(counted) == before + 1, "counted anew, and once"

    model, two, three = Encoder.from_config({**NANO, "patches": [16]}, spec), spec.dummy(2), spec.dummy(3)
    check(model, two)
    check(model, two, "pairs")
    check(model, two.replace(targets={}), "pairs")
    check(model, three.replace(targets={}), "pairs")
    check(model, two.map_grids(lambda t, _: t[..., :16, :]))
    model.patch = 16
    check(model, two)
    model.vit.requires_grad_(False)
    check(model, two)
    check(Encoder.from_config({**NANO, "mixer": "convolution"}, spec), two)


def test_a_step_is_counted_whole_where_nobody_wants_gradients() -> None:
    model = TinyMAE()
    with torch.no_grad():
        assert measure(model, batch(2)) == measure_once(model, batch(2), lambda m, b: m(b)["loss"], ())
        inside = measure(model, batch(2))
    assert inside == measure(model, batch(2)) and inside.total > 2 * inside.forward


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_grouped_convolution(groups, kind):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), kind(16, 24, 3, stride=2, padding=1, groups=groups))
    first = 2 * 32 * 32 * 3 * 16
    positions = 16 * 16 if kind is nn.Conv2d else 32 * 32  # outputs of a convolution, inputs of a transposed one
    second = 2 * positions * 9 * 16 * 24 // groups
    cost = measure(model, batch(3), on_image, parts=("0", "1"))
    assert cost.forward == first + second
    assert cost.parts == {"0": 2 * first, "1": 3 * second}


def test_measuring_leaves_the_model_alone():
    model = TinyMAE()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measure(model, batch(2))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and not p.is_meta and not p._backward_hooks for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("flops", [1e6, 1.0037e6, 0.991e6])
def test_budget_lands_within_half_a_percent(flops):
    budget, per_sample, batch_size = Budget(flops), 7919.0, 16
    budget.check(per_sample)
    last = 0.0
    while take := min(batch_size, budget.samples_left(per_sample)):
        assert last <= budget.progress < 1
        last = budget.progress
        budget.spend(take * per_sample)
    assert abs(budget.spent / flops - 1) < 0.005


def test_impossible_budgets_are_refused():
    for flops in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"budget\.flops"):
            Budget(flops)
    with pytest.raises(InputError, match=r"pays for 2\.0 samples"):
        Budget(2e6).check(1e6)


@pytest.mark.parametrize("per_sample", [2.0e6, 2.02e8, 9.999e9, 1.0499e11])
def test_the_budget_that_is_asked_for_is_enough(per_sample):
    with pytest.raises(InputError) as told:
        Budget(99 * per_sample).check(per_sample)
    asked = float(str(told.value).split("give at least ")[1].split()[0])
    Budget(asked).check(per_sample)
    assert asked <= 111 * per_sample


def test_wsd_before_cooldown_does_not_know_the_total():
    assert wsd(0.0, 16, 64, 0.2) == 0.25
    assert wsd(0.1, 64, 64, 0.2) == wsd(0.79, 640, 64, 0.2) == 1.0
    assert wsd(0.9, 640, 64, 0.2) == pytest.approx(0.5)
    assert wsd(1.0, 640, 64, 0.2) == 0.0
    assert wsd(0.0, 1, 0, 0.0) == 1.0


def test_ledger_round_trip(tmp_path):
    ledger = Ledger(
        "mae", 3, "c0", "d0", "abc", parameters={"encoder": 100, "heads": 10}, flops_spent=1e12, samples=10, tokens=2200
    )
    ledger.seconds, ledger.peak_flops, ledger.devices = 2.0, 1e12, 2
    assert (ledger.mfu, ledger.tokens_per_parameter, ledger.six_nd) == (0.25, 20.0, 6 * 110 * 2200)
    ledger.write(tmp_path / "ledger.json")
    assert Ledger.read(tmp_path / "ledger.json") == ledger
    assert '"six_nd": 1452000.0' in (tmp_path / "ledger.json").read_text()
    with pytest.raises(InputError, match="not found"):
        Ledger.read(tmp_path / "no.json")


def test_cpu_peak_is_measured_and_says_so():
    name, flops = peak("cpu")
    assert name.startswith("measured GEMM") and flops > 1e9
