"""`gfm replay`: run a step of a run again, from the last state before it, and say what happened in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import nan
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gfm_objectives import config, disk
from gfm_objectives.batch import Batch
from gfm_objectives.device import DTYPES, cores, resolve
from gfm_objectives.errors import InputError
from gfm_objectives.pretrain.faults import FAULT, places
from gfm_objectives.pretrain.measuring import Measuring
from gfm_objectives.pretrain.module import Pretraining
from gfm_objectives.pretrain.pretraining import assembled
from gfm_objectives.pretrain.progress import Meter
from gfm_objectives.pretrain.states import check_data, restore
from gfm_objectives.runs.checkpoint import check_state
from gfm_objectives.runs.provenance import settled
from gfm_objectives.runs.trunk import LAST
from gfm_objectives.training.energy import Energy
from gfm_objectives.training.launching import launched


def run(cfg: DictConfig) -> None:
    """Print what happened in the step that `cfg` (configs/replay.yaml) names. InputError where the run lacks it.

    All chance is a function of the seed and the step, so a step that is run again from a state before it is that step:
    on one CPU bit for bit. Nothing is written.
    """
    module, step = opened(cfg)
    print(told(module, step, Watch(module).step(step)))


def opened(cfg: DictConfig) -> tuple[Pretraining, int]:
    """The run, with the last state before the step that is asked for, and that step's number from 0."""
    out = Path(cfg.run or "")
    if not (cfg.run and (out / "config.yaml").is_file()):
        what = f"run={cfg.run}: no run folder" if cfg.run else "run: which one is to be replayed"
        raise InputError(f"{what}; write gfm replay runs/demo")
    saved = config.read_yaml(out / "config.yaml")
    if not {"objective", "encoder", "optim"} <= saved.keys():
        raise InputError(f"run={cfg.run}: its config.yaml is of no pretraining run; write gfm replay runs/demo")
    kept = settled(OmegaConf.create(saved))
    if (kept.devices or 1) * kept.num_nodes > 1:
        raise InputError(f"run={cfg.run}: of several processes, each of which drew masks of its own; not replayed")
    if cfg.step is None and not (out / FAULT).is_file():
        raise InputError(f"run={cfg.run}: no {FAULT}, since every loss was a number; name a step= of metrics.csv")
    step = _stopped(out / FAULT) if cfg.step is None else cfg.step - 1
    device, dtype = resolve(cfg.device or kept.device, kept.precision)
    kept.device, kept.runs, kept.name = str(device), str(out.parent), out.name
    torch.set_num_threads(kept.threads or cores())
    about = _known(out)
    dtype = next((d for d in DTYPES if str(d) == f"torch.{about.get('precision')}"), dtype)
    module = assembled(kept, launched(device), dtype)
    check_data(module, about.get("data_fingerprint"))
    module.prepare()
    module.finite.refuse = lambda *_: None  # that is what is to be looked at
    if state := state_before(out, step):
        restore(module, Measuring(dtype), state)
    module.meter, module.used = Meter(None, 1), Energy(None)
    module.objective.train()
    return module, step


def _known(out: Path) -> dict[str, Any]:
    """Data and precision of the run, by the first file that tells them."""
    for path in (out / "ledger.json", out / FAULT):
        if path.is_file():
            with suppress(InputError):  # what cannot be read tells nothing
                return disk.read_json(path, "")  # type: ignore[no-any-return]
    last = out / "checkpoints" / LAST
    return torch.load(last, map_location="cpu", mmap=True, weights_only=True) if last.exists() else {}


def _stopped(path: Path) -> int:
    """The step that fault.json names, from 0."""
    remedy = "name a step= of metrics.csv"
    step = disk.read_json(path, remedy, ["step"])["step"]
    if not isinstance(step, int) or step < 0:
        raise InputError(f"{path}: damaged, step is {step!r}; {remedy}")
    return step


def state_before(out: Path, step: int) -> Path | None:
    """The last state that the run keeps from before the step; None = it is run from its start."""
    best: tuple[int, Path] | None = None
    for path in sorted((out / "checkpoints").glob("*.ckpt")):
        check_state(path)
        done = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["run"]["step"]
        if done <= step and (best is None or done > best[0]):
            best = done, path
    return best and best[1]


class Watch:
    """Takes the steps up to one of them, and looks at that one: what went in, what came out, and of which module."""

    def __init__(self, module: Pretraining) -> None:
        self.module = module
        self.began = module.count["step"]
        self.batch: Batch | None = None
        self.out: dict[str, Tensor] = {}
        self.gradients: dict[str, float] = {}
        self.broken: str | None = None  # the first module whose output is not finite

    def step(self, step: int) -> Watch:
        """Run the steps up to `step`, and it. InputError where the run ends before it."""
        module = self.module
        module.loader = module.opened()
        batches = iter(module.loader)
        while module.count["step"] < step and not module.done:
            module.step(next(batches))
            module.objective.after_step(module.budget.progress)
        if module.done:
            raise InputError(f"step={step + 1}: the run ends with step {module.count['step']}")
        backward = module.stepper.backward

        def looked_at(loss: Tensor) -> None:
            backward(loss)
            self.gradients = gradients(module.objective)

        module.stepper.backward = looked_at
        hooks = [module.objective.register_forward_pre_hook(self._given)]
        hooks += [m.register_forward_hook(self._made(n)) for n, m in module.objective.named_modules() if n]
        hooks.append(module.objective.register_forward_hook(self._ended))
        module.step(next(batches))
        for hook in hooks:
            hook.remove()
        return self

    def _given(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.batch = arguments[0]

    def _ended(self, _: nn.Module, __: tuple[Any, ...], out: dict[str, Tensor]) -> None:
        self.out = {k: v.detach() for k, v in out.items()}

    def _made(self, name: str) -> Any:
        def look(module: nn.Module, _: tuple[Any, ...], out: Any) -> None:
            if self.broken is None and not all(bool(t.isfinite().all()) for t in tensors(out)):
                self.broken = f"{name} ({type(module).__name__})"

        return look


def tensors(out: Any) -> Iterator[Tensor]:
    """Every tensor of numbers in what a module gives back."""
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out
    elif isinstance(out, list | tuple):
        for one in out:
            yield from tensors(one)
    elif isinstance(out, dict):
        yield from tensors([*out.values()])
    elif hasattr(out, "__dataclass_fields__"):
        yield from tensors([getattr(out, k) for k in out.__dataclass_fields__])


def gradients(objective: nn.Module) -> dict[str, float]:
    """The norm of the gradient before it is clipped, of each part and of all."""
    squares: dict[str, float] = {}
    for name, p in objective.named_parameters():
        if p.grad is not None:
            part = ".".join(name.split(".")[: 2 if name.startswith("encoder.") else 1])
            squares[part] = squares.get(part, 0.0) + float(p.grad.double().square().sum())
    return {"all": sum(squares.values()) ** 0.5} | {k: v**0.5 for k, v in squares.items()}


def told(module: Pretraining, step: int, seen: Watch) -> str:
    """The page that is printed."""
    assert seen.batch is not None
    n = len(seen.batch)
    lines = [
        f"{module.folder}: step {step + 1} of metrics.csv, run again from step {seen.began}, seed {module.cfg.seed}",
        f"  places {', '.join(map(str, places(module, step)[:n]))}",
    ]
    for name, s in seen.batch.sensors.items():
        good = s.x[s.x.isfinite()]
        low, high, mean = (float(f(good)) if len(good) else nan for f in (torch.min, torch.max, torch.mean))
        odd = s.x.numel() - len(good)
        lines.append(
            f"  {name:<8} {'x'.join(map(str, s.x.shape)):<16} {low:.4g} to {high:.4g}, mean {mean:.4g}; "
            f"{float(s.valid.float().mean()):.0%} valid; "
            f"{f'{odd} values are not finite' if odd else 'all finite'}"
        )
    lines.append("  " + ", ".join(f"{k} {float(v):.5g}" for k, v in seen.out.items()))
    lines.append("  gradient norm " + ", ".join(f"{k} {v:.4g}" for k, v in seen.gradients.items()))
    whole = seen.broken is None and bool(seen.out["loss"].isfinite())
    why = "none: every output is finite" if whole else "none: the loss is made so outside of modules"
    lines.append(f"  first module whose output is not finite: {seen.broken or why}")
    return "\n".join(lines)
