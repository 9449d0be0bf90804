"""Models that are kept: what comes back from disk says the same, scores as it was scored, and is what was chosen."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from omegaconf import OmegaConf
from small import LANDCOVER, config, make_run

from gfm_objectives import compare
from gfm_objectives.compare import memory, single
from gfm_objectives.compare.adapters import adapted
from gfm_objectives.compare.bench import open_bench
from gfm_objectives.compare.joining import Joined
from gfm_objectives.compare.keeping import verdict
from gfm_objectives.compare.memory import bytes_of, fitting_batch
from gfm_objectives.compare.rows import contenders
from gfm_objectives.config import compose
from gfm_objectives.errors import InputError
from gfm_objectives.finetune import evaluate
from gfm_objectives.finetune.loop import loss
from gfm_objectives.flops import measure
from gfm_objectives.metrics import METRICS, total
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.runs.segmenter import load_segmenter
from gfm_objectives.scores import Store
from gfm_objectives.tasks.kinds import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:.*no labelled pixel", "ignore:F pays for less")


def finetune(tmp_path, **changes):
    cfg = compose("finetune", ["task=landcover", f"models={tmp_path / 'models'}", "device=cpu", "precision=fp32"])[0]
    base = {"task": LANDCOVER, "flops": 3e8, "trials": 2, "batch_size": 4}
    return single.run(OmegaConf.merge(OmegaConf.create({**cfg, "task": {}}), base, changes))


@pytest.mark.parametrize("contender", ["unet", "pretrained", "pixel", "unet_map_input", "map_context"])
def test_a_kept_model_says_what_was_scored(tmp_path, contender):
    runs = [make_run(tmp_path / "runs" / "mae")] if contender == "pretrained" else []
    folder = finetune(tmp_path, contender=contender, checkpoint=runs, trials=0, fraction=0.5)
    kept = load_segmenter(folder)
    bench = open_bench("landcover", LANDCOVER)
    stats, _ = evaluate(kept.network, bench.source("test"), KINDS["segmentation"], "landcover", bench.classes, 16)
    assert total(METRICS["miou"], stats) == kept.card.scores["test"]["miou"]
    assert torch.equal(sum(torch.tensor(a) for a in kept.card.areas.values()), stats.sum(0))
    assert kept.card.provenance["kind"] == contender and kept.card.provenance["synthetic"]
    assert 0.2 < kept.card.temperature < 9 and 0 <= kept.card.calibration["ece_after"] <= 1
    assert (kept.familiar["quantiles"].diff() >= 0).all() and kept.card.days["s2"][1] > 0
    with pytest.raises(InputError, match="overwrite=true"):
        finetune(tmp_path, contender=contender, checkpoint=runs)


def test_losses_are_tuned_unless_one_is_asked_for(tmp_path, monkeypatch):
    spaces, real = [], single.proposals
    monkeypatch.setattr(single, "proposals", lambda space, *rest: spaces.append(space) or real(space, *rest))
    words = {"contender": "pixel", "trials": 1}
    finetune(tmp_path, **words)
    assert spaces[0].start.loss == "" and spaces[0].values["loss"] == KINDS["segmentation"].losses
    kept = load_segmenter(finetune(tmp_path, **words, loss="dice", name="dice"))
    assert spaces[-1].start.loss == "dice" and "loss" not in spaces[-1].values
    assert kept.card.provenance["hparams"]["loss"] == "dice"
    with pytest.raises(InputError, match="loss=huber: task landcover is learned by plain, weighted, dice, focal"):
        finetune(tmp_path, **words, loss="huber", name="huber")


def test_a_comparison_keeps_its_best_and_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gfm_objectives.compare.search.WIDEN", 0)
    out = compare.run(config(tmp_path, contenders=["unet", "pixel"], keep="best", workers=1))
    scores = Store(out).load()
    chosen = verdict(scores, "landcover")
    kept = load_segmenter(out / "models" / "landcover")
    assert kept.card.provenance["contender"] == chosen.contender
    told = next(s for s in scores if s.contender == chosen.contender and s.seed == 0)
    assert kept.card.scores["test"]["miou"] == pytest.approx(told.value, abs=1e-6), "the very model that was scored"
    assert "landcover: use " in capsys.readouterr().out
    assert finetune(tmp_path, settings=str(out), plan_only=True) is None
    assert capsys.readouterr().out.startswith(chosen.words)
    again = finetune(tmp_path, settings=str(out), name="again")
    about = json.loads((again / "model.json").read_text())["provenance"]
    assert about["contender"] == chosen.contender
    with pytest.raises(InputError, match="it has U-Net, per-pixel MLP"):
        finetune(tmp_path, settings=str(out), contender="conv")
    with pytest.raises(InputError, match="no score of it"):
        verdict(scores, "flood")
    capsys.readouterr()
    other = next(k for k, name in {"unet": "U-Net", "pixel": "per-pixel MLP"}.items() if name != chosen.contender)
    compare.run(config(tmp_path, contenders=[other], keep="best", workers=1))
    assert f"landcover: {chosen.contender} is not among contenders= of this call" in capsys.readouterr().out


def test_memory_decides_the_batch():
    bench = open_bench("landcover", LANDCOVER)
    sample, about = bench.source("train").read([0]), (bench.kind, "landcover", "")
    small, large = (UNet(bench.spec, bench.classes, width=w) for w in (8, 32))
    room = bytes_of("memory", "1.2GB")
    assert fitting_batch(small, sample, *about, room) > fitting_batch(large, sample, *about, room) > 1
    assert fitting_batch(large, sample, *about, bytes_of("memory", "100MB")) == 0
    assert fitting_batch(small, sample, bench.kind, "landcover", "encoder", room) > fitting_batch(
        small, sample, *about, room
    )
    with pytest.raises(InputError, match="memory=lots"):
        bytes_of("memory", "lots")


def test_activations_are_computed_again_for_less_memory(tmp_path, capsys, monkeypatch):
    bench, run = open_bench("landcover", LANDCOVER), make_run(tmp_path / "runs" / "mae")
    row = contenders(["pretrained"], [run], 1, None)[0]
    about, sample = (bench.kind, "landcover"), bench.source("train").read(range(3))
    cost, held, gradients, fits = [], [], [], []
    for one in (row, adapted(row, None, True)):
        model = one.build(bench.spec, bench.outputs, row.space(bench.spec, 4).start, 0).train()
        cost.append(measure(model, sample, lambda m, b: loss(m, b, *about)).total)
        held.append(memory.kept(copy.deepcopy(model).to("meta"), sample.first(1), *about, 4))
        torch.manual_seed(0)
        loss(model, sample, *about).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        fits.append(fitting_batch(model, sample, *about, "", bytes_of("memory", "1100MB")))
    assert cost[0] == cost[1], "what is computed again is no FLOP of the model's"
    assert held[1] < 0.7 * held[0] and fits[1] > 1.4 * fits[0] > 2
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6) and gradients[0].abs().max() > 1e-3
    monkeypatch.setattr(single, "fitting_batch", lambda model, *_: 1 + model.encoder.micro)
    finetune(tmp_path, checkpoint=[run], trials=0, memory="2GB", batch_size=2)
    assert "windows of 16 pixels, 2 at a time, activations of the encoder computed again" in capsys.readouterr().out
    with pytest.raises(InputError, match="recompute=true: a PixelMLP has no"):
        finetune(tmp_path, contender="pixel", recompute=True, name="p")


def test_places_of_several_follow_each_other():
    train = open_bench("landcover", LANDCOVER).source("train")
    both = Joined([train, train])
    assert len(both) == 12 and torch.equal(both.read([7]).targets["landcover"], train.read([1]).targets["landcover"])


def test_chips_that_were_drawn_lack_the_layers_that_nobody_draws():
    train = open_bench("landcover", LANDCOVER).source("train")

    class Drawn:
        spec = train.spec

        def __len__(self):
            return 2

        def read(self, indices):
            batch = train.read(indices)
            return batch.replace(targets={"landcover": batch.targets["landcover"]})

    assert train.read([0]).targets.keys() == {"map", "landcover"}
    both = Joined([train, Drawn()]).read([1, 7])
    assert both.targets["map"][0].max() >= 0 and (both.targets["map"][1] == -1).all()
    assert torch.equal(both.targets["landcover"], train.read([1, 1]).targets["landcover"])


def test_adapters_train_little_and_are_merged(tmp_path):
    run = make_run(tmp_path / "runs" / "mae")
    folder = finetune(tmp_path, checkpoint=[run], trials=0, lora=2, flops=6e8)
    kept, before = load_segmenter(folder), load_encoder(run)
    assert kept.card.provenance["trained_parameters"] < 0.5 * kept.card.provenance["parameters"]
    after, changed = kept.network.encoder.state_dict(), []
    for name, weight in before.state_dict().items():
        if after[name].shape == weight.shape and weight.is_floating_point() and "running" not in name:
            changed.append((name, not torch.equal(after[name], weight)))
    names = {n for n, m in before.named_modules() if isinstance(m, torch.nn.Linear)}
    assert any(moved for _, moved in changed)
    assert all(n.removesuffix(".weight") in names for n, moved in changed if moved), "all but linear maps stay"
    with pytest.raises(InputError, match="lora=2"):
        finetune(tmp_path, contender="pixel", lora=2, name="p")
