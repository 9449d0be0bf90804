"""Encoders of two decades of compute, pretrained on a GPU one after the other; eval.py then says what they are worth.

    for e in 0 1 2 3 4; do python benchmarks/gpu_study.py earths=$e & done; wait

[runs=supervised,conv,masked_seg,unet] [earths=0] [seeds=] [flops=1e14] [keep=1e13] [pool=10240] [batch=64]
[seconds=540] [encoder=nano] [words=] [name=] [out=runs/study] [device=cuda:0]. Steps of a small encoder wait for Python
and not for the GPU, so several processes share it. Each run goes to `flops`, and then, from its trunk, one to `keep`;
what no time is left for is told and not begun, what fails is told too. seeds: of each Earth, its number where none are
given; words: further words of train.py for every run, with spaces between them; name: what their names end with.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import common

from gfm_objectives import config
from gfm_objectives.data.loader import warm_up
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain import pretraining

# Words of train.py. Peak learning rates: the best of three (supervised) and of two (conv) at 1e13 FLOPs and batches of
# 64, Earth 0; the other ViTs have that of supervised, the U-Nets that of conv.
RUNS = {
    "supervised": "objective=supervised optim.lr=3e-3",
    "conv": "objective=supervised encoder.depth=0 optim.lr=6e-3",
    "mixer": "objective=supervised encoder.mixer=convolution optim.lr=3e-3",
    "masked_seg": "objective=masked_seg optim.lr=3e-3",
    "mae": "objective=mae optim.lr=3e-3",
    "unet": "objective=supervised encoder=unet optim.lr=6e-3",
    "unet5": "objective=supervised encoder=unet encoder.levels=5 optim.lr=6e-3",
}


def main(argv: list[str]) -> None:
    given = common.words(
        argv,
        runs="supervised,conv,masked_seg,unet",
        earths="0",
        seeds="",
        flops=1e14,
        keep=1e13,
        pool=10240,
        batch=64,
        seconds=540.0,
        encoder="nano",
        words="",
        name="",
        out="runs/study",
        device="cuda:0",
    )
    end, rates = time.monotonic() + given["seconds"], {}
    warm_up()
    for earth in given["earths"].split(","):
        for run in given["runs"].split(","):
            for seed in given["seeds"].split(",") if given["seeds"] else (earth,):
                one(given, run, earth, seed, end, rates)


def one(given: dict[str, Any], run: str, earth: str, seed: str, end: float, rates: dict[str, float]) -> None:
    """A run to the larger budget and its branch. rates: FLOPs a second of the runs of a name so far."""
    stem, trunk = f"{run}{given['name']}", ""
    for flops in dict.fromkeys((given["flops"], given["keep"])):
        name, left = f"{stem}-{flops:.0e}-s{seed}".replace("+", ""), end - time.monotonic()
        if left < flops / rates.get(run, 1e12) * (0.2 if trunk else 1) + 8:
            print(f"{name}: not run, {left:.0f} s left", flush=True)
            continue
        words = {
            "encoder": given["encoder"],
            "data.seed": earth,
            "seed": seed,
            "pool": str(given["pool"]),
            "optim.batch_size": str(given["batch"]),
            "budget.flops": f"{flops:g}",
            "budget.warmup": "1024",
            "device": given["device"],
            "loggers": "[]",
            "log_every": "50",
            "checkpoint_every": "1",
            "runs": given["out"],
            "name": name,
            "keep_at": f"[{given['keep']:g}]" if not trunk and given["keep"] < flops else "[]",
        } | ({"branch": trunk} if trunk else {})
        words |= dict(w.split("=", 1) for w in f"{RUNS[run]} {given['words']}".split())
        began = time.monotonic()
        try:
            (cfg,) = config.compose("train", [f"{k}={v}" for k, v in words.items()])
            out = pretraining.run(cfg)
        except (InputError, RuntimeError) as error:
            traceback.print_exc()
            print(f"{name}: failed, {str(error).splitlines()[0]}", flush=True)
            return
        if not trunk:
            trunk, rates[run] = str(out), flops / (time.monotonic() - began)
        told(out)


def told(out: Path) -> None:
    """A line of what a run came to."""
    ledger = json.loads((out / "ledger.json").read_text())
    found = {k: ledger[k] for k in ("flops_spent", "samples", "seconds", "loss", "device")}
    found |= {k: v for k, v in (ledger["yardstick"] or {}).items() if not isinstance(v, dict)}
    print("ROW", out.name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
