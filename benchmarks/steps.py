"""Time of a pretraining step by objective and encoder: python benchmarks/steps.py.

    python benchmarks/steps.py [encoder=nano,tiny] [batch=4] [objectives=mae,latent,...] [steps=6] [device=cpu]
    python benchmarks/steps.py ways=masked_seg      adds its steps in fp32, bf16 and compiled, and their losses

One thread, float32; on a GPU (device=cuda) bf16 by autocast. Places of 64 x 64 with 4 dates of ten bands, 4 of two and
one height model, all in memory. Objectives take turns, a step at a time. Seconds on a CPU are of the process, not of
the clock, so that other work on the machine counts little; FLOPs are counted. Tables not asked for (objectives=,
ways=) stay as they were where the device is the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import common
import torch

from gfm_objectives.batch import Batch
from gfm_objectives.config import load_choice
from gfm_objectives.device import device_name, has_bf16
from gfm_objectives.flops import measure
from gfm_objectives.heap import keep_freed
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import OBJECTIVES, build_objective
from gfm_objectives.training.compiling import compile_parts

WAYS = {
    "fp32": (torch.float32, False),
    "fp32, compiled": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "bf16, compiled": (torch.bfloat16, True),
}


def noise(places: int) -> Batch:
    """Places of noise, all valid and labelled."""
    batch = common.SPEC.dummy(places, "cpu")
    sensors = {k: s.replace(x=torch.randn(s.x.shape)) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={"map": torch.randint(8, (places, 64, 64))})


def stepping(
    encoder: str, name: str, batch: Batch, dtype: torch.dtype, compiled: bool = False
) -> tuple[float, Callable[[], int], list[float]]:
    """FLOPs a place, a step, and the losses of the steps that were taken."""
    torch.manual_seed(0)
    device = batch.gsd.device
    model = build_encoder(load_choice("encoder", encoder), common.SPEC)
    objective = build_objective(load_choice("objective", name), model, common.SPEC)
    variant = objective.variants()[-1]
    flops = measure(objective, batch, lambda m, b: m(b, variant)["loss"]).total
    objective.to(device)
    optimiser = torch.optim.AdamW(objective.parameters(), 1e-3, fused=True)
    losses: list[float] = []
    if compiled:
        compile_parts(objective)

    def step() -> int:
        torch.manual_seed(len(losses))  # all sides hide the same
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = objective(batch, variant)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        return len(batch)

    return flops, step, losses


def ways(encoder: str, name: str, batch: Batch, steps: int, device: str) -> list[common.Row]:
    """Precisions, eager and compiled: places a second, and how far the losses of all steps are from those of fp32."""
    clock, rows, made, first = common.clock_of(device), [], {}, {}
    for way, (dtype, compiled) in WAYS.items():
        began, made[way] = time.perf_counter(), stepping(encoder, name, batch, dtype, compiled)
        made[way][1]()
        first[way] = time.perf_counter() - began
    found = common.alternate({way: step for way, (_, step, _) in made.items()}, steps, device)
    for way, (flops, _, losses) in made.items():
        off = max(abs(a - b) for a, b in zip(losses, made["fp32"][2], strict=True))
        rows.append(
            {
                "way": way,
                "ms a step": 1e3 * len(batch) / found[way].rate(clock),
                "places/s": found[way].rate(clock),
                "GFLOP/s": flops * found[way].rate(clock) / 1e9,
                "x": common.ratio(found[way], found["fp32"], clock),
                "losses": len(losses),
                "furthest from fp32": f"{off:.1e}",
                "first step, s of the clock": first[way],
            }
        )
    return rows


def kept(device: str) -> dict[str, list[common.Row]]:
    """The tables of before, of this device."""
    path = common.RESULTS / f"steps{'' if device == 'cpu' else '_cuda'}.json"
    before = json.loads(path.read_text()) if path.exists() else {"device": ""}
    return before["sections"] if before["device"] == device_name(device) else {}


def main(argv: list[str]) -> None:
    given = common.words(
        argv, encoder="nano,tiny", batch=4, objectives=",".join(OBJECTIVES), steps=6, device="cpu", ways=""
    )
    torch.set_num_threads(1)
    keep_freed()  # as a run does
    device, clock = given["device"], common.clock_of(given["device"])
    sections, command = kept(device), " ".join(["python benchmarks/steps.py", *argv])
    batch = noise(given["batch"]).to(device)
    dtype = torch.bfloat16 if device != "cpu" and has_bf16(torch.device(device)) else torch.float32
    names = [n for n in given["objectives"].split(",") if n]
    for encoder in given["encoder"].split(",") if names else ():
        made = {name: stepping(encoder, name, batch, dtype) for name in names}
        found = common.alternate({name: step for name, (_, step, _) in made.items()}, given["steps"], device)
        sections[f"encoder={encoder}, batches of {given['batch']}"] = [
            {
                "objective": name,
                "MFLOP a place": flops / 1e6,
                "ms a step": 1e3 * len(batch) / found[name].rate(clock),
                "places/s": found[name].rate(clock),
                "GFLOP/s": flops * found[name].rate(clock) / 1e9,
            }
            for name, (flops, _, _) in made.items()
        ]
        common.write("steps", "A step of pretraining", command, sections, (), device)
    for encoder in given["encoder"].split(",") if given["ways"] else ():
        title = f"{given['ways']}, encoder={encoder}, batches of {given['batch']}: precision, and compile="
        sections[title] = ways(encoder, given["ways"], batch, given["steps"], device)
        common.write("steps", "A step of pretraining", command, sections, (), device, shown=title)


if __name__ == "__main__":
    main(sys.argv[1:])
