"""The run folder: runs/<name>, opened afresh or to be resumed, never another run's, by one process at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config, lock, ranks
from gfm_objectives.data.folder import find_folder
from gfm_objectives.disk import SCRATCH, naming
from gfm_objectives.errors import InputError
from gfm_objectives.runs import trunk
from gfm_objectives.runs.checkpoint import check_state
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import config_hash, differing

HOLDS = {  # by which files one sees whose folder it is
    "a pretraining run": ("ledger.json", "checkpoints"),
    "a comparison": ("scores.csv", "pangaea.csv"),
    "a model": ("model.json",),
}


def folder(cfg: DictConfig) -> Path:
    return Path(cfg.runs) / cfg.name


def is_finished(cfg: DictConfig) -> bool:
    """Whether this very run is complete: the ledger is the last thing written.

    A finished run of the same recipe and a smaller budget is not this one yet: it goes on from its trunk. InputError
    where a finished run of another config has the name: skipping it would pass it off as this one.
    """
    out = folder(cfg)
    if not (out / "ledger.json").is_file():
        return False
    if Ledger.read(out / "ledger.json").config_hash == config_hash(cfg):
        return True
    differ = ""
    if (out / "config.yaml").is_file():
        before = OmegaConf.create(config.read_yaml(out / "config.yaml"))
        if not (keys := differing(before, cfg)) and before.budget.flops < cfg.budget.flops:
            return False
        differ = f" ({', '.join(keys or ['budget.flops is smaller: branch= goes on from its trunk'])}"
        differ += " differ)" if keys else ")"
    raise InputError(f"{out}: a finished run of another config{differ}; choose another name=, or overwrite=true")


def refuse_others(out: Path, mine: str) -> None:
    """InputError where the folder holds what another command wrote, whose config.yaml or weights would be lost."""
    for what, names in HOLDS.items():
        if what != mine and (found := next((n for n in names if (out / n).exists()), None)):
            raise InputError(f"{out}: holds {what} ({found}); choose another name=")


@contextmanager
def using(cfg: DictConfig) -> Iterator[None]:
    """For the length of a run: its folder is let go of at the end, and a fault of the disk that names no file names
    the folder and leaves no half-written file in it."""
    out = folder(cfg)
    try:
        with naming(out):
            yield
    except BaseException:
        if lock.holds(out):  # else it is another process that writes there
            sweep(out)
        raise
    finally:
        lock.release(out)


def check_data(configs: Sequence[DictConfig]) -> None:
    """InputError where the folder of some run's data is missing: better known before the first run than after it."""
    for root in dict.fromkeys(cfg.data.get("root") for cfg in configs):
        if root is not None:
            find_folder(root)


def sweep(out: Path) -> None:
    """Remove half-written files, which a full disk or a kill leaves."""
    for scratch in (*out.glob("*.tmp"), *out.glob("checkpoints/*.tmp"), *out.glob(f"{SCRATCH}*")):
        with suppress(OSError):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


def open_folder(cfg: DictConfig) -> Path:
    """The run folder, fresh or to be resumed, and this process's own: another one is refused until `using` ends, or
    the process does. Refuses to overwrite, and to resume under another config."""
    out = folder(cfg)
    if not ranks.first():  # started by the first when that has opened it
        return out
    lock.lock(out)
    try:
        _open(cfg, out)
    except BaseException:
        lock.release(out)
        raise
    return out


def _open(cfg: DictConfig, out: Path) -> None:
    saved, last = out / "config.yaml", out / "checkpoints" / "last.ckpt"
    if cfg.branch and Path(cfg.branch).resolve() == out.resolve():
        raise InputError(f"branch={cfg.branch}: the run itself, which goes on from its trunk without; or another name=")
    if saved.exists() and not any((out / name).exists() for name in ("ledger.json", "checkpoints")):
        raise InputError(f"{out}: holds a config.yaml and no run; choose another name=")
    if cfg.overwrite and cfg.init and Path(cfg.init).resolve().is_relative_to(out.resolve()):
        raise InputError(f"init={cfg.init}: lies in the run that overwrite=true would delete; choose another name=")
    if cfg.overwrite and saved.exists():
        for path in out.iterdir():
            if path.name != lock.NAME:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if is_finished(cfg):  # which also refuses to take another config's run for this one
        raise InputError(f"{out}: a finished run; choose another name=, or overwrite=true to train it again")
    sweep(out)
    branching = None
    if saved.exists():
        before = OmegaConf.create(config.read_yaml(saved))
        if differ := differing(before, cfg):
            raise InputError(
                f"{out}: unfinished run of another config ({', '.join(differ[:4])} differ); "
                "choose another name=, or overwrite=true"
            )
        if cfg.resume == "never" and last.exists():
            raise InputError(f"{out}: unfinished run; resume=auto goes on with it, overwrite=true starts again")
        if before.budget.flops != cfg.budget.flops:
            trunk.extend(out, before, cfg)
    if last.exists():
        check_state(last)
    elif cfg.branch:
        branching = trunk.branch_point(cfg)
    last.parent.mkdir(parents=True, exist_ok=True)
    config.save(cfg, saved)
    if branching:
        trunk.begin(branching, out, cfg)
