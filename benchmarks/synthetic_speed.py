"""Places per second and core of the procedural Earth: python benchmarks/synthetic_speed.py [BATCH_SIZE] [SECONDS]."""

from __future__ import annotations

import sys
import time

import torch

from gfm_objectives.data.synthetic import Synthetic


def main(batch_size: int = 16, seconds: float = 8.0) -> None:
    torch.set_num_threads(1)
    source = Synthetic("pretrain")
    source.read(range(batch_size))
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        source.read(range(done, done + batch_size))
        done += batch_size
    spent, elapsed = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{done / spent:.0f} patches/s/core ({done} places of 64 x 64, s2 10 and s1 2 bands x 4 dates, dem, map; "
        f"batches of {batch_size}; {done / elapsed:.0f}/s of wall time on a machine that may be shared)"
    )


if __name__ == "__main__":
    args = sys.argv[1:]
    main(int(args[0]) if args else 16, float(args[1]) if len(args) > 1 else 8.0)
