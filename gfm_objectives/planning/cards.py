"""Accelerators by name: peak, memory and power, as their makers' data sheets have them; and this machine's CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gfm_objectives.device import PEAKS, peak


@dataclass(frozen=True, slots=True)
class Card:
    """One device. peak: dense, in FLOP/s, and what it is called; memory: bytes; watts: of the board at most (TDP), None
    where nobody says."""

    name: str
    peak_name: str
    peak: float
    memory: float
    watts: float | None
    type: str = "cuda"  # of torch's device


# Peak by the key of device.PEAKS, GB, W. Data sheets; SXM boards unless the name says PCIe or NVL. A data sheet's GB
# are taken as 10^9 bytes: ECC and the driver keep what lies between them and 2^30.
_SHEET = {
    "b200": ("B200", 180, 1000),
    "h200": ("H200", 141, 700),
    "h100": ("H100", 80, 700),
    "h100-pcie": ("H100 PCIe", 80, 350),
    "h100-nvl": ("H100 NVL", 94, 400),
    "a100": ("A100", 80, 400),
    "a100-40gb": ("A100", 40, 400),
    "l40s": ("L40S", 48, 350),
    "a40": ("A40", 48, 300),
    "a10": ("A10", 24, 150),
    "l4": ("L4", 24, 72),
    "rtx4090": ("RTX 4090", 24, 450),
    "rtx3090": ("RTX 3090", 24, 350),
    "mi300x": ("MI300X", 192, 750),
}
NAMES = (*_SHEET, "cpu")


def card(name: str) -> Card:
    """The device of that name, of NAMES. The CPU's peak is measured, which takes a moment."""
    if name == "cpu":
        told, speed = peak("cpu")
        assert speed is not None
        return Card("CPU", told, speed, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), None, "cpu")
    known, gigabytes, watts = _SHEET[name]
    return Card(f"{known} {gigabytes} GB", f"{known} dense bf16", PEAKS[known], gigabytes * 1e9, watts)
