"""protocol=pangaea: the recipe of Marsocci et al. 2024 (arXiv 2412.04204), to be comparable with print.

A frozen encoder under a UPerNet of 512 channels, and PANGAEA's U-Net from scratch: AdamW with 1e-4 and a decay of .05,
80 epochs of batches of 8, a tenth of the learning rate after 60 and 90 % of them, no augmentation, no tuning; the state
that was best on validation is tested, on whole tiles by windows. It compares neither at equal FLOPs nor at equal means.
Figures: github.com/VMarsocci/pangaea-bench, configs/ and engine/evaluator.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gfm_objectives import config, disk
from gfm_objectives.chance import mix
from gfm_objectives.compare.bench import Bench, beyond, check_roots, open_bench
from gfm_objectives.compare.contenders import Contender
from gfm_objectives.compare.fitting import on_disk
from gfm_objectives.compare.labels import hash_of_places
from gfm_objectives.compare.pangaea_rows import UNET, Row, page, read, table, versions
from gfm_objectives.compare.rows import contenders
from gfm_objectives.data.loader import StepLoader
from gfm_objectives.data.places import Places
from gfm_objectives.device import resolve
from gfm_objectives.errors import InputError
from gfm_objectives.finetune.evaluation import evaluate
from gfm_objectives.finetune.loop import loss, step_cost
from gfm_objectives.metrics import METRICS
from gfm_objectives.models.encoder import parameters, trained_parameters
from gfm_objectives.models.pangaea import FrozenUPerNet, PangaeaUNet
from gfm_objectives.runs.checkpoint import load_encoder
from gfm_objectives.training.finite import Finite
from gfm_objectives.training.stepping import Stepper

LR, DECAY = 1e-4, 0.05
STEPS, FACTOR = (0.6, 0.9), 0.1
LOOKS = 16  # at validation, in the course of a run: every fifth of 80 epochs


def run(cfg: DictConfig, out: Path) -> None:
    """What is not done of `cfg` (configs/eval.yaml), row by row; pangaea.csv and pangaea.md in the folder `out`."""
    device, dtype = resolve(cfg.device, cfg.precision)
    options: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    tasks, notes = on_disk(options["tasks"])
    rows = contenders(["pretrained"], cfg.checkpoint, len(tasks), None) if cfg.checkpoint else []
    check_roots(tasks)
    benches = [replace(open_bench(n, t, cfg.world, cfg.seeds), labels=cfg.labels) for n, t in tasks.items()]
    notes += [line for b in benches for line in beyond(b)]
    notes += [f"{b.task.name}: not run, PANGAEA has no recipe for kind={b.task.kind}" for b in benches if not _has(b)]
    if not any(map(_has, benches)):
        raise InputError(f"protocol=pangaea: {notes[-1]}; it has segmentation, change and regression")
    if cfg.plan_only:
        print("\n".join(["protocol=pangaea runs " + ", ".join(b.task.name for b in benches if _has(b)), *notes]))
        return
    config.save(cfg, out / "config.yaml")
    path, done = out / "pangaea.csv", read(out / "pangaea.csv")
    made = {UNET: None} | {c.name: c for c in rows}
    for bench in filter(_has, benches):
        for fraction in cfg.fractions:
            for seed in range(cfg.seeds):
                for name, contender in made.items():
                    fit = _Fit(bench.at(seed), fraction, seed, name, contender, options["pangaea"])
                    if fit.key not in {r.key for r in done}:
                        done.append(fit(device, dtype))
                        disk.write(path, table(done))
                        r = done[-1]
                        print(f"{r.task} {100 * r.fraction:g} % seed {r.seed} {r.row}: {r.figure:.4g}", flush=True)
    text = page(cfg.name, done, notes)
    disk.write(out / "pangaea.md", text)
    print(text)
    print(f"  -> {out / 'pangaea.md'}, {path}")


def _has(bench: Bench) -> bool:
    return bench.kind.dense


class _Fit:
    """A run to be: one network on one share of the labels."""

    def __init__(
        self,
        bench: Bench,
        fraction: float,
        seed: int,
        name: str,
        contender: Contender | None,
        how: Mapping[str, Any],
    ) -> None:
        self.bench, self.fraction, self.seed, self.name, self.contender = bench, fraction, seed, name, contender
        self.how, self.train = how, bench.subset(fraction, seed)
        self.labels = hash_of_places(self.train)

    @property
    def key(self) -> tuple[Any, ...]:
        epochs = self.how["epochs"]
        return self.bench.task.name, self.fraction, self.name, self.seed, self.labels, self.bench.fingerprint, epochs

    def build(self) -> nn.Module:
        torch.manual_seed(mix(self.seed, "init"))
        if self.contender is None:
            return PangaeaUNet(self.bench.spec, self.bench.outputs)
        found = self.contender.run(self.seed)
        assert found is not None, self.name
        encoder = load_encoder(found.folder).extend(self.bench.spec)
        return FrozenUPerNet(encoder, self.bench.outputs, self.how["channels"])

    def __call__(self, device: torch.device, dtype: torch.dtype) -> Row:
        begun, bench, layer = time.perf_counter(), self.bench, self.bench.task.layer
        model, kind = self.build(), bench.kind_for(self.train)
        batch, n = min(self.how["batch_size"], len(self.train)), len(self.train)
        if batch < 2:
            raise InputError(
                f"task {bench.task.name}: {n} labelled place; protocol=pangaea needs two for its batch norm"
            )
        cost = step_cost(model, self.train.read(range(2)), kind, layer)
        steps = self.how["epochs"] * max(1, n // batch)

        def score(split: str) -> tuple[float, Tensor]:
            size = bench.spec.size
            stats = evaluate(model, bench.source(split), kind, layer, bench.classes, size, device=device, dtype=dtype)[
                0
            ]
            return float(METRICS[kind.metrics[0]].of(stats.double().sum(0))), stats

        state, val = self._best(model, self.train, kind, steps, batch, lambda: score("val")[0], device, dtype)
        model.load_state_dict(state)
        ours, stats = score("test")
        now, paper = versions(bench.task.name, stats.double().sum(0)) if kind.metrics[0] == "miou" else (ours, ours)
        return Row(
            task=bench.task.name,
            fraction=self.fraction,
            row=self.name,
            seed=self.seed,
            metric=kind.metrics[0],
            figure=now,
            paper=paper,
            ours=ours,
            val=val,
            labels=n,
            labels_hash=self.labels,
            epochs=self.how["epochs"],
            parameters=parameters(model),
            trainable_parameters=trained_parameters(model),
            gflop=cost.forward / 1e9,
            seconds=time.perf_counter() - begun,
            fingerprint=bench.fingerprint,
            synthetic=bench.synthetic,
        )

    def _best(
        self,
        model: nn.Module,
        train: Places,
        kind: Any,
        steps: int,
        batch: int,
        score: Callable[[], float],
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[dict[str, Tensor], float]:
        """The state that was best on validation, and its figure."""
        model.to(device)
        better = METRICS[kind.metrics[0]].better

        def refuse(step: int, value: float) -> None:
            raise InputError(f"task {self.bench.task.name}: the loss of {self.name} is {value} at step {step}")

        finite = Finite(device, refuse)
        learning = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learning, lr=LR, weight_decay=DECAY)  # of all: PANGAEA spares no norm or bias
        stepper = Stepper(optimiser, learning, float("inf"), device, dtype, finite)
        looks = {round(steps * (k + 1) / LOOKS) for k in range(LOOKS)} - {0}
        best, state = float("nan"), model.state_dict()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            batches = iter(StepLoader(train, batch, mix(self.seed, "order"), stop=steps))
            for step in range(steps):
                model.train()
                torch.manual_seed(mix(self.seed, step, "dropout"))
                some = next(batches).to(device, non_blocking=True)
                factor = FACTOR ** sum(step >= share * steps for share in STEPS)
                stepper(step, factor, lambda b=some: loss(model, b, kind, self.bench.task.layer))  # type: ignore[misc]
                if step + 1 in looks:
                    found = score()
                    if best != best or better * (found - best) > 0:
                        best, state = found, copy.deepcopy(model.state_dict())
                    model.to(device)
        finite.ask()
        return state, best
