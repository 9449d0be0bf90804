"""Where to compute, in which precision, what the device is called and how fast it is at best."""

from __future__ import annotations

import os
import platform
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gfm_objectives.errors import InputError

DTYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def resolve(device: str = "auto", precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """The device, and the dtype of autocast: bfloat16 where the device is faster in it, else float32 (no autocast)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={device}: torch sees no GPU; use device=cpu, or install a CUDA build of torch")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= (n := torch.cuda.device_count()):
        raise InputError(f"device={device}: torch sees {n} GPUs, cuda:0 to cuda:{n - 1}")
    if precision == "auto":
        return chosen, torch.bfloat16 if gains_by_bf16(chosen) else torch.float32
    table = {name: dtype for dtype, name in DTYPES.items()}
    if precision not in table:
        raise InputError(f"precision={precision}: choose auto, bf16 or fp32")
    return chosen, table[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision in `dtype`; nothing where that is float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("amx_tile"))


def gains_by_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bf16. CPUs are asked: with avx512_bf16 and without AMX some take longer."""
    if device.type == "cpu" and has_bf16(device):
        # of this process, not of the clock: other work on the machine must not decide
        taken = {dtype: cpu for dtype, (cpu, _) in products(512, torch.get_num_threads()).items()}
        return taken[torch.bfloat16] < taken[torch.float32]
    return has_bf16(device)


@lru_cache
def products(n: int, threads: int, rounds: int = 8) -> dict[torch.dtype, tuple[float, float]]:
    """Seconds of this process, and of the clock, that a product of n x n matrices takes a CPU at best; in bf16 where it
    has it. The dtypes take turns. threads: in use; they tell measurements apart."""
    kinds = [torch.float32, *[torch.bfloat16] * has_bf16(torch.device("cpu"))]  # emulated it takes seconds
    best = dict.fromkeys(kinds, (float("inf"), float("inf")))
    matrices = {dtype: torch.randn(n, n).to(dtype) for dtype in kinds}
    for _ in range(rounds):
        for dtype, a in matrices.items():
            cpu, wall = time.process_time(), time.perf_counter()
            a @ a
            taken = time.process_time() - cpu, time.perf_counter() - wall
            best[dtype] = min(best[dtype][0], taken[0]), min(best[dtype][1], taken[1])
    return best


# Dense bf16 peaks in FLOP/s from the makers' data sheets (no sparsity); the first name found in the device's wins.
PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 149.7e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
    "MI250X": 383e12,
}


def device_name(device: torch.device | str) -> str:
    """What the machine calls the device; for a CPU with the number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()} x {torch.get_num_threads()} threads"


def peak(device: torch.device | str) -> tuple[str, float | None]:
    """The dense peak that MFU refers to, by name, in FLOP/s; None for a GPU not in the table.

    CPUs have no data sheet figure worth dividing by: the best of a bf16 and an fp32 matrix product is measured, and
    the name says so.
    """
    device = torch.device(device)
    if device.type == "cpu":
        n, threads = 1024, torch.get_num_threads()
        wall, name = min((wall, DTYPES[dtype]) for dtype, (_, wall) in products(n, threads).items())
        return f"measured GEMM {name}, {threads} threads", 2 * n**3 / wall
    name = device_name(device)
    known = next((k for k in PEAKS if k in name), None)
    return (f"{known} dense bf16", PEAKS[known]) if known else (f"{name}: peak unknown", None)


@lru_cache
def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (v.split(":", 1)[1].strip() for v in lines if v.startswith("model name")), platform.processor() or "CPU"
    )
