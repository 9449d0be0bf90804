"""Time of a pretraining step by objective and encoder: python benchmarks/steps.py.

    python benchmarks/steps.py [encoder=nano,tiny] [batch=4] [objectives=mae,latent,...] [steps=6] [device=cpu]

One thread, float32; on a GPU (device=cuda) bf16 by autocast. Places of 64 x 64 with 4 dates of ten bands, 4 of two and
one height model, all in memory. Objectives take turns, a step at a time. Seconds on a CPU are of the process, not of
the clock, so that other work on the machine counts little; FLOPs are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import common
import torch

from gfm_objectives.batch import Batch
from gfm_objectives.config import load_choice
from gfm_objectives.device import has_bf16
from gfm_objectives.flops import measure
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective


def noise(places: int) -> Batch:
    """Places of noise, all valid and labelled."""
    batch = common.SPEC.dummy(places, "cpu")
    sensors = {k: s.replace(x=torch.randn(s.x.shape)) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={"map": torch.randint(8, (places, 64, 64))})


def stepping(encoder: str, name: str, batch: Batch) -> tuple[float, Callable[[], int]]:
    """FLOPs a place, and a step."""
    torch.manual_seed(0)
    device = batch.gsd.device
    model = build_encoder(load_choice("encoder", encoder), common.SPEC)
    objective = build_objective(load_choice("objective", name), model, common.SPEC)
    variant = objective.variants()[-1]
    flops = measure(objective, batch, lambda m, b: m(b, variant)["loss"]).total
    objective.to(device)
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-3, fused=True)
    dtype = torch.bfloat16 if device.type == "cuda" and has_bf16(device) else torch.float32

    def step() -> int:
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = objective(batch, variant)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()
        return len(batch)

    return flops, step


def main(argv: list[str]) -> None:
    given = common.words(argv, encoder="nano,tiny", batch=4, objectives=",".join(OBJECTIVES), steps=6, device="cpu")
    torch.set_num_threads(1)
    device, clock, sections = given["device"], common.clock_of(given["device"]), {}
    batch = noise(given["batch"]).to(device)
    for encoder in given["encoder"].split(","):
        made = {name: stepping(encoder, name, batch) for name in given["objectives"].split(",")}
        found = common.alternate({name: step for name, (_, step) in made.items()}, given["steps"], device)
        sections[f"encoder={encoder}, batches of {given['batch']}"] = [
            {
                "objective": name,
                "MFLOP a place": flops / 1e6,
                "ms a step": 1e3 * len(batch) / found[name].rate(clock),
                "places/s": found[name].rate(clock),
                "GFLOP/s": flops * found[name].rate(clock) / 1e9,
            }
            for name, (flops, _) in made.items()
        ]
        command = " ".join(["python benchmarks/steps.py", *argv])
        common.write("steps", "A step of pretraining", command, sections, (), device)


if __name__ == "__main__":
    main(sys.argv[1:])
