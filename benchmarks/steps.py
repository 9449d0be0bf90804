"""Time of a pretraining step by objective: python benchmarks/steps.py [ENCODER] [BATCH] [OBJECTIVE,...].

One thread, float32, places of 64 x 64 with 4 dates of ten bands, 4 of two and one height model, all in memory. Seconds
are of the process, not of the clock, so that other work on the machine counts little; FLOPs are counted.
"""

from __future__ import annotations

import sys
import time

import torch

from gfm_objectives.batch import Batch, Spec
from gfm_objectives.config import load_choice
from gfm_objectives.flops import measure
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.sensors import S2_TEN, Legend

WARM, STEPS = 3, 12
SPEC = Spec(
    {"s2": S2_TEN, "s1": ("VV", "VH"), "dem": ("elevation",)},
    {"s2": 4, "s1": 4, "dem": 1},
    64,
    10.0,
    {"map": Legend("letters", tuple("abcdefgh"))},
)


def noise(places: int) -> Batch:
    """Places of noise, all valid and labelled."""
    batch = SPEC.dummy(places, "cpu")
    sensors = {k: s.replace(x=torch.randn(s.x.shape)) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={"map": torch.randint(8, (places, 64, 64))})


def main(encoder: str = "nano", places: int = 4, names: str = ",".join(OBJECTIVES)) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = noise(places)
    print(f"encoder {encoder}, batches of {places}\n| objective | MFLOP a place | ms a step | places/s | GFLOP/s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names.split(","):
        model = build_encoder(load_choice("encoder", encoder), SPEC)
        objective = build_objective(load_choice("objective", name), model, SPEC)
        variant = objective.variants()[-1]
        flops = measure(objective, batch, lambda m, b, v=variant: m(b, v)["loss"]).total
        optimiser = torch.optim.AdamW(objective.parameters(), 1e-3, fused=True)

        for number in range(WARM + STEPS):
            if number == WARM:
                begun = time.process_time()
            optimiser.zero_grad()
            objective(batch, variant)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimiser.step()
        seconds = (time.process_time() - begun) / STEPS
        rate = places / seconds
        print(
            f"| {name} | {flops / 1e6:.0f} | {1e3 * seconds:.0f} | {rate:.1f} | {flops * rate / 1e9:.1f} |", flush=True
        )


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*[kind(word) for kind, word in zip((str, int, str), given, strict=False)])
