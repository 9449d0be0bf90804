"""Pretraining: config -> data -> encoder -> objective -> FLOPs per step -> steps -> ledger -> export."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from math import nan
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from gfm_objectives import ranks
from gfm_objectives.batch import Spec
from gfm_objectives.budget import Budget
from gfm_objectives.config.values import number
from gfm_objectives.data import build_source
from gfm_objectives.data.guards import watch
from gfm_objectives.data.kept import check_read
from gfm_objectives.data.segments import LAYERS, Segmented
from gfm_objectives.data.source import Source
from gfm_objectives.device import cores, device_name, resolve
from gfm_objectives.errors import InputError
from gfm_objectives.flops import Cost
from gfm_objectives.models.encoder import parameter_parts, parameters, trained_parameters
from gfm_objectives.objectives import build_objective
from gfm_objectives.objectives.objective import Objective
from gfm_objectives.pretrain.batches import places_of
from gfm_objectives.pretrain.beginning import begin
from gfm_objectives.pretrain.faults import FAULT
from gfm_objectives.pretrain.measuring import Measuring
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.places import data_options
from gfm_objectives.pretrain.progress import last_loss
from gfm_objectives.pretrain.states import dtype_of
from gfm_objectives.pretrain.steps import Step, cost_of, kinds_of_step
from gfm_objectives.runs.checkpoint import save_encoder
from gfm_objectives.runs.folder import check_data, folder, is_finished, open_folder, using
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import commit, config_hash, recipe_hash, settled
from gfm_objectives.runs.trunk import LAST
from gfm_objectives.signals import listening
from gfm_objectives.training.compiling import wanted
from gfm_objectives.training.launching import agreed, launched, together
from gfm_objectives.training.logging import build_loggers, check_loggers

with warnings.catch_warnings():  # third parties' deprecations, at import
    warnings.simplefilter("ignore")
    import lightning as L


def run_all(configs: Sequence[DictConfig]) -> None:
    """Pretrain the runs of a sweep, but for those that are finished. InputError where they want other numbers of
    processes: those of a command are started once."""
    check_data(configs)
    for key in ("devices", "num_nodes"):
        if len(asked := dict.fromkeys(str(cfg.get(key)) for cfg in configs)) > 1:
            raise InputError(
                f"{key}={','.join(asked)}: the runs of one command share its processes; give each {key}= a command of "
                "its own, or vary it in a study (gfm sweep), whose runs are commands"
            )
    for i, cfg in enumerate(configs, 1):
        if len(configs) > 1 and not cfg.overwrite and is_finished(cfg):
            print(f"[{i}/{len(configs)}] {cfg.name}: finished before, skipped (overwrite=true trains it again)")
            continue
        with using(cfg):
            run(cfg)


def run(cfg: DictConfig) -> Path:
    """Pretrain to the budget and export; returns the run folder. InputError for what the user can mend."""
    cfg = settled(cfg)
    device, dtype = resolve(cfg.device, cfg.precision)
    if cfg.devices:  # told once, before the others are started
        places_of(cfg, cfg.devices * cfg.num_nodes)
    fabric = launched(device, cfg.devices, cfg.num_nodes)
    torch.set_num_threads(cfg.threads or cores())
    with agreed():
        if cfg.shard and fabric.world_size == 1:
            raise InputError("shard=true: one process has nobody to share its weights with; give devices=, too")
        module = assembled(cfg, fabric, dtype)
        _check_trunk(cfg, module)
        check_loggers(cfg.loggers or ())
        out = open_folder(cfg)
        if fabric.is_global_zero:
            module.loggers = build_loggers(cfg.loggers or (), out, cfg.name, OmegaConf.to_container(cfg))  # type: ignore[arg-type]
    dtype = module.dtype = dtype_of(out / "checkpoints" / LAST, dtype)  # what precision=auto chose at first stays
    measuring = Measuring(dtype)
    if fabric.is_global_zero:
        if module.initial.name:
            before = "unknown" if module.initial.flops is None else f"{module.initial.flops:.3g}"
            print(f"{cfg.name}: begins with the weights of {module.initial.name}; FLOPs spent on them: {before}")
        print(_plan(cfg, module.objective, module.costs, module.budget, device, dtype), flush=True)
        if cfg.yardstick:
            told = "first the untrained encoder is measured on held-out places (docs/yardstick.md)"
            print(f"{cfg.name}: {told}", flush=True)
    try:
        with together(fabric.world_size, out), listening() as module.asked:
            module.fit(measuring, wanted("off" if cfg.shard and cfg.compile == "auto" else cfg.compile, device))
            joules = module.joules()
    finally:
        module.close()
    encoder = module.encoder()
    if fabric.is_global_zero:
        save_encoder(encoder, out)
        ledger = account(module, device, dtype, measuring, joules)
        ledger.write(out / "ledger.json.tmp")
        os.replace(out / "ledger.json.tmp", out / "ledger.json")
        (out / FAULT).unlink(missing_ok=True)
        off = ledger.flops_spent / ledger.flops_budget - 1
        shared = f", {ledger.flops_trunk:.3e} of them by {ledger.trunk}" if ledger.trunk else ""
        mfu = f", MFU {ledger.mfu:.0%} of {ledger.peak_name}" if ledger.mfu else ""
        print(
            f"{cfg.name}: {ledger.flops_spent:.3e} FLOPs ({off:+.2%} of budget{shared}), "
            f"{ledger.samples} samples, {ledger.seconds:.0f} s{mfu}, data wait {ledger.data_wait_share or 0:.1%}\n"
            f"{_measured(ledger)}  -> {out}"
        )
    return out


def assembled(cfg: DictConfig, fabric: L.Fabric, dtype: torch.dtype) -> Pretraining:
    """A run from its config, before anything is written. InputError where the budget does not pay for it."""
    source, whole = open_source(cfg)
    encoder, initial = begin(cfg, whole)
    objective = build_objective(cfg.objective, encoder, source.spec)
    kinds = kinds_of_step(objective, source.spec, cfg.augment.sides)
    costs = {k: cost_of(objective, source.spec, k, places_of(cfg, fabric.world_size)) for k in kinds}
    budget = Budget(cfg.budget.flops)
    budget.check(max(c.total for c in costs.values()))
    return Pretraining(objective, costs, budget, cfg, source, folder(cfg), fabric, dtype, initial)


def _check_trunk(cfg: DictConfig, module: Pretraining) -> None:
    """InputError where budgets that no trunk leads to, or that pay for no run, are asked for."""
    if beyond := [b for b in cfg.keep_at or () if b > cfg.budget.flops]:
        end = number(cfg.budget.flops)
        raise InputError(f"keep_at={number(beyond[0])}: beyond budget.flops={end}, which this run ends with")
    for kept in cfg.keep_at or ():
        Budget(kept).check(max(c.total for c in module.costs.values()), "keep_at")
    if (cfg.keep_at or cfg.branch) and not module.objective.has_trunk():
        raise InputError(
            f"objective={cfg.objective.name}: its after_step may depend on the share of the budget spent (ramps = "
            "False in its class says that it does not), so its runs share no trunk; leave out keep_at= and branch="
        )


def open_source(cfg: DictConfig) -> tuple[Source, Spec]:
    """The places to pretrain on, and all that the data shows of them.

    Where the objective's target is a layer made of them, they lack what it is made of; the encoder is built to read all
    the same, since probes and tasks show it.
    """
    source = build_source(data_options(cfg), "pretrain")
    check_read(cfg.data.get("keep"), {"pretrain": source}, "gfm curate split=pretrain makes one that is read")
    if ranks.first():
        watch(source, cfg.data.name)
    if cfg.objective.get("target") not in LAYERS:
        return source, source.spec
    made = Segmented(source, cfg.objective.target, **cfg.objective.segments)
    if ranks.first():
        print(f"{cfg.name}: {made.about()}", flush=True)
    return made, source.spec


def account(
    module: Pretraining, device: torch.device, dtype: torch.dtype, measuring: Measuring, joules: float | None
) -> Ledger:
    """The account of the finished run."""
    cfg, c = module.cfg, module.count
    seconds = c["seconds"] + module.meter.seconds
    preparation = module.source.preparation(c["samples"])
    owned = trained_parameters(module.objective) - trained_parameters(module.objective.encoder)
    return Ledger(
        objective=cfg.objective.name,
        seed=cfg.seed,
        config_hash=config_hash(cfg),
        recipe_hash=recipe_hash(cfg),
        data_fingerprint=module.source.fingerprint,
        commit=commit(),
        encoder=cfg.encoder.name,
        precision=str(dtype).removeprefix("torch."),
        parameters=parameter_parts(module.objective.encoder) | {"objective": owned},
        flops_budget=module.budget.flops,
        flops_spent=module.budget.spent,
        flops_trunk=module.trunk.branched.get("flops", 0.0),
        trunk=module.trunk.branched.get("run", ""),
        flops_initial=module.initial.flops,
        initial=module.initial.name,
        flops_per_sample=module.budget.spent / max(1, c["samples"]),
        flops_per_sample_by_part=mean_parts(module.costs),
        flops_target_preparation=preparation[0],
        seconds_target_preparation=preparation[1],
        samples=c["samples"],
        tokens=c["tokens"],
        visible_tokens=c["visible"],
        merged_tokens=c["merged"],
        seconds=seconds,
        flops_evaluation=measuring.flops,
        yardstick_seconds=measuring.seconds,
        yardstick=measuring.summary(module.folder),
        data_wait_share=(c["wait"] + module.loader.wait) / seconds if seconds else None,
        device=device_name(device),
        devices=module.world,
        batch=module.places * module.world,
        micro_batch=module.micro,
        peak_name=module.peak[0],
        peak_flops=module.peak[1],
        energy_joules=joules,
        loss=last_loss(module.folder / "metrics.csv"),
    )


def _measured(ledger: Ledger) -> str:
    """What the yardstick says at the end, and what it cost beside the run; '' where it was not asked."""
    if not ledger.yardstick:
        return ""
    names = {"map_nll": "map", "sensor_nll": "other sensor", "date_nll": "next date"}
    random, bands = ledger.yardstick["random"], ledger.yardstick["bands"]
    told = [
        f"{name} {ledger.yardstick[k]:.3f} (untrained {random.get(k, nan):.3f}, bands {bands.get(k, nan):.3f})"
        for k, name in names.items()
        if k in ledger.yardstick
    ]
    cost = f"{ledger.flops_evaluation:.2g} FLOPs and {ledger.yardstick_seconds:.0f} s beside the budget"
    return f"  yardstick, nats: {', '.join(told) or 'not finite'}; {cost}\n"


NAMES = {"encoder": "encoder", "stem": "stem", "vit": "ViT", "way_back": "way back"}


def mean_parts(costs: dict[Step, Cost]) -> dict[str, float]:
    """FLOPs per sample of each part, over the kinds of step, which are drawn equally often."""
    names = dict.fromkeys(k for c in costs.values() for k in c.parts)
    return {k: sum(c.parts.get(k, 0.0) for c in costs.values()) / len(costs) for k in names}


def _plan(
    cfg: DictConfig,
    objective: Objective,
    costs: dict[Step, Cost],
    budget: Budget,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """What will be trained and where the FLOPs go, printed before they are spent; warns of a dominant decoder."""
    parts = mean_parts(costs)
    total = sum(parts.values())
    encoder = {k.removeprefix("encoder."): v / total for k, v in parts.items() if k.startswith("encoder")}
    decoder = 1 - sum(encoder.values())
    lines = [
        f"{cfg.name}: {cfg.objective.name} on {Path(cfg.choices.data).stem}, encoder {cfg.encoder.name} "
        f"({parameters(objective.encoder) / 1e6:.2f} M parameters), {device_name(device)}, {str(dtype)[6:]}",
        f"  {total:.3g} FLOPs per sample: {', '.join(f'{NAMES[k]} {v:.0%}' for k, v in encoder.items())}, "
        f"objective {decoder:.0%}",
        f"  {budget.flops:.3g} FLOPs = about {budget.flops / total:,.0f} samples",
    ]
    if decoder > 0.5:
        lines.append("  warning: most FLOPs go to the decoder, which is thrown away; make it narrower or shallower")
    return "\n".join(lines)
