"""PANGAEA's tasks the whole way from files to tables, on stand-ins in their exact layout and on the real chip that is
here: that it runs is shown, and nothing else. Values of stand-ins are made up, budgets are a toy's.

    [GFM_DATA=/data] python benchmarks/pangaea.py [seeds=2] [flops=2e9] [epochs=1]

`suite=pangaea protocol=equal_compute` on stand-ins of all ten (tests/layouts.py); then, with GFM_DATA,
`protocol=pangaea` on one chip of Sen1Floods11, which is training, validation and test at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import common

from gfm_objectives.cli import main

sys.path.insert(0, str(common.ROOT / "tests"))
import layouts

SMALL = [f"tasks.{name}.data.size=32" for name in (
    "burn_scars", "mados", "sen1floods11", "sen1floods11_bolivia", "five_billion_pixels", "dynamic_earthnet",
    "spacenet7", "ai4smallfarms", "ai4smallfarms_cambodia", "biomassters", "pastis", "south_sudan",
)]  # fmt: skip
SMALL += [f"tasks.{name}.data.dates=2" for name in ("dynamic_earthnet", "biomassters", "pastis", "south_sudan")]


def stand_ins(root: Path) -> None:
    for name, make in layouts.MAKERS.items():
        make(root / name)


def chip(root: Path, data: Path) -> None:
    """The real chip of Sen1Floods11 in its makers' layout, in all of its lists."""
    name, real = "Spain_7370579", data / "formats" / "sen1floods11"
    hand, lists = (root / "v1.1" / p for p in ("data/flood_events/HandLabeled", "splits/flood_handlabeled"))
    for folder, layer in (("S1", "S1Hand"), ("S2", "S2Hand"), ("Labels", "LabelHand")):
        (hand / layer).mkdir(parents=True)
        (hand / layer / f"{name}_{layer}.tif").symlink_to(real / folder / f"{name}_{layer}.tif")
    lists.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (lists / f"flood_{split}_data.csv").write_text(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n")
    facts = data / "formats/real/sen1floods11/v1.1/Sen1Floods11_Metadata.geojson"
    (root / "v1.1" / facts.name).symlink_to(facts)


def typed(*words: str) -> None:
    print(f"$ gfm {' '.join(words)}", flush=True)
    if code := main(words):
        sys.exit(code)


def run(argv: list[str]) -> None:
    given = common.words(argv, seeds=2, flops=2e9, epochs=1)
    data, results = os.environ.get("GFM_DATA"), common.ROOT / "results"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stand_ins(root)
        os.environ["GFM_DATA"] = folder
        words = [
            "objective=masked_seg",
            "encoder=nano",
            "budget.flops=3.4e10",
            "yardstick=false",
            f"runs={root / 'runs'}",
            "name=toy",
        ]
        typed("train", *words)
        words = ["suite=pangaea", f"checkpoint={root / 'runs' / 'toy'}", f"results={results}", "device=cpu"]
        rows = ["contenders=pretrained,unet,index", "finetune.trials=1", "finetune.share=true", "fractions=1.0"]
        rows += [f"finetune.flops={given['flops']:g}", f"seeds={given['seeds']}", "workers=1", *SMALL]
        typed("eval", *words, *rows, "name=pangaea_stand_ins")
        if data is None:
            print("protocol=pangaea: not run on a real chip, GFM_DATA is not set")
            return
        chip(root / "real", Path(data))
        real = ["suite=sen1floods11", f"tasks.sen1floods11.data.root={root / 'real'}"]
        protocol = ["protocol=pangaea", "seeds=1", "fractions=1.0", f"pangaea.epochs={given['epochs']}"]
        typed("eval", *real, *words[1:], *protocol, "name=pangaea_protocol")


if __name__ == "__main__":
    run(sys.argv[1:])
