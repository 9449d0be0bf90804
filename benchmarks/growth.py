"""How time and memory of a pretraining step grow with the batch and with the side of places.

    python benchmarks/growth.py [encoder=nano] [objective=mae] [batches=2,4,8,16] [sides=32,64,128,256] [steps=3]
                                [device=cpu]

Places of two dates of ten bands, all in memory, one thread. Each point is a process of its own on a CPU, and its memory
what it held at most beyond what it held before the model was made; of a GPU what torch allocated.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import time

import common
import torch

from gfm_objectives.batch import Spec
from gfm_objectives.config import load_choice
from gfm_objectives.device import resolve
from gfm_objectives.flops import measure
from gfm_objectives.models import build_encoder
from gfm_objectives.objectives import build_objective
from gfm_objectives.sensors import S2_TEN, Legend


def point(encoder: str, objective: str, batch: int, side: int, steps: int, device: str) -> common.Row:
    """Seconds and MiB of a step; memory is counted from a first step that makes gradients and the optimiser's state."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    where = torch.device(device)
    dtype = resolve(device)[1]
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(where)
    before = peak(device)
    spec = Spec({"s2": S2_TEN}, {"s2": 2}, side, 10.0, {"map": Legend("letters", tuple("abcdefgh"))})
    model = build_objective(
        load_choice("objective", objective), build_encoder(load_choice("encoder", encoder), spec), spec
    )
    variant = model.variants()[-1]
    flops = measure(model, spec.dummy(2), lambda m, b: m(b, variant)["loss"]).total
    model.to(where)
    places = spec.dummy(batch, where)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = 0.0
    for number in range(steps + 1):
        if number == 1:
            if device != "cpu":
                torch.cuda.synchronize()
            begun = clock()
        optimiser.zero_grad()
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            loss = model(places, variant)["loss"]
        loss.backward()
        optimiser.step()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = (clock() - begun) / steps
    return {
        "batch": batch,
        "side": side,
        "tokens a place": (side // 8) ** 2,
        "GFLOP a step": batch * flops / 1e9,
        "ms a step": 1e3 * seconds,
        "places/s": batch / seconds,
        "GFLOP/s": batch * flops / seconds / 1e9,
        "MiB": peak(device) - before,
    }


def peak(device: str) -> float:
    """MiB at most so far, of this process or allocated on the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _child(queue: multiprocessing.Queue, *what: object) -> None:
    queue.put(point(*what))  # type: ignore[arg-type]


def apart(*what: object) -> common.Row:
    """`point` in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue, *what))
    child.start()
    row = queue.get()
    child.join()
    return row


def power(rows: list[common.Row], of: str, by: str) -> float:
    """The power of `by` with which `of` grows from the last point but one to the last."""
    a, b = rows[-2:]
    return math.log(b[of] / a[of]) / math.log(b[by] / a[by])


def main(argv: list[str]) -> None:
    given = common.words(
        argv, encoder="nano", objective="mae", batches="2,4,8,16", sides="32,64,128,256", steps=3, device="cpu"
    )
    device, make = given["device"], apart if given["device"] == "cpu" else point
    what, steps = (given["encoder"], given["objective"]), given["steps"]
    batches = [make(*what, int(b), 64, steps, device) for b in given["batches"].split(",")]
    sides = [make(*what, 2, int(n), steps, device) for n in given["sides"].split(",")]
    notes = [
        f"At the end of the table time grows as batch^{power(batches, 'ms a step', 'batch'):.2f} and memory as "
        f"batch^{power(batches, 'MiB', 'batch'):.2f}; with tokens, time as "
        f"tokens^{power(sides, 'ms a step', 'tokens a place'):.2f}, memory as "
        f"tokens^{power(sides, 'MiB', 'tokens a place'):.2f}."
    ]
    title = f"objective={what[1]}, encoder={what[0]}"
    command = " ".join(["python benchmarks/growth.py", *argv])
    common.write("growth", "Growth of a step", command, {title: batches + sides}, notes, device)


if __name__ == "__main__":
    main(sys.argv[1:])
