"""The wrong inputs of docs/inputs.md about models, maps, tables, studies and pages, tried last, and their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from inputs_scenes import MAP
from kept import LEGEND, write

SMALL = f"{MAP} input=small.tif scale=0.0001"
OTHERS = "eval suite=flood.yaml contenders=pretrained finetune.flops=1e9"
FURTHER = [
    "data",
    "data list hls_water",
    "data list --all",
    "sample map=m.tif",
    "compare a b",
    "finetune task=flood checkpoint=models/cover",
    "finetune task=flood contender=index",
    "finetune task=flood contender=pretrained",
    "finetune task=flood checkpoint=runs/good contender=unet",
    "finetune task=flood encoder=timm:nothing",
    "finetune task=flood unet.weights=table.csv contender=unet_imagenet",
    "finetune task=flood weights=nowhere.pth",
    "finetune task=flood also=flood.yaml",
    "finetune task=flood name=good models=runs",
    "finetune task=flood name=cover models=models",
    "eval suite=flood.yaml contenders=unet results=runs name=good",
    "predict model=models/cover input=small.tif scale=0.0001 output=small.tif overwrite=true",
    f"{SMALL} bands=B02,B02,B04,B08",
    f"{SMALL} bands=-,-,-,-",
    f"{SMALL} sensor=s1",
    f"{SMALL} date=2019-13-45",
    f"{SMALL} block=64,128",
    f"{MAP} input=small.tif scale=0",
    f"{MAP} input=small.tif,small.tif",
    f"{MAP} input=nothing*.tiff",
    "review map=m.tif model=models/cover",
    "review sample=m.tif out=table.csv",
    "review compare=m.tif,m.tif",
    "review compare=m.tif,other.tif",
    "prepare splits=pretrain,pretrain",
    "prepare keep=nowhere.parquet data.keep=other.parquet",
    "prepare out=runs name=good data.size=16 overwrite=true",
    "curate embedding=nowhere",
    "curate export=foo",
    "curate out=pictures",
    "leakage models/cover task=flood",
    "fit header.csv",
    "fit decimal.csv",
    "fit short.csv",
    "fit twice.csv",
    "fit words.csv",
    "fit negative.csv",
    "fit utf16.csv",
    "fit few.csv",
    "fit few.csv N=loss",
    "fit few.csv of=nothing",
    "fit few.csv out=few.csv",
    "plan device=a1000",
    "plan config=runs/good",
    "plan devices=0",
    "sweep badkey.yaml",
    "sweep badeval.yaml",
    "sweep many.yaml",
    "sweep named.yaml",
    "sweep tables.yaml",
    "sweep crossover objectives",
    "train seed=1,2 data.clouds=0.1,0.2 optim.lr=1e-3,1e-4 config=runs/good config=runs/good2",
    "report results/a results/b results/c",
    "report table.csv out=page",
    "export model=models/cover out=models name=number",
    "export model=models/cover name=cover out=models",
    "export checkpoint=runs/good results=nowhere",
    "published table.csv",
    "yardstick table.csv runs/good",
    "init small.tif",
    "init a b",
    "inspect pipe.yaml",
    "inspect deep.yaml",
    "inspect laughs.yaml",
    "inspect keytwice.yaml",
    "inspect utf16.yaml",
    "inspect noname.yaml",
    "inspect itself.yaml",
    f"{OTHERS} checkpoint=runs/hugedepth",
    f"{OTHERS} checkpoint=runs/negative",
    f"{OTHERS} checkpoint=runs/deepledger",
    f"{OTHERS} checkpoint=runs/nanledger",
    "predict --help nonsense",
    "eval --help tasks.flod.train",
]


def lay_further(desk: Path) -> None:
    """Tables, studies and yaml with one fault each; runs whose files ask for the impossible."""
    head, rows = "parameters,tokens,flops,loss\n", "1e5,1e6,6e11,1.2\n2e5,1e6,6e11,1.1\n"
    texts = {
        "header.csv": head,
        "few.csv": head + rows,
        "words.csv": head + rows.replace("1e6", "many"),
        "negative.csv": head + rows.replace("1e5", "-1e5"),
        "short.csv": head + "1e5,1e6\n" + rows,
        "twice.csv": head.replace("flops", "loss") + rows,
        "decimal.csv": "parameters;tokens;loss\n1e5;1e6;1,2\n",
        "badkey.yaml": "train: {objektive: [mae]}\n",
        "badeval.yaml": "train: {objective: mae}\neval: {suit: core}\n",
        "many.yaml": f"train: {{seed: {list(range(200))}, optim.lr: {[k / 1e4 for k in range(1, 200)]}}}\n",
        "named.yaml": "train: {name: [a, b], objective: mae}\n",
        "tables.yaml": "train: {objective: mae}\nplot: true\n",
        "deep.yaml": "name: " + "[" * 5000 + "]" * 5000,
        "keytwice.yaml": "name: chips\nroot: a\nroot: b\n",
        "noname.yaml": "name: null\nroot: pictures\n",
        "itself.yaml": "name: ${data.root}\nroot: ${data.name}\n",
    }
    laughs = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else 'x'] * 10)}]\n" for k in range(9))
    for name, text in (texts | {"laughs.yaml": f"{laughs}name: chips\n"}).items():
        (desk / name).write_text(text)
    (desk / "utf16.csv").write_bytes((head + rows).encode("utf-16"))
    (desk / "utf16.yaml").write_bytes(b"\xff\xfe" + "name: chips\n".encode("utf-16-le"))
    os.mkfifo(desk / "pipe.yaml")
    for name, side in (("m.tif", 64), ("other.tif", 50)):
        values = _classes(side)
        write(desk / name, values, nodata=255)
        _name_classes(desk / name)
    good = desk / "runs/good"
    about, ledger = (json.loads((good / f"{name}.json").read_text()) for name in ("encoder", "ledger"))
    for name, options in (("hugedepth", {"depth": 10**9}), ("negative", {"dim": -16})):
        shutil.copytree(good, desk / "runs" / name)
        text = json.dumps(about | {"options": about["options"] | options})
        (desk / "runs" / name / "encoder.json").write_text(text)
    for name, text in (
        ("deepledger", "[" * 100_000),
        ("nanledger", json.dumps(ledger | {"flops_spent": float("nan")})),
    ):
        shutil.copytree(good, desk / "runs" / name)
        (desk / "runs" / name / "ledger.json").write_text(text)


def _classes(side: int):
    import numpy as np

    return np.resize(np.array(LEGEND.codes, np.uint8), (1, side, side))


def _name_classes(path: Path) -> None:
    """As gfm predict names them."""
    import rasterio

    with rasterio.open(path, "r+") as file:
        file.update_tags(1, **{f"class_{c}": name for c, name in zip(LEGEND.codes, LEGEND.classes, strict=True)})
