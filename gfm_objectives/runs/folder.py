"""The run folder: runs/<name>, opened afresh or to be resumed, never another run's, by one process at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config, ranks
from gfm_objectives.data.folder import find_folder
from gfm_objectives.disk import SCRATCH, naming
from gfm_objectives.errors import InputError
from gfm_objectives.runs import lock
from gfm_objectives.runs.checkpoint import check_state
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import FREE_KEYS, config_hash, settled


def folder(cfg: DictConfig) -> Path:
    return Path(cfg.runs) / cfg.name


def is_finished(cfg: DictConfig) -> bool:
    """Whether this very run is complete: the ledger is the last thing written.

    InputError where a finished run of another config has the name: skipping it would pass it off as this one.
    """
    path = folder(cfg) / "ledger.json"
    if not path.is_file():
        return False
    if Ledger.read(path).config_hash != config_hash(cfg):
        raise InputError(f"{folder(cfg)}: a finished run of another config; choose another name=, or overwrite=true")
    return True


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
            scratch.unlink()


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
    if cfg.overwrite and saved.exists():
        for path in out.iterdir():
            if path.name != lock.NAME:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if is_finished(cfg):  # which also refuses to take another config's run for this one
        raise InputError(f"{out}: a finished run; choose another name=, or overwrite=true to train it again")
    sweep(out)
    if saved.exists():
        before, now = (
            dict(config.leaves(OmegaConf.to_container(settled(c))))  # type: ignore[arg-type]
            for c in (OmegaConf.create(config.read_yaml(saved)), cfg)
        )
        differ = [
            k for k in sorted(before.keys() | now) if before.get(k) != now.get(k) and k.split(".")[0] not in FREE_KEYS
        ]
        if differ:
            raise InputError(
                f"{out}: unfinished run of another config ({', '.join(differ[:4])} differ); "
                "choose another name=, or overwrite=true"
            )
        if cfg.resume == "never" and last.exists():
            raise InputError(f"{out}: unfinished run; resume=auto goes on with it, overwrite=true starts again")
    if last.exists():
        check_state(last)
    last.parent.mkdir(parents=True, exist_ok=True)
    config.save(cfg, saved)
