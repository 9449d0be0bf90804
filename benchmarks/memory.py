"""Memory of a training step, forecast and measured.

    python benchmarks/memory.py [ENCODERS] [OBJECTIVES] [BATCHES] [PRECISION]

On a GPU torch.cuda.max_memory_allocated, and once more compiled as gfm train does it; on a CPU the most that is
resident of this process beyond what it held before the model was made. There every case is run twice: the first run
leaves the code that oneDNN generates for each new shape, which it keeps for later steps and models ("kept"); the second
is measured. One thread; PRECISION: auto, bf16 or fp32.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator

import common
import torch

from gfm_objectives.batch import Batch
from gfm_objectives.config import load_choice
from gfm_objectives.device import resolve
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.planning.memory import forecast
from gfm_objectives.pretrain.steps import kinds_of_step
from gfm_objectives.training import stepping
from gfm_objectives.training.compiling import compile_parts
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.optimiser import adamw

STEPS = 3
# malloc gives back what is freed, as CUDA's allocator uses it again: what is measured is then what is alive. malloc.h:
MALLOPT = {-1: 65536, -2: 0, -3: 65536}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD


def build(encoder: str, objective: str) -> Objective:
    return build_objective(
        load_choice("objective", objective), build_encoder(load_choice("encoder", encoder), common.SPEC), common.SPEC
    )


def foreseen(encoder: str, objective: str, batch: int, device: str, dtype: torch.dtype) -> float:
    """Bytes of a step of the objective's last variant, by the forecast."""
    with torch.device("meta"):
        model = build(encoder, objective)
    return forecast(model, common.SPEC, kinds_of_step(model, common.SPEC, None)[-1], batch, dtype, device).total


def measured(encoder: str, objective: str, batch: int, device: str, dtype: torch.dtype, compiled: bool) -> float:
    """Bytes that some steps took beyond what this process held before the model was made."""
    gc.collect()
    if device == "cuda":
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train(build(encoder, objective), batch, device, dtype, compiled)
        return float(torch.cuda.max_memory_allocated())
    ctypes.CDLL(None).malloc_trim(0)  # what is free would be used again, and not be seen
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as f:  # the peak begins anew
        f.write("5")
    train(build(encoder, objective), batch, device, dtype, compiled)
    return resident("VmHWM") - before


def train(model: Objective, places: int, device: str, dtype: torch.dtype, compiled: bool) -> None:
    model = model.to(device).train()
    if compiled:
        compile_parts(model)
    parameters = [*model.parameters()]
    kind = kinds_of_step(model, common.SPEC, None)[-1]
    finite = Finite(torch.device(device), lambda step, loss: None)
    stepper = stepping.Stepper(adamw([(parameters, 1e-3)], 0.05), parameters, 1.0, torch.device(device), dtype, finite)
    for step in range(STEPS):
        batch = noise(places).to(device)
        stepper(step, 1.0, lambda batch=batch: model(batch, kind.variant)["loss"])


def noise(places: int) -> Batch:
    """Places of noise, all valid and labelled."""
    batch = common.SPEC.dummy(places, "cpu")
    sensors = {k: s.replace(x=s.x.normal_()) for k, s in batch.sensors.items()}
    return batch.replace(sensors=sensors, targets={"map": torch.randint(8, (places, 64, 64))})


def resident(key: str) -> float:
    """VmRSS or VmHWM of this process in bytes."""
    with open("/proc/self/status") as f:
        return next(float(line.split()[1]) * 1024 for line in f if line.startswith(f"{key}:"))


def rows(
    encoders: str, objectives: str, batches: str, device: str, dtype: torch.dtype
) -> Iterator[tuple[str, str, int, str, float, float, float]]:
    """(encoder, objective, batch, compiled, bytes by the forecast, bytes measured, bytes kept)"""
    torch.set_num_threads(1)
    stepping.keep_freed = lambda: None  # which would undo it
    for key, value in MALLOPT.items():
        assert ctypes.CDLL(None).mallopt(key, value) == 1, (key, value)
    train(build("nano", "masked_seg"), 1, device, dtype, False)  # kernels, threads and workspaces are there then
    for encoder in encoders.split(","):
        for objective in objectives.split(","):
            for batch in map(int, batches.split(",")):
                told = foreseen(encoder, objective, batch, device, dtype)
                for compiled in ("no", "yes") if device == "cuda" else ("no",):
                    kept = kernels(encoder, objective, batch, dtype) if device == "cpu" else 0.0
                    seen = measured(encoder, objective, batch, device, dtype, compiled == "yes")
                    yield encoder, objective, batch, compiled, told, seen, kept


def kernels(encoder: str, objective: str, batch: int, dtype: torch.dtype) -> float:
    """Bytes that stay with the process once steps of a new shape are over and their model is gone."""
    gc.collect()
    before = resident("VmRSS")
    train(build(encoder, objective), batch, "cpu", dtype, False)
    gc.collect()
    return resident("VmRSS") - before


def main(
    encoders: str = "nano,tiny", objectives: str = "masked_seg,mae", batches: str = "4,16", precision: str = "auto"
) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = resolve(device, precision)[1]
    print(
        f"{device}, {dtype}\n\n| encoder | objective | batch | compiled | forecast MB | measured MB | off | kept MB |"
    )
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    for *case, told, seen, kept in rows(encoders, objectives, batches, device, dtype):
        cells = [*map(str, case), f"{told / 1e6:.1f}", f"{seen / 1e6:.1f}", f"{told / seen - 1:+.1%}"]
        cells.append(f"{kept / 1e6:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
