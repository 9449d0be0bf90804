"""Where a result comes from: the commit of the code and the config that decides it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gfm_objectives.errors import InputError

# Keys that may change between a run and its resumption without changing its result.
FREE_KEYS = tuple(
    "name runs resume overwrite loggers log_every checkpoint_every yardstick loader threads choices".split()
)


def commit() -> str:
    """The commit of this checkout, with a + where files differ from it; '' outside of one."""
    where = Path(__file__).parent
    try:
        head, dirty = (
            subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno", "."))
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + "+" * bool(dirty.stdout.strip()) if head.returncode == 0 else ""


def settled(cfg: DictConfig) -> DictConfig:
    """The config with what a null of `optim` leaves to the encoder written out: its learning rate and batch size.
    InputError where the encoder does not say."""
    if "optim" not in cfg:  # of another program
        return cfg.copy()
    out, own = cfg.copy(), cfg.encoder.get("optim", {})
    for key in (k for k, v in cfg.optim.items() if v is None):
        if key not in own:
            raise InputError(f"optim.{key}: the encoder {cfg.encoder.name} has none of its own; set optim.{key}=")
        out.optim[key] = own[key]
    return out


def config_hash(cfg: DictConfig) -> str:
    """Hash of every key that decides the result, the same whether the encoder's values are written out or not."""
    settled_cfg = OmegaConf.to_container(settled(cfg))
    kept = {k: v for k, v in settled_cfg.items() if k not in FREE_KEYS}  # type: ignore[union-attr]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
