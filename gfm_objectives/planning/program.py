"""`gfm plan`: what a pretraining run of a config will take on some devices, printed before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch
from omegaconf import DictConfig

from gfm_objectives.batch import Spec
from gfm_objectives.budget import Budget
from gfm_objectives.device import resolve
from gfm_objectives.models import build_encoder
from gfm_objectives.models.encoder import trained_parameters
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.planning.cards import Card, card
from gfm_objectives.planning.memory import CONTEXT, Memory, fitting, forecast, pool_bytes
from gfm_objectives.planning.speed import Speed, speed_of
from gfm_objectives.pretrain.batches import places_of
from gfm_objectives.pretrain.pretraining import mean_parts, open_source
from gfm_objectives.pretrain.steps import Step, cost_of, kinds_of_step
from gfm_objectives.runs.provenance import settled

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Plan:
    """seconds: of the run; kwh: None where nobody says what the device draws; fits: the largest batch of a device that
    its memory holds, which is told where `batch` is larger; tokens: of dates, sensors and patches, as the ledger's."""

    card: Card
    devices: int
    speed: Speed
    flops_per_sample: float
    samples: float
    steps: int
    seconds: float
    kwh: float | None
    euro: float | None
    memory: Memory
    batch: int
    fits: int
    parameters: int
    tokens: float
    places: int

    @property
    def device_hours(self) -> float:
        return self.seconds / 3600 * self.devices


def run(cfg: DictConfig) -> Plan:
    """Reckon and print the plan of configs/plan.yaml. InputError for a budget of fewer than 100 samples, and for data
    that is not there."""
    plan = reckon(settled(cfg))
    print(text(plan, cfg))
    return plan


def reckon(cfg: DictConfig) -> Plan:
    """The plan of a settled config."""
    chosen, budget, batch = card(cfg.device), Budget(cfg.budget.flops), places_of(cfg, cfg.devices)
    source, whole = open_source(cfg)
    with torch.device("meta"):  # no memory for weights that nobody trains here
        objective = build_objective(cfg.objective, build_encoder(cfg.encoder, whole), source.spec)
    kinds = kinds_of_step(objective, source.spec, cfg.augment.sides)
    costs = {k: cost_of(objective, source.spec, k, batch) for k in kinds}
    budget.check(max(c.total for c in costs.values()))
    per_sample = sum(mean_parts(costs).values())
    samples = budget.flops / per_sample
    speed = speed_of(chosen, cfg.encoder.name, cfg.objective.name, batch, cfg.mfu, cfg.measured)
    seconds = budget.flops / (speed.mfu * chosen.peak * cfg.devices)
    watts = chosen.watts if cfg.watts is None else float(cfg.watts)
    kwh = None if watts is None else watts * cfg.devices * seconds / 3.6e6
    dtype = DTYPES[cfg.precision] if cfg.precision != "auto" else _usual(chosen)

    def needs(places: int) -> Memory:
        several = cfg.devices > 1
        of_kinds = [forecast(objective, source.spec, k, places, dtype, chosen.type, several) for k in kinds]
        return replace(max(of_kinds, key=lambda m: m.total), pool=pool_bytes(source.spec, cfg.pool or 0))

    memory, room = needs(batch), chosen.memory - CONTEXT
    return Plan(
        card=chosen,
        devices=cfg.devices,
        speed=speed,
        flops_per_sample=per_sample,
        samples=samples,
        steps=ceil(samples / (batch * cfg.devices)),
        seconds=seconds,
        kwh=kwh,
        euro=None if kwh is None else kwh * cfg.euro,
        memory=memory,
        batch=batch,
        fits=batch if memory.total <= room else fitting(room, lambda n: needs(n).total, batch),
        parameters=trained_parameters(objective),
        tokens=samples * _tokens(objective, source.spec, kinds),
        places=len(source),
    )


def _usual(chosen: Card) -> torch.dtype:
    """What precision=auto comes to on the device."""
    return torch.bfloat16 if chosen.type == "cuda" else resolve("cpu")[1]


def text(plan: Plan, cfg: DictConfig) -> str:
    """The plan in words. GB are 10^9 bytes."""
    p, m, o = plan, plan.memory, cfg.objective.name
    several = p.devices > 1
    parts = {"weights": m.weights, "gradients": m.gradients, "AdamW": m.optimiser, "DDP buckets": m.buckets}
    parts |= {"activations": m.activations, "pool": m.pool}
    held = ", ".join(f"{k} {_gb(v)}" for k, v in parts.items() if v)
    held += "; the code of oneDNN's kernels apart" if p.card.type == "cpu" else ""  # tens of MB, more in bf16
    speed = f"{p.speed.mfu:.1%} of {p.card.peak_name} ({p.card.peak / 1e12:.4g} TFLOP/s)"
    scaled = f"; {p.devices} devices are taken to be {p.devices} times as fast as one" if several else ""
    lines = [
        f"{o} on {Path(cfg.choices.data).stem}, encoder {cfg.encoder.name}, {p.parameters / 1e6:.4g} M parameters with "
        f"the decoder: {cfg.budget.flops:.3g} FLOPs on {p.devices} x {p.card.name}",
        f"  time    {_time(p.seconds)}, {p.device_hours:,.4g} {'GPU' if p.card.type == 'cuda' else 'CPU'} hours",
        f"  MFU     {speed}, {p.speed.source}: {p.speed.about}{scaled}",
        _energy(p, cfg),
        f"  memory  {_gb(m.total)} of {_gb(p.card.memory)} GB{' each' if several else ''} for {p.batch} places: {held}",
        f"  data    {p.samples:,.4g} samples in {p.steps:,} steps of {p.batch * p.devices:,}, "
        f"{p.samples / p.places:.3g} times the {p.places:,} places; {p.flops_per_sample:.3g} FLOPs each",
        f"  tokens  {p.tokens:.3g}, {p.tokens / p.parameters:,.4g} a parameter",
    ]
    if p.fits < p.batch:
        remedy = f"{_fewer(p, cfg)} does" if p.fits else "nor does one place; take a smaller encoder"
        room = f"{_gb(p.card.memory - CONTEXT)} are free on {p.card.name}"
        lines.append(f"  does not fit: {p.batch} places take {_gb(m.total)} GB, and {room}; {remedy}")
    return "\n".join(lines)


def _fewer(p: Plan, cfg: DictConfig) -> str:
    """The setting with which a step has as many places as the device holds."""
    return f"batch.global={p.fits * p.devices}" if cfg.batch.get("global") else f"optim.batch_size={p.fits}"


def _energy(p: Plan, cfg: DictConfig) -> str:
    if p.kwh is None or p.euro is None:
        return "  energy  not known: nobody says what this device draws; watts= sets it"
    whose = "of yours" if cfg.watts is not None else "of the data sheet (TDP)"
    watts = p.card.watts if cfg.watts is None else cfg.watts
    return f"  energy  {p.kwh:,.4g} kWh at {watts:g} W a device, {whose}; {p.euro:,.4g} euro at {cfg.euro:g} per kWh"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g}"


def _time(seconds: float) -> str:
    """1.23 days, 4.5 hours or 30 minutes, whatever reads best."""
    for name, unit in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= unit:
            return f"{seconds / unit:,.4g} {name}"
    return f"{seconds:.3g} seconds"


def _tokens(objective: Objective, spec: Spec, kinds: Sequence[Step]) -> float:
    """Tokens of one sample, as the ledger counts them, over the kinds of step, which are drawn equally often."""
    total = 0
    for kind in kinds:
        objective.set_patch(kind.patch)
        batch = replace(spec, size=kind.side).dummy(1).pad_to(objective.multiple)
        total += Objective.visible(objective, batch)
    return total / len(kinds)
