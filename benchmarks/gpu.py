"""What one GPU does with this project, in one call of a few minutes on a bare machine.

    python benchmarks/gpu.py [sections=peers,growth,speed,study,curves,launches] [sizes=base,small,large,nano,tiny]
        [seconds=520] [scale=1] [out=results/gpu] [pool=49152] [device=cuda]

Needs torch, lightning, timm, einops, omegaconf, rich and safetensors; no rasterio, no torchgeo. Every row is on disk as
soon as it is measured, so that a kill loses nothing. Sections: peers, a plain loop on timm's ViT; growth, time and
memory by batch and by size of a place; speed, of objectives and sizes, eager and compiled, with waits for the device
counted; study, runs of the product to 1e14, 1e15 and 1e16 FLOPs with and without the ViT's blocks, judged by the
yardstick; curves, the loss in float32 and bf16, eager and compiled; launches, kernels and waits of a step of every
objective, counted without a device (benchmarks/launches.py). On a CPU the same script runs with scale=1e-5 and
device=cpu.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch

from gfm_objectives import config
from gfm_objectives.batch import Batch
from gfm_objectives.data import build_source
from gfm_objectives.data.loader import warm_up
from gfm_objectives.device import device_name, resolve
from gfm_objectives.errors import InputError
from gfm_objectives.objectives import OBJECTIVES as REGISTERED
from gfm_objectives.pretrain import pretraining
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.places import data_options
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.runs.provenance import settled
from gfm_objectives.training.compiling import compile_parts
from gfm_objectives.training.launching import launched
from gfm_objectives.yardstick import Yardstick

SIZES = {"base": 512, "small": 1024, "large": 256, "nano": 2048, "tiny": 2048}  # places a step
# Of the time, at most.
SHARES = {"peers": 0.1, "growth": 0.12, "speed": 0.22, "study": 0.93, "curves": 1.0, "launches": 1.0}
RATES = {12: (1e-3, 3e-3), 0: (3e-3, 1e-2)}  # peak learning rates tried, by depth
OBJECTIVES = ("masked_seg", "mae", "latent")
COMPILED = [("masked_seg", s) for s in ("base", "small", "large")] + [("mae", "base")]  # each takes half a minute
STUDIED = ("supervised", "masked_seg", "mae")
DEPTHS = (12, 0)
FLOPS, SEEDS, SIZE = 1e15, 3, "small"


@dataclass
class Page:
    """The rows so far, on disk as they come; and how much of the time is left."""

    path: Path
    device: torch.device
    end: float
    about: dict[str, Any]
    sections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    section_end: float = float("inf")

    def add(self, section: str, row: dict[str, Any]) -> None:
        self.sections.setdefault(section, []).append(row)
        common.keep(self.path, self.about | {"sections": self.sections})
        print(section, {k: (f"{v:.4g}" if isinstance(v, float) else v) for k, v in row.items()}, flush=True)

    @property
    def left(self) -> float:
        return min(self.end, self.section_end) - time.monotonic()

    def attempt(self, section: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]], needs: float) -> None:
        """One row, if its seconds are left; what fails is a row that says so."""
        if self.left < needs:
            return self.add(section, about | {"not run": f"{self.left:.0f} s left"})
        try:
            self.add(section, about | measure())
        except (RuntimeError, InputError, ValueError, TypeError, AttributeError, AssertionError) as error:
            traceback.print_exc()
            self.add(section, about | {"failed": str(error).splitlines()[0][:200]})
        gc.collect()  # models whose closures hold each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def main(argv: list[str]) -> None:
    given = common.words(
        argv,
        sections="peers,growth,speed,study,curves,launches",
        sizes=",".join(SIZES),
        seconds=520.0,
        scale=1.0,
        out="results/gpu",
        pool=49152,
        device="cuda",
        name="",
    )
    device, dtype = resolve(given["device"])
    stem = given["name"] or device_name(device).replace(" ", "_").lower()
    about = {
        "title": "One GPU",
        "command": "python benchmarks/gpu.py " + " ".join(argv),
        "device": device_name(device),
        "versions": common.versions(),
        "date": date.today().isoformat(),
    }
    page = Page(Path(given["out"]) / f"{stem}.json", device, time.monotonic() + given["seconds"], about)
    shop = Shop(device, dtype, given["scale"], max(64, round(given["pool"] * given["scale"])))
    shop.sizes = given["sizes"].split(",")
    warm_up()  # of the processes that will make the pool, while other things are measured
    page.add("ceilings", ceilings(device, given["scale"]))
    for name in given["sections"].split(","):
        began = time.monotonic()
        page.section_end = began + SHARES[name] * given["seconds"]
        SECTIONS[name](page, shop)
        page.add("sections", {"section": name, "seconds": time.monotonic() - began})


def ceilings(device: torch.device, scale: float) -> dict[str, Any]:
    """The device at its best: a matrix product and a copy."""
    n = 8192 if scale == 1 else 256
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(n, n, device=device).to(dtype)
    seconds = timed(device, lambda: a @ a, 10)
    b = torch.empty(n * n * 4, device=device)
    copy = timed(device, lambda: b.clone(), 10)
    return {"matmul FLOP/s": 2 * n**3 / seconds, "dtype": str(dtype)[6:], "copy B/s": 2 * b.nbytes / copy}


def timed(device: torch.device, call: Callable[[], Any], repeats: int, warm: int = 3) -> float:
    """Seconds a call, the mean after a warm-up."""
    for _ in range(warm):
        call()
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - began) / repeats


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Shop:
    """Runs of the product as they would be trained, on this device."""

    device: torch.device
    dtype: torch.dtype
    scale: float
    pool: int
    sizes: list[str] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """Of torch.compile: in small, on a CPU, nothing is generated, which takes minutes there."""
        return "inductor" if self.scale == 1 else "aot_eager"

    def batch_size(self, size: str) -> int:
        return max(2, round(SIZES[size] * self.scale)) if self.scale < 1 else SIZES[size]

    def config(self, size: str, objective: str, *words: str, batch: int | None = None) -> Any:
        names = {
            "objective": objective,
            "encoder": size,
            "device": str(self.device.type) + (":0" if self.device.type == "cuda" else ""),
            "data.seed": "0",
            "pool": str(self.pool),
            "optim.batch_size": str(batch or self.batch_size(size)),
            "log_every": "1000000000",
            "yardstick": "false",
            "budget.flops": "1e18",
        }
        (cfg,) = config.compose(
            "train", [f"{k}={v}" for k, v in (names | dict(w.split("=", 1) for w in words)).items()]
        )
        return settled(cfg)

    def run(self, size: str, objective: str, *words: str, batch: int | None = None) -> Pretraining:
        """A run that is ready for its first step."""
        cfg = self.config(size, objective, *words, batch=batch)
        fabric = launched(self.device, 1)
        module = pretraining.assembled(cfg, fabric, self.dtype)
        module.prepare()
        module.meter = Meter(None, 1)
        module.count["step"] = 1  # the first is logged
        module.objective.train()
        return module


def rate(module: Pretraining, steps: int = 5, batches: Any = None) -> dict[str, Any]:
    """Of the steps as they are taken, reading included: seconds, samples and FLOPs a second, memory at its peak."""
    device, flow = module.device, iter(batches or module.opened())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(device, lambda: module.step(next(flow)), steps)
    n = module.cfg.optim.batch_size
    cost = sum(c.total for c in module.costs.values()) / len(module.costs)
    out = {"batch": n, "ms a step": 1e3 * seconds, "samples/s": n / seconds, "FLOP/s": cost * n / seconds}
    if device.type == "cuda":
        out["GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return out


def waits(module: Pretraining) -> int:
    """How often three steps wait for the device, by torch's own count."""
    if module.device.type != "cuda":
        return 0
    flow = iter(module.opened())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(3):
            module.step(next(flow))
        torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in told if "synchroniz" in str(w.message)}
    if places:
        print("waits at", sorted(places), flush=True)
    return sum("synchroniz" in str(w.message) for w in told)


def launches(page: Page, shop: Shop) -> None:
    """What a step asks of any device, counted without one: kernels, and how often the host waits for it."""
    import launches as room

    for objective in REGISTERED:

        def counted(objective: str = objective) -> dict[str, Any]:
            return room.row(shop.config("nano", objective, *room.WORDS))

        page.attempt("launches", {"encoder": "nano", "objective": objective}, counted, 3)


def speed(page: Page, shop: Shop) -> None:
    """Sizes and objectives, eager and compiled; the share of the matrix product that was measured."""
    top = page.sections["ceilings"][0]["matmul FLOP/s"]
    for objective in OBJECTIVES:
        for size in shop.sizes if shop.scale == 1 else ("nano", "tiny"):
            about = {"encoder": size, "objective": objective}
            held: dict[str, Pretraining] = {}

            def eager(
                size: str = size, objective: str = objective, held: dict[str, Pretraining] = held
            ) -> dict[str, Any]:
                held["run"] = shop.run(size, objective)
                row = rate(held["run"])
                return row | {"of matmul": row["FLOP/s"] / top, "waits in 3 steps": waits(held["run"])}

            def compiled(held: dict[str, Pretraining] = held) -> dict[str, Any]:
                began = time.perf_counter()
                compile_parts(held["run"].objective, shop.backend)
                held["run"].compiled = True
                held["run"].step(next(iter(held["run"].opened())))
                wait(page.device)
                first = time.perf_counter() - began
                row = rate(held["run"])
                return row | {"of matmul": row["FLOP/s"] / top, "first step s": first}

            page.attempt("speed", about | {"compiled": False}, eager, 8)
            if "run" in held and (objective, size) in COMPILED:
                page.attempt("speed", about | {"compiled": True}, compiled, 30)
            held.clear()


def peers(page: Page, shop: Shop) -> None:
    """A plain loop on timm's ViT, beside, at the same arithmetic and as shipped."""
    import peers as room

    kinds = [k for k in room.NAMES if k != "lightly"]
    size, batch = ("base", 1024) if shop.scale == 1 else ("nano", 4)

    def same() -> dict[str, Any]:
        images = torch.randn(batch, len(room.S2_TEN), room.SIZE, room.SIZE, device=page.device)
        sides = {k: room.Side(k, size, images) for k in kinds}
        flops = {k: common.counted(s.forward) / batch for k, s in sides.items()}
        steps = {k: partial(s.step, shop.dtype) for k, s in sides.items()}
        rows = room.measured(steps, flops, 5, page.device.type)
        return {f"{r['side']}: {k}": r[k] for r in rows for k in ("MFLOP a sample", "GFLOP/s", "x samples/s")}

    about = {"encoder": size, "batch": batch, "precision": str(shop.dtype)[6:], "compiled": False}
    page.attempt("peers", about, same, 10)


def curves(page: Page, shop: Shop) -> None:
    """The same run four ways, and how far its losses lie from those in float32."""
    size, steps = ("small", 40) if shop.scale == 1 else ("nano", 3)
    batch = 128 if shop.scale == 1 else 4
    base: list[float] = []
    for name, dtype, compiled in (
        ("fp32", torch.float32, False),
        ("bf16", shop.dtype, False),
        ("bf16 compiled", shop.dtype, True),
    ):

        def losses(dtype: torch.dtype = dtype, compiled: bool = compiled, name: str = name) -> dict[str, Any]:
            module = Shop(shop.device, dtype, shop.scale, shop.pool).run(size, "masked_seg", batch=batch)
            if compiled:
                compile_parts(module.objective, shop.backend)
                module.compiled = True
            flow = iter(module.opened())
            found = torch.stack([module.step(next(flow)) for _ in range(steps)]).tolist()
            if name == "fp32":
                base.extend(found)
            off = [abs(a - b) for a, b in zip(found, base, strict=False)]
            return {"losses": [round(v, 5) for v in found], "largest difference": max(off, default=None)}

        page.attempt("curves", {"encoder": size, "run": name, "steps": steps}, losses, 40 if compiled else 15)


def growth(page: Page, shop: Shop) -> None:
    """Time and memory of a step by batch, and by the size of a place."""
    sides = [(64, b) for b in (64, 256, 1024, 2048)] + [(128, 256), (256, 64)]
    if shop.scale < 1:
        sides = [(16, 2), (16, 4), (32, 2)]
    size = "small" if shop.scale == 1 else "nano"
    for side, n in sides:

        def grown(side: int = side, n: int = n) -> dict[str, Any]:
            module = shop.run(size, "masked_seg", f"data.size={side}", "pool=null", batch=n)
            return rate(module, 4, noise(module, n))

        page.attempt("growth", {"encoder": size, "side": side, "tokens": (side // 8) ** 2}, grown, 10)


def noise(module: Pretraining, n: int) -> Any:
    """The same batch for ever."""
    spec = module.source.spec
    batch = spec.dummy(n, module.device)
    sensors = {k: s.replace(x=torch.randn_like(s.x)) for k, s in batch.sensors.items()}
    made: Batch = batch.replace(sensors=sensors)
    return iter(lambda: made, None)


class Trained:
    """Runs of the product to their end, and what one yardstick says of them."""

    def __init__(self, page: Page, shop: Shop) -> None:
        self.page, self.shop, self.yardstick = page, shop, None
        self.size = SIZE if shop.scale == 1 else "nano"

    def __call__(self, objective: str, depth: int, seed: int, flops: float, lr: float) -> dict[str, Any]:
        big = self.shop.scale == 1
        words = [f"encoder.depth={depth}", f"seed={seed}", f"budget.flops={flops}", f"optim.lr={lr}", "log_every=20"]
        words += ["checkpoint_every=1", "overwrite=true", f"runs={self.page.path.parent / 'runs'}", "name=run"]
        words += [f"optim.batch_size={128 if big else 4}", f"budget.warmup={4096 if big else 16}"]
        cfg = self.shop.config(self.size, objective, *words)
        out = pretraining.run(cfg)
        ledger = json.loads((out / "ledger.json").read_text())
        encoder = load_encoder(out).to(self.shop.device)
        began = time.perf_counter()
        if self.yardstick is None:
            self.yardstick = Yardstick(build_source(data_options(cfg), "val"), encoder, self.shop.dtype)
        found = self.yardstick(encoder)
        return {
            "samples": ledger["samples"],
            "seconds": ledger["seconds"],
            "FLOP/s": ledger["flops_spent"] / ledger["seconds"],
            "data wait": ledger["data_wait_share"],
            "loss": ledger["loss"],
            "map NLL": found.get("map_nll"),
            "RankMe of tokens": found.get("token_rankme"),
            "yardstick s": time.perf_counter() - began,
        }


def study(page: Page, shop: Shop) -> None:
    """With and without blocks, at three budgets, the learning rate chosen at the smallest."""
    big, train = shop.scale == 1, Trained(page, shop)
    small, middle, large = (FLOPS / 10, FLOPS, FLOPS * 10) if big else (6e10,) * 3
    best = {}
    for depth in DEPTHS:
        for lr in RATES[depth] if big else RATES[depth][-1:]:
            about = {"part": "rate", "objective": "supervised", "depth": depth, "lr": lr, "seed": 0, "FLOPs": small}
            page.attempt("study", about, partial(train, "supervised", depth, 0, small, lr), 12)
        rows = [r for r in page.sections["study"] if r.get("map NLL") and r["depth"] == depth]
        best[depth] = min(rows, key=lambda r: r["map NLL"])["lr"] if rows else RATES[depth][0]
    plan = [(s, o, d, middle) for s in range(SEEDS if big else 1) for o in STUDIED for d in DEPTHS]
    if big:
        plan += [(s, "supervised", d, small) for s in (1, 2) for d in DEPTHS]
        plan += [(0, "supervised", d, large) for d in DEPTHS]
    for seed, objective, depth, flops in plan:
        about = {
            "part": "study",
            "objective": objective,
            "depth": depth,
            "lr": best[depth],
            "seed": seed,
            "FLOPs": flops,
        }
        needs = 14 + flops / 6e13 if big else 20
        page.attempt("study", about, partial(train, objective, depth, seed, flops, best[depth]), needs)


SECTIONS = {"peers": peers, "growth": growth, "speed": speed, "study": study, "curves": curves, "launches": launches}

if __name__ == "__main__":
    main(sys.argv[1:])
