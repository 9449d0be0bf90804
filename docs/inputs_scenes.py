"""The wrong inputs of docs/inputs.py that are about models kept, scenes, maps, reviews and exports, and their desk."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
from kept import BANDS, TASK, kept, scene, write
from rasterio.errors import NotGeoreferencedWarning

MAP = "predict model=models/cover device=cpu output=map.tif"
LOOK = "review model=models/cover input=small.tif scale=0.0001"
SCENES = [
    "predict",
    "predict model=models/cover",
    "predict model=models/nowhere input=small.tif output=map.tif",
    "predict model=runs/good input=small.tif output=map.tif",
    "predict model=models/cut input=small.tif output=map.tif",
    "predict model=models/cover input=small.tif output=map.png",
    "predict model=models/cover input=small.tif output=done.tif",
    "predict model=models/number input=small.tif scale=0.0001 output=map.gpkg",
    MAP,
    f"{MAP} input=nowhere.tif",
    f"{MAP} input=pictures",
    f"{MAP} input=table.csv",
    f"{MAP} input=fewbands.tif scale=0.0001",
    f"{MAP} input=nameless.tif scale=0.0001",
    f"{MAP} input=nameless.tif scale=0.0001 bands=B02,B03",
    f"{MAP} input=small.tif",
    f"{MAP} input=reflectance.tif scale=0.0001",
    f"{MAP} input=coarse.tif scale=0.0001",
    f"{MAP} input=small.tif,placeless.tif scale=0.0001",
    f"{MAP} input=cut.tif scale=0.0001",
    f"{MAP} input=sensor.yaml",
    f"{MAP} input=key.yaml",
    f"{MAP} input=lost.yaml",
    f"{MAP} input=small.tif scale=0.0001 extra=doubt",
    f"{MAP} input=small.tif scale=0.0001 blocks=4/3",
    f"{MAP} input=small.tif scale=0.0001 overlap=1",
    f"{MAP} input=small.tif scale=0.0001 date=yesterday",
    f"{MAP} input=small.tif scale=0.0001 labels=nowhere.tif",
    "review",
    "review map=done.tif sample=done.tif",
    "review map=done.tif",
    f"{LOOK} map=small.tif",
    f"{LOOK} map=done.tif",
    "review sample=small.tif",
    "review sample=done.tif n=1",
    "review estimate=table.csv",
    "review estimate=sample/sample.csv",
    "review compare=done.tif",
    "review compare=done.tif,small.tif",
    "export",
    "export model=models/cover to=tflite",
    "export model=models/cover to=timm",
    "export checkpoint=runs/good to=timm sensor=s1",
    "export model=runs/good",
    "finetune task=nowhere.yaml",
    "finetune task=flood contender=unt",
    "finetune task=flood settings=nowhere",
    "finetune task=flood memory=lots",
    "finetune task=flood freeze=all",
    "finetune task=flood fraction=2",
    "finetune task=flood also=nowhere.yaml",
]

TOLD = [f"{MAP} input=nothing.tif scale=0.0001"]  # accepted, with a line


def lay_scenes(desk: Path) -> None:
    """Small models, scenes with one fault each, a map and a sample."""
    kept(desk / "models/cover")
    kept(desk / "models/number", task=TASK | {"kind": "regression", "metric": "rmse"})
    shutil.copytree(desk / "models/cover", desk / "models/cut")
    weights = desk / "models/cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    small = scene(desk / "small.tif", 64, 64)
    scene(desk / "coarse.tif", 40, 40, gsd=30.0)
    scene(desk / "fewbands.tif", 64, 64, bands=("B02", "B03", "B04"))
    scene(desk / "nameless.tif", 64, 64, bands=("", "", "", ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        scene(desk / "placeless.tif", 50, 50, crs=None)
    names = BANDS["s2"]
    write(desk / "nothing.tif", np.full((4, 64, 64), -9999, np.int16), nodata=-9999, names=names)
    write(desk / "reflectance.tif", np.full((4, 64, 64), 0.2, np.float32), names=names)
    (desk / "cut.tif").write_bytes(small.read_bytes()[:5000])
    block = "{file: small.tif, scale: 1.0e-4}"
    texts = {
        "sensor.yaml": f"sensors: {{s9: {block}}}\n",
        "key.yaml": "sensors: {s2: {file: small.tif, sclae: 1.0e-4}}\n",
        "lost.yaml": "sensors: {s2: {file: nowhere.tif}}\n",
    }
    for name, text in texts.items():
        (desk / name).write_text(text)
    write(desk / "done.tif", np.full((1, 64, 64), 10, np.uint8), nodata=255)
    (desk / "sample").mkdir()
    about = {"classes": ["land", "water"], "codes": [10, 80], "pixels": [9, 9], "km2": 1, "strata": {"s0": 0}}
    (desk / "sample/sample.json").write_text(json.dumps(about))
    with (desk / "sample/sample.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "reference"], ["s0", "lava"]])
