"""Small runs and comparisons that the tests of the comparison share."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf

from gfm_objectives.batch import Spec
from gfm_objectives.models.encoder import Encoder
from gfm_objectives.models.unet import UNet
from gfm_objectives.runs.checkpoint import save_encoder
from gfm_objectives.runs.ledger import Ledger

LANDCOVER = {
    "data": {"name": "synthetic", "size": 16, "dates": 2, "sensors": ["s2", "dem"], "layers": ["map", "landcover"]},
    "layer": "landcover",
    "train": 6,
    "val": 3,
    "test": 5,
    "recode": {0: 0, 1: 3, 2: 6, 3: 6, 4: 5, 5: 9, 6: 7, 7: 1},
}
BANDS = {"s2": ("B02", "B03", "B04", "B08")}
OPTIONS = {"cell_dim": 16, "dim": 16, "depth": 1, "heads": 2, "patch": 8, "width": 8}


def make_run(folder, seed=0, objective="mae", flops=3e8, model=None, **recipe):
    """A finished run, untrained."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    model = model or Encoder(BANDS, **OPTIONS)
    save_encoder(model, folder)
    Ledger(objective, seed, "c", "d", "abc", flops_spent=flops).write(folder / "ledger.json")
    options = {"name": type(model).__name__, **model.options}
    config = {"name": folder.name, "seed": seed, "objective": {"name": objective, **recipe}, "encoder": options}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return str(folder)


def make_unet_run(folder, seed=0, **about):
    spec = Spec(BANDS, {"s2": 3}, 16, 10.0, {})
    return make_run(folder, seed, "supervised", model=UNet(spec, 0, width=8, mode="shared"), **about)


def make_conv_run(folder, seed=0, **about):
    return make_run(folder, seed, "supervised", model=Encoder(BANDS, **OPTIONS | {"depth": 0}), **about)


def config(tmp_path, **changes):
    """A comparison of a second or two."""
    base = {
        "name": "demo",
        "results": str(tmp_path / "results"),
        "checkpoint": [],
        "seeds": 2,
        "fractions": [0.5],
        "labels": "random",
        "protocol": "equal_compute",
        "contenders": ["scratch", "unet"],
        "tasks": {"landcover": LANDCOVER},
        "world": None,
        "finetune": {"flops": 3e8, "start": 1e9, "limit": 4e9, "plateau": 0.01, "batch_size": 4, "trials": 1},
        "plan_only": False,
        "workers": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    return OmegaConf.merge(base, changes)
