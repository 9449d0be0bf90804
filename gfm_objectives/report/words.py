"""How the report names contenders and writes figures: points, FLOPs, intervals, 'not run'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_RUN = "not run"
_NAMES = {
    "unet": "U-Net",
    "unet map": "U-Net pretrained on the map",
    "unet imagenet": "U-Net with ImageNet weights",
    "scratch": "ViT from scratch",
    "pixel": "per-pixel MLP",
    "map": "map, recoded",
    "index": "spectral index",
}


def contender(name: str) -> str:
    """The name a reader sees; pretrained encoders keep their objective's name."""
    if name.startswith("unet+"):
        return f"U-Net +{name[5:]} FLOPs"
    if name.startswith("unet map "):  # several of them, told apart by what follows
        return f"{_NAMES['unet map']}{name.removeprefix('unet map')}"
    return _NAMES.get(name, name)


def points(value: float | None, signed: bool = False) -> str:
    """mIoU in 0..1 as points of 100."""
    if value is None:
        return NOT_RUN
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def flops(value: float | None) -> str:
    """1.2e13; None is unknown."""
    if value is None:
        return "unknown"
    if not value:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def count(value: float | None) -> str:
    """Parameters, seconds, MiB, labels: three digits, with k or M."""
    if not value:
        return "0"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def plus_minus(row: Mapping[str, Any]) -> str:
    """'71.2 ± 1.3' of a row of scores; without ± where no interval is given."""
    if row["status"] != "ok":
        return NOT_RUN
    interval = row["interval"]
    half = f" ± {100 * (interval[1] - interval[0]) / 2:.1f}" if isinstance(interval, list) else ""
    return points(row["miou"]) + half


def gain(row: Mapping[str, Any]) -> str:
    """'+2.1 [0.4, 3.8]' of a row of gains, in points; the bare gain where no interval is given."""
    if row["status"] != "ok":
        return NOT_RUN
    interval = row["interval"]
    span = f" [{points(interval[0])}, {points(interval[1])}]" if isinstance(interval, list) else ""
    return points(row["gain"], signed=True) + span


def record(mean: Mapping[str, Any], between: str = " / ") -> str:
    """Wins, losses and ties of a row of means; tasks without an interval are undecided."""
    if mean["status"] != "ok":
        return "-"
    text = between.join(str(mean[k]) for k in ("wins", "losses", "ties"))
    return text + (f" ({mean['undecided']} undecided)" if mean["undecided"] else "")


def opponent(against: str, n: int) -> str:
    """What a row of gains is measured against."""
    return {
        "headline": f"headline U-Net, n = {n}",
        "unet": "U-Net, equal fine-tuning FLOPs",
        "scratch": "ViT from scratch",
    }[against]


def seeds(low: int, high: int) -> str:
    return f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"
