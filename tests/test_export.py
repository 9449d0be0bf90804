"""Exports say what the model says: programs and graphs at other sizes, libraries' interfaces, and a map by ONNX."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from kept import BANDS, kept, scene
from small import make_run

from gfm_objectives import cli
from gfm_objectives.errors import InputError
from gfm_objectives.export import features
from gfm_objectives.export.libraries import TerraTorchEncoder, open_image_encoder, torchgeo_model, torchgeo_weights
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.runs.checkpoint import load_model
from gfm_objectives.runs.finished import identity
from gfm_objectives.runs.segmenter import describe, load_segmenter
from gfm_objectives.scores import Score, Store

# Exporters of torch warn of themselves, from their own modules.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch"
)


def gfm(*words):
    return cli.main([str(w) for w in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "enc")


def vit(spec, channels):
    options = {"cell_dim": 16, "dim": 16, "depth": 1, "heads": 2, "patch": 8, "width": 8}
    return Segmenter(Encoder(spec.bands, **options), channels)


@pytest.mark.parametrize("network", [None, pytest.param(vit, marks=pytest.mark.slow)], ids=["unet", "vit"])
def test_programs_and_graphs_say_what_the_model_says(tmp_path, network):
    pytest.importorskip("onnxruntime")
    model = kept(tmp_path / "m", network=network)
    to = "native,torch" + ",onnx" * (network is None)  # an encoder as a graph takes a minute: below, once
    assert gfm("export", f"model={model}", f"to={to}", f"out={tmp_path}", "name=e") == 0
    done = {d["to"]: d for d in json.loads((tmp_path / "e" / "exports.json").read_text())}
    for exported in [d for name, d in done.items() if name != "native"]:
        assert exported["error"] < 1e-4 and exported["free"] == "any batch and size", done
    assert "cover" in (tmp_path / "e" / "README.md").read_text()
    a, b = load_segmenter(model), load_segmenter(tmp_path / "e")
    for x, y in zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    assert describe(a.network) == describe(b.network) and a.card == b.card


@pytest.mark.slow
def test_an_encoder_as_a_graph_takes_any_batch_and_sides_of_a_step(run, tmp_path):
    pytest.importorskip("onnxruntime")
    assert gfm("export", f"checkpoint={run}", "to=onnx", "size=32", f"out={tmp_path}", "name=e") == 0
    (done,) = json.loads((tmp_path / "e" / "exports.json").read_text())
    assert done["free"] == "any batch, sides multiples of 16" and done["error"] < 1e-4, done


def test_a_map_by_onnx_is_the_map(tmp_path):
    pytest.importorskip("onnxruntime")
    model, image = kept(tmp_path / "m"), scene(tmp_path / "s.tif", 80, 90)
    assert gfm("export", f"model={model}", "to=onnx", f"out={tmp_path}", "name=o") == 0
    for name, folder in (("a", model), ("b", tmp_path / "o")):
        words = [f"model={folder}", f"input={image}", "scale=0.0001", f"output={tmp_path / name}.tif"]
        assert gfm("predict", *words, "precision=fp32", "device=cpu") == 0
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert (a.read(1) == b.read(1)).mean() > 0.999


def test_libraries_get_the_features_of_the_encoder(run, tmp_path):
    import timm

    encoder, image = load_model(run), torch.rand(2, 4, 40, 40)
    wrapped = open_image_encoder(run)
    with torch.no_grad():
        wanted = wrapped(image)
        assert (
            gfm("export", f"checkpoint={run}", "to=timm,torchgeo,terratorch,pangaea", f"out={tmp_path}", "name=e") == 0
        )
        model = timm.create_model("gfm_encoder", folder=run, num_classes=5)
        assert torch.equal(model.forward_features(image), wanted) and model(image).shape == (2, 5)
        levels = TerraTorchEncoder(wrapped)(image)
        assert torch.equal(levels[0], wanted) and [len(x[0]) for x in levels] == TerraTorchEncoder(wrapped).out_channels
        assert TerraTorchEncoder(wrapped)(image[:, :, None].expand(-1, -1, 3, -1, -1))[0].shape == wanted.shape
    record = torchgeo_weights(run)
    with torch.no_grad():
        assert torch.equal(torchgeo_model(record)(image), wanted)
        some = torchgeo_model(torchgeo_weights(run, bands=["B04", "B08"]))
        assert some.bands == ("B04", "B08") and torch.isfinite(some(image[:, :2])).all()
    assert record.meta["bands"] == list(BANDS["s2"]) and record.transforms(image).shape == image.shape
    compile((tmp_path / "e" / "gfm_encoder.py").read_text(), "gfm_encoder.py", "exec")
    assert "optical: [B2, B3, B4, B8]" in (tmp_path / "e" / "gfm_encoder.yaml").read_text()
    card = (tmp_path / "e" / "README.md").read_text()
    assert (
        card.count("not loaded in the library") == 1 + (find_spec("terratorch") is None) and "pretrained by mae" in card
    )
    some = features(encoder, image[0, :2].numpy(), ["B04", "B08"])
    assert some.shape == (encoder.width, 40, 40) and np.isfinite(some).all()
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(image[0].numpy(), dims=("band", "y", "x"), coords={"band": list(BANDS["s2"])})
    assert np.allclose(features(encoder, array), wanted[0].numpy(), atol=1e-5)
    with pytest.raises(InputError, match="no B05 of s2"):
        features(encoder, image[0, :1].numpy(), ["B05"])


def test_a_card_says_what_was_measured(run, tmp_path, capsys):
    about = {"task": "t", "fraction": 1.0, "contender": "mae", "seed": 0, "kind": "pretrained"}
    run_ = identity(Path(run))
    made = Score.measured(np.eye(2)[None], None, metric="miou", role="pretrained", pretrain_run=run_, **about)
    row = {"contender": "mae", "fraction": 1.0, "n": 1, "task": "t", "status": "ok", "seeds": 5, "verdict": "win"}
    row |= {"gain": 0.021, "interval": [0.01, 0.032]}
    gains = [row | {"against": a, "versus": v} for a, v in (("best", "conv"), ("unet", "U-Net"), ("same", "ViT"))]
    gains += [gains[0] | {"contender": "jepa"}, gains[0] | {"fraction": 0.1}]
    about = {"gains": gains, "metrics": {"t": {"title": "mIoU", "scale": 100.0}}}
    (tmp_path / "r").mkdir()
    Store(tmp_path / "r").add(made)
    (tmp_path / "r" / "gain.json").write_text(json.dumps(about))
    words = [f"out={tmp_path}", f"checkpoint={run}", "to=native", f"results={tmp_path / 'r'}"]
    assert gfm("export", *words) == 0
    card = (tmp_path / "export" / "README.md").read_text()
    assert "- t, mae: mIoU +2.10 (+1.00 to +3.20; win) over conv, 5 seeds.\n" in card
    assert card.count("over U-Net") == 1 and "over ViT" not in card and card.count("mIoU") == 2
    (tmp_path / "r" / "gain.json").write_text(json.dumps(about | {"gains": gains[3:4]}))
    assert gfm("export", *words) == 2 and "has no gain of enc@" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["to=native"], "one of them"),
        (["model={m}", "to=tflite"], "to=tflite: choose"),
        (["model={m}", "to=timm"], "takes a pretrained encoder"),
        (["model={m}/nowhere", "to=native"], "gfm finetune wrote"),
        (["checkpoint={r}", "to=timm", "sensor=s1"], "the encoder in"),
        (["model={r}", "to=native"], "a pretraining run"),
    ],
)
def test_what_cannot_be_exported(tmp_path, run, capsys, words, told):
    model = kept(tmp_path / "m")
    assert gfm("export", f"out={tmp_path}", *(w.format(m=model, r=run) for w in words)) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1, err


def test_a_damaged_model_is_told(tmp_path):
    model = kept(tmp_path / "m")
    about = json.loads((model / "model.json").read_text())
    about["figures"]["s2"]["B02"][0] += 0.01
    (model / "model.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="other means and deviations"):
        load_segmenter(model)
    (model / "model.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_segmenter(model)
