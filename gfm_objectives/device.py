"""Where to compute and in which precision: `auto` resolved in one place for pretraining and fine-tuning alike."""

from __future__ import annotations

import torch

from gfm_objectives.errors import InputError


def resolve(device: str = "auto", precision: str = "auto") -> tuple[torch.device, torch.dtype]:
    """The device, and the dtype of autocast: bfloat16 where the device computes in it, else float32 (no autocast)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={device}: torch sees no GPU; use device=cpu, or install a CUDA build of torch")
    chosen = torch.device(device)
    if precision == "auto":
        return chosen, torch.bfloat16 if has_bf16(chosen) else torch.float32
    table = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in table:
        raise InputError(f"precision={precision}: choose auto, bf16 or fp32")
    return chosen, table[precision]


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("amx_tile"))
