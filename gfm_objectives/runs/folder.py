"""The run folder: runs/<name>, opened afresh or to be resumed, never another run's."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives import config
from gfm_objectives.errors import InputError
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.provenance import FREE_KEYS, config_hash


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


def open_folder(cfg: DictConfig) -> Path:
    """The run folder, fresh or to be resumed; refuses to overwrite, and to resume under another config."""
    out = folder(cfg)
    saved = out / "config.yaml"
    if cfg.overwrite and saved.exists():
        shutil.rmtree(out)
    if is_finished(cfg):  # which also refuses to take another config's run for this one
        raise InputError(f"{out}: a finished run; choose another name=, or overwrite=true to train it again")
    if saved.exists():
        before = dict(config.leaves(config.read_yaml(saved)))
        now = dict(config.leaves(OmegaConf.to_container(cfg)))  # type: ignore[arg-type]
        differ = [
            k for k in sorted(before.keys() | now) if before.get(k) != now.get(k) and k.split(".")[0] not in FREE_KEYS
        ]
        if differ:
            raise InputError(
                f"{out}: unfinished run of another config ({', '.join(differ[:4])} differ); "
                "choose another name=, or overwrite=true"
            )
        if cfg.resume == "never" and (out / "checkpoints" / "last.ckpt").exists():
            raise InputError(f"{out}: unfinished run; resume=auto goes on with it, overwrite=true starts again")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    config.save(cfg, saved)
    return out
